//! Blocks: attention and an MLP, each behind a norm and beside a residual.
//!
//! The `Block` of timm 0.4.5 `vision_transformer.py` as YuanGongND/ssast@a1a3eec runs it: pre-norm,
//! exact GELU, no dropout.

use candle_core::{Result, Tensor};
use ssamba_model_common::{NormKind, NormWeights, layers::linear};

use crate::{attention::AttentionWeights, config::NORM_EPS};

/// Parameters of the two linear maps of an MLP.
#[derive(Clone, Debug)]
pub struct MlpWeights {
    /// `[d_mlp, d_model]`
    pub fc1: Tensor,
    /// `[d_mlp]`
    pub fc1_bias: Tensor,
    /// `[d_model, d_mlp]`
    pub fc2: Tensor,
    /// `[d_model]`
    pub fc2_bias: Tensor,
}

/// Parameters of one block.
#[derive(Clone, Debug)]
pub struct BlockWeights {
    /// Before the attention.
    pub norm1: NormWeights,
    /// The attention.
    pub attention: AttentionWeights,
    /// Before the MLP.
    pub norm2: NormWeights,
    /// The MLP.
    pub mlp: MlpWeights,
}

impl MlpWeights {
    fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        let inside = linear(hidden, &self.fc1)?.broadcast_add(&self.fc1_bias)?.gelu_erf()?;
        linear(&inside, &self.fc2)?.broadcast_add(&self.fc2_bias)
    }
}

impl BlockWeights {
    /// `tokens` `[batch, seq_len, d_model]` to the same shape.
    ///
    /// # Errors
    /// When `d_model` is another.
    pub fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let normalised = self.norm1.forward(tokens, NormKind::Layer, NORM_EPS)?;
        let tokens = (tokens + self.attention.forward(&normalised)?)?;
        let normalised = self.norm2.forward(&tokens, NormKind::Layer, NORM_EPS)?;
        tokens + self.mlp.forward(&normalised)?
    }
}
