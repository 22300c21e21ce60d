//! Filter banks to tokens: one convolution, then the class tokens and the positions.

use anyhow::Result;
use ssamba_model_common::PatchEmbed;

use super::matrix::vector;
use crate::{
    Precision,
    graph::{Attribute, GraphBuilder, Value},
};

/// `fbank` `[batch, n_frames, n_mels]` to tokens `[batch, seq_len, d_model]` of that precision; the
/// convolution is in `f32`.
///
/// The input stays time-first: the kernel is transposed instead. The class tokens enter as rows of
/// zeros that the position table fills, so that no shape has to be computed at run time.
pub(crate) fn patch_embed(
    g: &mut GraphBuilder,
    patch_embed: &PatchEmbed,
    precision: Precision,
    fbank: &Value,
) -> Result<Value> {
    let weights = patch_embed.weights();
    let (d_model, patch_f, patch_t) = weights.weight.dims3()?;
    let (stride_f, stride_t) = patch_embed.stride();
    let (rows, columns) = patch_embed.grid();
    let (class_tokens, patches) = (weights.class_tokens.dim(0)?, rows * columns);

    let kernel = vector(&weights.weight.transpose(1, 2)?.contiguous()?)?;
    let bias = vector(&weights.bias)?;
    let mut table = vector(&weights.pos_embed)?;
    table.iter_mut().zip(vector(&weights.class_tokens)?).for_each(|(row, cls)| *row += cls);

    Ok(g.scope("patch_embed", |g| {
        let channel = g.integers(&[1]);
        let image = g.node("Unsqueeze", &[fbank, &channel], &[]);
        let kernel = g.floats("weight", &[d_model, 1, patch_t, patch_f], &kernel);
        let bias = g.floats("bias", &[d_model], &bias);
        let strides = Attribute::Ints(vec![stride_t as i64, stride_f as i64]);
        let grid = g.node("Conv", &[&image, &kernel, &bias], &[("strides", strides)]);
        let grid = match precision {
            Precision::F32 => grid,
            half => g.cast(&grid, half),
        };
        // [batch, d_model, columns, rows] to frequency-major tokens.
        let grid = g.transpose(&grid, &[0, 3, 2, 1]);
        let tokens = g.reshape(&grid, &[0, patches as i64, d_model as i64]);
        let pads = g.integers(&[0, class_tokens as i64, 0, 0, 0, 0]);
        let tokens = g.node("Pad", &[&tokens, &pads], &[]);
        let shape = [1, class_tokens + patches, d_model];
        let table = g.numbers("positions", &shape, &table, precision);
        g.add(&tokens, &table)
    }))
}
