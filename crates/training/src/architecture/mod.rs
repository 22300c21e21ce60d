//! What the two networks do not share: sizes and names, initial values, folding, and the encoder.

mod ssamba;
mod ssast;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use candle_core::{Tensor, bail};
use ssamba_model_common::{
    Architecture, Checkpoint, HeadWeights, NormKind, NormWeights, PatchWeights, Recipe, Sizes,
};
use ssamba_ssast::CLASS_TOKENS;

pub use self::ssamba::folding;
use crate::{initial, ops::layer_norm};

/// Sizes of a network of either architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Config {
    /// Of the bidirectional Mamba.
    Ssamba(ssamba_model::Config),
    /// Of the transformer.
    Ssast(ssamba_ssast::Config),
}

impl From<ssamba_model::Config> for Config {
    fn from(config: ssamba_model::Config) -> Self {
        Self::Ssamba(config)
    }
}

impl From<ssamba_ssast::Config> for Config {
    fn from(config: ssamba_ssast::Config) -> Self {
        Self::Ssast(config)
    }
}

impl From<&Config> for Sizes {
    fn from(config: &Config) -> Self {
        match config {
            Config::Ssamba(config) => config.into(),
            Config::Ssast(config) => config.into(),
        }
    }
}

impl Config {
    /// A network of these sizes in the published proportions: for SSAMBA twice the width inside a mixer,
    /// 16 states and 4 taps, for SSAST four times the width inside an MLP.
    pub fn new(architecture: Architecture, sizes: Sizes) -> Self {
        let Sizes { d_model, depth, patch_f, patch_t, n_classes } = sizes;
        match architecture {
            Architecture::Ssamba => Self::Ssamba(ssamba_model::Config {
                d_model,
                depth,
                d_inner: 2 * d_model,
                d_state: 16,
                d_conv: 4,
                dt_rank: d_model.div_ceil(16),
                patch_f,
                patch_t,
                n_classes,
            }),
            Architecture::Ssast => Self::Ssast(ssamba_ssast::Config {
                d_model,
                depth,
                d_mlp: 4 * d_model,
                patch_f,
                patch_t,
                n_classes,
            }),
        }
    }

    /// Which network it is.
    pub fn architecture(&self) -> Architecture {
        match self {
            Self::Ssamba(_) => Architecture::Ssamba,
            Self::Ssast(_) => Architecture::Ssast,
        }
    }

    /// Sizes that both networks have.
    pub fn sizes(&self) -> Sizes {
        self.into()
    }

    /// Tokens in front of the patches.
    pub fn class_tokens(&self) -> usize {
        match self {
            Self::Ssamba(_) => 1,
            Self::Ssast(_) => CLASS_TOKENS,
        }
    }

    /// The same sizes with a head for so many classes, or none.
    pub fn with_classes(mut self, n_classes: Option<usize>) -> Self {
        match &mut self {
            Self::Ssamba(config) => config.n_classes = n_classes,
            Self::Ssast(config) => config.n_classes = n_classes,
        }
        self
    }

    /// Values of the largest tensor inside the encoder for one clip of `seq_len` tokens.
    pub(crate) fn widest(&self, seq_len: usize) -> usize {
        match self {
            Self::Ssamba(config) => seq_len * config.d_inner,
            Self::Ssast(config) => seq_len * config.d_mlp.max(config.heads() * seq_len),
        }
    }

    /// Initial values of all parameters, as upstream draws them, with positions for `patches`.
    pub(crate) fn initial(&self, patches: usize, seed: u64) -> Result<BTreeMap<String, Tensor>> {
        let seq_len = self.class_tokens() + patches;
        match self {
            Self::Ssamba(config) => {
                let layout = ssamba_model::weights::layout(config, NormKind::Layer, seq_len);
                initial::tensors(&layout, seed, |name, shape| ssamba::initial(name, shape, config))
            }
            Self::Ssast(config) => {
                let layout = ssamba_ssast::weights::layout(config, seq_len);
                initial::tensors(&layout, seed, |name, shape| ssast::initial(name, shape, config))
            }
        }
    }
}

