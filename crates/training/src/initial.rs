//! Initial values, as upstream draws them: hustvl/Vim@6143d07 `vim/models_mamba.py:179-222,345-366` and
//! `mamba-1p1p1/mamba_ssm/modules/mamba_simple.py:94-165`. Two quirks are kept: the reverse
//! direction's step projection has none of the special values of the other, and out-projections are
//! divided by the square root of the depth.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{Device, Tensor};
use ssamba_model::Config;

use crate::random::Random;

/// A number for a name, so that each parameter has draws of its own.
pub(crate) fn purpose(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// Values uniform within `bound`.
pub(crate) fn uniform(name: &str, shape: &[usize], bound: f64, seed: u64) -> Result<Tensor> {
    let mut random = Random::new(seed, &[purpose(name)]);
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| random.range(-bound, bound) as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// Initial values for the names and shapes of `layout`.
pub(crate) fn tensors(
    layout: &BTreeMap<String, Vec<usize>>,
    config: &Config,
    seed: u64,
) -> Result<BTreeMap<String, Tensor>> {
    let fill = |(name, shape): (&String, &Vec<usize>)| -> Result<(String, Tensor)> {
        Ok((name.clone(), tensor(name, shape, config, seed)?))
    };
    layout.iter().map(fill).collect()
}

fn tensor(name: &str, shape: &[usize], config: &Config, seed: u64) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let mut random = Random::new(seed, &[purpose(name)]);
    let reciprocal_root = |fan_in: usize| (fan_in as f64).powf(-0.5);
    let fan_in: usize = shape.get(1..).unwrap_or_default().iter().product();
    let leaf = name.rsplit('.').next().unwrap_or_default();
    let is_norm = name.contains("norm") || name.starts_with("mlp_head.0.");
    let values: Vec<f32> = match leaf {
        "A_log" | "A_b_log" => (0..count).map(|i| ((i % shape[1] + 1) as f32).ln()).collect(),
        "D" | "D_b" => vec![1.0; count],
        "weight" if is_norm => vec![1.0; count],
        "bias" if is_norm || name.contains("dt_proj_b.") => vec![0.0; count],
        "bias" if name.contains("dt_proj.") => (0..count)
            .map(|_| {
                let dt = random.range(0.001_f64.ln(), 0.1_f64.ln()).exp().max(1e-4);
                // The inverse of softplus.
                (dt + (-(-dt).exp_m1()).ln()) as f32
            })
            .collect(),
        "cls_token" | "pos_embed" => (0..count)
            // Upstream cuts the tails beyond 2, a hundred deviations away.
            .map(|_| (0.02 * random.normal()) as f32)
            .collect(),
        _ => {
            let bound = match leaf {
                "weight" if name.contains(".out_proj.") => {
                    reciprocal_root(fan_in) * reciprocal_root(config.depth)
                }
                "weight" => reciprocal_root(fan_in),
                // PyTorch's default for a bias goes by the inputs of its layer.
                _ if name.contains("patch_embed") => {
                    reciprocal_root(config.patch_f * config.patch_t)
                }
                _ if name.contains("conv1d") => reciprocal_root(config.d_conv),
                _ => reciprocal_root(config.d_model),
            };
            (0..count).map(|_| random.range(-bound, bound) as f32).collect()
        }
    };
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}
