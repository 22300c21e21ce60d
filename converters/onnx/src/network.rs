//! Which network a checkpoint holds, and what the two have in common.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use ssamba_model_common::{
    Architecture, Checkpoint, ModelOutputs, NormKind, Published, Recipe, Sizes, Unused, hashed,
};
use ssamba_ssast::CLASS_TOKENS;

/// Parameters of a network that has no recipe yet.
#[derive(Clone, Debug)]
pub enum Weights {
    /// Of SSAMBA.
    Ssamba(ssamba_model::Weights),
    /// Of SSAST.
    Ssast(ssamba_ssast::Weights),
}

impl Weights {
    /// Takes the parameters out of a checkpoint; `asked` as in [`Architecture::of`].
    ///
    /// # Errors
    /// When it is neither network's checkpoint, or one with missing, unexpected or mis-shaped
    /// names: all are listed.
    pub fn load(checkpoint: &Checkpoint, asked: Option<Architecture>) -> Result<Self> {
        Ok(match Architecture::of(checkpoint, asked)? {
            Architecture::Ssamba => Self::Ssamba(ssamba_model::Weights::load(checkpoint)?),
            Architecture::Ssast => Self::Ssast(ssamba_ssast::Weights::load(checkpoint)?),
        })
    }

    /// The network ready to run as `recipe` says.
    ///
    /// # Errors
    /// When the recipe does not fit the parameters.
    pub fn with(self, recipe: Recipe) -> Result<Network> {
        Ok(match self {
            Self::Ssamba(weights) => ssamba_model::Model::new(weights, recipe)?.into(),
            Self::Ssast(weights) => ssamba_ssast::Model::new(weights, recipe)?.into(),
        })
    }

    /// Sizes that both networks have.
    pub fn sizes(&self) -> Sizes {
        match self {
            Self::Ssamba(weights) => (&weights.config).into(),
            Self::Ssast(weights) => (&weights.config).into(),
        }
    }

    /// Tokens that the file has positions for, class tokens included.
    pub fn seq_len(&self) -> usize {
        let table = match self {
            Self::Ssamba(weights) => &weights.pos_embed,
            Self::Ssast(weights) => &weights.pos_embed,
        };
        table.dims().first().copied().unwrap_or_default()
    }

    /// Patches that the file has positions for.
    pub fn patches(&self) -> usize {
        let class_tokens = match self {
            Self::Ssamba(_) => 1,
            Self::Ssast(_) => CLASS_TOKENS,
        };
        self.seq_len().saturating_sub(class_tokens)
    }

    /// Parameters that inference uses.
    pub fn parameters(&self) -> usize {
        match self {
            Self::Ssamba(weights) => weights.parameters(),
            Self::Ssast(weights) => weights.parameters(),
        }
    }

    /// Multiply-accumulates of one clip with as many tokens as there are positions.
    pub fn macs(&self) -> u64 {
        match self {
            Self::Ssamba(weights) => weights.config.macs(self.seq_len()),
            Self::Ssast(weights) => weights.config.macs(self.seq_len()),
        }
    }

    /// Mel bins and frames of the pretraining input, in pretraining files.
    pub fn pretraining_input(&self) -> Option<(usize, usize)> {
        match self {
            Self::Ssamba(weights) => weights.pretraining_input,
            Self::Ssast(weights) => weights.pretraining_input,
        }
    }
}

/// A network ready to run: the candle reference of an export.
#[derive(Clone, Debug)]
pub enum Network {
    /// Bidirectional Mamba.
    Ssamba(ssamba_model::Model),
    /// Transformer.
    Ssast(ssamba_ssast::Model),
}

impl From<ssamba_model::Model> for Network {
    fn from(model: ssamba_model::Model) -> Self {
        Self::Ssamba(model)
    }
}

impl From<ssamba_ssast::Model> for Network {
    fn from(model: ssamba_ssast::Model) -> Self {
        Self::Ssast(model)
    }
}

impl Network {
    /// Patches beside each other along the frequencies in a [`hashed`](Self::hashed) network.
    pub const ROWS: usize = 8;

    /// A network of a published size with `patches` tokens beside its class tokens and 50 classes,
    /// as in the paper's measurements: patches of 16 x 16 that do not overlap, eight of them over
    /// 128 mel bins. The weights are [`hashed`]: good for timing, not for hearing.
    ///
    /// # Errors
    /// When `patches` is not a positive multiple of eight.
    pub fn hashed(kind: Architecture, size: Published, patches: usize) -> Result<Self> {
        ensure!(
            patches > 0 && patches.is_multiple_of(Self::ROWS),
            "{patches} patches, expected a positive multiple of {}",
            Self::ROWS
        );
        let mut recipe = Recipe::built_in("pretrain").context("`pretrain` is built in")?;
        recipe.name = "hashed".into();
        recipe.front_end.n_frames = 16 * patches / Self::ROWS;
        let n_classes = Some(50);
        let layout = match kind {
            Architecture::Ssamba => {
                let config = ssamba_model::Config::published(size, n_classes);
                ssamba_model::weights::layout(&config, NormKind::Layer, 1 + patches)
            }
            Architecture::Ssast => {
                let config = ssamba_ssast::Config::published(size, n_classes);
                ssamba_ssast::weights::layout(&config, CLASS_TOKENS + patches)
            }
        };
        let checkpoint = hashed::checkpoint(layout);
        Weights::load(&checkpoint, Some(kind))?.with(recipe)
    }

    /// Which network it is.
    pub fn architecture(&self) -> Architecture {
        match self {
            Self::Ssamba(_) => Architecture::Ssamba,
            Self::Ssast(_) => Architecture::Ssast,
        }
    }

