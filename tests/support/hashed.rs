//! Weights made from their names, so that goldens of whole-size models need no weight files.
//!
//! The rule is `hashed_weight` in `tests/goldens/ssamba_torch.py`: FNV-1a of the name seeds
//! splitmix64, scale and offset follow from the name.

use candle_core::{Device, Tensor};
use ssamba_model::{Checkpoint, Config, NormKind, weights::layout};

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

/// The network input of the goldens: `hashed("x", [batch, n_frames, n_mels], 1)`.
///
/// # Panics
/// Never for a shape that fits in memory.
pub fn input(batch: usize, n_frames: usize, n_mels: usize) -> Tensor {
    let data = hashed("x", batch * n_frames * n_mels, 1.0);
    Tensor::from_vec(data, (batch, n_frames, n_mels), &Device::Cpu).expect("as many values")
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

/// A checkpoint of these sizes with hashed weights and `seq_len` positions.
///
/// # Panics
/// Never for sizes that fit in memory.
pub fn checkpoint(config: &Config, norm: NormKind, seq_len: usize) -> Checkpoint {
    let tensors = layout(config, norm, seq_len).into_iter().map(|(name, shape)| {
        let tensor = Tensor::from_vec(weight(&name, &shape), shape, &Device::Cpu);
        (name, tensor.expect("as many values"))
    });
    Checkpoint::from_tensors("hashed weights", tensors)
}

/// A published size (`d_model` 192, 384, 768; 24 layers; 16 x 16 patches).
pub fn published(d_model: usize, n_classes: usize) -> Config {
    Config {
        d_model,
        depth: 24,
        d_inner: 2 * d_model,
        d_state: 16,
        d_conv: 4,
        dt_rank: d_model.div_ceil(16),
        patch_f: 16,
        patch_t: 16,
        n_classes: Some(n_classes),
    }
}

/// The micro network of the goldens.
pub fn micro(n_classes: usize) -> Config {
    Config { depth: 4, ..published(32, n_classes) }
}
