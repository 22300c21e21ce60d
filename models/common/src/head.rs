//! Tokens to outputs: pooling and the classifier.
//!
//! SiavashShams/ssamba@019b276 `src/models/both_models.py:329-333,393-396,458-464`.

use candle_core::{Result, Tensor};

use crate::{
    layers::{HeadWeights, NORM_EPS, NormKind, linear},
    recipe::Head,
};

/// Slices of the per-second head.
pub const SECONDS: usize = 60;

/// Pools `tokens` `[batch, class_tokens + patches, d_model]` into `[batch, d_model]`, or into
/// `[batch, 60, d_model]` for the per-second head.
///
/// # Errors
/// When there are fewer tokens than class tokens, or than seconds.
pub fn pool(tokens: &Tensor, class_tokens: usize, head: Head) -> Result<Tensor> {
    let (_, seq_len, _) = tokens.dims3()?;
    match head {
        Head::MeanTokens | Head::Features => {
            tokens.narrow(1, class_tokens, seq_len - class_tokens)?.mean(1)
        }
        Head::ClassToken => tokens.narrow(1, 0, class_tokens)?.mean(1),
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

impl HeadWeights {
    /// Pooled vectors [.., d_model] to logits [.., n_classes].
    ///
    /// # Errors
    /// When the width is another.
    pub fn forward(&self, pooled: &Tensor) -> Result<Tensor> {
        let normalised = self.norm.forward(pooled, NormKind::Layer, NORM_EPS)?;
        linear(&normalised, &self.weight)?.broadcast_add(&self.bias)
    }
}
