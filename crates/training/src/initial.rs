//! Initial values: how they are drawn, and those of the parameters that both networks have.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{Device, Tensor};
use ssamba_model_common::Sizes;

use crate::random::Random;

/// How the values of a parameter begin.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Initial {
    /// All the same.
    Constant(f32),
    /// Of mean 0 and this deviation.
    Normal(f64),
    /// Uniform within this bound.
    Uniform(f64),
    /// `ln(1), ln(2), ..` in every row.
    Logarithms,
    /// What softplus turns into steps from 0.001 to 0.1, uniform in their logarithm.
    Steps,
}

impl Initial {
    /// The values of a parameter, which has draws of its own.
    pub(crate) fn tensor(self, name: &str, shape: &[usize], seed: u64) -> Result<Tensor> {
        let count: usize = shape.iter().product();
        let mut random = Random::new(seed, &[purpose(name)]);
        let values: Vec<f32> = match self {
            Self::Constant(value) => vec![value; count],
            Self::Normal(deviation) => {
                (0..count).map(|_| (deviation * random.normal()) as f32).collect()
            }
            Self::Uniform(bound) => {
                (0..count).map(|_| random.range(-bound, bound) as f32).collect()
            }
            Self::Logarithms => {
                let width = shape.last().copied().unwrap_or(1);
                (0..count).map(|i| ((i % width + 1) as f32).ln()).collect()
            }
            Self::Steps => (0..count)
                .map(|_| {
                    let dt = random.range(0.001_f64.ln(), 0.1_f64.ln()).exp().max(1e-4);
                    // The inverse of softplus.
                    (dt + (-(-dt).exp_m1()).ln()) as f32
                })
                .collect(),
        };
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}

/// A number for a name.
fn purpose(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// Initial values for the names and shapes of `layout`.
pub(crate) fn tensors(
    layout: &BTreeMap<String, Vec<usize>>,
    seed: u64,
    how: impl Fn(&str, &[usize]) -> Initial,
) -> Result<BTreeMap<String, Tensor>> {
    let fill = |(name, shape): (&String, &Vec<usize>)| -> Result<(String, Tensor)> {
        Ok((name.clone(), how(name, shape).tensor(name, shape, seed)?))
    };
    layout.iter().map(fill).collect()
}

/// 1 over the square root.
pub(crate) fn reciprocal_root(count: usize) -> f64 {
    (count as f64).powf(-0.5)
}

/// PyTorch's default bound for a weight.
pub(crate) fn default_bound(shape: &[usize]) -> f64 {
    reciprocal_root(shape.get(1..).unwrap_or_default().iter().product())
}

/// Norms, tokens and positions as upstream draws them, and PyTorch's default for all others, whose
/// bias goes by the inputs of its layer.
pub(crate) fn shared(name: &str, shape: &[usize], sizes: Sizes) -> Initial {
    let leaf = name.rsplit('.').next().unwrap_or_default();
    let is_norm = name.contains("norm") || name.starts_with("mlp_head.0.");
    match leaf {
        "weight" if is_norm => Initial::Constant(1.0),
        "bias" if is_norm => Initial::Constant(0.0),
        // Upstream cuts the tails beyond 2, a hundred deviations away.
        "cls_token" | "dist_token" | "pos_embed" => Initial::Normal(0.02),
        "weight" => Initial::Uniform(default_bound(shape)),
        _ if name.contains("patch_embed") => {
            Initial::Uniform(reciprocal_root(sizes.patch_f * sizes.patch_t))
        }
        _ => Initial::Uniform(reciprocal_root(sizes.d_model)),
    }
}

/// Parameters of the two prediction heads and the mask token of pretraining, with initial values.
pub(crate) fn pretraining_heads(sizes: Sizes, seed: u64) -> Result<BTreeMap<String, Tensor>> {
    let Sizes { d_model, patch_f, patch_t, .. } = sizes;
    let mut layout = BTreeMap::from([("mask_embed".to_owned(), vec![1, 1, d_model])]);
    for head in ["cpredlayer", "gpredlayer"] {
        for (layer, out) in [("0", d_model), ("2", patch_f * patch_t)] {
            layout.insert(format!("{head}.{layer}.weight"), vec![out, d_model]);
            layout.insert(format!("{head}.{layer}.bias"), vec![out]);
        }
    }
    tensors(&layout, seed, |name, _| match name {
        "mask_embed" => Initial::Normal(reciprocal_root(d_model)),
        _ => Initial::Uniform(reciprocal_root(d_model)),
    })
}
