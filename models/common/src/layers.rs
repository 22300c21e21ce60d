//! Layers that the networks share: norms, linear maps, the classifier's parameters.

use candle_core::{D, Result, Tensor};

/// Kind of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormKind {
    /// LayerNorm with weight and bias: every published recipe.
    Layer,
    /// RMSNorm with weight only: what the SUPERB expert runs on checkpoints trained with
    /// LayerNorm (SiavashShams/ssamba@019b276 `src/finetune/voxceleb1/ssast/expert.py:68`).
    Rms,
}

/// Epsilon of the classifier's norm, and of every norm of SSAMBA.
pub const NORM_EPS: f64 = 1e-5;

/// Weight and, for LayerNorm, bias of one norm: `[d_model]`.
#[derive(Clone, Debug)]
pub struct NormWeights {
    /// Scale.
    pub weight: Tensor,
    /// Offset; absent for RMSNorm.
    pub bias: Option<Tensor>,
}

/// The classification head: LayerNorm, then a linear map.
#[derive(Clone, Debug)]
pub struct HeadWeights {
    /// Always a LayerNorm.
    pub norm: NormWeights,
    /// `[n_classes, d_model]`
    pub weight: Tensor,
    /// `[n_classes]`
    pub bias: Tensor,
}

impl NormWeights {
    /// Normalises the last axis.
    ///
    /// # Errors
    /// When its size is another.
    pub fn forward(&self, x: &Tensor, kind: NormKind, eps: f64) -> Result<Tensor> {
        let (x, bias) = match kind {
            NormKind::Layer => (x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?, self.bias.as_ref()),
            NormKind::Rms => (x.clone(), None),
        };
        let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
        let scaled = x.broadcast_div(&(mean_square + eps)?.sqrt()?)?.broadcast_mul(&self.weight)?;
        match bias {
            Some(bias) => scaled.broadcast_add(bias),
            None => Ok(scaled),
        }
    }

    /// Values in it.
    pub fn parameters(&self) -> usize {
        self.weight.elem_count() + self.bias.as_ref().map_or(0, Tensor::elem_count)
    }
}

impl HeadWeights {
    /// Values in it.
    pub fn parameters(&self) -> usize {
        self.norm.parameters() + self.weight.elem_count() + self.bias.elem_count()
    }
}

/// `x` [.., in] times the transpose of `weight` `[out, in]`.
///
/// # Errors
/// When the sizes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.contiguous()?.broadcast_matmul(&weight.t()?)
}
