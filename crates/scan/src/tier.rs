//! The choice of an instruction set, and how a kernel gets to run on it.

use std::fmt;

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
use crate::vector::Neon;
#[cfg(target_arch = "x86_64")]
use crate::vector::{Avx2, Avx512};
use crate::{
    blocks::{Block, Blocks, Unfinished},
    output::Output,
    pool::Pool,
    vector::{Portable, Vector},
};

/// A set of instructions that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tier {
    /// Plain Rust; runs everywhere.
    Portable,
    /// 64-bit ARM, whose every CPU has it.
    Neon,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512F.
    Avx512,
}

/// The fastest tier of this CPU.
pub fn tier() -> Tier {
    let fastest_first = [Tier::Avx512, Tier::Avx2, Tier::Neon];
    fastest_first.into_iter().find(|tier| tier.is_available()).unwrap_or(Tier::Portable)
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        })
    }
}

/// What is computed block by block, on any vectors.
pub(crate) trait Kernel: Sync {
    /// Computes a block of at most `W` vectors of channels. An implementation is marked
    /// `#[inline(always)]`, so that the caller's target features apply to it, and to all below.
    fn run<V: Vector, const W: usize>(&self, zero: V, block: Block, out: &Output<'_>);

    /// Channels of a task, where `full` fill `W` vectors.
    fn channels(&self, full: usize) -> usize {
        full
    }
}

/// Why a kernel did not run, or not to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotRun {
    /// The CPU lacks the instructions.
    Unavailable(Tier),
    /// The pool came back with tasks still to run.
    Unfinished(Unfinished),
}

/// Vectors of a full block in plain Rust.
const FEW: usize = 2;
/// Vectors of a full block with instructions of its own: so many share each load of a constant, for
/// which the 16 registers of AVX2 are too few, and fill the waits of each other's chains.
const MANY: usize = 4;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn on_avx2<K: Kernel>(kernel: &K, zero: Avx2, block: Block, out: &Output<'_>) {
    kernel.run::<_, MANY>(zero, block, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn on_avx512<K: Kernel>(kernel: &K, zero: Avx512, block: Block, out: &Output<'_>) {
    kernel.run::<_, MANY>(zero, block, out);
}

impl Tier {
    /// Whether this CPU has its instructions.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Neon => cfg!(all(target_arch = "aarch64", target_feature = "neon")),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::detect().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// Runs a kernel on all blocks.
    pub(crate) fn run(
        self,
        kernel: &impl Kernel,
        blocks: &Blocks,
        out: &mut [f32],
        pool: &dyn Pool,
    ) -> Result<(), NotRun> {
        let missing = NotRun::Unavailable(self);
        match self {
            Self::Portable => {
                blocks.run(out, pool, kernel.channels(FEW * Portable::LANES), |block, out| {
                    kernel.run::<_, FEW>(Portable::ZERO, block, out);
                })
            }
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            Self::Neon => {
                blocks.run(out, pool, kernel.channels(MANY * Neon::LANES), |block, out| {
                    kernel.run::<_, MANY>(Neon::zero(), block, out);
                })
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                let zero = Avx2::detect().ok_or(missing)?;
                blocks.run(out, pool, kernel.channels(MANY * Avx2::LANES), |block, out| {
                    // SAFETY: the CPU has AVX2 and FMA, or there would be no `zero`.
                    #[expect(unsafe_code, reason = "calls a `target_feature` function")]
                    unsafe {
                        on_avx2(kernel, zero, block, out);
                    }
                })
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                let zero = Avx512::detect().ok_or(missing)?;
                blocks.run(out, pool, kernel.channels(MANY * Avx512::LANES), |block, out| {
                    // SAFETY: the CPU has AVX-512F, or there would be no `zero`.
                    #[expect(unsafe_code, reason = "calls a `target_feature` function")]
                    unsafe {
                        on_avx512(kernel, zero, block, out);
                    }
                })
            }
            // Those of other targets.
            _ => return Err(missing),
        }
        .map_err(NotRun::Unfinished)
    }
}
