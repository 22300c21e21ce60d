//! Sizes that every network over patches has, and how they are taken from a checkpoint.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use candle_core::Tensor;

/// Sizes that every network over patches has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Width of tokens.
    pub d_model: usize,
    /// Number of layers.
    pub depth: usize,
    /// Mel bins of a patch.
    pub patch_f: usize,
    /// Frames of a patch.
    pub patch_t: usize,
    /// Classes of the head, if there is one.
    pub n_classes: Option<usize>,
}

/// The published sizes, the same three for SSAMBA and SSAST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// Width 192.
    Tiny,
    /// Width 384.
    Small,
    /// Width 768.
    Base,
}

impl Published {
    /// Width of tokens.
    pub fn d_model(self) -> usize {
        match self {
            Self::Tiny => 192,
            Self::Small => 384,
            Self::Base => 768,
        }
    }
}

/// Largest of a size that is taken for a network and not for damage.
pub const LARGEST: usize = 1 << 16;
/// Most layers that are taken for a network.
pub const MOST_LAYERS: usize = 1 << 12;

/// The first of `(name, size, largest)` that is 0 or too large, in words.
pub fn out_of_bounds<'a>(
    sizes: impl IntoIterator<Item = (&'a str, usize, usize)>,
) -> Option<String> {
    let (name, size, largest) =
        sizes.into_iter().find(|(_, size, largest)| !(1..=*largest).contains(size))?;
    Some(format!("its {name} is {size}, expected 1 to {largest}"))
}

/// Number of layers: one more than the largest index after `prefix`.
pub fn depth(tensors: &BTreeMap<String, Tensor>, prefix: &str) -> Option<usize> {
    let index = |name: &String| name.strip_prefix(prefix)?.split('.').next()?.parse::<u32>().ok();
    tensors.keys().filter_map(index).max().map(|last| last as usize + 1)
}

/// Classes of the head, if there is one.
pub fn n_classes(tensors: &BTreeMap<String, Tensor>) -> Option<usize> {
    let dims = |name| tensors.get(name).map(Tensor::dims);
    dims("mlp_head.1.weight").or_else(|| dims("mlp_head.1.bias"))?.first().copied()
}

/// Sizes that have to be there, each with the names that could have told it.
///
/// # Errors
/// Lists the names whose sizes are missing; `network` is what the checkpoint was taken for.
pub fn demand<const N: usize>(
    network: &str,
    tensors: &BTreeMap<String, Tensor>,
    needed: [(&str, Option<usize>); N],
) -> Result<[usize; N]> {
    let mut missing: Vec<&str> =
        needed.iter().filter(|(_, size)| size.is_none()).map(|(name, _)| *name).collect();
    missing.dedup();
    ensure!(
        missing.is_empty(),
        "not an {network} checkpoint, or not a whole one: among its {} names there is no {}",
        tensors.len(),
        missing.join(", no ")
    );
    Ok(needed.map(|(_, size)| size.unwrap_or_default()))
}