/// All parameters that inference uses, by what they are.
pub(crate) enum Weights {
    Ssamba(ssamba_model::Weights),
    Ssast(ssamba_ssast::Weights),
}

impl Weights {
    /// Takes them out of a checkpoint of either network.
    ///
    /// # Errors
    /// When names are missing, unexpected or mis-shaped, or norms have no biases.
    pub(crate) fn load(checkpoint: &Checkpoint) -> Result<Self> {
        Ok(match Architecture::of(checkpoint, None)? {
            Architecture::Ssamba => {
                let weights = ssamba_model::Weights::load(checkpoint)?;
                ensure!(
                    weights.norm == NormKind::Layer,
                    "{}: norms without biases, and training knows LayerNorm alone",
                    checkpoint.path.display()
                );
                Self::Ssamba(weights)
            }
            Architecture::Ssast => Self::Ssast(ssamba_ssast::Weights::load(checkpoint)?),
        })
    }

    /// Sizes.
    pub(crate) fn config(&self) -> Config {
        match self {
            Self::Ssamba(weights) => weights.config.into(),
            Self::Ssast(weights) => weights.config.into(),
        }
    }

    /// Mel bins and frames of the pretraining input, in pretraining files.
    pub(crate) fn pretraining_input(&self) -> Option<(usize, usize)> {
        match self {
            Self::Ssamba(weights) => weights.pretraining_input,
            Self::Ssast(weights) => weights.pretraining_input,
        }
    }

    /// The patch embedding, with the positions that the checkpoint has.
    pub(crate) fn patch_embed(&self) -> candle_core::Result<PatchWeights> {
        Ok(match self {
            Self::Ssamba(weights) => PatchWeights {
                weight: weights.patch_weight.clone(),
                bias: weights.patch_bias.clone(),
                class_tokens: weights.cls_token.unsqueeze(0)?,
                pos_embed: weights.pos_embed.clone(),
            },
            Self::Ssast(weights) => PatchWeights {
                weight: weights.patch_weight.clone(),
                bias: weights.patch_bias.clone(),
                class_tokens: Tensor::stack(&[&weights.cls_token, &weights.dist_token], 0)?,
                pos_embed: weights.pos_embed.clone(),
            },
        })
    }

    /// The classifier, if there is one.
    pub(crate) fn head(&self) -> Option<&HeadWeights> {
        match self {
            Self::Ssamba(weights) => weights.head.as_ref(),
            Self::Ssast(weights) => weights.head.as_ref(),
        }
    }

    /// Patches over frequency and over time, from the plain network, which checks that everything
    /// fits.
    ///
    /// # Errors
    /// When the recipe does not fit the parameters.
    pub(crate) fn grid(self, recipe: Recipe) -> Result<(usize, usize)> {
        Ok(match self {
            Self::Ssamba(weights) => ssamba_model::Model::new(weights, recipe)?.grid(),
            Self::Ssast(weights) => ssamba_ssast::Model::new(weights, recipe)?.grid(),
        })
    }

    /// Tokens with positions `[batch, seq_len, d_model]` to those after the last norm.
    pub(crate) fn encode(&self, tokens: &Tensor, recipe: &Recipe) -> candle_core::Result<Tensor> {
        match self {
            Self::Ssamba(weights) => ssamba::encode(tokens, weights, recipe),
            Self::Ssast(weights) => ssast::encode(tokens, weights),
        }
    }
}

/// LayerNorm over the last axis.
fn norm(x: &Tensor, weights: &NormWeights, eps: f64) -> candle_core::Result<Tensor> {
    match &weights.bias {
        Some(bias) => layer_norm(x, &weights.weight, bias, eps),
        None => bail!("a LayerNorm has a bias"),
    }
}
