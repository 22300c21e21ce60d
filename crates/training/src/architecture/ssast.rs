//! SSAST as it is: an ordinary residual network, in which there is nothing to fold.

use candle_core::{D, Result, Tensor};
use ssamba_ssast::{
    Config, HEAD_WIDTH, NORM_EPS, Weights, attention::AttentionWeights, block::MlpWeights,
};

use super::norm;
use crate::initial::{self, Initial};

/// Initial values: the `VisionTransformer` of timm 0.4.5, whose matrices are drawn with a deviation of
/// 0.02 and whose biases are zero; what YuanGongND/ssast@a1a3eec `src/models/ast_models.py` puts around
/// it has PyTorch's defaults.
pub(super) fn initial(name: &str, shape: &[usize], config: &Config) -> Initial {
    let leaf = name.rsplit('.').next().unwrap_or_default();
    match leaf {
        _ if !name.starts_with("v.blocks.") || name.contains("norm") => {
            initial::shared(name, shape, config.into())
        }
        "bias" => Initial::Constant(0.0),
        _ => Initial::Normal(0.02),
    }
}

/// Tokens with positions `[batch, seq_len, d_model]` to those after the final norm.
pub(super) fn encode(tokens: &Tensor, weights: &Weights) -> Result<Tensor> {
    let mut tokens = tokens.clone();
    for block in &weights.blocks {
        let hidden = norm(&tokens, &block.norm1, NORM_EPS)?;
        tokens = (tokens + attention(&hidden, &block.attention)?)?;
        let hidden = norm(&tokens, &block.norm2, NORM_EPS)?;
        tokens = (tokens + mlp(&hidden, &block.mlp)?)?;
    }
    norm(&tokens, &weights.norm, NORM_EPS)
}

/// `x` `[batch, seq_len, in]` to `[batch, seq_len, out]`: as one product of matrices.
fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (batch, seq_len, width) = x.dims3()?;
    let out = x.reshape((batch * seq_len, width))?.matmul(&weight.t()?)?.broadcast_add(bias)?;
    out.reshape((batch, seq_len, weight.dim(0)?))
}

fn attention(hidden: &Tensor, weights: &AttentionWeights) -> Result<Tensor> {
    let (batch, seq_len, d_model) = hidden.dims3()?;
    // Queries, keys or values, `[batch, heads, seq_len, HEAD_WIDTH]`.
    let heads = |which: usize| -> Result<Tensor> {
        let weight = weights.qkv.narrow(0, which * d_model, d_model)?;
        let bias = weights.qkv_bias.narrow(0, which * d_model, d_model)?;
        linear(hidden, &weight, &bias)?
            .reshape((batch, seq_len, d_model / HEAD_WIDTH, HEAD_WIDTH))?
            .transpose(1, 2)?
            .contiguous()
    };
    let (q, k, v) = (heads(0)?, heads(1)?, heads(2)?);
    let scaled = (q * (HEAD_WIDTH as f64).powf(-0.5))?;
    let shares = softmax(&scaled.matmul(&k.t()?)?)?;
    let mixed = shares.matmul(&v)?.transpose(1, 2)?.reshape((batch, seq_len, d_model))?;
    linear(&mixed, &weights.proj, &weights.proj_bias)
}

/// Over the last axis.
fn softmax(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

fn mlp(hidden: &Tensor, weights: &MlpWeights) -> Result<Tensor> {
    let inside = linear(hidden, &weights.fc1, &weights.fc1_bias)?.gelu_erf()?;
    linear(&inside, &weights.fc2, &weights.fc2_bias)
}
