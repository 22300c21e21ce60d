//! Filter banks to tokens: one convolution or product, then the class tokens and the positions.

use anyhow::Result;
use ssamba_model_common::PatchEmbed;

use super::matrix::{Matrix, vector};
use crate::{
    Precision,
    graph::{Attribute, GraphBuilder, Value},
};

/// Tokens whose positions are still to be added.
pub(crate) struct Placed {
    /// `[batch, seq_len, d_model]`
    pub(crate) tokens: Value,
    /// `[1, seq_len, d_model]`
    pub(crate) positions: Value,
}

impl Placed {
    pub(crate) fn sum(&self, g: &mut GraphBuilder) -> Value {
        g.scope(SCOPE, |g| g.add(&self.tokens, &self.positions))
    }
}

const SCOPE: &str = "patch_embed";

/// `fbank` `[batch, n_frames, n_mels]`, whose last axes are `input`, to tokens of that precision; what
/// multiplies is in `f32`. For a GPU, patches that do not overlap are cut out and multiplied by one
/// matrix: its convolutions are slower.
///
/// The input stays time-first: the kernel is transposed instead. The class tokens enter as rows of
/// zeros that the position table fills, so that no shape has to be computed at run time.
pub(crate) fn patch_embed(
    g: &mut GraphBuilder,
    patch_embed: &PatchEmbed,
    precision: Precision,
    gpu: bool,
    input: (usize, usize),
    fbank: &Value,
) -> Result<Placed> {
    let weights = patch_embed.weights();
    let (d_model, patch_f, patch_t) = weights.weight.dims3()?;
    let (stride_f, stride_t) = patch_embed.stride();
    let (rows, columns) = patch_embed.grid();
    let (class_tokens, patches) = (weights.class_tokens.dim(0)?, rows * columns);

    let kernel = vector(&weights.weight.transpose(1, 2)?.contiguous()?)?;
    let bias = vector(&weights.bias)?;
    let mut table = vector(&weights.pos_embed)?;
    table.iter_mut().zip(vector(&weights.class_tokens)?).for_each(|(row, cls)| *row += cls);
    let cut = gpu && (stride_f, stride_t) == (patch_f, patch_t);
    if cut {
        let patches = table.chunks_exact_mut(d_model).skip(class_tokens);
        patches.for_each(|row| row.iter_mut().zip(&bias).for_each(|(row, bias)| *row += bias));
    }

    g.scope(SCOPE, |g| {
        let tokens = if cut {
            let grid = Grid { rows, columns, patch_f, patch_t };
            let kernel = weights.weight.transpose(1, 2)?.flatten_from(1)?;
            let product = project(g, &grid, &Matrix::transposed(&kernel)?, input, fbank);
            cast(g, &product, precision)
        } else {
            let channel = g.integers(&[1]);
            let image = g.node("Unsqueeze", &[fbank, &channel], &[]);
            let kernel = g.floats("weight", &[d_model, 1, patch_t, patch_f], &kernel);
            let bias = g.floats("bias", &[d_model], &bias);
            let strides = Attribute::Ints(vec![stride_t as i64, stride_f as i64]);
            let grid = g.node("Conv", &[&image, &kernel, &bias], &[("strides", strides)]);
            let grid = cast(g, &grid, precision);
            // [batch, d_model, columns, rows] to frequency-major tokens.
            let grid = g.transpose(&grid, &[0, 3, 2, 1]);
            g.reshape(&grid, &[0, patches as i64, d_model as i64])
        };
        let pads = g.integers(&[0, class_tokens as i64, 0, 0, 0, 0]);
        let tokens = g.node("Pad", &[&tokens, &pads], &[]);
        let shape = [1, class_tokens + patches, d_model];
        let positions = g.numbers("positions", &shape, &table, precision);
        Ok(Placed { tokens, positions })
    })
}

fn cast(g: &mut GraphBuilder, value: &Value, precision: Precision) -> Value {
    match precision {
        Precision::F32 => value.clone(),
        half => g.cast(value, half),
    }
}

/// Patches side by side, over frequency and time.
struct Grid {
    rows: usize,
    columns: usize,
    patch_f: usize,
    patch_t: usize,
}

/// Patches that do not overlap, times `weight` `[patch_t * patch_f, d_model]`:
/// `[batch, rows * columns, d_model]`, frequency-major. Frames and bins behind the last patch are cut
/// off.
fn project(
    g: &mut GraphBuilder,
    grid: &Grid,
    weight: &Matrix,
    (n_frames, n_mels): (usize, usize),
    fbank: &Value,
) -> Value {
    let &Grid { rows, columns, patch_f, patch_t } = grid;
    let mut whole = fbank.clone();
    for (axis, size, kept) in [(1, n_frames, columns * patch_t), (2, n_mels, rows * patch_f)] {
        if kept < size {
            whole = g.slice(&whole, axis, 0, kept);
        }
    }
    let [r, c, f, t] = [rows, columns, patch_f, patch_t].map(|size| size as i64);
    if rows > 1 {
        let cells = g.reshape(&whole, &[0, c, t, r, f]);
        whole = g.transpose(&cells, &[0, 3, 1, 2, 4]);
    }
    let cells = g.reshape(&whole, &[0, r * c, t * f]);
    let weight = g.floats("weight", &weight.shape(), &weight.data);
    g.matmul(&cells, &weight)
}
