//! Blocks: attention and an MLP, each behind a norm and beside a residual.

use anyhow::Result;
use ssamba_model_common::NormKind;
use ssamba_ssast::{
    NORM_EPS,
    block::{BlockWeights, MlpWeights},
};

use super::attention::{Attention, attention};
use crate::{
    Precision,
    graph::{GraphBuilder, Value},
    lower::{
        block::{Affine, norm},
        matrix::{Matrix, vector},
    },
};

/// Tokens `[batch, seq_len, d_model]`, of that precision as all in between, to the same shape.
pub(crate) fn block(
    g: &mut GraphBuilder,
    weights: &BlockWeights,
    form: Attention,
    precision: Precision,
    tokens: &Value,
) -> Result<Value> {
    let d_model = weights.attention.proj.dim(0)?;
    let kind = NormKind::Layer;
    let hidden = norm(
        g,
        "norm1",
        kind,
        precision,
        d_model,
        Affine::Weights(&weights.norm1),
        NORM_EPS,
        tokens,
    )?;
    let update = g.scope("attn", |g| attention(g, &weights.attention, form, precision, &hidden))?;
    let tokens = g.add(tokens, &update);
    let hidden = norm(
        g,
        "norm2",
        kind,
        precision,
        d_model,
        Affine::Weights(&weights.norm2),
        NORM_EPS,
        &tokens,
    )?;
    let update = g.scope("mlp", |g| mlp(g, &weights.mlp, precision, &hidden))?;
    Ok(g.add(&tokens, &update))
}

fn mlp(
    g: &mut GraphBuilder,
    weights: &MlpWeights,
    precision: Precision,
    hidden: &Value,
) -> Result<Value> {
    let (fc1, fc2) = (Matrix::transposed(&weights.fc1)?, Matrix::transposed(&weights.fc2)?);
    let inside = linear(g, "fc1", precision, &fc1, &vector(&weights.fc1_bias)?, hidden);
    // Exact by default: the error function, not its approximation by tanh.
    let inside = g.node("Gelu", &[&inside], &[]);
    Ok(linear(g, "fc2", precision, &fc2, &vector(&weights.fc2_bias)?, &inside))
}

/// `x` [.., in], of that precision, times `weight` `[in, out]` plus `bias` `[out]`.
pub(crate) fn linear(
    g: &mut GraphBuilder,
    name: &str,
    precision: Precision,
    weight: &Matrix,
    bias: &[f64],
    x: &Value,
) -> Value {
    g.scope(name, |g| {
        let weight = g.numbers("weight", &weight.shape(), &weight.data, precision);
        let bias = g.numbers("bias", &[bias.len()], bias, precision);
        let product = g.matmul(x, &weight);
        g.add(&product, &bias)
    })
}
