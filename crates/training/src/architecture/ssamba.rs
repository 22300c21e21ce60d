//! SSAMBA in the folded form.
//!
//! The official residual doubles at every pair, `s <- 2 s + F + G`. With `rho = s / 2^k` before pair
//! `k` and the out-projections divided by `2^(k + 1)` it is an ordinary residual network,
//! `rho <- rho + F + G`, with `eps / 4^k` in the norms of pair `k`. Both are powers of two: folding
//! back gives the official parameters to the bit.

use candle_core::{Result, Tensor};
use ssamba_model::{Config, NORM_EPS, Recipe, Weights, weights::LayerWeights};

use super::norm;
use crate::{
    initial::{self, Initial, reciprocal_root},
    ops::{Direction, direction},
};

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

/// Initial values: hustvl/Vim@6143d07 `vim/models_mamba.py:179-222,345-366` and
/// `mamba-1p1p1/mamba_ssm/modules/mamba_simple.py:94-165`. Two quirks are kept: the reverse
/// direction's step projection has none of the special values of the other, and out-projections are
/// divided by the square root of the depth.
pub(super) fn initial(name: &str, shape: &[usize], config: &Config) -> Initial {
    let leaf = name.rsplit('.').next().unwrap_or_default();
    match leaf {
        "A_log" | "A_b_log" => Initial::Logarithms,
        "D" | "D_b" => Initial::Constant(1.0),
        "bias" if name.contains("dt_proj_b.") => Initial::Constant(0.0),
        "bias" if name.contains("dt_proj.") => Initial::Steps,
        "bias" if name.contains("conv1d") => Initial::Uniform(reciprocal_root(config.d_conv)),
        "weight" if name.contains(".out_proj.") => {
            Initial::Uniform(initial::default_bound(shape) * reciprocal_root(config.depth))
        }
        _ => initial::shared(name, shape, config.into()),
    }
}

/// Tokens with positions `[batch, seq_len, d_model]` to those after the second final norm.
pub(super) fn encode(tokens: &Tensor, weights: &Weights, recipe: &Recipe) -> Result<Tensor> {
    let mut rho = tokens.clone();
    let mut eps = NORM_EPS;
    let together = if recipe.pairwise { 2 } else { 1 };
    for layers in weights.layers.chunks_exact(together) {
        let mut sum = rho.clone();
        for (index, layer) in layers.iter().enumerate() {
            // The second of a pair sees the tokens from the last to the first: its two directions
            // swap roles, and nothing has to be flipped.
            let mixed = mixer(layer, &rho, eps, recipe.halve, index == 1)?;
            sum = (sum + mixed)?;
        }
        rho = sum;
        if recipe.pairwise {
            eps /= 4.0;
        }
    }
    let once = norm(&rho, &weights.norm_f, eps)?;
    norm(&once, &weights.norm_f, NORM_EPS)
}

fn mixer(
    layer: &LayerWeights,
    rho: &Tensor,
    eps: f64,
    halve: bool,
    flipped: bool,
) -> Result<Tensor> {
    let (batch, seq_len, d_model) = rho.dims3()?;
    let mixer = &layer.mixer;
    let d_inner = mixer.in_proj.dim(0)? / 2;
    let hidden = norm(rho, &layer.norm, eps)?.reshape((batch * seq_len, d_model))?;
    let half = |first| -> Result<Tensor> {
        let weight = mixer.in_proj.narrow(0, first, d_inner)?;
        hidden.matmul(&weight.t()?)?.reshape((batch, seq_len, d_inner))
    };
    let (x, z) = (half(0)?, half(d_inner)?);
    let scale = if halve { 0.5 } else { 1.0 };
    let forward = direction(&x, &z, &mixer.forward, Direction { reverse: flipped, scale })?;
    let reverse = direction(&x, &z, &mixer.reverse, Direction { reverse: !flipped, scale })?;
    let sum = (forward + reverse)?.reshape((batch * seq_len, d_inner))?;
    sum.matmul(&mixer.out_proj.t()?)?.reshape((batch, seq_len, d_model))
}
