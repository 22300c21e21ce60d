//! Blocks: attention and an MLP, each behind a norm and beside a residual.

use anyhow::Result;
use ssamba_model_common::NormKind;
use ssamba_ssast::{
    NORM_EPS,
    block::{BlockWeights, MlpWeights},
};

use super::attention::{Attention, attention};
use crate::{
    graph::{GraphBuilder, Value},
    lower::{
        block::norm,
        matrix::{Matrix, vector},
    },
};

/// Tokens `[batch, seq_len, d_model]` to the same shape.
pub(crate) fn block(
    g: &mut GraphBuilder,
    weights: &BlockWeights,
    form: Attention,
    tokens: &Value,
) -> Result<Value> {
    let d_model = weights.attention.proj.dim(0)?;
    let kind = NormKind::Layer;
    let hidden = norm(g, "norm1", kind, d_model, Some(&weights.norm1), NORM_EPS, tokens)?;
    let update = g.scope("attn", |g| attention(g, &weights.attention, form, &hidden))?;
    let tokens = g.add(tokens, &update);
    let hidden = norm(g, "norm2", kind, d_model, Some(&weights.norm2), NORM_EPS, &tokens)?;
    let update = g.scope("mlp", |g| mlp(g, &weights.mlp, &hidden))?;
    Ok(g.add(&tokens, &update))
}

fn mlp(g: &mut GraphBuilder, weights: &MlpWeights, hidden: &Value) -> Result<Value> {
    let (fc1, fc2) = (Matrix::transposed(&weights.fc1)?, Matrix::transposed(&weights.fc2)?);
    let inside = linear(g, "fc1", &fc1, &vector(&weights.fc1_bias)?, hidden);
    // Exact by default: the error function, not its approximation by tanh.
    let inside = g.node("Gelu", &[&inside], &[]);
    Ok(linear(g, "fc2", &fc2, &vector(&weights.fc2_bias)?, &inside))
}

/// `x` [.., in] times `weight` `[in, out]` plus `bias` `[out]`.
pub(crate) fn linear(
    g: &mut GraphBuilder,
    name: &str,
    weight: &Matrix,
    bias: &[f64],
    x: &Value,
) -> Value {
    g.scope(name, |g| {
        let weight = g.floats("weight", &weight.shape(), &weight.data);
        let bias = g.floats("bias", &[bias.len()], bias);
        let product = g.matmul(x, &weight);
        g.add(&product, &bias)
    })
}
