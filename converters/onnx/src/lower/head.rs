//! The final norms, pooling and the classifier.

use anyhow::Result;
use ssamba_model::{Head, Model, NORM_EPS, NormKind, head::SECONDS, weights::HeadWeights};

use super::{
    block::{Encoder, norm},
    matrix::{Matrix, vector},
};
use crate::graph::{Attribute, GraphBuilder, Precision, Value};

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
    // The same parameters twice, as upstream.
    let once = encoder.norm(g, "norm_f", Some(&weights.norm_f), k, rho)?;
    if model.recipe().head == Head::Features {
        let features = g.scope("features", |g| columns(g, model, &once));
        let tokens = encoder.norm(g, "norm_f_again", Some(&weights.norm_f), 0, &once)?;
        let embedding = g.scope("pool", |g| pool(g, model, &tokens));
        return Ok(Results { logits: None, embedding, features: Some(features) });
    }
    let tokens = encoder.norm(g, "norm_f_again", Some(&weights.norm_f), 0, &once)?;
    let embedding = g.scope("pool", |g| pool(g, model, &tokens));
    let logits = match &weights.head {
        Some(head) => Some(classify(g, model, head, &embedding)?),
        None => None,
    };
    Ok(Results { logits, embedding, features: None })
}

fn patches(g: &mut GraphBuilder, tokens: &Value) -> Value {
    let (start, end, axis) = (g.integers(&[1]), g.integers(&[i64::MAX]), g.integers(&[1]));
    g.node("Slice", &[tokens, &start, &end, &axis], &[])
}

fn mean(g: &mut GraphBuilder, x: &Value, axis: i64) -> Value {
    let axes = g.integers(&[axis]);
    g.node("ReduceMean", &[x, &axes], &[("keepdims", Attribute::Int(0))])
}

fn pool(g: &mut GraphBuilder, model: &Model, tokens: &Value) -> Value {
    match model.recipe().head {
        Head::MeanTokens | Head::Features => {
            let patches = patches(g, tokens);
            mean(g, &patches, 1)
        }
        Head::ClassToken => {
            let (start, end) = (g.integers(&[0]), g.integers(&[1]));
            let axis = g.integers(&[1]);
            let first = g.node("Slice", &[tokens, &start, &end, &axis], &[]);
            g.node("Squeeze", &[&first, &axis], &[])
        }
        Head::PerSecond => {
            let width = model.seq_len() / SECONDS;
            let (start, end) = (g.integers(&[0]), g.integers(&[(SECONDS * width) as i64]));
            let axis = g.integers(&[1]);
            let whole = g.node("Slice", &[tokens, &start, &end, &axis], &[]);
            let d_model = model.weights().config.d_model;
            let slices = g.reshape(&whole, &[0, SECONDS as i64, width as i64, d_model as i64]);
            mean(g, &slices, 2)
        }
    }
}

fn columns(g: &mut GraphBuilder, model: &Model, tokens: &Value) -> Value {
    let (rows, columns) = model.grid();
    let d_model = model.weights().config.d_model as i64;
    let patches = patches(g, tokens);
    let grid = g.reshape(&patches, &[0, rows as i64, columns as i64, d_model]);
    let grid = g.transpose(&grid, &[0, 2, 1, 3]);
    g.reshape(&grid, &[0, columns as i64, rows as i64 * d_model])
}

fn classify(
    g: &mut GraphBuilder,
    model: &Model,
    head: &HeadWeights,
    pooled: &Value,
) -> Result<Value> {
    let d_model = model.weights().config.d_model;
    let weight = Matrix::transposed(&head.weight)?;
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
