//! The final norms, pooling and the classifier.

use anyhow::Result;
use ssamba_model::{Head, Model, NORM_EPS, NormKind, head::SECONDS, weights::HeadWeights};

use super::{
    block::{Encoder, norm},
    matrix::{Matrix, vector},
};
use crate::{
    Precision,
    graph::{Attribute, GraphBuilder, Value},
};

/// What the graph can put out.
pub(crate) struct Results {
    pub(crate) logits: Option<Value>,
    pub(crate) embedding: Value,
    pub(crate) features: Option<Value>,
}

/// `rho` `[batch, seq_len, d_model]` with `s = rho * 2^k` to the outputs.
pub(crate) fn head(
    g: &mut GraphBuilder,
    encoder: &Encoder<'_>,
    rho: &Value,
    k: i32,
) -> Result<Results> {
    let model = encoder.model;
    let weights = model.weights();
    let shape = Pooling {
        head: model.recipe().head,
        class_tokens: 1,
        seq_len: model.seq_len(),
        d_model: weights.config.d_model,
    };
    // The same parameters twice, as upstream.
    let once = encoder.norm(g, "norm_f", Some(&weights.norm_f), k, rho)?;
    if model.recipe().head == Head::Features {
        let features = g.scope("features", |g| columns(g, model, &once));
        let tokens = encoder.norm(g, "norm_f_again", Some(&weights.norm_f), 0, &once)?;
        let embedding = g.scope("pool", |g| pool(g, &shape, &tokens));
        return Ok(Results { logits: None, embedding, features: Some(features) });
    }
    let tokens = encoder.norm(g, "norm_f_again", Some(&weights.norm_f), 0, &once)?;
    let embedding = g.scope("pool", |g| pool(g, &shape, &tokens));
    let logits = match &weights.head {
        Some(head) => Some(classify(g, head, &embedding)?),
        None => None,
    };
    Ok(Results { logits, embedding, features: None })
}

/// How tokens are pooled.
pub(crate) struct Pooling {
    pub(crate) head: Head,
    /// Tokens in front of the patches.
    pub(crate) class_tokens: usize,
    pub(crate) seq_len: usize,
    pub(crate) d_model: usize,
}

fn patches(g: &mut GraphBuilder, class_tokens: usize, tokens: &Value) -> Value {
    let start = g.integers(&[class_tokens as i64]);
    let (end, axis) = (g.integers(&[i64::MAX]), g.integers(&[1]));
    g.node("Slice", &[tokens, &start, &end, &axis], &[])
}

fn mean(g: &mut GraphBuilder, x: &Value, axis: i64) -> Value {
    let axes = g.integers(&[axis]);
    g.node("ReduceMean", &[x, &axes], &[("keepdims", Attribute::Int(0))])
}

/// Tokens `[batch, seq_len, d_model]` to the embedding, as [`ssamba_model_common::head::pool`].
pub(crate) fn pool(g: &mut GraphBuilder, shape: &Pooling, tokens: &Value) -> Value {
    match shape.head {
        Head::MeanTokens | Head::Features => {
            let patches = patches(g, shape.class_tokens, tokens);
            mean(g, &patches, 1)
        }
        Head::ClassToken => {
            let (start, end) = (g.integers(&[0]), g.integers(&[shape.class_tokens as i64]));
            let axis = g.integers(&[1]);
            let first = g.node("Slice", &[tokens, &start, &end, &axis], &[]);
            mean(g, &first, 1)
        }
        Head::PerSecond => {
            let width = shape.seq_len / SECONDS;
            let (start, end) = (g.integers(&[0]), g.integers(&[(SECONDS * width) as i64]));
            let axis = g.integers(&[1]);
            let whole = g.node("Slice", &[tokens, &start, &end, &axis], &[]);
            let d_model = shape.d_model as i64;
            let slices = g.reshape(&whole, &[0, SECONDS as i64, width as i64, d_model]);
            mean(g, &slices, 2)
        }
    }
}

fn columns(g: &mut GraphBuilder, model: &Model, tokens: &Value) -> Value {
    let (rows, columns) = model.grid();
    let d_model = model.weights().config.d_model as i64;
    let patches = patches(g, 1, tokens);
    let grid = g.reshape(&patches, &[0, rows as i64, columns as i64, d_model]);
    let grid = g.transpose(&grid, &[0, 2, 1, 3]);
    g.reshape(&grid, &[0, columns as i64, rows as i64 * d_model])
}

/// Pooled vectors to logits.
pub(crate) fn classify(g: &mut GraphBuilder, head: &HeadWeights, pooled: &Value) -> Result<Value> {
    let weight = Matrix::transposed(&head.weight)?;
    let d_model = weight.rows;
    let bias = vector(&head.bias)?;
    g.scope("head", |g| {
        let normalised = norm(
            g,
            "norm",
            NormKind::Layer,
            Precision::F32,
            d_model,
            Some(&head.norm),
            NORM_EPS,
            pooled,
        )?;
        let weight = g.floats("weight", &weight.shape(), &weight.data);
        let bias = g.floats("bias", &[bias.len()], &bias);
        let product = g.matmul(&normalised, &weight);
        Ok(g.add(&product, &bias))
    })
}
