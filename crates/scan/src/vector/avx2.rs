//! Eight lanes in one AVX2 register, with fused multiply-add.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

use super::{EIGHTHS, Vector};

/// Eight lanes; to have one is to know that this CPU has AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(__m256);

/// Evaluates intrinsics of AVX, AVX2 and FMA that touch no memory. Only for methods with an [`Avx2`]
/// at hand.
macro_rules! on_avx2 {
    ($value:expr) => {{
        // SAFETY: an `Avx2` is at hand, and `Avx2::detect`, the only source of the first one, saw
        // both features on this CPU.
        #[expect(unsafe_code, reason = "intrinsics of a detected instruction set")]
        unsafe {
            $value
        }
    }};
}

impl Avx2 {
    /// Zero in every lane, if this CPU has AVX2 and FMA.
    pub(crate) fn detect() -> Option<Self> {
        if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
            return None;
        }
        // SAFETY: the line above saw AVX2, which includes AVX.
        #[expect(unsafe_code, reason = "intrinsics of a detected instruction set")]
        let zero = unsafe { _mm256_setzero_ps() };
        Some(Self(zero))
    }
}

macro_rules! lanewise {
    ($($operator:ident $method:ident $intrinsic:ident),*) => {$(
        impl $operator for Avx2 {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(on_avx2!($intrinsic(self.0, other.0)))
            }
        }
    )*};
}

lanewise!(Add add _mm256_add_ps, Sub sub _mm256_sub_ps, Mul mul _mm256_mul_ps, Div div _mm256_div_ps);

impl Vector for Avx2 {
    const LANES: usize = 8;
    const STEPS: u32 = 8;

    #[inline(always)]
    fn splat(self, value: f32) -> Self {
        Self(on_avx2!(_mm256_set1_ps(value)))
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Self {
        let from = &from[..8];
        // SAFETY: `from` holds 8 values, any alignment will do, and `self` proves AVX.
        #[expect(unsafe_code, reason = "loads a slice of proven length")]
        Self(unsafe { _mm256_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        let to = &mut to[..8];
        // SAFETY: `to` holds 8 places, any alignment will do, and `self` proves AVX.
        #[expect(unsafe_code, reason = "stores to a slice of proven length")]
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), self.0)
        }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(on_avx2!(_mm256_fmadd_ps(self.0, factor.0, addend.0)))
    }

    // MAXPS and MINPS return their second operand when either is NaN: `self` has to be the second.

    #[inline(always)]
    fn at_least(self, low: Self) -> Self {
        Self(on_avx2!(_mm256_max_ps(low.0, self.0)))
    }

    #[inline(always)]
    fn at_most(self, high: Self) -> Self {
        Self(on_avx2!(_mm256_min_ps(high.0, self.0)))
    }

    #[inline(always)]
    fn all_at_least(self, low: f32) -> bool {
        on_avx2!({
            let at_least = _mm256_cmp_ps::<_CMP_GE_OQ>(self.0, _mm256_set1_ps(low));
            _mm256_movemask_ps(at_least) == 0xff
        })
    }

    #[inline(always)]
    fn negative_abs(self) -> Self {
        Self(on_avx2!(_mm256_or_ps(self.0, _mm256_set1_ps(-0.0))))
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        let [a, b, c, d, e, f, g, h] = EIGHTHS.map(u32::cast_signed);
        Self(on_avx2!({
            let k = _mm256_castps_si256(self.0);
            // Reads the low three bits of an index.
            let eighth = _mm256_permutevar8x32_epi32(_mm256_setr_epi32(a, b, c, d, e, f, g, h), k);
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32::<20>(k), eighth))
        }))
    }
}
