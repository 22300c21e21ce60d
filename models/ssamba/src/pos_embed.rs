//! Position embeddings of a pretraining file, resampled to another grid of patches.
//!
//! SiavashShams/ssamba@019b276 `src/models/both_models.py:230-242`, quirks included: the first
//! resize always makes eight rows, and the cut over frequency counts `t` rows. Both are harmless
//! for the eight rows of the published files.

use anyhow::{Result, ensure};
use candle_core::Tensor;

/// Rows that the resize over time produces, whatever was there before.
const LITERAL_ROWS: usize = 8;

/// Resamples `pos_embed` `[1 + rows * columns, d_model]` from the grid (rows, columns) `from` to the
/// grid `to`. The first row, the class token's, stays.
///
/// # Errors
/// When the table does not have the rows of `from`, or the upstream cut cannot make `to`.
pub fn resample(pos_embed: &Tensor, from: (usize, usize), to: (usize, usize)) -> Result<Tensor> {
    let (rows, width) = pos_embed.dims2()?;
    ensure!(
        rows == 1 + from.0 * from.1,
        "the position table has {rows} rows, expected 1 + {} x {}",
        from.0,
        from.1
    );
    let class_token = pos_embed.narrow(0, 0, 1)?;
    let grid = pos_embed.narrow(0, 1, rows - 1)?.reshape((from.0, from.1, width))?;

    let (to_f, to_t) = to;
    let grid = match to_t < from.1 {
        true => grid.narrow(1, from.1 / 2 - to_t / 2, to_t)?,
        false => resize(&resize(&grid, 0, LITERAL_ROWS)?, 1, to_t)?,
    };
    let grid = match to_f < from.0 {
        true => {
            let start = from.0 / 2 - to_f / 2;
            grid.narrow(0, start, to_t.min(grid.dim(0)? - start))?
        }
        false => resize(&grid, 0, to_f)?,
    };
    ensure!(
        grid.dim(0)? == to_f,
        "position embeddings of {} x {} patches cannot be cut to {to_f} x {to_t} as upstream does",
        from.0,
        from.1
    );
    let grid = grid.contiguous()?.reshape((to_f * to_t, width))?;
    Ok(Tensor::cat(&[&class_token, &grid], 0)?)
}

/// Linear interpolation along `axis` with half-pixel centres and clamped edges, PyTorch's
/// `interpolate(mode="bilinear")`; the same size is the identity.
fn resize(grid: &Tensor, axis: usize, size: usize) -> Result<Tensor> {
    let old = grid.dim(axis)?;
    if old == size {
        return Ok(grid.clone());
    }
    // In f32, as PyTorch computes coordinates.
    let step = old as f32 / size as f32;
    let slices = (0..size)
        .map(|index| {
            let source = (step * (index as f32 + 0.5) - 0.5).max(0.0);
            let low = (source as usize).min(old - 1);
            let high = (low + 1).min(old - 1);
            let weight = f64::from(source - low as f32);
            let low = grid.narrow(axis, low, 1)?.affine(1.0 - weight, 0.0)?;
            let high = grid.narrow(axis, high, 1)?.affine(weight, 0.0)?;
            low + high
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::cat(&slices, axis)?)
}