    /// Runs on `fbank` `[batch, n_frames, n_mels]`, normalised as the recipe says.
    ///
    /// # Errors
    /// When the shape is not the recipe's.
    pub fn forward(&self, fbank: &Tensor) -> Result<ModelOutputs> {
        match self {
            Self::Ssamba(model) => model.forward(fbank),
            Self::Ssast(model) => model.forward(fbank),
        }
    }

    /// Sizes that both networks have.
    pub fn sizes(&self) -> Sizes {
        match self {
            Self::Ssamba(model) => (&model.weights().config).into(),
            Self::Ssast(model) => (&model.weights().config).into(),
        }
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        match self {
            Self::Ssamba(model) => model.recipe(),
            Self::Ssast(model) => model.recipe(),
        }
    }

    /// Patches over frequency and over time.
    pub fn grid(&self) -> (usize, usize) {
        match self {
            Self::Ssamba(model) => model.grid(),
            Self::Ssast(model) => model.grid(),
        }
    }

    /// Tokens of one clip, class tokens included.
    pub fn seq_len(&self) -> usize {
        match self {
            Self::Ssamba(model) => model.seq_len(),
            Self::Ssast(model) => model.seq_len(),
        }
    }

    /// Parameters that inference uses.
    pub fn parameters(&self) -> usize {
        match self {
            Self::Ssamba(model) => model.weights().parameters(),
            Self::Ssast(model) => model.weights().parameters(),
        }
    }

    /// Names in the checkpoint that inference never uses, with the reason.
    pub fn unused(&self) -> &Unused {
        match self {
            Self::Ssamba(model) => &model.weights().unused,
            Self::Ssast(model) => &model.weights().unused,
        }
    }

    /// Sizes and options as `key=value` pairs, for the card.
    ///
    /// # Errors
    /// When the recipe's words cannot be spelled.
    pub(crate) fn summary(&self) -> Result<String> {
        let recipe = self.recipe();
        let (rows, columns) = self.grid();
        let Sizes { d_model, depth, patch_f, patch_t, .. } = self.sizes();
        let head = serde_json::to_value(recipe.head)?;
        let shared = format!(
            "patch={patch_f}x{patch_t} stride={}x{} grid={rows}x{columns} tokens={} head={}",
            recipe.stride_f,
            recipe.stride_t,
            self.seq_len(),
            head.as_str().unwrap_or_default(),
        );
        let gflop = |macs: u64| 2.0 * macs as f64 / 1e9;
        Ok(match self {
            Self::Ssamba(model) => {
                let config = &model.weights().config;
                let norm = serde_json::to_value(model.norm())?;
                format!(
                    "d_model={d_model} depth={depth} d_inner={} d_state={} {shared} norm={} pairwise={} \
                     halve={} gflop={:.3}",
                    config.d_inner,
                    config.d_state,
                    norm.as_str().unwrap_or_default(),
                    recipe.pairwise,
                    recipe.halve,
                    gflop(config.macs(self.seq_len())),
                )
            }
            Self::Ssast(model) => {
                let config = &model.weights().config;
                format!(
                    "arch=ssast d_model={d_model} depth={depth} heads={} d_mlp={} {shared} gflop={:.3}",
                    config.heads(),
                    config.d_mlp,
                    gflop(config.macs(self.seq_len())),
                )
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::{Options, card, export};

    /// Parameters of SSAMBA fine-tuned on Speech Commands and AudioSet, and of the distilled DeiTs
    /// with one channel and without their heads of 1000 classes.
    #[test]
    fn published_sizes_have_as_many_parameters() {
        let count = |layout: std::collections::BTreeMap<String, Vec<usize>>| {
            layout.values().map(|shape| shape.iter().product::<usize>()).sum::<usize>()
        };
        let ssamba = |size, n_classes, seq_len| {
            let config = ssamba_model::Config::published(size, Some(n_classes));
            count(ssamba_model::weights::layout(&config, NormKind::Layer, seq_len))
        };
        assert_eq!(ssamba(Published::Tiny, 35, 145), 6_858_659);
        assert_eq!(ssamba(Published::Small, 527, 1213), 25_818_383);
        assert_eq!(ssamba(Published::Base, 527, 1213), 97_642_511);
        let ssast = |size| {
            let config = ssamba_ssast::Config::published(size, None);
            count(ssamba_ssast::weights::layout(&config, 198))
        };
        assert_eq!(ssast(Published::Tiny), 5_910_800 - 2 * 193_000 - 2 * 256 * 192);
        assert_eq!(ssast(Published::Small), 22_436_432 - 2 * 385_000 - 2 * 256 * 384);
        assert_eq!(ssast(Published::Base), 87_338_192 - 2 * 769_000 - 2 * 256 * 768);
    }

    #[test]
    fn a_network_of_any_length_needs_no_checkpoint() {
        for (kind, class_tokens) in [(Architecture::Ssamba, 1), (Architecture::Ssast, 2)] {
            let network = Network::hashed(kind, Published::Tiny, 24).unwrap();
            assert_eq!((network.architecture(), network.grid()), (kind, (8, 3)));
            assert_eq!(network.seq_len(), class_tokens + 24);
            let fbank = Tensor::ones((1, 48, 128), DType::F32, &Device::Cpu).unwrap();
            let logits = network.forward(&fbank).unwrap().logits.unwrap();
            assert_eq!(logits.dims(), [1, 50]);
            let sum = logits.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(sum.is_finite() && sum > 0.0);
            let card = card(&network, "hashed", "").unwrap();
            assert!(export(&network, &card, &Options::default()).is_ok());
            for patches in [0, 12] {
                assert!(Network::hashed(kind, Published::Tiny, patches).is_err());
            }
        }
    }
}
