//! `exp2`, `exp`, `softplus`, `sigmoid` and `silu` on vectors.
//!
//! NaN in gives NaN out. Results below 2^-127 are zero, and those between it and 2^-126, which are no
//! normal numbers, are off by up to 2^-126.5. Results above 2^128 are infinite, and may be from 2^127.5
//! on.

#![expect(clippy::needless_range_loop, reason = "the same index goes through several arrays")]

use std::f32::consts::LOG2_E;

use crate::vector::Vector;

/// Minimax coefficients of `(2^r - 1) / r` for `r` in [-0.5, 0.5], lowest first, with a relative
/// error in `2^r` below 1e-7. The leading 1 stays exact: decays next to 1 must not drift.
#[expect(clippy::approx_constant, reason = "fitted, and not quite the logarithm")]
const POW2: [f32; 5] = [0.693_147, 0.240_222_47, 0.055_507_11, 0.009_671_293, 0.001_326_955_5];

/// The same for `r` in [-1/16, 1/16], with a relative error of 9e-7 in `2^r - 1`, so of 4e-8 in `2^r`.
#[expect(clippy::approx_constant, reason = "fitted, and not quite the logarithm")]
const POW2_OF_A_SIXTEENTH: [f32; 3] = [0.693_147_2, 0.240_254_68, 0.055_504_11];

/// Minimax coefficients of `(atanh(s) / s - 1) / s^2` in `s^2`, for `s` in [0, 1/3], lowest first.
const ATANH: [f32; 4] = [0.333_332_1, 0.200_107_19, 0.140_015_13, 0.140_033_9];

/// `ln 2` in two parts; the first has so few bits that its product with an exponent is exact.
const LN_2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];

/// Adding this to `x` in [-127, 128] rounds it to a step of [`Vector::power_of_two`], and leaves the
/// argument of that in the low bits: 1.5 * 2^23 steps, and 127.
#[inline(always)]
fn round<V: Vector>() -> f32 {
    12_582_912.0 / V::STEPS as f32 + 127.0
}

/// `base^r`, where `r`, times the binary logarithm of the base, is up to half a step of either sign.
#[inline(always)]
fn power<V: Vector, const W: usize>(log2_of_base: f32, r: [V; W]) -> [V; W] {
    let mut sum = r;
    if V::STEPS == 8 {
        let [c1, c2, c3] = scaled(POW2_OF_A_SIXTEENTH, log2_of_base);
        for w in 0..W {
            sum[w] = r[w].splat(c3);
        }
        for coefficient in [c2, c1, 1.0] {
            for w in 0..W {
                sum[w] = sum[w].mul_add(r[w], r[w].splat(coefficient));
            }
        }
    } else {
        let [c1, c2, c3, c4, c5] = scaled(POW2, log2_of_base);
        for w in 0..W {
            sum[w] = r[w].splat(c5);
        }
        for coefficient in [c4, c3, c2, c1, 1.0] {
            for w in 0..W {
                sum[w] = sum[w].mul_add(r[w], r[w].splat(coefficient));
            }
        }
    }
    sum
}

/// Coefficients of a polynomial without a constant, in the variable times `scale`.
#[inline(always)]
fn scaled<const N: usize>(mut coefficients: [f32; N], scale: f32) -> [f32; N] {
    let mut power = 1.0;
    for coefficient in &mut coefficients {
        power *= f64::from(scale);
        *coefficient = (f64::from(*coefficient) * power) as f32;
    }
    coefficients
}

/// `2^x`.
///
/// The power of two is a factor of its own: exponent 0 makes the result exactly zero, exponent 255
/// infinite, and a NaN in `x` survives whatever its bits do to the exponent.
#[inline(always)]
pub(crate) fn exp2<V: Vector, const W: usize>(mut x: [V; W]) -> [V; W] {
    for w in 0..W {
        x[w] = x[w].at_least(x[w].splat(-127.0)).at_most(x[w].splat(128.0));
    }
    exp2_in_range(x)
}

