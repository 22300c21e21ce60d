//! Weights and inputs made from their names, so that goldens of whole-size models need no files.

use candle_core::{Device, Tensor};
pub use ssamba_model::hashed::hashed;
use ssamba_model::{Checkpoint, Config, NormKind, Published, hashed, weights::layout};

/// The network input of the goldens: `hashed("x", [batch, n_frames, n_mels], 1)`.
///
/// # Panics
/// Never for a shape that fits in memory.
pub fn input(batch: usize, n_frames: usize, n_mels: usize) -> Tensor {
    let data = hashed("x", batch * n_frames * n_mels, 1.0);
    Tensor::from_vec(data, (batch, n_frames, n_mels), &Device::Cpu).expect("as many values")
}

/// A checkpoint of these sizes with hashed weights and `seq_len` positions.
///
/// # Panics
/// Never for sizes that fit in memory.
pub fn checkpoint(config: &Config, norm: NormKind, seq_len: usize) -> Checkpoint {
    hashed::checkpoint(layout(config, norm, seq_len))
}

/// A published size (`d_model` 192, 384, 768; 24 layers; 16 x 16 patches).
pub fn published(d_model: usize, n_classes: usize) -> Config {
    Config {
        d_model,
        d_inner: 2 * d_model,
        dt_rank: d_model.div_ceil(16),
        ..Config::published(Published::Tiny, Some(n_classes))
    }
}

/// The micro network of the goldens.
pub fn micro(n_classes: usize) -> Config {
    Config { depth: 4, ..published(32, n_classes) }
}

/// A checkpoint of SSAST of these sizes with hashed weights and `seq_len` positions.
///
/// # Panics
/// Never for sizes that fit in memory.
pub fn ssast(config: &ssamba_ssast::Config, seq_len: usize) -> Checkpoint {
    hashed::checkpoint(ssamba_ssast::weights::layout(config, seq_len))
}
