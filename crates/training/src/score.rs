//! How well logits fit labels.

use serde::Serialize;

/// Scores of a set of clips.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Clips.
    pub clips: usize,
    /// Share of clips whose highest class is a right one.
    pub accuracy: f64,
    /// The same over clips of all classes but one, if one was named and there are others.
    pub accuracy_without: Option<f64>,
    /// Mean over classes that occur of their average precision.
    pub mean_average_precision: f64,
    /// Class by class.
    pub classes: Vec<Class>,
    /// Row: the class that is right; column: the class that was heard; clips with one class alone.
    pub confusion: Vec<Vec<usize>>,
}

/// Scores of one class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Class {
    /// Its label.
    pub label: String,
    /// Clips that it is right for.
    pub clips: usize,
    /// Share of these where it was heard.
    pub recall: f64,
    /// Share of right ones where it was heard; zero where it never was.
    pub precision: f64,
    /// Area under precision over recall; absent where no clip is of this class.
    pub average_precision: Option<f64>,
}

/// Index of the highest value; the first of equals.
pub fn highest(values: &[f32]) -> usize {
    let better =
        |best: usize, index: usize| if values[index] > values[best] { index } else { best };
    (0..values.len()).fold(0, better)
}

/// Scores `logits`, one row a clip, against the classes that are right for each.
pub fn report(
    labels: &[String],
    logits: &[Vec<f32>],
    right: &[Vec<usize>],
    without: Option<usize>,
) -> Report {
    let n = labels.len();
    let heard: Vec<usize> = logits.iter().map(|row| highest(row)).collect();
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    let correct = |clip: &usize| right[*clip].contains(&heard[*clip]);
    let mut confusion = vec![vec![0; n]; n];
    for (right, &heard) in right.iter().zip(&heard) {
        if let [right] = right[..] {
            confusion[right][heard] += 1;
        }
    }
    let classes: Vec<Class> = labels
        .iter()
        .enumerate()
        .map(|(class, label)| {
            let of_class = || (0..right.len()).filter(move |&clip| right[clip].contains(&class));
            let hits = of_class().filter(|&clip| heard[clip] == class).count();
            let scored: Vec<(f32, bool)> =
                logits.iter().zip(right).map(|(row, r)| (row[class], r.contains(&class))).collect();
            Class {
                label: label.clone(),
                clips: of_class().count(),
                recall: share(hits, of_class().count()),
                precision: share(hits, heard.iter().filter(|&&heard| heard == class).count()),
                average_precision: average_precision(scored),
            }
        })
        .collect();
    let precisions: Vec<f64> = classes.iter().filter_map(|class| class.average_precision).collect();
    let others: Vec<usize> = (0..right.len())
        .filter(|&clip| without.is_some_and(|class| !right[clip].contains(&class)))
        .collect();
    Report {
        clips: right.len(),
        accuracy: share((0..right.len()).filter(correct).count(), right.len()),
        accuracy_without: (!others.is_empty())
            .then(|| share(others.iter().filter(|clip| correct(clip)).count(), others.len())),
        mean_average_precision: precisions.iter().sum::<f64>() / precisions.len().max(1) as f64,
        classes,
        confusion,
    }
}

/// The sum over thresholds of precision times the gain in recall; equal scores share a threshold.
fn average_precision(mut scored: Vec<(f32, bool)>) -> Option<f64> {
    let positives = scored.iter().filter(|(_, right)| *right).count();
    if positives == 0 {
        return None;
    }
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut seen, mut hits, mut area) = (0, 0, 0.0);
    for equal in scored.chunk_by(|a, b| a.0 == b.0) {
        let gain = equal.iter().filter(|(_, right)| *right).count();
        seen += equal.len();
        hits += gain;
        area += hits as f64 / seen as f64 * gain as f64 / positives as f64;
    }
    Some(area)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_of_a_small_set() {
        let labels = ["a", "b", "c"].map(String::from);
        let logits: Vec<Vec<f32>> = vec![
            vec![2.0, 1.0, 0.0],
            vec![0.0, 1.0, 0.5],
            vec![3.0, 0.0, 1.0],
            vec![0.0, 0.0, 9.0],
        ];
        let right = [vec![0], vec![1], vec![1], vec![2]];
        let report = report(&labels, &logits, &right, Some(2));
        assert_eq!((report.clips, report.accuracy), (4, 0.75));
        assert_eq!(report.accuracy_without, Some(2.0 / 3.0));
        assert_eq!(report.confusion, [[1, 0, 0], [1, 1, 0], [0, 0, 1]]);
        assert_eq!((report.classes[1].recall, report.classes[1].precision), (0.5, 1.0));
        assert_eq!((report.classes[0].recall, report.classes[0].precision), (1.0, 0.5));
        // a: second of four by score; b: first two and two of four; c: first.
        let precisions: Vec<_> =
            report.classes.iter().map(|class| class.average_precision.unwrap()).collect();
        assert_eq!(precisions[0], 0.5);
        // Scores 1, 1 (one right), then 0, 0 (one right): 1/2 * 1/2 + 2/4 * 1/2.
        assert_eq!(precisions[1], 0.5);
        assert_eq!(precisions[2], 1.0);
    }

    #[test]
    fn a_class_that_never_occurs_counts_in_no_mean() {
        let labels = ["a", "b"].map(String::from);
        let report = report(&labels, &[vec![1.0, 0.0]], &[vec![0]], None);
        assert_eq!(report.classes[1].average_precision, None);
        assert_eq!((report.mean_average_precision, report.accuracy_without), (1.0, None));
    }
}
