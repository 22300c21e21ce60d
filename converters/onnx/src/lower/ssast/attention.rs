//! Multi-head self-attention, in one of two forms.

use std::fmt;

use anyhow::{Result, bail};
use ssamba_contract::op::contrib;
use ssamba_ssast::{HEAD_WIDTH, attention::AttentionWeights};

use super::block::linear;
use crate::{
    Precision,
    graph::{Attribute, GraphBuilder, Value},
    lower::matrix::{Matrix, vector},
};

/// How attention is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attention {
    /// Two products and a softmax of the standard operator set: every runtime has them. The scores,
    /// `[batch, heads, seq_len, seq_len]`, are held in memory.
    #[default]
    Plain,
    /// One `com.microsoft::MultiHeadAttention` for all heads: ONNX Runtime alone has it, on CUDA with
    /// flash (half precision) and memory-efficient kernels, which never hold all scores.
    Fused,
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Fused => "fused",
        })
    }
}

/// `hidden` `[batch, seq_len, d_model]`, of that precision as all in between, to the same shape,
/// out-projection included.
pub(crate) fn attention(
    g: &mut GraphBuilder,
    weights: &AttentionWeights,
    form: Attention,
    precision: Precision,
    hidden: &Value,
) -> Result<Value> {
    let qkv = Matrix::transposed(&weights.qkv)?;
    let bias = vector(&weights.qkv_bias)?;
    let d_model = qkv.rows;
    // The plain form has it in the queries: a power of two, nothing is rounded.
    let scale = (HEAD_WIDTH as f64).powf(-0.5);
    let factors = match form {
        Attention::Plain => [scale, 1.0, 1.0],
        Attention::Fused => [1.0; 3],
    };
    let mut projected = Vec::new();
    for (index, (name, factor)) in ["q", "k", "v"].into_iter().zip(factors).enumerate() {
        let start = index * d_model;
        let weight = qkv.columns(start, d_model).scale(factor);
        let bias: Vec<f64> =
            bias[start..start + d_model].iter().map(|value| value * factor).collect();
        projected.push(linear(g, name, precision, &weight, &bias, hidden));
    }
    let [q, k, v] = projected.as_slice() else { bail!("three projections") };
    let mixed = match form {
        Attention::Plain => plain(g, d_model, [q, k, v]),
        Attention::Fused => {
            let attributes = [
                ("num_heads", Attribute::Int((d_model / HEAD_WIDTH) as i64)),
                ("scale", Attribute::Float(scale as f32)),
            ];
            let op = contrib::MULTI_HEAD_ATTENTION;
            g.node_in(contrib::DOMAIN, op, &[q, k, v], &attributes, 1).remove(0)
        }
    };
    let proj = Matrix::transposed(&weights.proj)?;
    Ok(linear(g, "proj", precision, &proj, &vector(&weights.proj_bias)?, &mixed))
}

/// Every head's products and softmax; the queries are scaled already.
fn plain(g: &mut GraphBuilder, d_model: usize, qkv: [&Value; 3]) -> Value {
    let width = HEAD_WIDTH as i64;
    let split = [0, 0, d_model as i64 / width, width];
    let [q, k, v] = qkv.map(|value| g.reshape(value, &split));
    let q = g.transpose(&q, &[0, 2, 1, 3]);
    let k = g.transpose(&k, &[0, 2, 3, 1]);
    let v = g.transpose(&v, &[0, 2, 1, 3]);
    let scores = g.matmul(&q, &k);
    let weights = g.node("Softmax", &[&scores], &[("axis", Attribute::Int(-1))]);
    let mixed = g.matmul(&weights, &v);
    let mixed = g.transpose(&mixed, &[0, 2, 1, 3]);
    g.reshape(&mixed, &[0, 0, d_model as i64])
}
