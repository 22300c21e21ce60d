//! Every tier against the definition in `f64`, and what the convolution promises besides accuracy.

use std::num::NonZeroUsize;

use super::*;
use crate::pool::{Inline, Threads};
use crate::testing::{Random, WALKS, Walks, by_stream, tiers};

/// Bound on the error of an output, as a share of the sum of the absolute values of the terms that it
/// adds up. SiLU changes no faster than 1.1 times its argument.
const OF_MAGNITUDE: f64 = 2e-6;

/// Sizes of a problem: batch, tokens, channels, taps.
type Sizes = [usize; 4];

#[derive(Clone, Debug)]
struct Operands {
    sizes: Sizes,
    walks: Walks,
    activation: Activation,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Operands {
    fn random(sizes: Sizes, walks: Walks, seed: u64) -> Self {
        let [batch, seq_len, d_inner, taps] = sizes;
        let channels = walks.1.len() * d_inner;
        let mut random = Random::new(seed);
        Self {
            sizes,
            walks,
            activation: Activation::Silu,
            x: random.vec(batch * seq_len * walks.0 * d_inner, -3.0, 3.0),
            weight: random.vec(channels * taps, -1.5, 1.5),
            bias: Some(random.vec(channels, -1.5, 1.5)),
        }
    }

    fn conv(&self) -> ShortConv<'_> {
        let [batch, seq_len, d_inner, taps] = self.sizes;
        ShortConv {
            batch,
            seq_len,
            d_inner,
            taps,
            groups: self.walks.0,
            reverse: self.walks.1,
            activation: self.activation,
            layout: Layout::Channels,
            x: &self.x,
            weight: &self.weight,
            bias: self.bias.as_deref(),
        }
    }
}

fn run_on(tier: Tier, conv: &ShortConv<'_>) -> Vec<f32> {
    // Filled with what a convolution must overwrite.
    let mut out = vec![f32::NAN; conv.output_len()];
    short_conv_on(tier, conv, &mut out, &Inline).unwrap();
    out
}

/// The definition in `f64`: values, and the sums of the absolute values of their terms.
fn oracle(conv: &ShortConv<'_>) -> Vec<(f64, f64)> {
    let &ShortConv { batch, seq_len, d_inner, taps, groups, reverse, .. } = conv;
    let streams = reverse.len();
    let mut out = Vec::new();
    for batch in 0..batch {
        for token in 0..seq_len {
            for channel in 0..streams * d_inner {
                let (stream, d) = (channel / d_inner, channel % d_inner);
                let group = stream / (streams / groups);
                let mut sum = conv.bias.map_or(0.0, |bias| f64::from(bias[channel]));
                let mut magnitude = sum.abs();
                for k in 0..taps {
                    let back = (taps - 1 - k) as isize;
                    let met = token as isize + if reverse[stream] { back } else { -back };
                    if !(0..seq_len as isize).contains(&met) {
                        continue;
                    }
                    let row = batch * seq_len + met as usize;
                    let x = f64::from(conv.x[(row * groups + group) * d_inner + d]);
                    let term = f64::from(conv.weight[channel * taps + k]) * x;
                    sum += term;
                    magnitude += term.abs();
                }
                if conv.activation == Activation::Silu {
                    sum /= 1.0 + (-sum).exp();
                }
                out.push((sum, magnitude));
            }
        }
    }
    out
}

fn check(operands: &Operands) {
    let conv = operands.conv();
    let want = oracle(&conv);
    let what = (operands.sizes, operands.walks, operands.activation);
    for tier in tiers() {
        let got = run_on(tier, &conv);
        assert_eq!(got.len(), want.len(), "{what:?}");
        for (index, (&got, &(want, magnitude))) in got.iter().zip(&want).enumerate() {
            let error = (f64::from(got) - want).abs();
            let bound = OF_MAGNITUDE * (magnitude + 1e-30);
            assert!(error <= bound, "{tier}, {what:?}: [{index}] is {got}, expected {want}");
        }
    }
}

#[test]
fn every_size_and_walk_matches_the_definition() {
    let mut turn = 0;
    for taps in [1, 2, 3, 4, 5, 7, MAX_TAPS] {
        for seq_len in [1, 2, 3, 4, 5, 17, 145] {
            for d_inner in [1, 8, 13, 41] {
                for walks in WALKS {
                    turn += 1;
                    let batch = if turn % 3 == 0 { 3 } else { 1 };
                    let mut operands =
                        Operands::random([batch, seq_len, d_inner, taps], walks, turn);
                    operands.bias = operands.bias.filter(|_| turn % 4 > 0);
                    if turn % 5 == 0 {
                        operands.activation = Activation::None;
                    }
                    check(&operands);
                }
            }
        }
    }
}

#[test]
fn the_width_of_a_published_model_matches_the_definition() {
    for walks in WALKS {
        let operands = Operands::random([1, 145, 384, 4], walks, 11);
        check(&operands);
        check(&Operands { bias: None, ..operands.clone() });
        check(&Operands { activation: Activation::None, ..operands });
    }
}

