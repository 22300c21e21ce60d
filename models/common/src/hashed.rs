//! Weights made from their names: whole-size networks without a weight file, the same in every
//! language. For tests and measurements; nothing was learned.
//!
//! FNV-1a of the name seeds splitmix64, scale and offset follow from the name; `hashed_weight` in
//! `tests/goldens/ssamba_torch.py` is the same rule.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use crate::Checkpoint;

/// `count` values of `scale * u`, `u` uniform in [-1, 1), seeded by `name`.
pub fn hashed(name: &str, count: usize, scale: f64) -> Vec<f32> {
    let seed = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    (1..=count as u64)
        .map(|index| {
            let mut z = seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            ((((z >> 40) as f64) / f64::from(1 << 23) - 1.0) * scale) as f32
        })
        .collect()
}

fn weight(name: &str, shape: &[usize]) -> Vec<f32> {
    let count = shape.iter().product();
    let leaf = name.rsplit('.').next().unwrap_or(name);
    let offset = |base: f32, scale| hashed(name, count, scale).into_iter().map(move |v| base + v);
    match leaf {
        "A_log" | "A_b_log" => hashed(name, count, 0.125)
            .into_iter()
            .enumerate()
            .map(|(i, v)| ((i % shape[1] + 1) as f32).ln() + v)
            .collect(),
        "D" | "D_b" => offset(1.0, 0.25).collect(),
        _ if name.ends_with("dt_proj.bias") || name.ends_with("dt_proj_b.bias") => {
            offset(-4.0, 2.0).collect()
        }
        "weight" if name.contains("norm") || name.starts_with("mlp_head.0.") => {
            offset(1.0, 0.25).collect()
        }
        "bias" | "pos_embed" | "cls_token" | "mask_embed" => hashed(name, count, 0.125),
        _ => {
            let fan_in: usize = shape[1..].iter().product();
            let exponent = (0.5 * (fan_in as f64).log2()).round_ties_even();
            hashed(name, count, (-exponent).exp2())
        }
    }
}

/// A checkpoint with hashed weights for the names and stored shapes of `layout`.
///
/// # Panics
/// Never for sizes that fit in memory.
pub fn checkpoint(layout: BTreeMap<String, Vec<usize>>) -> Checkpoint {
    let tensors = layout.into_iter().map(|(name, shape)| {
        let tensor = Tensor::from_vec(weight(&name, &shape), shape, &Device::Cpu);
        (name, tensor.expect("as many values"))
    });
    Checkpoint::from_tensors("hashed weights", tensors)
}
