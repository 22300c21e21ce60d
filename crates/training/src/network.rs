//! The network to train: official parameters as candle variables, in the form that trains best.

use std::{collections::BTreeMap, ops::Range};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use ssamba_model_common::{
    Architecture, Checkpoint, Head, NormKind, PatchEmbed, Recipe, Sizes, check_input, head::pool,
    pos_embed::Stored,
};

use crate::architecture::{Config, Weights, folding};

/// Parameters to train, and how the network runs.
#[derive(Clone, Debug)]
pub struct Network {
    parameters: BTreeMap<String, Var>,
    /// Where each parameter lies among all values, in the order of names.
    places: Vec<Range<usize>>,
    config: Config,
    recipe: Recipe,
    grid: (usize, usize),
    /// Mel bins and frames of a pretraining model.
    pretraining_input: Option<(usize, usize)>,
}

/// Tokens `[batch, seq_len, d_model]` after the last norm, class tokens first.
pub type Tokens = Tensor;

impl Network {
    /// A network with initial values, as upstream draws them.
    ///
    /// # Errors
    /// When recipe and sizes do not fit each other.
    pub fn from_scratch(config: impl Into<Config>, recipe: Recipe, seed: u64) -> Result<Self> {
        let config = config.into();
        let (rows, columns) = recipe.grid(&config)?;
        Self::new(recipe, config.initial(rows * columns, seed)?, None)
    }

    /// A network with the parameters of a checkpoint: positions are resampled from a pretraining file,
    /// and a head for `n_classes` is drawn anew where the file's has another number or there is none.
    ///
    /// # Errors
    /// When the checkpoint is of neither network, or the recipe does not fit it.
    pub fn from_checkpoint(
        checkpoint: &Checkpoint,
        recipe: Recipe,
        n_classes: usize,
        seed: u64,
    ) -> Result<Self> {
        let weights = Weights::load(checkpoint)?;
        let config = weights.config().with_classes(Some(n_classes));
        let grid = recipe.grid(&config)?;
        let stored = Stored {
            table: &weights.patch_embed()?.pos_embed,
            class_tokens: config.class_tokens(),
            pretraining_input: weights.pretraining_input(),
        };
        let positions = stored.fit(config.sizes(), &recipe, grid)?.unsqueeze(0)?;
        let mut tensors = config.initial(grid.0 * grid.1, seed)?;
        let same_head = weights.config() == config;
        for (name, tensor) in &mut tensors {
            if name == "v.pos_embed" {
                *tensor = positions.clone();
            } else if same_head || !name.starts_with("mlp_head.") {
                *tensor = checkpoint.tensors[name].to_dtype(DType::F32)?;
            }
        }
        Self::new(recipe, tensors, None)
    }

    /// Wraps official parameters; those of pretraining may be among them.
    pub(crate) fn new(
        recipe: Recipe,
        official: BTreeMap<String, Tensor>,
        pretraining_input: Option<(usize, usize)>,
    ) -> Result<Self> {
        ensure!(
            recipe.norm.is_none_or(|norm| norm == NormKind::Layer),
            "recipe `{}` asks for RMSNorm, and training knows LayerNorm alone",
            recipe.name
        );
        ensure!(
            matches!(recipe.head, Head::MeanTokens | Head::ClassToken),
            "recipe `{}` has a head that cannot be trained here, expected mean-tokens or class-token",
            recipe.name
        );
        // What else has to fit, the model itself checks.
        let weights = Weights::load(&Checkpoint::from_tensors("the network", official.clone()))?;
        let config = weights.config();
        let grid = weights.grid(recipe.clone())?;
        let mut parameters = BTreeMap::new();
        let (mut places, mut end) = (Vec::new(), 0);
        for (name, tensor) in official {
            let tensor = (tensor * (1.0 / folding(&name, &recipe)))?;
            places.push(end..end + tensor.elem_count());
            end += tensor.elem_count();
            parameters.insert(name, Var::from_tensor(&tensor)?);
        }
        Ok(Self { parameters, places, config, recipe, grid, pretraining_input })
    }

    /// Which network it is.
    pub fn architecture(&self) -> Architecture {
        self.config.architecture()
    }

    /// Sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Sizes that both networks have.
    pub fn sizes(&self) -> Sizes {
        self.config.sizes()
    }

    /// What the parameters do not tell.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Patches over frequency and over time.
    pub fn grid(&self) -> (usize, usize) {
        self.grid
    }

    /// Tokens of one clip, class tokens included.
    pub fn seq_len(&self) -> usize {
        self.config.class_tokens() + self.grid.0 * self.grid.1
    }

