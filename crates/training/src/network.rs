//! The network to train: official parameters as candle variables, in the folded form.
//!
//! The official residual doubles at every pair, `s <- 2 s + F + G`. With `rho = s / 2^k` before pair
//! `k` and the out-projections divided by `2^(k + 1)` it is an ordinary residual network,
//! `rho <- rho + F + G`, with `eps / 4^k` in the norms of pair `k`. Both are powers of two: folding
//! back gives the official parameters to the bit.

use std::{collections::BTreeMap, ops::Range};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use ssamba_model::{Checkpoint, Config, Model, NORM_EPS, NormKind, Recipe, Weights};
use ssamba_model_common::{
    Head, NormWeights, PatchEmbed, PatchWeights, check_input, head::pool, pos_embed::Stored,
};

use crate::{
    initial,
    ops::{Direction, direction, layer_norm},
    random::Random,
};

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

/// Tokens `[batch, 1 + patches, d_model]` after the second final norm.
pub type Tokens = Tensor;

impl Network {
    /// A network with initial values, as upstream draws them.
    ///
    /// # Errors
    /// When recipe and sizes do not fit each other.
    pub fn from_scratch(config: Config, recipe: Recipe, seed: u64) -> Result<Self> {
        let (rows, columns) = recipe.grid(&config)?;
        let layout = ssamba_model::weights::layout(&config, NormKind::Layer, 1 + rows * columns);
        let tensors = initial::tensors(&layout, &config, seed)?;
        Self::new(config, recipe, tensors, None)
    }

    /// A network with the parameters of a checkpoint: positions are resampled from a pretraining file,
    /// and a head for `n_classes` is drawn anew where the file's has another number or there is none.
    ///
    /// # Errors
    /// When the checkpoint is not SSAMBA's, or the recipe does not fit it.
    pub fn from_checkpoint(
        checkpoint: &Checkpoint,
        recipe: Recipe,
        n_classes: usize,
        seed: u64,
    ) -> Result<Self> {
        let weights = Weights::load(checkpoint)?;
        ensure!(
            weights.norm == NormKind::Layer,
            "{}: norms without biases, and training knows LayerNorm alone",
            checkpoint.path.display()
        );
        let config = Config { n_classes: Some(n_classes), ..weights.config };
        let grid = recipe.grid(&config)?;
        let stored = Stored {
            table: &weights.pos_embed,
            class_tokens: 1,
            pretraining_input: weights.pretraining_input,
        };
        let positions = stored.fit((&config).into(), &recipe, grid)?.unsqueeze(0)?;
        let layout = ssamba_model::weights::layout(&config, NormKind::Layer, 1 + grid.0 * grid.1);
        let mut tensors = initial::tensors(&layout, &config, seed)?;
        let same_head = weights.config.n_classes == Some(n_classes);
        for (name, tensor) in &mut tensors {
            if name == "v.pos_embed" {
                *tensor = positions.clone();
            } else if same_head || !name.starts_with("mlp_head.") {
                *tensor = checkpoint.tensors[name].to_dtype(DType::F32)?;
            }
        }
        Self::new(config, recipe, tensors, None)
    }

    /// Wraps official parameters; those of pretraining may be among them.
    pub(crate) fn new(
        config: Config,
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
        let grid = Model::new(weights, recipe.clone())?.grid();
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

    /// Sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the parameters do not tell.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Patches over frequency and over time.
    pub fn grid(&self) -> (usize, usize) {
        self.grid
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
        let patch_weights = PatchWeights {
            weight: weights.patch_weight.clone(),
            bias: weights.patch_bias.clone(),
            class_tokens: weights.cls_token.unsqueeze(0)?,
            pos_embed: weights.pos_embed.clone(),
        };
        Ok(PatchEmbed::new(patch_weights, &self.recipe, self.grid)?)
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
        let head = weights.head.as_ref().context("a network without a classifier has no logits")?;
        let pooled = pool(&tokens, 1, self.recipe.head)?;
        Ok(head.forward(&pooled)?)
    }

    /// `fbank` to all tokens after the second final norm; `patches` may change the patch tokens
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
        let mut rho = embed.place(&patches(embed.project(fbank)?)?)?;
        let mut eps = NORM_EPS;
        let together = if self.recipe.pairwise { 2 } else { 1 };
        for layers in weights.layers.chunks_exact(together) {
            let mut sum = rho.clone();
            for (index, layer) in layers.iter().enumerate() {
                // The second of a pair sees the tokens from the last to the first: its two directions
                // swap roles, and nothing has to be flipped.
                let mixed = self.mixer(layer, &rho, eps, index == 1)?;
                sum = (sum + mixed)?;
            }
            rho = sum;
            if self.recipe.pairwise {
                eps /= 4.0;
            }
        }
        let once = norm(&rho, &weights.norm_f, eps)?;
        norm(&once, &weights.norm_f, NORM_EPS)
    }

