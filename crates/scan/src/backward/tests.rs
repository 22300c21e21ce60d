//! Every gradient against finite differences of the definition in `f64`, on every tier.

use std::num::NonZeroUsize;

use super::*;
use crate::{
    Activation, Combine, Inline, Threads,
    testing::{Operands, Random, Sizes, WALKS, loss_of_conv, oracle_f64, tiers},
};

/// Bound on the error of a gradient, as a share of the largest of its operand's.
const OF_LARGEST: f64 = 1e-5;

/// Compares the gradient of one operand with central differences of `loss` at some of its elements.
fn check(name: &str, values: &[f32], got: &[f32], loss: impl Fn(&[f64]) -> f64) {
    assert_eq!(values.len(), got.len(), "{name}");
    let mut point: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
    // Different operands are probed in different lanes, tokens and states.
    let stride = (values.len() / 23).max(1);
    let mut probed = Vec::new();
    for index in (0..values.len()).step_by(stride) {
        let at = point[index];
        let step = 1e-5 * at.abs().max(0.1);
        point[index] = at + step;
        let above = loss(&point);
        point[index] = at - step;
        let below = loss(&point);
        point[index] = at;
        probed.push((index, (above - below) / (2.0 * step)));
    }
    let largest = got.iter().fold(1e-3, |largest, x| f64::from(x.abs()).max(largest));
    for (index, want) in probed {
        let error = (f64::from(got[index]) - want).abs() / largest;
        assert!(
            error <= OF_LARGEST,
            "{name}[{index}] is {}, expected {want}, off by {error:e} of {largest}",
            got[index]
        );
    }
}

/// Steps up to about 2 and gates around zero, so that no gradient is vanishingly small.
fn operands(sizes: Sizes, turn: usize) -> Operands {
    let walks = WALKS[turn % WALKS.len()];
    let softplus = !turn.is_multiple_of(3);
    let mut operands = Operands::random(sizes, walks, softplus, turn as u64);
    let (scale, shift) = if softplus { (0.3, 0.0) } else { (0.2, 0.01) };
    operands.delta.iter_mut().for_each(|x| *x = scale * *x + shift);
    operands.z.iter_mut().flatten().for_each(|x| *x *= 0.4);
    operands.combine = if turn.is_multiple_of(2) { Combine::Sum } else { Combine::None };
    operands.d_skip = operands.d_skip.filter(|_| turn % 5 != 1);
    operands.z = operands.z.filter(|_| turn % 5 != 2);
    operands.delta_bias = operands.delta_bias.filter(|_| turn % 5 != 3);
    operands
}

fn check_scan(operands: &Operands, tier: Tier, seed: u64) {
    let scan = operands.scan();
    let weights = Random::new(seed).vec(scan.output_len(), -1.0, 1.0);
    let got = selective_scan_backward_on(tier, &scan, &weights, &Inline).unwrap();
    let loss = |name: &str, values: &[f64]| -> f64 {
        let out = oracle_f64(&scan, name, values);
        out.iter().zip(&weights).map(|(y, &w)| y * f64::from(w)).sum()
    };
    let operand = |name: &'static str, values: &[f32], got: &[f32]| {
        check(name, values, got, |values| loss(name, values));
    };
    operand("u", scan.u, &got.u);
    operand("delta", scan.delta, &got.delta);
    operand("a", scan.a, &got.a);
    operand("b", scan.b, &got.b);
    operand("c", scan.c, &got.c);
    for (name, values, got) in [
        ("d_skip", scan.d_skip, &got.d_skip),
        ("z", scan.z, &got.z),
        ("delta_bias", scan.delta_bias, &got.delta_bias),
    ] {
        assert_eq!(values.is_some(), got.is_some(), "{name}");
        if let (Some(values), Some(got)) = (values, got) {
            operand(name, values, got);
        }
    }
}

