//! Position embeddings of a pretraining file, resampled to another grid of patches.
//!
//! SiavashShams/ssamba@019b276 `src/models/both_models.py:230-242`, quirks included: the first
//! resize always makes eight rows, and the cut over frequency counts `t` rows. Both are harmless
//! for the eight rows of the published files.

use anyhow::{Result, anyhow, ensure};
use candle_core::Tensor;

use crate::{Recipe, Sizes, recipes_for};

/// Rows that the resize over time produces, whatever was there before.
const LITERAL_ROWS: usize = 8;

/// Positions as a checkpoint stores them.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// `[class_tokens + patches, d_model]`
    pub table: &'a Tensor,
    /// Tokens in front of the patches.
    pub class_tokens: usize,
    /// Mel bins and frames of the pretraining input, in pretraining files.
    pub pretraining_input: Option<(usize, usize)>,
}

impl Stored<'_> {
    /// The table for `grid`: resampled from a pretraining file, else as it is.
    ///
    /// # Errors
    /// When a fine-tuned file has another number of patches than `recipe`; the message names
    /// built-in recipes that have as many.
    pub fn fit(&self, sizes: Sizes, recipe: &Recipe, grid: (usize, usize)) -> Result<Tensor> {
        if let Some((n_mels, n_frames)) = self.pretraining_input {
            ensure!(
                n_mels >= sizes.patch_f && n_frames >= sizes.patch_t,
                "the checkpoint was pretrained on {n_mels} mel bins by {n_frames} frames, less than a patch"
            );
            // Pretraining patches do not overlap.
            let from = (n_mels / sizes.patch_f, n_frames / sizes.patch_t);
            return resample(self.table, self.class_tokens, from, grid);
        }
        let patches = self.table.dim(0)?.saturating_sub(self.class_tokens);
        if patches == grid.0 * grid.1 {
            return Ok(self.table.clone());
        }
        let fitting = recipes_for(sizes, patches);
        Err(anyhow!(
            "recipe `{}` gives {} x {} patches, the checkpoint has positions for {patches}{}",
            recipe.name,
            grid.0,
            grid.1,
            match fitting.is_empty() {
                true => String::new(),
                false => format!("; recipes with as many: {}", fitting.join(", ")),
            }
        ))
    }
}

/// Resamples `pos_embed` `[class_tokens + rows * columns, d_model]` from the grid (rows, columns)
/// `from` to the grid `to`. The first rows, those of the class tokens, stay.
///
/// # Errors
/// When the table does not have the rows of `from`, or the upstream cut cannot make `to`.
pub fn resample(
    pos_embed: &Tensor,
    class_tokens: usize,
    from: (usize, usize),
    to: (usize, usize),
) -> Result<Tensor> {
    let (rows, width) = pos_embed.dims2()?;
    ensure!(
        rows == class_tokens + from.0 * from.1,
        "the position table has {rows} rows, expected {class_tokens} + {} x {}",
        from.0,
        from.1
    );
    let first = pos_embed.narrow(0, 0, class_tokens)?;
    let patches = pos_embed.narrow(0, class_tokens, rows - class_tokens)?;
    let grid = patches.reshape((from.0, from.1, width))?;

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
    Ok(Tensor::cat(&[&first, &grid], 0)?)
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
