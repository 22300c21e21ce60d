//! Norms, blocks, and how the encoder strings them together.
//!
//! SiavashShams/ssamba@019b276 `src/models/both_models.py:295-327`. In the published network the
//! layers are taken in pairs: both see the same two streams, the second one reversed, and *both*
//! hidden and residual streams are added, so that the residual doubles at every pair.

use candle_core::{Result, Tensor};
use ssamba_model_common::{NORM_EPS, NormKind};

use crate::weights::LayerWeights;

/// Hidden and residual stream between blocks, `[batch, seq_len, d_model]` each.
#[derive(Clone, Debug)]
pub struct Streams {
    /// Output of the last mixer.
    pub hidden: Tensor,
    /// Sum of what came before it; `None` before the first block.
    pub residual: Option<Tensor>,
}

impl Streams {
    /// The sum of both streams.
    pub(crate) fn sum(&self) -> Result<Tensor> {
        match &self.residual {
            Some(residual) => residual + &self.hidden,
            None => Ok(self.hidden.clone()),
        }
    }

    fn flip(&self) -> Result<Self> {
        Ok(Self {
            hidden: self.hidden.flip(&[1])?,
            residual: self.residual.as_ref().map(|residual| residual.flip(&[1])).transpose()?,
        })
    }
}

/// The choices that a checkpoint does not tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockOptions {
    pub(crate) norm: NormKind,
    pub(crate) pairwise: bool,
    pub(crate) halve: bool,
}

impl LayerWeights {
    fn forward(&self, streams: &Streams, options: BlockOptions) -> Result<Streams> {
        let residual = streams.sum()?;
        let normalised = self.norm.forward(&residual, options.norm, NORM_EPS)?;
        let hidden = self.mixer.forward(&normalised, options.halve)?;
        Ok(Streams { hidden, residual: Some(residual) })
    }
}

/// Runs all layers; `trace` sees the streams after every pair (or layer).
pub(crate) fn encode(
    layers: &[LayerWeights],
    tokens: &Tensor,
    options: BlockOptions,
    mut trace: impl FnMut(&Streams),
) -> Result<Tensor> {
    let mut streams = Streams { hidden: tokens.clone(), residual: None };
    if options.pairwise {
        for pair in layers.chunks_exact(2) {
            let first = pair[0].forward(&streams, options)?;
            let second = pair[1].forward(&streams.flip()?, options)?.flip()?;
            let residual = match (first.residual, second.residual) {
                (Some(first), Some(second)) => Some((first + second)?),
                (first, second) => first.or(second),
            };
            streams = Streams { hidden: (first.hidden + second.hidden)?, residual };
            trace(&streams);
        }
    } else {
        for layer in layers {
            streams = layer.forward(&streams, options)?;
            trace(&streams);
        }
    }
    streams.sum()
}
