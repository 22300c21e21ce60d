//! SSAMBA in plain candle operations: the numeric reference that every exported file is judged by.
//!
//! SSAMBA (Self-Supervised Audio Mamba, arXiv 2405.11831) is a bidirectional state-space network
//! over spectrogram patches. This crate follows the official code (SiavashShams/ssamba@019b276 over
//! hustvl/Vim@6143d07) step by step and knows nothing of graphs or runtimes.
//!
//! [`Checkpoint`] reads a file, [`Weights`] names its tensors, a [`Recipe`] says what the file
//! cannot, and [`Model`] runs.

pub mod block;
pub mod checkpoint;
pub mod config;
pub mod head;
pub mod mixer;
mod patch_embed;
mod pickle;
pub mod pos_embed;
pub mod recipe;
pub mod weights;

use anyhow::{Context, Result, anyhow, bail, ensure};
use candle_core::Tensor;

use crate::{
    block::{BlockOptions, Streams, encode},
    patch_embed::PatchEmbed,
};
pub use crate::{
    checkpoint::Checkpoint,
    config::{Config, NORM_EPS, NormKind},
    recipe::{Head, Recipe},
    weights::Weights,
};

/// A network ready to run: parameters, and a recipe that fits them.
#[derive(Clone, Debug)]
pub struct Model {
    weights: Weights,
    recipe: Recipe,
    grid: (usize, usize),
    pos_embed: Tensor,
    patch_embed: PatchEmbed,
}

/// What one forward pass yields.
#[derive(Clone, Debug)]
pub struct ModelOutputs {
    /// `[batch, n_classes]` (`[batch, 60, n_classes]` per second); absent without a classifier.
    pub logits: Option<Tensor>,
    /// Pooled tokens, `[batch, d_model]` (`[batch, 60, d_model]` per second).
    pub embedding: Tensor,
    /// One vector per patch column, `[batch, columns, rows * d_model]`, for [`Head::Features`].
    pub features: Option<Tensor>,
    /// All tokens after the final norm, the class token first: `[batch, seq_len, d_model]`.
    pub tokens: Tensor,
}

impl Model {
    /// Brings parameters and recipe together; resamples the positions of pretraining files.
    ///
    /// # Errors
    /// When the recipe does not fit the parameters; the message names recipes that would.
    pub fn new(weights: Weights, recipe: Recipe) -> Result<Self> {
        recipe.check(&weights.config)?;
        let grid = recipe.grid(&weights.config)?;
        let pos_embed = positions(&weights, &recipe, grid)?;
        if recipe.head == Head::PerSecond {
            let seq_len = 1 + grid.0 * grid.1;
            ensure!(
                seq_len >= head::SECONDS,
                "a per-second head needs at least {} tokens, recipe `{}` gives {seq_len}",
                head::SECONDS,
                recipe.name
            );
        }
        if recipe.norm == Some(NormKind::Layer) && weights.norm == NormKind::Rms {
            bail!(
                "recipe `{}` asks for LayerNorm, but the checkpoint has no norm biases",
                recipe.name
            );
        }
        let patch_embed = PatchEmbed::new(&weights, pos_embed.clone(), &recipe, grid)?;
        Ok(Self { weights, recipe, grid, pos_embed, patch_embed })
    }

    /// The parameters.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Patches over frequency and over time.
    pub fn grid(&self) -> (usize, usize) {
        self.grid
    }

    /// Tokens of one clip, the class token included.
    pub fn seq_len(&self) -> usize {
        1 + self.grid.0 * self.grid.1
    }

    /// Positions for this grid, `[seq_len, d_model]`.
    pub fn pos_embed(&self) -> &Tensor {
        &self.pos_embed
    }

    /// The norm that runs: the recipe's choice, else what the file holds.
    pub fn norm(&self) -> NormKind {
        self.recipe.norm.unwrap_or(self.weights.norm)
    }

    /// Runs on `fbank` `[batch, n_frames, n_mels]`, normalised as the recipe says.
    ///
    /// # Errors
    /// When the shape is not the recipe's.
    pub fn forward(&self, fbank: &Tensor) -> Result<ModelOutputs> {
        self.forward_traced(fbank, |_, _| {})
    }

