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

/// For [`Vector::power_of_two`] in eight steps, what is to be added to `k << 20`: the mantissa of
/// `2^(i / 8)`, less the bits that `i`, the remainder of `k`, leaves there.
#[cfg(target_arch = "x86_64")]
#[expect(clippy::approx_constant, reason = "one of the powers is the root of two")]
const EIGHTHS: [u32; 8] = {
    let powers: [f32; 8] = [
        1.0,
        1.090_507_7,
        1.189_207_1,
        1.296_839_6,
        1.414_213_5,
        1.542_210_8,
        1.681_792_9,
        1.834_008,
    ];
    let mut bits = [0; 8];
    let mut i = 0;
    while i < 8 {
        bits[i] = (powers[i].to_bits() - 1.0_f32.to_bits()).wrapping_sub((i as u32) << 20);
        i += 1;
    }
    bits
};

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

    /// Into how many equal steps [`power_of_two`](Self::power_of_two) cuts an octave: 1, or 8 with a
    /// table, which makes the polynomial for the rest shorter.
    const STEPS: u32;

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

    /// Whether no lane is below `low` or NaN.
    fn all_at_least(self, low: f32) -> bool;

    /// `-|self|`.
    fn negative_abs(self) -> Self;

    /// `2^(k / STEPS - 127)`, where `k` is the integer in the low bits, from 0, which gives zero, to
    /// `255 * STEPS`, which gives infinity. Between 0 and `STEPS`, below the normal numbers, it is off
    /// by up to `2^-127`.
    fn power_of_two(self) -> Self;
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

/// Some values of each channel of a block, `[channels, count]`, with the channels in lanes. The lanes
/// that have none are zero.
///
/// All are turned before the first is loaded: a vector that has just been written in parts is slow to
/// load.
#[inline(always)]
pub(crate) fn in_lanes<V: Vector, const W: usize, const N: usize>(
    zero: V,
    values: &[f32],
    count: usize,
) -> [[V; W]; N] {
    let mut turned = [[[0.0; MAX_LANES]; W]; N];
    for (channel, of_channel) in values.chunks_exact(count).enumerate() {
        for n in 0..count {
            turned[n][channel / V::LANES][channel % V::LANES] = of_channel[n];
        }
    }
    let mut lanes = [[zero; W]; N];
    for n in 0..count {
        for w in 0..W {
            lanes[n][w] = zero.load(&turned[n][w]);
        }
    }
    lanes
}
