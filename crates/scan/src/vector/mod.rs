//! Vectors of `f32`: the operations that the kernels are written in, and one file per instruction set.
//!
//! | file | lanes | chosen when |
//! |---|---|---|
//! | `portable.rs` | 8 | always possible; the compiler maps the lanes to what the target has |
//! | `avx2.rs` | 8 | x86-64 with AVX2 and FMA |
//! | `avx512.rs` | 16 | x86-64 with AVX-512F |
//! | `neon.rs` | 4 | 64-bit ARM |
//!
//! A new instruction set is a file here with one `impl Vector`, and a variant of [`Tier`](crate::Tier)
//! with its `#[target_feature]`. A GPU has no such vectors: its source is text, in the folder `cuda/`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
pub(crate) use neon::Neon;
pub(crate) use portable::Portable;

use std::ops::{Add, Div, Mul, Sub};

/// The most lanes of any [`Vector`].
pub(crate) const MAX_LANES: usize = 16;

/// A vector of `f32` lanes.
///
/// A value is the proof that the CPU has the instructions: each type hands out its first one after
/// looking, and all others come from methods on a value. That is why `splat` and `load` take a
/// `self` that they do not read.
///
/// Implementations mark every method `#[inline(always)]`, so that the instruction set that the
/// caller enables reaches it.
pub(crate) trait Vector:
    Copy
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
{
    /// Number of lanes, at most [`MAX_LANES`].
    const LANES: usize;

    /// `value` in every lane.
    fn splat(self, value: f32) -> Self;

    /// The first [`LANES`](Self::LANES) values.
    fn load(self, from: &[f32]) -> Self;

    /// Writes the lanes to the first [`LANES`](Self::LANES) places.
    fn store(self, to: &mut [f32]);

    /// `self * factor + addend`, rounded once or twice.
    fn mul_add(self, factor: Self, addend: Self) -> Self;

    /// The greater of `self` and `low`; a NaN in `self` stays.
    fn at_least(self, low: Self) -> Self;

    /// The lesser of `self` and `high`; a NaN in `self` stays.
    fn at_most(self, high: Self) -> Self;

    /// `-|self|`.
    fn negative_abs(self) -> Self;

    /// The bits shifted left by the 23 bits of the mantissa: the low 8 bits become the exponent.
    fn low_bits_as_exponent(self) -> Self;
}

/// The values of a row; the lanes of a single vector that it does not fill are zero.
#[inline(always)]
pub(crate) fn load<V: Vector, const W: usize>(zero: V, from: &[f32]) -> [V; W] {
    let mut to = [zero; W];
    if W == 1 && from.len() < V::LANES {
        let mut lanes = [0.0; MAX_LANES];
        lanes[..from.len()].copy_from_slice(from);
        to[0] = zero.load(&lanes);
    } else {
        let from = &from[..W * V::LANES];
        for w in 0..W {
            to[w] = zero.load(&from[w * V::LANES..]);
        }
    }
    to
}

/// Writes a row, without the lanes that it does not have.
#[inline(always)]
pub(crate) fn store<V: Vector, const W: usize>(from: &[V; W], to: &mut [f32]) {
    if W == 1 && to.len() < V::LANES {
        let mut lanes = [0.0; MAX_LANES];
        from[0].store(&mut lanes);
        to.copy_from_slice(&lanes[..to.len()]);
    } else {
        let to = &mut to[..W * V::LANES];
        for w in 0..W {
            from[w].store(&mut to[w * V::LANES..]);
        }
    }
}