/// [`exp2`] for `x` of which it is known that it is NaN or in [-127, 128].
#[inline(always)]
pub(crate) fn exp2_in_range<V: Vector, const W: usize>(mut x: [V; W]) -> [V; W] {
    // Step by step on all vectors, which fill the waits of each other's chains.
    let mut steps = x;
    for w in 0..W {
        steps[w] = x[w] + x[w].splat(round::<V>());
    }
    for w in 0..W {
        x[w] = x[w] - (steps[w] - x[w].splat(round::<V>()));
    }
    for w in 0..W {
        steps[w] = steps[w].power_of_two();
    }
    let mut result = power(1.0, x);
    for w in 0..W {
        result[w] = result[w] * steps[w];
    }
    result
}

/// `e^x`, with a relative error that does not grow with `|x|`, as that of `exp2(x * LOG2_E)` does.
#[inline(always)]
pub(crate) fn exp<V: Vector, const W: usize>(mut x: [V; W]) -> [V; W] {
    let mut steps = x;
    for w in 0..W {
        // Just beyond the least and greatest values whose exponents come out as 0 and 255.
        x[w] = x[w].at_least(x[w].splat(-88.0)).at_most(x[w].splat(88.7));
    }
    for w in 0..W {
        steps[w] = x[w].mul_add(x[w].splat(LOG2_E), x[w].splat(round::<V>()));
    }
    for w in 0..W {
        let n = steps[w] - x[w].splat(round::<V>());
        x[w] = n.mul_add(x[w].splat(-LN_2[1]), n.mul_add(x[w].splat(-LN_2[0]), x[w]));
    }
    for w in 0..W {
        steps[w] = steps[w].power_of_two();
    }
    let mut result = power(LOG2_E, x);
    for w in 0..W {
        result[w] = result[w] * steps[w];
    }
    result
}

