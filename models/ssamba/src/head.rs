//! Features in place of logits.
//!
//! SiavashShams/ssamba@019b276 `src/finetune/voxceleb1/ssast/ast_models.py:1193-1264`.

use candle_core::{Result, Tensor};
pub use ssamba_model_common::head::SECONDS;

/// Tokens after the *first* final norm, `[batch, 1 + rows * columns, d_model]`, to one vector per
/// patch column, `[batch, columns, rows * d_model]`.
pub(crate) fn columns(tokens: &Tensor, grid: (usize, usize)) -> Result<Tensor> {
    let (batch, seq_len, d_model) = tokens.dims3()?;
    tokens
        .narrow(1, 1, seq_len - 1)?
        .reshape((batch, grid.0, grid.1, d_model))?
        .transpose(1, 2)?
        .reshape((batch, grid.1, grid.0 * d_model))
}
