//! Losses of logits `[batch, n_classes]` against targets of the same shape, summed over the batch.

use anyhow::Result;
use candle_core::{D, Tensor};

use crate::plan::Loss;

/// The loss of a batch, a scalar: the sum over clips, and for [`Loss::Binary`] the mean over classes.
///
/// # Errors
/// When the shapes differ.
pub fn loss(kind: Loss, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (_, n_classes) = logits.dims2()?;
    Ok(match kind {
        Loss::CrossEntropy => (targets * log_softmax(logits)?)?.sum_all()?.neg()?,
        Loss::Binary => {
            // -t log s(x) - (1 - t) log(1 - s(x)) = max(x, 0) - x t + log(1 + e^-|x|)
            let smooth = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
            let sum = ((logits.relu()? - (logits * targets)?)? + smooth)?;
            (sum.sum_all()? / n_classes as f64)?
        }
    })
}

/// Over the last axis.
///
/// # Errors
/// Never for tensors of numbers.
pub(crate) fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let x = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
    Ok(x.broadcast_sub(&x.exp()?.sum_keepdim(D::Minus1)?.log()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn losses_are_their_definitions() {
        let device = Device::Cpu;
        let logits = Tensor::new(&[[1.0_f32, -2.0, 0.5], [80.0, -80.0, 0.0]], &device).unwrap();
        let targets = Tensor::new(&[[0.9_f32, 0.05, 0.05], [0.0, 1.0, 0.0]], &device).unwrap();
        let value = |kind| {
            let loss = loss(kind, &logits, &targets).unwrap();
            f64::from(loss.to_scalar::<f32>().unwrap())
        };
        let sum: f64 = [1.0_f64, -2.0, 0.5].iter().map(|x| x.exp()).sum();
        let cross = sum.ln() - (0.9 - 0.1 + 0.025) + 160.0;
        assert!((value(Loss::CrossEntropy) - cross).abs() < 1e-4);
        let one = |x: f64, t: f64| (1.0 + x.exp()).ln() - t * x;
        let binary = one(1.0, 0.9) + one(-2.0, 0.05) + one(0.5, 0.05) + 80.0 + 80.0 + 2_f64.ln();
        assert!((value(Loss::Binary) - binary / 3.0).abs() < 1e-4);
    }
}
