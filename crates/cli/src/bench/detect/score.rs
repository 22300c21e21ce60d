//! Events against what was said: hits, misses, false alarms.
//!
//! An event belongs to a clip when it comes after the clip's start and at most [`Task::tolerance_s`]
//! after its end. The first event of a keyword's clip that names the keyword is a hit; every other
//! event is a false alarm, and a keyword's clip without a hit is a miss.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use ssamba_kws::{Detector, Settings};

/// What was said when, and what counts.
pub struct Task<'a> {
    pub labels: &'a [String],
    /// By time; no two overlap, tolerance included.
    pub clips: &'a [Said],
    pub tolerance_s: f64,
    pub hours: f64,
}

/// One clip.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    /// Of the keyword; `None` for what must not fire.
    pub class: Option<usize>,
    pub start_s: f64,
    pub end_s: f64,
}

/// The scores of all windows of a stream.
#[derive(Default)]
pub struct Posteriors {
    /// `[windows, n_classes]`
    pub scores: Vec<f32>,
    /// Frame and second at which each ends.
    pub ends: Vec<(u64, f64)>,
}

/// What a detector made of a stream, by class.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub words: Vec<usize>,
    pub hits: Vec<usize>,
    pub false_alarms: Vec<usize>,
    /// False alarms by where they fell, all classes together.
    pub places: Places,
    /// From the end of the clip to the event, of hits, in seconds.
    pub latencies: Vec<f64>,
}

/// Where false alarms fell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Places {
    /// In a keyword's clip: another keyword, or the same again.
    pub in_keywords: usize,
    /// In a clip that must not fire.
    pub in_others: usize,
    /// Between clips.
    pub in_background: usize,
}

impl Task<'_> {
    /// Runs a detector with these settings over the windows.
    pub fn detect(&self, settings: &Settings, posteriors: &Posteriors) -> Result<Outcome> {
        let mut detector = Detector::new(settings, self.labels)?;
        let windows = posteriors.scores.chunks_exact(self.labels.len()).zip(&posteriors.ends);
        let events = windows.filter_map(|(scores, &(frame, time_s))| {
            detector.push(scores, frame).map(|(class, _)| (class, time_s))
        });
        Ok(self.judge(events))
    }

    /// Judges events, classes at seconds, in their order.
    fn judge(&self, events: impl Iterator<Item = (usize, f64)>) -> Outcome {
        let n_classes = self.labels.len();
        let mut outcome = Outcome {
            words: vec![0; n_classes],
            hits: vec![0; n_classes],
            false_alarms: vec![0; n_classes],
            places: Places::default(),
            latencies: Vec::new(),
        };
        for class in self.clips.iter().filter_map(|clip| clip.class) {
            outcome.words[class] += 1;
        }
        let mut clips = self.clips.iter().peekable();
        let mut hit = false;
        for (class, time_s) in events {
            while clips.next_if(|clip| clip.end_s + self.tolerance_s < time_s).is_some() {
                hit = false;
            }
            let place = match clips.peek().filter(|clip| clip.start_s < time_s) {
                Some(clip) if clip.class == Some(class) && !hit => {
                    hit = true;
                    outcome.hits[class] += 1;
                    outcome.latencies.push(time_s - clip.end_s);
                    continue;
                }
                Some(clip) if clip.class.is_some() => &mut outcome.places.in_keywords,
                Some(_) => &mut outcome.places.in_others,
                None => &mut outcome.places.in_background,
            };
            *place += 1;
            outcome.false_alarms[class] += 1;
        }
        outcome
    }
}

/// One threshold for all labels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    pub threshold: f32,
    #[serde(flatten)]
    pub rates: Rates,
}

/// What counts in the end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rates {
    pub misses: usize,
    pub miss_rate: f64,
    pub false_alarms: usize,
    pub false_alarms_per_hour: f64,
    #[serde(flatten)]
    pub places: Places,
    /// Median over the hits, from the end of the clip.
    pub median_latency_s: Option<f64>,
}

