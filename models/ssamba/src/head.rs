//! Tokens to outputs: pooling and the classifier.
//!
//! SiavashShams/ssamba@019b276 `src/models/both_models.py:329-333,393-396,458-464` and, for
//! features, `src/finetune/voxceleb1/ssast/ast_models.py:1193-1264`.

use candle_core::{Result, Tensor};

use crate::{config::NormKind, mixer::linear, recipe::Head, weights::HeadWeights};

/// Slices of the per-second head.
pub const SECONDS: usize = 60;

/// Pools `tokens` `[batch, 1 + patches, d_model]` into `[batch, d_model]`, or into
/// `[batch, 60, d_model]` for the per-second head.
pub(crate) fn pool(tokens: &Tensor, head: Head) -> Result<Tensor> {
    let (_, seq_len, _) = tokens.dims3()?;
    match head {
        Head::MeanTokens | Head::Features => tokens.narrow(1, 1, seq_len - 1)?.mean(1),
        Head::ClassToken => tokens.narrow(1, 0, 1)?.squeeze(1),
        Head::PerSecond => {
            // Counts the class token as the first one and drops what is left over, as upstream.
            let width = seq_len / SECONDS;
            let slices = (0..SECONDS)
                .map(|second| tokens.narrow(1, second * width, width)?.mean(1))
                .collect::<Result<Vec<_>>>()?;
            Tensor::stack(&slices, 1)
        }
    }
}

/// Tokens after the *first* final norm, `[batch, 1 + rows * columns, d_model]`, to one vector per
/// patch column, `[batch, columns, rows * d_model]`.
pub(crate) fn columns(tokens: &Tensor, grid: (usize, usize)) -> Result<Tensor> {
    let (batch, seq_len, d_model) = tokens.dims3()?;
    tokens
        .narrow(1, 1, seq_len - 1)?
        .reshape((batch, grid.0, grid.1, d_model))?
        .transpose(1, 2)?
        .reshape((batch, grid.1, grid.0 * d_model))
}

impl HeadWeights {
    /// Pooled vectors [.., d_model] to logits [.., n_classes].
    pub(crate) fn forward(&self, pooled: &Tensor) -> Result<Tensor> {
        let normalised = self.norm.forward(pooled, NormKind::Layer)?;
        linear(&normalised, &self.weight)?.broadcast_add(&self.bias)
    }
}
