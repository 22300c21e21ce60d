//! The final norms, pooling and the classifier.

use anyhow::Result;
use ssamba_model::{Head, Model, NORM_EPS, NormKind, head::SECONDS, weights::HeadWeights};

use super::{
    block::{Affine, Encoder, norm},
    matrix::{Matrix, vector},
};
use crate::{
    Precision,
    graph::{GraphBuilder, Value},
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
    let shape = Pooling { head: model.recipe().head, class_tokens: 1, seq_len: model.seq_len() };
    // The same parameters twice, as upstream.
    let once = encoder.norm(g, "norm_f", Affine::Weights(&weights.norm_f), k, rho)?;
    if model.recipe().head == Head::Features {
        let features = g.scope("features", |g| columns(g, model, &once));
        let tokens = encoder.norm(g, "norm_f_again", Affine::Weights(&weights.norm_f), 0, &once)?;
        let embedding = g.scope("pool", |g| pool(g, &shape, &tokens));
        return Ok(Results { logits: None, embedding, features: Some(features) });
    }
    let tokens = encoder.norm(g, "norm_f_again", Affine::Weights(&weights.norm_f), 0, &once)?;
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
}

fn patches(g: &mut GraphBuilder, class_tokens: usize, tokens: &Value) -> Value {
    let start = g.integers(&[class_tokens as i64]);
    let (end, axis) = (g.integers(&[i64::MAX]), g.integers(&[1]));
    g.node("Slice", &[tokens, &start, &end, &axis], &[])
}

/// Tokens `[batch, seq_len, d_model]` to the embedding, as [`ssamba_model_common::head::pool`]: one
/// product with the weight of every token in every mean. A reduction over the tokens would be a
/// single slow kernel on a GPU.
pub(crate) fn pool(g: &mut GraphBuilder, shape: &Pooling, tokens: &Value) -> Value {
    let &Pooling { class_tokens, seq_len, .. } = shape;
    // The first token of each mean, and their number.
    let means = match shape.head {
        Head::MeanTokens | Head::Features => vec![(class_tokens, seq_len - class_tokens)],
        Head::ClassToken => vec![(0, class_tokens)],
        Head::PerSecond => {
            let width = seq_len / SECONDS;
            (0..SECONDS).map(|second| (second * width, width)).collect()
        }
    };
    let mut weights = vec![0.0; means.len() * seq_len];
    for (row, &(first, count)) in weights.chunks_exact_mut(seq_len).zip(&means) {
        row[first..first + count].fill(1.0 / count as f64);
    }
    let weight = g.floats("weight", &[means.len(), seq_len], &weights);
    let pooled = g.matmul(&weight, tokens);
    match shape.head {
        Head::PerSecond => pooled,
        _ => {
            let axis = g.integers(&[1]);
            g.node("Squeeze", &[&pooled, &axis], &[])
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
            Affine::Weights(&head.norm),
            NORM_EPS,
            pooled,
        )?;
        let weight = g.floats("weight", &weight.shape(), &weight.data);
        let bias = g.floats("bias", &[bias.len()], &bias);
        let product = g.matmul(&normalised, &weight);
        Ok(g.add(&product, &bias))
    })
}