    /// As [`Self::forward`]; `trace` sees the tokens before the first block as hidden stream of
    /// step 0, and the two streams after every pair (or layer), counted from 1.
    ///
    /// # Errors
    /// When the shape is not the recipe's.
    pub fn forward_traced(
        &self,
        fbank: &Tensor,
        trace: impl FnMut(usize, &Streams),
    ) -> Result<ModelOutputs> {
        let front_end = &self.recipe.front_end;
        match fbank.dims() {
            &[_, n_frames, n_mels]
                if (n_frames, n_mels) == (front_end.n_frames, front_end.n_mels) => {}
            other => bail!(
                "fbank has shape {other:?}, expected [batch, {}, {}]",
                front_end.n_frames,
                front_end.n_mels
            ),
        }
        let Encoded { once, tokens } = self.encode(&self.patch_embed.project(fbank)?, trace)?;
        let features = match self.recipe.head {
            Head::Features => Some(head::columns(&once, self.grid)?),
            _ => None,
        };
        let embedding = head::pool(&tokens, self.recipe.head)?;
        let logits = match (&self.weights.head, self.recipe.head) {
            (Some(head), Head::MeanTokens | Head::ClassToken | Head::PerSecond) => {
                Some(head.forward(&embedding)?)
            }
            _ => None,
        };
        Ok(ModelOutputs { logits, embedding, features, tokens })
    }

    /// `fbank` `[batch, n_frames, n_mels]` to patch tokens `[batch, patches, d_model]`, frequency
    /// by frequency, before the class token and the positions: where pretraining masks.
    ///
    /// # Errors
    /// When the shape is not the recipe's.
    pub fn patch_tokens(&self, fbank: &Tensor) -> Result<Tensor> {
        Ok(self.patch_embed.project(fbank)?)
    }

    /// Patch tokens `[batch, patches, d_model]` through all blocks and the final norms; `trace` as
    /// in [`Self::forward_traced`].
    ///
    /// # Errors
    /// When there are not as many tokens as positions.
    pub fn encode(
        &self,
        patch_tokens: &Tensor,
        mut trace: impl FnMut(usize, &Streams),
    ) -> Result<Encoded> {
        let options = BlockOptions {
            norm: self.norm(),
            pairwise: self.recipe.pairwise,
            halve: self.recipe.halve,
        };
        let tokens = self.patch_embed.place(patch_tokens)?;
        trace(0, &Streams { hidden: tokens.clone(), residual: None });
        let mut step = 0;
        let encoded = encode(&self.weights.layers, &tokens, options, |streams| {
            step += 1;
            trace(step, streams);
        })?;
        let once = self.weights.norm_f.forward(&encoded, options.norm)?;
        // Upstream normalises twice with the same parameters (`both_models.py:313,391`).
        let tokens = self.weights.norm_f.forward(&once, options.norm)?;
        Ok(Encoded { once, tokens })
    }
}

/// All tokens, the class token first: `[batch, seq_len, d_model]`.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// After the first final norm: what features are made of.
    pub once: Tensor,
    /// After the second: what heads see.
    pub tokens: Tensor,
}

/// The position table for `grid`.
fn positions(weights: &Weights, recipe: &Recipe, grid: (usize, usize)) -> Result<Tensor> {
    let config = &weights.config;
    if let Some((n_mels, n_frames)) = weights.pretraining_input {
        ensure!(
            n_mels >= config.patch_f && n_frames >= config.patch_t,
            "the checkpoint was pretrained on {n_mels} mel bins by {n_frames} frames, less than a patch"
        );
        // Pretraining patches do not overlap.
        let from = (n_mels / config.patch_f, n_frames / config.patch_t);
        return pos_embed::resample(&weights.pos_embed, from, grid);
    }
    let rows = weights.pos_embed.dim(0).context("the position table has no rows")?;
    if rows == 1 + grid.0 * grid.1 {
        return Ok(weights.pos_embed.clone());
    }
    let fitting = recipes_for(config, rows);
    Err(anyhow!(
        "recipe `{}` gives {} x {} patches, the checkpoint has positions for {}{}",
        recipe.name,
        grid.0,
        grid.1,
        rows.saturating_sub(1),
        match fitting.is_empty() {
            true => String::new(),
            false => format!("; recipes with as many: {}", fitting.join(", ")),
        }
    ))
}

/// Built-in recipes whose token count is `seq_len`.
pub fn recipes_for(config: &Config, seq_len: usize) -> Vec<&'static str> {
    recipe::BUILT_IN
        .into_iter()
        .filter(|name| {
            Recipe::built_in(name)
                .and_then(|recipe| recipe.grid(config).ok())
                .is_some_and(|(rows, columns)| 1 + rows * columns == seq_len)
        })
        .collect()
}
