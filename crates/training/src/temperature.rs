//! The temperature of a classifier: what its logits are to be divided by so that its scores say how often
//! they are right.
//!
//! Source: Guo et al., "On calibration of modern neural networks", arXiv:1706.04599, section 4.2.

use anyhow::{Result, bail};

use crate::plan::Loss;

/// Temperatures that are looked at: beyond them scores are all alike, or all certain.
const RANGE: (f64, f64) = (1e-2, 1e2);

/// Halvings of the range, to more digits than a clip decides.
const HALVINGS: usize = 60;

/// The temperature with the lowest loss: `logits` has a row a clip, `right` the classes of each.
///
/// # Errors
/// When the loss has no lowest point: with clips that are all right, or no better than guessed.
pub fn temperature(loss: Loss, logits: &[Vec<f32>], right: &[Vec<usize>]) -> Result<f64> {
    // In the inverse temperature the loss is convex: its slope rises, and crosses zero at most once.
    let slope = |temperature: f64| slope(loss, logits, right, 1.0 / temperature);
    let (mut low, mut high) = RANGE;
    if slope(high) >= 0.0 {
        bail!("higher scores are not the right ones more often: there is no temperature to find");
    }
    if slope(low) <= 0.0 {
        bail!("every clip is right by a margin: take more clips, or such as are hard to tell");
    }
    for _ in 0..HALVINGS {
        let middle = (low * high).sqrt();
        match slope(middle) > 0.0 {
            true => low = middle,
            false => high = middle,
        }
    }
    Ok((low * high).sqrt())
}

/// Derivative of the summed loss by the inverse temperature.
fn slope(loss: Loss, logits: &[Vec<f32>], right: &[Vec<usize>], inverse: f64) -> f64 {
    let of_clip = |(row, right): (&Vec<f32>, &Vec<usize>)| {
        let wanted: f64 = right.iter().map(|&class| f64::from(row[class])).sum();
        match loss {
            Loss::CrossEntropy => {
                let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let weight = |x: f32| (inverse * f64::from(x - highest)).exp();
                let sum: f64 = row.iter().map(|&x| weight(x)).sum();
                let mean = row.iter().map(|&x| weight(x) * f64::from(x)).sum::<f64>() / sum;
                mean - wanted / right.len().max(1) as f64
            }
            Loss::Binary => {
                let score = |x: f64| 1.0 / (1.0 + (-inverse * x).exp());
                row.iter().map(|&x| score(f64::from(x)) * f64::from(x)).sum::<f64>() - wanted
            }
        }
    };
    logits.iter().zip(right).map(of_clip).sum()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::{loss::loss, random::Random};

    /// Logits of which one in four names a class by chance.
    fn clips() -> (Vec<Vec<f32>>, Vec<Vec<usize>>) {
        let mut random = Random::new(3, &[]);
        let clip = |index: usize| {
            let mut row: Vec<f32> = (0..5).map(|_| 0.3 * random.normal() as f32).collect();
            row[if index.is_multiple_of(4) { random.below(5) } else { index % 5 }] += 1.0;
            (row, vec![index % 5])
        };
        (0..200).map(clip).unzip()
    }

    /// The summed loss of logits divided by a temperature.
    fn total(kind: Loss, logits: &[Vec<f32>], right: &[Vec<usize>], temperature: f64) -> f64 {
        let n_classes = logits[0].len();
        let shape = (logits.len(), n_classes);
        let logits = Tensor::from_vec(logits.concat(), shape, &Device::Cpu).unwrap();
        let mut targets = vec![0.0_f32; shape.0 * n_classes];
        for (clip, right) in right.iter().enumerate() {
            right.iter().for_each(|class| targets[clip * n_classes + class] = 1.0);
        }
        let targets = Tensor::from_vec(targets, shape, &Device::Cpu).unwrap();
        let logits = (logits / temperature).unwrap();
        f64::from(loss(kind, &logits, &targets).unwrap().to_scalar::<f32>().unwrap())
    }

    #[test]
    fn no_temperature_nearby_has_a_lower_loss() {
        let (logits, right) = clips();
        for kind in [Loss::CrossEntropy, Loss::Binary] {
            let best = temperature(kind, &logits, &right).unwrap();
            let lowest = total(kind, &logits, &right, best);
            for factor in [0.5, 0.9, 1.1, 2.0] {
                assert!(total(kind, &logits, &right, factor * best) > lowest, "{kind:?} {factor}");
            }
            let wider: Vec<Vec<f32>> =
                logits.iter().map(|row| row.iter().map(|x| 3.0 * x).collect()).collect();
            let scaled = temperature(kind, &wider, &right).unwrap();
            assert!((scaled / best - 3.0).abs() < 1e-5, "{kind:?}: {best} and {scaled}");
        }
    }

    #[test]
    fn clips_that_decide_nothing_are_refused() {
        let right = vec![vec![0], vec![1]];
        let sure = temperature(Loss::CrossEntropy, &[vec![2.0, 1.0], vec![0.0, 3.0]], &right);
        assert!(sure.unwrap_err().to_string().starts_with("every clip is right"));
        let wrong = temperature(Loss::CrossEntropy, &[vec![1.0, 2.0], vec![3.0, 0.0]], &right);
        assert!(wrong.unwrap_err().to_string().starts_with("higher scores are not"));
    }
}
