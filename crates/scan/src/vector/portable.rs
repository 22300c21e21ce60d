//! Eight lanes in plain Rust, for every CPU.

use std::array::from_fn;
use std::ops::{Add, Div, Mul, Sub};

use super::Vector;

/// Eight lanes, each operation rounded on its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable([f32; 8]);

impl Portable {
    /// Zero in every lane.
    pub(crate) const ZERO: Self = Self([0.0; 8]);
}

macro_rules! lanewise {
    ($($operator:ident $method:ident $symbol:tt),*) => {$(
        impl $operator for Portable {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(from_fn(|i| self.0[i] $symbol other.0[i]))
            }
        }
    )*};
}

lanewise!(Add add +, Sub sub -, Mul mul *, Div div /);

impl Vector for Portable {
    const LANES: usize = 8;
    const STEPS: u32 = 1;

    #[inline(always)]
    fn splat(self, value: f32) -> Self {
        Self([value; 8])
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Self {
        let from = &from[..8];
        Self(from_fn(|i| from[i]))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        to[..8].copy_from_slice(&self.0);
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // `f32::mul_add` is a call into libm where the target has no such instruction.
        self * factor + addend
    }

    #[inline(always)]
    fn at_least(self, low: Self) -> Self {
        Self(from_fn(|i| if self.0[i] < low.0[i] { low.0[i] } else { self.0[i] }))
    }

    #[inline(always)]
    fn at_most(self, high: Self) -> Self {
        Self(from_fn(|i| if self.0[i] > high.0[i] { high.0[i] } else { self.0[i] }))
    }

    #[inline(always)]
    fn all_at_least(self, low: f32) -> bool {
        self.0.iter().all(|&lane| lane >= low)
    }

    #[inline(always)]
    fn negative_abs(self) -> Self {
        Self(from_fn(|i| -self.0[i].abs()))
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        Self(from_fn(|i| f32::from_bits(self.0[i].to_bits() << 23)))
    }
}
