//! Filter banks to tokens: one convolution, then the class token and the positions.

use anyhow::Result;
use ssamba_model::Model;

use super::matrix::vector;
use crate::graph::{Attribute, GraphBuilder, Value};

/// `fbank` `[batch, n_frames, n_mels]` to tokens `[batch, seq_len, d_model]`.
///
/// The input stays time-first: the kernel is transposed instead. The class token enters as a row of
/// zeros that the position table fills, so that no shape has to be computed at run time.
pub(crate) fn patch_embed(g: &mut GraphBuilder, model: &Model, fbank: &Value) -> Result<Value> {
    let weights = model.weights();
    let config = &weights.config;
    let (recipe, (rows, columns)) = (model.recipe(), model.grid());
    let (d_model, patches) = (config.d_model, rows * columns);

    let kernel = vector(&weights.patch_weight.transpose(1, 2)?.contiguous()?)?;
    let bias = vector(&weights.patch_bias)?;
    let mut table = vector(model.pos_embed())?;
    table.iter_mut().zip(vector(&weights.cls_token)?).for_each(|(row, cls)| *row += cls);

    Ok(g.scope("patch_embed", |g| {
        let channel = g.integers(&[1]);
        let image = g.node("Unsqueeze", &[fbank, &channel], &[]);
        let kernel = g.floats("weight", &[d_model, 1, config.patch_t, config.patch_f], &kernel);
        let bias = g.floats("bias", &[d_model], &bias);
        let strides = Attribute::Ints(vec![recipe.stride_t as i64, recipe.stride_f as i64]);
        let grid = g.node("Conv", &[&image, &kernel, &bias], &[("strides", strides)]);
        // [batch, d_model, columns, rows] to frequency-major tokens.
        let grid = g.transpose(&grid, &[0, 3, 2, 1]);
        let tokens = g.reshape(&grid, &[0, patches as i64, d_model as i64]);
        let pads = g.integers(&[0, 1, 0, 0, 0, 0]);
        let tokens = g.node("Pad", &[&tokens, &pads], &[]);
        let table = g.floats("positions", &[1, patches + 1, d_model], &table);
        g.add(&tokens, &table)
    }))
}