    /// Names and folded values, in order.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.parameters.iter().map(|(name, var)| (name.as_str(), var))
    }

    /// Names, and where each parameter lies among all values.
    pub fn places(&self) -> impl Iterator<Item = (&str, Range<usize>)> {
        self.parameters.keys().map(String::as_str).zip(self.places.iter().cloned())
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.places.last().map_or(0, |place| place.end)
    }

    /// Whether there is no parameter at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All folded values, one parameter after the other.
    ///
    /// # Errors
    /// Never for networks on the CPU.
    pub fn values(&self) -> Result<Vec<f32>> {
        let mut values = Vec::with_capacity(self.len());
        for var in self.parameters.values() {
            values.extend(var.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(values)
    }

    /// Puts all folded values in place.
    ///
    /// # Errors
    /// When there are more or fewer of them.
    pub fn set_values(&self, values: &[f32]) -> Result<()> {
        ensure!(
            values.len() == self.len(),
            "{} values for a network of {}",
            values.len(),
            self.len()
        );
        for (var, place) in self.parameters.values().zip(&self.places) {
            var.set(&Tensor::from_slice(&values[place.clone()], var.shape(), &Device::Cpu)?)?;
        }
        Ok(())
    }

    /// The official parameters, ready for a checkpoint; of a pretraining model with the size of its
    /// input.
    ///
    /// # Errors
    /// Never for networks on the CPU.
    pub fn official(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        for (name, var) in &self.parameters {
            let tensor = (var.as_tensor() * folding(name, &self.recipe))?.detach();
            tensors.insert(name.clone(), tensor);
        }
        if let Some((n_mels, n_frames)) = self.pretraining_input {
            for (name, size) in [("p_input_fdim", n_mels), ("p_input_tdim", n_frames)] {
                tensors.insert(name.into(), Tensor::new(size as i64, &Device::Cpu)?);
            }
        }
        Ok(tensors)
    }

    /// A parameter by its official name.
    pub(crate) fn parameter(&self, name: &str) -> Result<&Tensor> {
        Ok(self.parameters.get(name).with_context(|| format!("no parameter `{name}`"))?.as_tensor())
    }

    /// Names and folded tensors; a gradient flows through them to the variables.
    fn weights(&self) -> Result<Weights> {
        let tensors =
            self.parameters.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()));
        Weights::load(&Checkpoint::from_tensors("the network", tensors))
    }

    fn patch_embed(&self, weights: &Weights) -> Result<PatchEmbed> {
        Ok(PatchEmbed::new(weights.patch_embed()?, &self.recipe, self.grid)?)
    }

    /// The values of every patch of `fbank`, `[batch, patches, patch_f * patch_t]`.
    ///
    /// # Errors
    /// When the shape is not the recipe's.
    pub(crate) fn patches(&self, fbank: &Tensor) -> Result<Tensor> {
        check_input(fbank, &self.recipe)?;
        Ok(self.patch_embed(&self.weights()?)?.patches(fbank)?)
    }

    /// `fbank` `[batch, n_frames, n_mels]`, normalised, to logits `[batch, n_classes]`.
    ///
    /// # Errors
    /// When the shape is not the recipe's, or there is no classifier.
    pub fn logits(&self, fbank: &Tensor) -> Result<Tensor> {
        let weights = self.weights()?;
        let tokens = self.tokens(fbank, &weights, Ok)?;
        let head = weights.head().context("a network without a classifier has no logits")?;
        let pooled = pool(&tokens, self.config.class_tokens(), self.recipe.head)?;
        Ok(head.forward(&pooled)?)
    }

    /// `fbank` to all tokens after the last norm; `patches` may change the patch tokens
    /// `[batch, patches, d_model]` on the way.
    ///
    /// # Errors
    /// When the shape is not the recipe's.
    pub(crate) fn masked_tokens(
        &self,
        fbank: &Tensor,
        patches: impl FnOnce(Tensor) -> Result<Tensor>,
    ) -> Result<Tokens> {
        self.tokens(fbank, &self.weights()?, patches)
    }

    fn tokens(
        &self,
        fbank: &Tensor,
        weights: &Weights,
        patches: impl FnOnce(Tensor) -> Result<Tensor>,
    ) -> Result<Tokens> {
        check_input(fbank, &self.recipe)?;
        let embed = self.patch_embed(weights)?;
        let tokens = embed.place(&patches(embed.project(fbank)?)?)?;
        Ok(weights.encode(&tokens, &self.recipe)?)
    }
}