    fn mixer(
        &self,
        layer: &ssamba_model::weights::LayerWeights,
        rho: &Tensor,
        eps: f64,
        flipped: bool,
    ) -> Result<Tensor> {
        let (batch, seq_len, d_model) = rho.dims3()?;
        let mixer = &layer.mixer;
        let d_inner = self.config.d_inner;
        let hidden = norm(rho, &layer.norm, eps)?.reshape((batch * seq_len, d_model))?;
        let half = |first| -> Result<Tensor> {
            let weight = mixer.in_proj.narrow(0, first, d_inner)?;
            Ok(hidden.matmul(&weight.t()?)?.reshape((batch, seq_len, d_inner))?)
        };
        let (x, z) = (half(0)?, half(d_inner)?);
        let scale = if self.recipe.halve { 0.5 } else { 1.0 };
        let forward = direction(&x, &z, &mixer.forward, Direction { reverse: flipped, scale })?;
        let reverse = direction(&x, &z, &mixer.reverse, Direction { reverse: !flipped, scale })?;
        let sum = (forward + reverse)?.reshape((batch * seq_len, d_inner))?;
        Ok(sum.matmul(&mixer.out_proj.t()?)?.reshape((batch, seq_len, d_model))?)
    }
}

fn norm(x: &Tensor, weights: &NormWeights, eps: f64) -> Result<Tensor> {
    let bias = weights.bias.as_ref().context("a LayerNorm has a bias")?;
    Ok(layer_norm(x, &weights.weight, bias, eps)?)
}

/// What a folded parameter is multiplied by to be the official one.
pub fn folding(name: &str, recipe: &Recipe) -> f64 {
    let layer = name
        .strip_prefix("v.layers.")
        .and_then(|rest| rest.strip_suffix(".mixer.out_proj.weight"))
        .and_then(|index| index.parse::<i32>().ok());
    match layer {
        Some(layer) if recipe.pairwise => 2.0_f64.powi(layer / 2 + 1),
        _ => 1.0,
    }
}

/// Parameters of the two prediction heads and the mask token of pretraining, with initial values.
pub(crate) fn pretraining_heads(config: &Config, seed: u64) -> Result<BTreeMap<String, Tensor>> {
    let Config { d_model, patch_f, patch_t, .. } = *config;
    let mut tensors = BTreeMap::new();
    for head in ["cpredlayer", "gpredlayer"] {
        for (layer, out) in [("0", d_model), ("2", patch_f * patch_t)] {
            for (leaf, shape) in [("weight", vec![out, d_model]), ("bias", vec![out])] {
                let name = format!("{head}.{layer}.{leaf}");
                let tensor = initial::uniform(&name, &shape, (d_model as f64).powf(-0.5), seed)?;
                tensors.insert(name, tensor);
            }
        }
    }
    let mut random = Random::new(seed, &[initial::purpose("mask_embed")]);
    let deviation = (d_model as f64).powf(-0.5);
    let mask: Vec<f32> = (0..d_model).map(|_| (deviation * random.normal()) as f32).collect();
    tensors.insert("mask_embed".into(), Tensor::from_vec(mask, (1, 1, d_model), &Device::Cpu)?);
    Ok(tensors)
}
