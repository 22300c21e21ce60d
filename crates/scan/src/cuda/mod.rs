//! The short convolution, the selective scan and the norm of the residual on NVIDIA GPUs, with what
//! training needs besides: their source, and how a call of them is launched.
//!
//! Nothing here touches a GPU: an [`Image`] is text for NVIDIA's run-time compiler, and plans such as
//! [`ScanPlan`] say which kernel to launch with which arguments. Whoever holds a device compiles the one
//! and launches the other. A call of [`INFERENCE`] is one launch, and uses no memory but its operands and
//! its outputs; those of [`TRAINING`] say what room they need.

mod backward;
mod conv;
mod norm;
mod scan;
mod training;

use std::{error::Error, fmt};

pub use backward::{
    ConvBackwardAddresses, ConvBackwardArguments, ConvBackwardPlan, ScanBackwardAddresses,
    ScanBackwardArguments, ScanBackwardPlan,
};
pub use conv::{ConvAddresses, ConvArguments, ConvCall, ConvPlan};
pub use norm::{NormAddresses, NormArguments, NormCall, NormPlan};
pub use scan::{ScanAddresses, ScanArguments, ScanCall, ScanPlan};
pub use training::{Bias, Decay, Gelu, Norm, PatchSizes, Patches, Softmax, SumPlan};

/// Kernels that are compiled together.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// Its name, which no other image has.
    pub name: &'static str,
    /// CUDA C++ without includes.
    pub source: &'static str,
    /// Names of the kernels; a [`Launch`] names one by its place here.
    pub kernels: &'static [&'static str],
}

/// The forward passes.
pub const INFERENCE: Image = Image {
    name: "inference",
    source: concat!(
        include_str!("prelude.cu"),
        include_str!("selective_scan.cu"),
        include_str!("short_conv.cu"),
        include_str!("add_layer_norm.cu")
    ),
    kernels: &KERNELS,
};
/// What training needs besides.
pub const TRAINING: Image = Image {
    name: "training",
    source: concat!(
        include_str!("prelude.cu"),
        include_str!("training.cu"),
        include_str!("scan_backward.cu"),
        include_str!("conv_backward.cu")
    ),
    kernels: &training::TRAINING_KERNELS,
};
/// What the compiler is told besides the architecture.
pub const OPTIONS: [&str; 2] = ["--std=c++17", "--ftz=true"];
/// Of [`INFERENCE`].
const KERNELS: [&str; 18] = [
    "scan_f32_8",
    "scan_f32_16",
    "scan_f32_24",
    "scan_f32_any",
    "scan_f16_8",
    "scan_f16_16",
    "scan_f16_24",
    "scan_f16_any",
    "conv_f32_4",
    "conv_f32_any",
    "conv_f16_4",
    "conv_f16_any",
    "norm_f32_192",
    "norm_f32_768",
    "norm_f32_any",
    "norm_f16_192",
    "norm_f16_768",
    "norm_f16_any",
];

/// Type of the values that flow through a call; its parameters, and all arithmetic, are `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
}

impl Element {
    /// Of one value.
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// What a plan has to know of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Bytes of shared memory that a block can have at most.
    pub shared_bytes: usize,
}

/// A kernel and its grid, along x alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Place in the kernels of its image.
    pub kernel: usize,
    /// Blocks.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory of a block, which its kernel must be allowed beforehand.
    pub shared_bytes: u32,
}

/// One bit a stream, as the kernels take them.
type ReverseBits = [u32; 32];

fn reverse_bits(reverse: &[bool]) -> Result<ReverseBits, PlanError> {
    let mut bits = [0; 32];
    let most = 32 * bits.len();
    if reverse.len() > most {
        return Err(PlanError { size: "streams", got: reverse.len(), most });
    }
    for (stream, _) in reverse.iter().enumerate().filter(|(_, reverse)| **reverse) {
        bits[stream / 32] |= 1 << (stream % 32);
    }
    Ok(bits)
}

/// A size as the kernels take it.
fn int(size: &'static str, got: usize) -> Result<i32, PlanError> {
    let most = i32::MAX.unsigned_abs() as usize;
    i32::try_from(got).map_err(|_| PlanError { size, got, most })
}

/// A size that a call cannot have on a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError {
    size: &'static str,
    got: usize,
    most: usize,
}

impl Error for PlanError {}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, got, most } = self;
        write!(f, "`{size}` is {got} in a call on this GPU, which takes at most {most}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_in_the_source() {
        for image in [INFERENCE, TRAINING] {
            for name in image.kernels {
                let made = [format!("({name}, "), format!(" {name}(const __grid_constant__")];
                assert!(made.iter().any(|text| image.source.contains(text)), "{name}");
            }
        }
    }

    #[test]
    fn streams_are_bits() {
        let mut reverse = vec![false; 34];
        (reverse[1], reverse[33]) = (true, true);
        assert_eq!(reverse_bits(&reverse).unwrap()[..2], [2, 2]);
        let message = reverse_bits(&[false; 1_025]).unwrap_err().to_string();
        assert_eq!(message, "`streams` is 1025 in a call on this GPU, which takes at most 1024");
    }
}