impl Outcome {
    pub fn rates(&self, hours: f64) -> Rates {
        let words: usize = self.words.iter().sum();
        let misses = words - self.hits.iter().sum::<usize>();
        let false_alarms = self.false_alarms.iter().sum();
        let mut latencies = self.latencies.clone();
        latencies.sort_by(f64::total_cmp);
        Rates {
            misses,
            miss_rate: rounded(misses as f64 / words.max(1) as f64),
            false_alarms,
            false_alarms_per_hour: rounded(false_alarms as f64 / hours),
            places: self.places,
            median_latency_s: latencies.get(latencies.len() / 2).copied().map(rounded),
        }
    }
}

/// For people: a rate with all its digits says no more.
pub fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// Thresholds of a sweep: even steps, closer at the end, and the one that is set.
pub fn thresholds(set: f32) -> Vec<f32> {
    let mut thresholds: Vec<f32> = (1..50).map(|step| (step * 2) as f32 / 100.0).collect();
    thresholds.extend([0.99, 0.995, 0.999, set]);
    thresholds.sort_by(f32::total_cmp);
    thresholds.dedup();
    thresholds
}

/// The lowest threshold for all labels, and for each label, that keeps to so many false alarms an
/// hour; a label's share of them is the same for each. `sweep` has the outcomes of all streams at
/// each threshold.
pub fn choose(
    sweep: &[(f32, Vec<Outcome>)],
    labels: &[String],
    hours: f64,
    false_alarms_per_hour: f64,
) -> (Option<f32>, BTreeMap<String, f32>) {
    let budget = false_alarms_per_hour * hours;
    let lowest = |false_alarms: &dyn Fn(&Outcome) -> usize, budget: f64| {
        // From the highest down: what is kept to by chance between two breaches does not count.
        let kept = sweep.iter().rev().take_while(|(_, outcomes)| {
            outcomes.iter().map(false_alarms).sum::<usize>() as f64 <= budget
        });
        kept.last().map(|(threshold, _)| *threshold)
    };
    let all = lowest(&|outcome| outcome.false_alarms.iter().sum(), budget);
    let can_fire: Vec<usize> =
        (0..labels.len()).filter(|&class| !ssamba_kws::is_background(&labels[class])).collect();
    let share = budget / can_fire.len() as f64;
    let each = can_fire.iter().filter_map(|&class| {
        Some((labels[class].clone(), lowest(&|outcome| outcome.false_alarms[class], share)?))
    });
    (all, each.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Vec<String> {
        ["yes", "no", "_unknown_"].map(Into::into).into()
    }

    /// Clips of one second from the seconds that are named.
    fn said(clips: &[(Option<usize>, f64)]) -> Vec<Said> {
        clips
            .iter()
            .map(|&(class, start_s)| Said { class, start_s, end_s: start_s + 1.0 })
            .collect()
    }

    #[test]
    fn events_are_hits_once_and_within_the_tolerance() {
        let clips = said(&[(Some(0), 1.0), (Some(1), 4.0), (None, 7.0), (Some(0), 10.0)]);
        let task = Task { labels: &labels(), clips: &clips, tolerance_s: 0.5, hours: 0.5 };
        let judged = |events: &[(usize, f64)]| {
            let outcome = task.judge(events.iter().copied());
            let places = outcome.places;
            let false_alarms = outcome.false_alarms.iter().sum::<usize>();
            assert_eq!(false_alarms, places.in_keywords + places.in_others + places.in_background);
            (outcome.hits, [places.in_keywords, places.in_others, places.in_background])
        };
        assert_eq!(judged(&[]), (vec![0, 0, 0], [0, 0, 0]));
        // In the clip, at the end of the tolerance, and just after it.
        assert_eq!(judged(&[(0, 1.8), (1, 5.5)]), (vec![1, 1, 0], [0, 0, 0]));
        assert_eq!(judged(&[(1, 5.6)]), (vec![0, 0, 0], [0, 0, 1]));
        // At the start itself nothing was heard yet.
        assert_eq!(judged(&[(0, 1.0)]), (vec![0, 0, 0], [0, 0, 1]));
        // Twice, then the wrong word, which does not spoil the hit that follows.
        assert_eq!(judged(&[(0, 1.5), (0, 2.4)]), (vec![1, 0, 0], [1, 0, 0]));
        assert_eq!(judged(&[(0, 4.5), (1, 5.4)]), (vec![0, 1, 0], [1, 0, 0]));
        // Every clip has a hit of its own.
        assert_eq!(judged(&[(0, 1.5), (0, 10.5)]), (vec![2, 0, 0], [0, 0, 0]));
        assert_eq!(judged(&[(0, 7.5), (1, 12.0)]), (vec![0, 0, 0], [0, 1, 1]));
        let rates = task.judge([(0, 1.5), (1, 7.5), (0, 10.5)].into_iter()).rates(task.hours);
        assert_eq!((rates.misses, rates.miss_rate), (1, 0.3333));
        assert_eq!((rates.false_alarms, rates.false_alarms_per_hour), (1, 2.0));
        assert_eq!(rates.median_latency_s, Some(-0.5));
    }

    /// Windows every tenth of a second, all of class 2 but for runs of three windows that give a
    /// class a score.
    fn posteriors(seconds: f64, runs: &[(usize, f64, f32)]) -> Posteriors {
        let mut posteriors = Posteriors::default();
        for window in 0..(seconds * 10.0) as u64 {
            let time_s = window as f64 / 10.0;
            let mut scores = [0.0, 0.0, 1.0];
            for &(class, start_s, score) in runs {
                if (start_s - 0.05..start_s + 0.25).contains(&time_s) {
                    scores[class] = score;
                }
            }
            posteriors.scores.extend(scores);
            posteriors.ends.push((window * 10, time_s));
        }
        posteriors
    }

    #[test]
    fn a_sweep_of_known_posteriors_has_the_known_answer() {
        let clips = said(&[(Some(0), 1.0), (Some(1), 5.0), (None, 9.0)]);
        let labels = labels();
        let task = Task { labels: &labels, clips: &clips, tolerance_s: 0.5, hours: 0.1 };
        // Both words, fainter alarms in the clip that must not fire and in the background.
        let runs = [(0, 1.5, 0.91), (1, 5.5, 0.71), (0, 9.5, 0.51), (1, 14.0, 0.31)];
        let posteriors = posteriors(16.0, &runs);
        let at = |threshold| {
            let settings = Settings { threshold, ..Settings::default() };
            let outcome = task.detect(&settings, &posteriors).unwrap();
            let rates = outcome.rates(task.hours);
            (rates.misses, rates.places.in_others, rates.places.in_background)
        };
        assert_eq!(
            [0.25, 0.4, 0.6, 0.8, 0.95].map(at),
            [(0, 1, 1), (0, 1, 0), (0, 0, 0), (1, 0, 0), (2, 0, 0)]
        );
        let sweep: Vec<(f32, Vec<Outcome>)> = thresholds(0.6)
            .into_iter()
            .map(|threshold| {
                let settings = Settings { threshold, ..Settings::default() };
                (threshold, vec![task.detect(&settings, &posteriors).unwrap()])
            })
            .collect();
        // One alarm in a tenth of an hour is ten an hour.
        let (all, each) = choose(&sweep, &labels, task.hours, 10.0);
        assert_eq!(all, Some(0.32));
        assert_eq!(each, [("yes".to_owned(), 0.52), ("no".to_owned(), 0.32)].into());
        assert_eq!(choose(&sweep, &labels, task.hours, 0.0).0, Some(0.52));
    }

    #[test]
    fn a_sweep_holds_the_threshold_that_is_set() {
        let thresholds = thresholds(0.61);
        assert!(thresholds.contains(&0.61) && thresholds.contains(&0.6));
        assert!(thresholds.is_sorted() && thresholds.iter().all(|x| *x > 0.0 && *x < 1.0));
    }
}