/// `ln(1 + e^x)`, to full relative accuracy where it is tiny. Above 20 it is `x`, because there the
/// second term is below half a unit in the last place of the first.
#[inline(always)]
pub(crate) fn softplus<V: Vector, const W: usize>(x: [V; W]) -> [V; W] {
    let mut result = x;
    for w in 0..W {
        result[w] = x[w].negative_abs();
    }
    let e = exp(result);
    // ln(1 + e) = 2 atanh(s)
    let (mut s, mut q, mut sum) = (e, e, e);
    for w in 0..W {
        s[w] = e[w] / (e[w] + x[w].splat(2.0));
    }
    for w in 0..W {
        q[w] = s[w] * s[w];
        sum[w] = x[w].splat(ATANH[3]);
    }
    for coefficient in [ATANH[2], ATANH[1], ATANH[0]] {
        for w in 0..W {
            sum[w] = sum[w].mul_add(q[w], x[w].splat(coefficient));
        }
    }
    for w in 0..W {
        let s2 = s[w] + s[w];
        result[w] = x[w].at_least(x[w].splat(0.0)) + (sum[w] * q[w]).mul_add(s2, s2);
    }
    result
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn silu<V: Vector, const W: usize>(x: [V; W]) -> [V; W] {
    let mut result = x;
    for w in 0..W {
        result[w] = x[w].splat(0.0) - x[w];
    }
    result = exp(result);
    for w in 0..W {
        result[w] = x[w] / (x[w].splat(1.0) + result[w]);
    }
    result
}

/// `1 / (1 + e^-x)`, the derivative of [`softplus`].
#[inline(always)]
pub(crate) fn sigmoid<V: Vector>(x: V) -> V {
    let [e] = exp([x.splat(0.0) - x]);
    x.splat(1.0) / (x.splat(1.0) + e)
}

/// The derivative of [`silu`].
#[inline(always)]
pub(crate) fn silu_slope<V: Vector>(x: V) -> V {
    let s = sigmoid(x);
    let [silu] = silu([x]);
    // Not x * (1 - s): that is infinity times zero beyond the range of `exp`.
    s + silu * (x.splat(1.0) - s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::Portable;

    /// Evaluates `function` on the lanes of every vector type of this CPU.
    macro_rules! on_each_vector {
        ($function:ident, $inputs:expr, $check:expr) => {{
            let inputs: Vec<f32> = $inputs;
            $check("portable", &inputs, apply(Portable::ZERO, $function, &inputs));
            #[cfg(target_arch = "x86_64")]
            if let Some(zero) = crate::vector::Avx2::detect() {
                $check("avx2", &inputs, apply(zero, $function, &inputs));
            }
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            $check("neon", &inputs, apply(crate::vector::Neon::zero(), $function, &inputs));
            #[cfg(target_arch = "x86_64")]
            if let Some(zero) = crate::vector::Avx512::detect() {
                $check("avx512", &inputs, apply(zero, $function, &inputs));
            }
        }};
    }

    fn apply<V: Vector>(zero: V, function: fn(V) -> V, inputs: &[f32]) -> Vec<f32> {
        let mut lanes = [0.0; crate::vector::MAX_LANES];
        let one = |&x: &f32| {
            function(zero.splat(x)).store(&mut lanes);
            lanes[0]
        };
        inputs.iter().map(one).collect()
    }

    fn sweep(low: f32, high: f32) -> Vec<f32> {
        let steps = 200_000;
        (0..=steps).map(|i| low + (high - low) * (i as f32 / steps as f32)).collect()
    }

    /// Checks the greatest relative error against `exact`.
    fn within(bound: f64, exact: fn(f64) -> f64) -> impl Fn(&str, &[f32], Vec<f32>) {
        move |name, inputs, got| {
            for (&x, got) in inputs.iter().zip(got) {
                let want = exact(f64::from(x));
                let error = (f64::from(got) - want).abs() / want.abs();
                assert!(want == f64::from(got) || error <= bound, "{name} {x}: {got}, want {want}");
            }
        }
    }

    /// Checks values to the bit, NaN equal to any NaN.
    fn exactly(want: &'static [f32]) -> impl Fn(&str, &[f32], Vec<f32>) {
        move |name, inputs, got| {
            for ((x, got), want) in inputs.iter().zip(got).zip(want) {
                let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                assert!(same, "{name} {x:?}: {got:?}, want {want:?}");
            }
        }
    }

    /// A NaN whose payload fills the mantissa, sign bit set.
    const LOUD_NAN: f32 = f32::from_bits(0xffff_ffff);

    fn ln_1p_exp(x: f64) -> f64 {
        x.max(0.0) + (-x.abs()).exp().ln_1p()
    }

    /// What is computed for several vectors at once, for one.
    macro_rules! of_one {
        ($($name:ident $function:ident),*) => {$(
            fn $name<V: Vector>(x: V) -> V {
                let [result] = $function([x]);
                result
            }
        )*};
    }

    of_one!(
        exp2_of_one exp2, exp2_in_range_of_one exp2_in_range, exp_of_one exp,
        softplus_of_one softplus, silu_of_one silu
    );

    #[test]
    fn exponentials_are_accurate_over_their_range() {
        on_each_vector!(exp2_of_one, sweep(-126.0, 127.4), within(2e-7, f64::exp2));
        on_each_vector!(exp2_of_one, sweep(-1.0, 1.0), within(2e-7, f64::exp2));
        on_each_vector!(exp_of_one, sweep(-87.3, 88.3), within(2.5e-7, f64::exp));
        on_each_vector!(exp_of_one, sweep(-1.0, 1.0), within(2.5e-7, f64::exp));
    }

    #[test]
    fn powers_next_to_one_are_as_accurate_as_their_distance_from_it() {
        // A power is a decay, and what it takes away adds up over the tokens.
        let check = |name: &str, inputs: &[f32], got: Vec<f32>| {
            let errors = inputs.iter().zip(got).map(|(&x, got)| {
                let exact = f64::from(x).exp2();
                (f64::from(got) - exact) / (1.0 - exact)
            });
            let mean = errors.sum::<f64>() / inputs.len() as f64;
            assert!(mean.abs() < 9e-7, "{name}: {mean:e}");
        };
        on_each_vector!(exp2_of_one, sweep(-0.06, -0.01), check);
        on_each_vector!(exp2_of_one, sweep(-0.2, -0.06), check);
    }

    #[test]
    fn powers_below_the_normal_numbers_are_tiny_and_none_of_them_rises() {
        let check = |name: &str, inputs: &[f32], got: Vec<f32>| {
            for (&x, &got) in inputs.iter().zip(&got) {
                let error = (f64::from(got) - f64::from(x).exp2()).abs();
                assert!(error <= 1.001 * (-126.5_f64).exp2(), "{name} {x}: {got:e}");
                assert!(x > -127.0 || got == 0.0, "{name} {x}: {got:e}");
            }
            assert!(got.is_sorted(), "{name}");
        };
        on_each_vector!(exp2_of_one, sweep(-130.0, -126.0), check);
    }

    #[test]
    fn powers_in_range_need_no_bounds() {
        on_each_vector!(exp2_in_range_of_one, sweep(-126.0, 127.4), within(2e-7, f64::exp2));
        on_each_vector!(
            exp2_in_range_of_one,
            vec![-127.0, 0.0, -0.0, 128.0, f32::NAN, LOUD_NAN],
            exactly(&[0.0, 1.0, 1.0, f32::INFINITY, f32::NAN, f32::NAN])
        );
    }

    #[test]
    fn exponentials_of_the_extremes_are_exact() {
        let inputs = [
            0.0,
            -0.0,
            -1e-10,
            -128.0,
            -1e30,
            f32::NEG_INFINITY,
            129.0,
            1e30,
            f32::INFINITY,
            f32::NAN,
            LOUD_NAN,
        ];
        const WANT: [f32; 11] = [
            1.0,
            1.0,
            1.0,
            0.0,
            0.0,
            0.0,
            f32::INFINITY,
            f32::INFINITY,
            f32::INFINITY,
            f32::NAN,
            f32::NAN,
        ];
        on_each_vector!(exp2_of_one, inputs.to_vec(), exactly(&WANT));
        on_each_vector!(exp_of_one, inputs.to_vec(), exactly(&WANT));
    }

    #[test]
    fn softplus_is_accurate_where_it_is_tiny_and_where_it_is_large() {
        on_each_vector!(softplus_of_one, sweep(-87.0, 30.0), within(5e-7, ln_1p_exp));
        on_each_vector!(softplus_of_one, sweep(-2.0, 2.0), within(5e-7, ln_1p_exp));
        on_each_vector!(
            softplus_of_one,
            vec![20.001, 1e4, f32::INFINITY, -200.0, f32::NEG_INFINITY, f32::NAN, LOUD_NAN],
            exactly(&[20.001, 1e4, f32::INFINITY, 0.0, 0.0, f32::NAN, f32::NAN])
        );
    }

    #[test]
    fn slopes_are_accurate_and_stay_finite() {
        let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
        on_each_vector!(sigmoid, sweep(-87.0, 30.0), within(5e-7, logistic));
        on_each_vector!(sigmoid, vec![-100.0, 100.0, f32::NAN], exactly(&[0.0, 1.0, f32::NAN]));
        on_each_vector!(
            silu_slope,
            sweep(-1.0, 30.0),
            within(1e-6, |x| {
                let s = 1.0 / (1.0 + (-x).exp());
                s * (1.0 + x * (1.0 - s))
            })
        );
        on_each_vector!(silu_slope, vec![-200.0, 200.0], exactly(&[0.0, 1.0]));
    }

    #[test]
    fn silu_is_accurate_and_stays_finite() {
        let exact = |x: f64| x / (1.0 + (-x).exp());
        on_each_vector!(silu_of_one, sweep(-87.0, 30.0), within(5e-7, exact));
        on_each_vector!(
            silu_of_one,
            vec![-100.0, -1e30, 100.0, f32::INFINITY, f32::NAN, LOUD_NAN],
            exactly(&[-0.0, -0.0, 100.0, f32::INFINITY, f32::NAN, f32::NAN])
        );
    }
}
