//! SSAST in plain candle operations: the transformer that SSAMBA is compared with, and the numeric
//! reference that its exported files are judged by.
//!
//! SSAST (Self-Supervised Audio Spectrogram Transformer, arXiv 2110.09784) is a distilled DeiT over
//! spectrogram patches. This crate follows the official code (YuanGongND/ssast@a1a3eec
//! `src/models/ast_models.py`, `finetuningavgtok` and `finetuningcls`, over timm 0.4.5) step by step
//! and knows nothing of graphs or runtimes. Patches, positions, heads, recipes
//! and the front end are those of SSAMBA: [`ssamba_model_common`].

pub mod attention;
pub mod block;
pub mod config;
pub mod weights;

use anyhow::{Result, ensure};
use candle_core::Tensor;
use ssamba_model_common::{
    Head, ModelOutputs, NormKind, PatchEmbed, PatchWeights, Recipe, check_input, head::pool,
    pos_embed::Stored,
};

pub use crate::{
    config::{CLASS_TOKENS, Config, HEAD_WIDTH, NORM_EPS},
    weights::Weights,
};

/// A network ready to run: parameters, and a recipe that fits them.
#[derive(Clone, Debug)]
pub struct Model {
    weights: Weights,
    recipe: Recipe,
    patch_embed: PatchEmbed,
}

impl Model {
    /// Brings parameters and recipe together; resamples the positions of pretraining files. What
    /// the recipe says of pairs and directions means nothing here.
    ///
    /// # Errors
    /// When the recipe does not fit the parameters, or asks for a head or a norm that SSAST has not.
    pub fn new(weights: Weights, recipe: Recipe) -> Result<Self> {
        recipe.check(&weights.config)?;
        ensure!(
            matches!(recipe.head, Head::MeanTokens | Head::ClassToken),
            "recipe `{}` asks for a head that SSAST has not, expected mean-tokens or class-token",
            recipe.name
        );
        ensure!(
            recipe.norm != Some(NormKind::Rms),
            "recipe `{}` asks for RMSNorm, SSAST has LayerNorm only",
            recipe.name
        );
        let grid = recipe.grid(&weights.config)?;
        let stored = Stored {
            table: &weights.pos_embed,
            class_tokens: CLASS_TOKENS,
            pretraining_input: weights.pretraining_input,
        };
        let pos_embed = stored.fit((&weights.config).into(), &recipe, grid)?;
        let patch_weights = PatchWeights {
            weight: weights.patch_weight.clone(),
            bias: weights.patch_bias.clone(),
            class_tokens: Tensor::stack(&[&weights.cls_token, &weights.dist_token], 0)?,
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

    /// Tokens of one clip, class and distillation token included.
    pub fn seq_len(&self) -> usize {
        let (rows, columns) = self.grid();
        CLASS_TOKENS + rows * columns
    }

    /// The patch embedding, with positions for this grid.
    pub fn patch_embed(&self) -> &PatchEmbed {
        &self.patch_embed
    }

    /// Runs on `fbank` `[batch, n_frames, n_mels]`, normalised as the recipe says.
    ///
    /// # Errors
    /// When the shape is not the recipe's.
    pub fn forward(&self, fbank: &Tensor) -> Result<ModelOutputs> {
        check_input(fbank, &self.recipe)?;
        let mut tokens = self.patch_embed.place(&self.patch_embed.project(fbank)?)?;
        for block in &self.weights.blocks {
            tokens = block.forward(&tokens)?;
        }
        let tokens = self.weights.norm.forward(&tokens, NormKind::Layer, NORM_EPS)?;
        let embedding = pool(&tokens, CLASS_TOKENS, self.recipe.head)?;
        let logits = self.weights.head.as_ref().map(|head| head.forward(&embedding)).transpose()?;
        Ok(ModelOutputs { logits, embedding, features: None, tokens })
    }
}
