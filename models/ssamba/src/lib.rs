//! SSAMBA in plain candle operations: the numeric reference that every exported file is judged by.
//!
//! SSAMBA (Self-Supervised Audio Mamba, arXiv 2405.11831) is a bidirectional state-space network
//! over spectrogram patches. This crate follows the official code (SiavashShams/ssamba@019b276 over
//! hustvl/Vim@6143d07) step by step and knows nothing of graphs or runtimes.
//!
//! [`Checkpoint`] reads a file, [`Weights`] names its tensors, a [`Recipe`] says what the file
//! cannot, and [`Model`] runs.

pub mod block;
pub mod config;
pub mod head;
pub mod mixer;
pub mod weights;

use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
pub use ssamba_model_common::{
    Checkpoint, Head, ModelOutputs, NORM_EPS, NormKind, Published, Recipe, hashed, pos_embed,
    recipe, recipes_for,
};
use ssamba_model_common::{PatchEmbed, PatchWeights, check_input, head::pool, pos_embed::Stored};

use crate::block::{BlockOptions, Streams, encode};
pub use crate::{config::Config, weights::Weights};

/// A network ready to run: parameters, and a recipe that fits them.
#[derive(Clone, Debug)]
pub struct Model {
    weights: Weights,
    recipe: Recipe,
    patch_embed: PatchEmbed,
}

impl Model {
    /// Brings parameters and recipe together; resamples the positions of pretraining files.
    ///
    /// # Errors
    /// When the recipe does not fit the parameters; the message names recipes that would.
    pub fn new(weights: Weights, recipe: Recipe) -> Result<Self> {
        recipe.check(&weights.config)?;
        if recipe.pairwise && !weights.config.depth.is_multiple_of(2) {
            bail!(
                "the checkpoint has {} layers, an odd number: pairs are impossible, set pairwise = false in the recipe",
                weights.config.depth
            );
        }
        let grid = recipe.grid(&weights.config)?;
        let stored = Stored {
            table: &weights.pos_embed,
            class_tokens: 1,
            pretraining_input: weights.pretraining_input,
        };
        let pos_embed = stored.fit((&weights.config).into(), &recipe, grid)?;
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
        let patch_weights = PatchWeights {
            weight: weights.patch_weight.clone(),
            bias: weights.patch_bias.clone(),
            class_tokens: weights.cls_token.unsqueeze(0)?,
            pos_embed,
        };
        let patch_embed = PatchEmbed::new(patch_weights, &recipe, grid)?;
        Ok(Self { weights, recipe, patch_embed })
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
        self.patch_embed.grid()
    }

    /// Tokens of one clip, the class token included.
    pub fn seq_len(&self) -> usize {
        let (rows, columns) = self.grid();
        1 + rows * columns
    }

    /// The patch embedding, with positions for this grid.
    pub fn patch_embed(&self) -> &PatchEmbed {
        &self.patch_embed
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
        check_input(fbank, &self.recipe)?;
        let Encoded { once, tokens } = self.encode(&self.patch_embed.project(fbank)?, trace)?;
        let features = match self.recipe.head {
            Head::Features => Some(head::columns(&once, self.grid())?),
            _ => None,
        };
        let embedding = pool(&tokens, 1, self.recipe.head)?;
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
        let once = self.weights.norm_f.forward(&encoded, options.norm, NORM_EPS)?;
        // Upstream normalises twice with the same parameters (`both_models.py:313,391`).
        let tokens = self.weights.norm_f.forward(&once, options.norm, NORM_EPS)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_number_of_layers_has_no_pairs() {
        let config = Config { depth: 3, ..Config::published(Published::Tiny, Some(2)) };
        let checkpoint = hashed::checkpoint(weights::layout(&config, NormKind::Layer, 145));
        let weights = Weights::load(&checkpoint).unwrap();
        let recipe = Recipe::built_in("speech-commands").unwrap();
        let error = Model::new(weights.clone(), recipe.clone()).unwrap_err();
        assert!(error.to_string().contains("3 layers, an odd number"), "{error}");
        assert!(Model::new(weights, Recipe { pairwise: false, ..recipe }).is_ok());
    }
}
