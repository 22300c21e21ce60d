//! Sixteen lanes in one AVX-512 register, with fused multiply-add.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

use super::{EIGHTHS, Vector};

/// Sixteen lanes; to have one is to know that this CPU has AVX-512F.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(__m512);

/// Evaluates intrinsics of AVX-512F that touch no memory. Only for methods with an [`Avx512`] at hand.
macro_rules! on_avx512 {
    ($value:expr) => {{
        // SAFETY: an `Avx512` is at hand, and `Avx512::detect`, the only source of the first one, saw
        // the feature on this CPU.
        #[expect(unsafe_code, reason = "intrinsics of a detected instruction set")]
        unsafe {
            $value
        }
    }};
}

impl Avx512 {
    /// Zero in every lane, if this CPU has AVX-512F.
    pub(crate) fn detect() -> Option<Self> {
        if !is_x86_feature_detected!("avx512f") {
            return None;
        }
        // SAFETY: the line above saw AVX-512F.
        #[expect(unsafe_code, reason = "intrinsics of a detected instruction set")]
        let zero = unsafe { _mm512_setzero_ps() };
        Some(Self(zero))
    }
}

macro_rules! lanewise {
    ($($operator:ident $method:ident $intrinsic:ident),*) => {$(
        impl $operator for Avx512 {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(on_avx512!($intrinsic(self.0, other.0)))
            }
        }
    )*};
}

lanewise!(Add add _mm512_add_ps, Sub sub _mm512_sub_ps, Mul mul _mm512_mul_ps, Div div _mm512_div_ps);

impl Vector for Avx512 {
    const LANES: usize = 16;
    const STEPS: u32 = 8;

    #[inline(always)]
    fn splat(self, value: f32) -> Self {
        Self(on_avx512!(_mm512_set1_ps(value)))
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Self {
        let from = &from[..16];
        // SAFETY: `from` holds 16 values, any alignment will do, and `self` proves AVX-512F.
        #[expect(unsafe_code, reason = "loads a slice of proven length")]
        Self(unsafe { _mm512_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        let to = &mut to[..16];
        // SAFETY: `to` holds 16 places, any alignment will do, and `self` proves AVX-512F.
        #[expect(unsafe_code, reason = "stores to a slice of proven length")]
        unsafe {
            _mm512_storeu_ps(to.as_mut_ptr(), self.0)
        }
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(on_avx512!(_mm512_fmadd_ps(self.0, factor.0, addend.0)))
    }

    // MAXPS and MINPS return their second operand when either is NaN: `self` has to be the second.

    #[inline(always)]
    fn at_least(self, low: Self) -> Self {
        Self(on_avx512!(_mm512_max_ps(low.0, self.0)))
    }

    #[inline(always)]
    fn at_most(self, high: Self) -> Self {
        Self(on_avx512!(_mm512_min_ps(high.0, self.0)))
    }

    #[inline(always)]
    fn all_at_least(self, low: f32) -> bool {
        on_avx512!(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, _mm512_set1_ps(low)) == 0xffff)
    }

    #[inline(always)]
    fn negative_abs(self) -> Self {
        Self(on_avx512!(_mm512_castsi512_ps(_mm512_or_si512(
            _mm512_castps_si512(self.0),
            _mm512_set1_epi32(i32::MIN)
        ))))
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        let [a, b, c, d, e, f, g, h] = EIGHTHS.map(u32::cast_signed);
        Self(on_avx512!({
            let k = _mm512_castps_si512(self.0);
            // Reads the low four bits of an index, so the eight are there twice.
            let twice = _mm512_setr_epi32(a, b, c, d, e, f, g, h, a, b, c, d, e, f, g, h);
            let eighth = _mm512_permutexvar_epi32(k, twice);
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32::<20>(k), eighth))
        }))
    }
}