#[test]
fn gradients_of_a_scan_are_those_of_the_definition() {
    for tier in tiers() {
        let mut turn = 0;
        for d_state in [1, 16, 5, 32] {
            for (seq_len, d_inner) in [(1, 3), (16, 17), (35, 8), (17, 37)] {
                for _ in 0..4 {
                    turn += 1;
                    let sizes = Sizes { batch: 1 + turn % 2, seq_len, d_inner, d_state };
                    check_scan(&operands(sizes, turn), tier, turn as u64);
                }
            }
        }
    }
}

#[test]
fn gradients_of_several_chunks_of_channels_add_up() {
    let sizes = Sizes { batch: 2, seq_len: 19, d_inner: CHANNELS + 21, d_state: 16 };
    for tier in tiers() {
        for turn in [4, 5] {
            check_scan(&operands(sizes, turn), tier, 9);
        }
    }
}

#[test]
fn gradients_of_a_convolution_are_those_of_the_definition() {
    let mut turn = 0;
    for tier in tiers() {
        for taps in [1, 4, 7] {
            for (seq_len, d_inner) in [(1, 5), (3, 16), (21, 37), (9, CHANNELS + 3)] {
                for walks in WALKS {
                    turn += 1;
                    let (groups, reverse) = walks;
                    let (batch, channels) = (1 + turn % 2, reverse.len() * d_inner);
                    let mut random = Random::new(turn as u64);
                    let x = random.vec(batch * seq_len * groups * d_inner, -1.5, 1.5);
                    let weight = random.vec(channels * taps, -1.0, 1.0);
                    let bias = random.vec(channels, -1.0, 1.0);
                    let activation = [Activation::Silu, Activation::None][turn / 2 % 2];
                    let conv = ShortConv {
                        batch,
                        seq_len,
                        d_inner,
                        taps,
                        groups,
                        reverse,
                        activation,
                        layout: Layout::Channels,
                        x: &x,
                        weight: &weight,
                        bias: Some(&bias).filter(|_| turn % 3 > 0).map(Vec::as_slice),
                    };
                    let weights = random.vec(conv.output_len(), -1.0, 1.0);
                    let got = short_conv_backward_on(tier, &conv, &weights, &Inline).unwrap();
                    let loss =
                        |name: &str, values: &[f64]| loss_of_conv(&conv, name, values, &weights);
                    check("x", &x, &got.x, |values| loss("x", values));
                    check("weight", &weight, &got.weight, |values| loss("weight", values));
                    assert_eq!(conv.bias.is_some(), got.bias.is_some());
                    if let Some(got) = &got.bias {
                        check("bias", &bias, got, |values| loss("bias", values));
                    }
                }
            }
        }
    }
}

#[test]
fn gradients_do_not_depend_on_threads() {
    let sizes = Sizes { batch: 3, seq_len: 33, d_inner: 2 * CHANNELS + 5, d_state: 16 };
    let operands = operands(sizes, 4);
    let scan = operands.scan();
    let weights = Random::new(3).vec(scan.output_len(), -1.0, 1.0);
    let alone = selective_scan_backward(&scan, &weights, &Inline).unwrap();
    let together =
        selective_scan_backward(&scan, &weights, &Threads(NonZeroUsize::new(3).unwrap())).unwrap();
    assert_eq!(alone, together);
}

#[test]
fn a_gradient_of_another_length_is_refused() {
    let sizes = Sizes { batch: 1, seq_len: 4, d_inner: 3, d_state: 2 };
    let operands = operands(sizes, 2);
    let error = selective_scan_backward(&operands.scan(), &[0.0; 5], &Inline).unwrap_err();
    assert!(matches!(error, ScanError::Length { operand: "out", got: 5, .. }), "{error}");
}

#[test]
fn nothing_in_gives_nothing_out() {
    let sizes = Sizes { batch: 0, seq_len: 4, d_inner: 3, d_state: 2 };
    let operands = Operands::random(sizes, WALKS[2], true, 1);
    let got = selective_scan_backward(&operands.scan(), &[], &Inline).unwrap();
    assert_eq!((got.a, got.u), (vec![0.0; 12], vec![]));
}
