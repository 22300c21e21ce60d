//! Four lanes in one NEON register, with fused multiply-add.
//!
//! A target of 64-bit ARM that has NEON at all has it on every CPU, so there is nothing to detect.

use std::arch::aarch64::*;
use std::ops::{Add, Div, Mul, Sub};

use super::Vector;

/// Four lanes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon(float32x4_t);

/// Evaluates intrinsics of NEON that touch no memory.
macro_rules! on_neon {
    ($value:expr) => {{
        // SAFETY: this file is compiled for targets alone whose every CPU has NEON.
        #[expect(unsafe_code, reason = "intrinsics of the target's own instruction set")]
        #[allow(unused_unsafe, reason = "newer compilers know that themselves")]
        unsafe {
            $value
        }
    }};
}

impl Neon {
    /// Zero in every lane.
    pub(crate) fn zero() -> Self {
        Self(on_neon!(vdupq_n_f32(0.0)))
    }
}

macro_rules! lanewise {
    ($($operator:ident $method:ident $intrinsic:ident),*) => {$(
        impl $operator for Neon {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(on_neon!($intrinsic(self.0, other.0)))
            }
        }
    )*};
}

lanewise!(Add add vaddq_f32, Sub sub vsubq_f32, Mul mul vmulq_f32, Div div vdivq_f32);

impl Vector for Neon {
    const LANES: usize = 4;

    // A look-up takes more instructions here than the two steps of a polynomial that it saves.
    const STEPS: u32 = 1;

    #[inline(always)]
    fn splat(self, value: f32) -> Self {
        Self(on_neon!(vdupq_n_f32(value)))
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Self {
        let from = &from[..4];
        // SAFETY: `from` holds 4 values, and any alignment will do.
        #[expect(unsafe_code, reason = "loads a slice of proven length")]
        Self(unsafe { vld1q_f32(from.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        let to = &mut to[..4];
        // SAFETY: `to` holds 4 places, and any alignment will do.
        #[expect(unsafe_code, reason = "stores to a slice of proven length")]
        unsafe {
            vst1q_f32(to.as_mut_ptr(), self.0);
        }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(on_neon!(vfmaq_f32(addend.0, self.0, factor.0)))
    }

    // FMAX and FMIN return a NaN when either operand is one, and no bound is.

    #[inline(always)]
    fn at_least(self, low: Self) -> Self {
        Self(on_neon!(vmaxq_f32(self.0, low.0)))
    }

    #[inline(always)]
    fn at_most(self, high: Self) -> Self {
        Self(on_neon!(vminq_f32(self.0, high.0)))
    }

    #[inline(always)]
    fn all_at_least(self, low: f32) -> bool {
        on_neon!(vminvq_u32(vcgeq_f32(self.0, vdupq_n_f32(low))) != 0)
    }

    #[inline(always)]
    fn negative_abs(self) -> Self {
        Self(on_neon!(vnegq_f32(vabsq_f32(self.0))))
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        Self(on_neon!(vreinterpretq_f32_u32(vshlq_n_u32::<23>(vreinterpretq_u32_f32(self.0)))))
    }
}
