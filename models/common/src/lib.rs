//! What the networks over spectrogram patches share: checkpoint files, recipes, the patch embedding
//! with its positions, pooling and the classifier.
//!
//! SSAMBA and SSAST are trained, fine-tuned and fed by the same code (SiavashShams/ssamba@019b276
//! `src/models/both_models.py`, after YuanGongND/ssast@a1a3eec); only what stands between the tokens
//! and the final norm differs.

mod architecture;
pub mod checkpoint;
pub mod hashed;
pub mod head;
pub mod layers;
pub mod patch_embed;
mod pickle;
pub mod pos_embed;
pub mod reader;
pub mod recipe;
pub mod sizes;

use anyhow::{Result, bail};
use candle_core::Tensor;

pub use crate::{
    architecture::Architecture,
    checkpoint::Checkpoint,
    layers::{HeadWeights, NORM_EPS, NormKind, NormWeights},
    patch_embed::{PatchEmbed, PatchWeights},
    reader::{Mismatch, Unused},
    recipe::{Head, Recipe},
    sizes::{Published, Sizes},
};

/// What one forward pass yields.
#[derive(Clone, Debug)]
pub struct ModelOutputs {
    /// `[batch, n_classes]` (`[batch, 60, n_classes]` per second); absent without a classifier.
    pub logits: Option<Tensor>,
    /// Pooled tokens, `[batch, d_model]` (`[batch, 60, d_model]` per second).
    pub embedding: Tensor,
    /// One vector per patch column, `[batch, columns, rows * d_model]`, for [`Head::Features`].
    pub features: Option<Tensor>,
    /// All tokens after the final norm, class tokens first: `[batch, seq_len, d_model]`.
    pub tokens: Tensor,
}

/// Checks that `fbank` is `[batch, n_frames, n_mels]` of `recipe`.
///
/// # Errors
/// Names the shape found and the one expected.
pub fn check_input(fbank: &Tensor, recipe: &Recipe) -> Result<()> {
    let front_end = &recipe.front_end;
    match fbank.dims() {
        &[_, n_frames, n_mels] if (n_frames, n_mels) == (front_end.n_frames, front_end.n_mels) => {
            Ok(())
        }
        other => bail!(
            "fbank has shape {other:?}, expected [batch, {}, {}]",
            front_end.n_frames,
            front_end.n_mels
        ),
    }
}

/// Built-in recipes with as many patches.
pub fn recipes_for(sizes: impl Into<Sizes>, patches: usize) -> Vec<&'static str> {
    let sizes = sizes.into();
    recipe::BUILT_IN
        .into_iter()
        .filter(|name| {
            Recipe::built_in(name)
                .and_then(|recipe| recipe.grid(sizes).ok())
                .is_some_and(|(rows, columns)| rows * columns == patches)
        })
        .collect()
}
