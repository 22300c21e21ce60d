//! Networks of the published sizes with weights that are made up: time and memory do not depend on
//! them, as long as nothing overflows.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use clap::ValueEnum;
use ssamba_model::{Checkpoint, Config, Model, NormKind, Recipe, Weights, weights::layout};
use ssamba_onnx::Network;

/// A published size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Size {
    /// Tokens of 192 values.
    Tiny,
    /// Tokens of 384 values.
    Small,
    /// Tokens of 768 values.
    Base,
}

impl Size {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Small => "small",
            Self::Base => "base",
        }
    }

    fn d_model(self) -> usize {
        match self {
            Self::Tiny => 192,
            Self::Small => 384,
            Self::Base => 768,
        }
    }
}

/// Side of a patch, in mel bins and in frames.
const PATCH: usize = 16;

/// Patches beside each other along the frequencies.
const ROWS: usize = 8;

/// SSAMBA of a published size over `patches` patches and its class token.
pub fn ssamba(size: Size, patches: usize) -> Result<Network> {
    let d_model = size.d_model();
    let config = Config {
        d_model,
        depth: 24,
        d_inner: 2 * d_model,
        d_state: 16,
        d_conv: 4,
        dt_rank: d_model.div_ceil(16),
        patch_f: PATCH,
        patch_t: PATCH,
        n_classes: Some(35),
    };
    let mut recipe = Recipe::built_in("speech-commands").context("a built-in recipe")?;
    recipe.front_end.n_frames = patches.div_ceil(ROWS) * PATCH;
    (recipe.stride_f, recipe.stride_t) = (PATCH, PATCH);
    let (rows, columns) = recipe.grid(&config)?;
    let tensors = layout(&config, NormKind::Layer, 1 + rows * columns)
        .into_iter()
        .map(|(name, shape)| {
            let tensor = Tensor::from_vec(values(&name, &shape), shape, &Device::Cpu)?;
            Ok((name, tensor))
        })
        .collect::<Result<Vec<_>>>()?;
    let checkpoint = Checkpoint::from_tensors("made-up weights", tensors);
    Ok(Model::new(Weights::load(&checkpoint)?, recipe)?.into())
}

/// Values as a fresh network would have: decays of 1 to `d_state`, steps of about 0.02, matrices that
/// keep the size of what they multiply.
fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    let count = shape.iter().product();
    if name.ends_with("A_log") || name.ends_with("A_b_log") {
        return (0..count).map(|i| ((i % shape[1] + 1) as f32).ln()).collect();
    }
    let (mean, spread) = match shape {
        _ if name.contains("dt_proj") && name.ends_with("bias") => (-4.0, 0.5),
        [_] if name.ends_with("weight") || name.ends_with('D') || name.ends_with("D_b") => {
            (1.0, 0.1)
        }
        [_, inputs @ ..] if name.ends_with("weight") => {
            (0.0, (inputs.iter().product::<usize>() as f32).sqrt().recip())
        }
        _ => (0.0, 0.1),
    };
    // A multiplicative generator modulo a prime, from a seed of the name's own.
    let mut state = name.bytes().fold(1_u64, |seed, byte| (seed * 257 + u64::from(byte)) % PRIME);
    (0..count)
        .map(|_| {
            state = (state.max(1) * 48_271) % PRIME;
            mean + spread * (2.0 * state as f32 / PRIME as f32 - 1.0)
        })
        .collect()
}

const PRIME: u64 = (1 << 31) - 1;