#[test]
fn the_last_tap_meets_the_current_token() {
    let conv = ShortConv {
        batch: 1,
        seq_len: 3,
        d_inner: 1,
        taps: 2,
        groups: 1,
        reverse: &[false, true],
        activation: Activation::None,
        layout: Layout::Channels,
        x: &[1.0, 2.0, 4.0],
        weight: &[10.0, 1.0, 10.0, 1.0],
        bias: Some(&[0.5, 0.0]),
    };
    for tier in tiers() {
        // Token by token: the forward stream, then the reverse one.
        assert_eq!(run_on(tier, &conv), [1.5, 21.0, 12.5, 42.0, 24.5, 4.0], "{tier}");
    }
}

#[test]
fn an_output_by_streams_holds_the_same_bits() {
    for walks in WALKS {
        for d_inner in [5, 141] {
            let operands = Operands::random([3, 17, d_inner, 4], walks, 5);
            let conv = operands.conv();
            for tier in tiers() {
                let want = by_stream(&run_on(tier, &conv), walks.1.len(), d_inner);
                let conv = ShortConv { layout: Layout::Streams, ..conv };
                assert_eq!(run_on(tier, &conv), want, "{tier}, {walks:?}, {d_inner}");
            }
        }
    }
    let operands = Operands::random([1, 4, 8, 4], WALKS[2], 1);
    let conv = ShortConv { layout: Layout::Streams, ..operands.conv() };
    let error = crate::short_conv_backward(&conv, &[0.0; 64], &Inline).unwrap_err();
    assert_eq!(error, ShortConvError::Gradients);
}

#[test]
fn every_pool_gives_the_same_bits() {
    for walks in [WALKS[6], WALKS[3]] {
        let operands = Operands::random([3, 37, 141, 4], walks, 21);
        let conv = operands.conv();
        for tier in tiers() {
            let want = run_on(tier, &conv);
            for threads in [1, 2, 5] {
                let pool = Threads(NonZeroUsize::new(threads).unwrap());
                let mut got = vec![f32::NAN; conv.output_len()];
                short_conv_on(tier, &conv, &mut got, &pool).unwrap();
                assert_eq!(got, want, "{tier}, {threads} threads");
            }
        }
    }
}

#[test]
fn nan_reaches_the_tokens_whose_taps_meet_it() {
    let healthy = Operands::random([1, 12, 45, 4], (1, &[false, true]), 17);
    // In a full block, and in the remainder.
    for sick in [5, 44] {
        let mut operands = healthy.clone();
        operands.x[6 * 45 + sick] = f32::from_bits(0xffff_ffff);
        for tier in tiers() {
            let want = run_on(tier, &healthy.conv());
            for (index, got) in run_on(tier, &operands.conv()).into_iter().enumerate() {
                let (token, channel) = (index / 90, index % 90);
                let reached = if channel < 45 { 6..=9 } else { 3..=6 };
                if channel % 45 == sick && reached.contains(&token) {
                    assert!(got.is_nan(), "{tier}: token {token} is {got}");
                } else {
                    assert_eq!(got, want[index], "{tier}: token {token}, channel {channel}");
                }
            }
        }
    }
}

#[test]
fn nothing_to_convolve_gives_an_empty_output() {
    for (batch, seq_len) in [(1, 0), (0, 5)] {
        let operands = Operands::random([batch, seq_len, 13, 4], WALKS[2], 1);
        assert_eq!(operands.conv().output_len(), 0);
        assert_eq!(short_conv(&operands.conv(), &mut [], &Inline), Ok(()));
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let operands = Operands::random([1, 4, 8, 4], WALKS[2], 1);
    let conv = operands.conv();
    let mut out = vec![0.0; conv.output_len()];
    let mut message = |conv| short_conv(&conv, &mut out, &Inline).unwrap_err().to_string();
    let cases = [
        (ShortConv { x: &conv.x[1..], ..conv }, "`x` holds 31 values, expected 32"),
        (ShortConv { weight: &conv.weight[1..], ..conv }, "`weight` holds 63 values, expected 64"),
        (ShortConv { bias: Some(&[0.0]), ..conv }, "`bias` holds 1 values, expected 16"),
        (ShortConv { taps: 0, ..conv }, "`taps` is 0, expected 1 to 16"),
        (ShortConv { taps: 17, ..conv }, "`taps` is 17, expected 1 to 16"),
        (
            ShortConv { groups: 0, ..conv },
            "`reverse` holds 2 streams for 0 groups, expected one or two per group",
        ),
        (
            ShortConv { reverse: &[true; 3], groups: 2, ..conv },
            "`reverse` holds 3 streams for 2 groups, expected one or two per group",
        ),
    ];
    for (conv, reason) in cases {
        assert_eq!(message(conv), format!("short convolution: {reason}"));
    }
    assert!(message(ShortConv { batch: usize::MAX / 3, ..conv }).contains("`x` holds 32 values"));
    let error = short_conv(&conv, &mut out[1..], &Inline).unwrap_err();
    assert_eq!(error.to_string(), "short convolution: `out` holds 63 values, expected 64");
}

#[test]
fn tasks_left_undone_are_reported() {
    struct Lazy;
    impl Pool for Lazy {
        fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
            (0..tasks - 1).for_each(task);
            (0..tasks - 1).for_each(task);
            task(tasks);
        }
    }
    let operands = Operands::random([3, 4, 8, 4], WALKS[2], 1);
    let mut out = vec![0.0; operands.conv().output_len()];
    let error = short_conv(&operands.conv(), &mut out, &Lazy).unwrap_err();
    assert_eq!(error, ShortConvError::Unfinished { finished: 2, tasks: 3 });
}
