//! Every tier against the `f64` oracle, and what the scan promises besides accuracy.

use std::num::NonZeroUsize;

use super::*;
use crate::pool::{Inline, Threads};
use crate::testing::{Exact, Operands, Sizes, WALKS, by_stream, oracle, run_on, tiers};

/// Bound on the error of an output, as a share of the sum of the absolute values of the terms that it
/// adds up, which is stricter than a bound on the absolute error: outputs near zero count in full. A
/// term is a product of decays, each off by some 1e-7; a decay of `1 - x` forgets an error in `1 / x`
/// steps, so that errors of either sign add up to a few times the error of one.
const OF_MAGNITUDE: f64 = 5e-6;

/// Bound on the difference of two tiers, on the same scale. The crate's documentation states it.
const BETWEEN_TIERS: f64 = 2e-6;

fn assert_close(got: &[f32], want: &[Exact], bound: f64, what: &dyn fmt::Debug) -> f64 {
    assert_eq!(got.len(), want.len(), "{what:?}");
    let mut worst = 0.0_f64;
    for (index, (&got, want)) in got.iter().zip(want).enumerate() {
        // Below the second term even a correct result is a subnormal number.
        let error = (f64::from(got) - want.value).abs() / (want.magnitude + 1e-30);
        assert!(error <= bound, "{what:?}: [{index}] is {got}, off by {error:e} of {want:?}");
        worst = worst.max(error);
    }
    worst
}

fn check(operands: &Operands) {
    let scan = operands.scan();
    let want = oracle(&scan);
    let what = (operands.sizes, operands.walks, operands.delta_softplus, operands.combine);
    let results: Vec<_> = tiers().into_iter().map(|tier| run_on(tier, &scan)).collect();
    for got in &results {
        assert_close(got, &want, OF_MAGNITUDE, &what);
    }
    let [one, another] = [&results[0], &results[results.len() - 1]];
    for ((&one, &another), want) in one.iter().zip(another).zip(&want) {
        let difference = f64::from((one - another).abs()) / (want.magnitude + 1e-30);
        assert!(difference <= BETWEEN_TIERS, "{what:?}: {one} and {another}, {difference:e}");
    }
}

/// Problems of one state width, of lengths and widths around the block sizes, over all layouts; the
/// settings take turns, so that each meets each length, width and walks.
fn check_widths_of_state(d_state: usize) {
    let mut turn = 0_u64;
    for seq_len in [1, 2, 15, 16, 17, 65, 145, 513] {
        for d_inner in [1, 8, 13, 41] {
            for walks in WALKS {
                for combine in [Combine::Sum, Combine::None] {
                    turn += 1;
                    let batch = if seq_len <= 65 && turn.is_multiple_of(3) { 3 } else { 1 };
                    let sizes = Sizes { batch, seq_len, d_inner, d_state };
                    let mut operands = Operands::random(sizes, walks, turn % 5 > 1, turn);
                    operands.combine = combine;
                    operands.scale = [0.5, 1.0, -3.0][(turn % 3) as usize];
                    operands.d_skip = operands.d_skip.filter(|_| !turn.is_multiple_of(4));
                    operands.z = operands.z.filter(|_| turn % 7 < 4);
                    operands.delta_bias = operands.delta_bias.filter(|_| turn % 9 < 6);
                    check(&operands);
                }
            }
        }
    }
}

#[test]
fn one_state_matches_the_definition() {
    check_widths_of_state(1);
}

#[test]
fn four_states_match_the_definition() {
    check_widths_of_state(4);
}

#[test]
fn sixteen_states_match_the_definition() {
    check_widths_of_state(16);
}

#[test]
fn thirty_two_states_match_the_definition() {
    check_widths_of_state(32);
}

#[test]
fn the_width_of_a_published_model_matches_the_definition() {
    for (seq_len, walks) in [(1, WALKS[2]), (17, WALKS[6]), (145, WALKS[3])] {
        for delta_softplus in [true, false] {
            let sizes = Sizes { batch: 1, seq_len, d_inner: 384, d_state: 16 };
            check(&Operands::random(sizes, walks, delta_softplus, 11));
        }
    }
}

#[test]
fn a_long_memory_matches_the_definition() {
    let sizes = Sizes { batch: 1, seq_len: 3000, d_inner: 33, d_state: 16 };
    let mut operands = Operands::random(sizes, WALKS[2], true, 4);
    // Steps of about 1e-3.
    operands.delta.iter_mut().for_each(|delta| *delta = 0.1 * *delta - 7.0);
    check(&operands);
}

#[test]
fn a_rising_state_matches_the_definition() {
    let sizes = Sizes { batch: 1, seq_len: 9, d_inner: 40, d_state: 16 };
    let mut operands = Operands::random(sizes, WALKS[2], true, 5);
    operands.a.iter_mut().for_each(|rate| *rate *= -0.05);
    check(&operands);
    let mut operands = Operands::random(sizes, WALKS[2], false, 6);
    operands.delta.iter_mut().for_each(|delta| *delta *= -0.05);
    check(&operands);
}

#[test]
fn each_optional_operand_may_be_absent_alone() {
    let sizes = Sizes { batch: 2, seq_len: 19, d_inner: 43, d_state: 16 };
    for walks in WALKS {
        let all = Operands::random(sizes, walks, true, 3);
        check(&all);
        check(&Operands { d_skip: None, ..all.clone() });
        check(&Operands { z: None, ..all.clone() });
        check(&Operands { delta_bias: None, ..all.clone() });
        check(&Operands { d_skip: None, z: None, delta_bias: None, ..all });
    }
}

/// Rows of `width` values, with `dense` of them from `first` on; what must not be read is not a number.
fn spread(values: &[f32], dense: usize, width: usize, first: usize) -> Vec<f32> {
    let row = |values: &[f32]| {
        let mut row = vec![f32::NAN; width];
        row[first..first + dense].copy_from_slice(values);
        row
    };
    values.chunks(dense).flat_map(row).collect()
}

#[test]
fn operands_in_another_place_give_the_same_bits() {
    for walks in WALKS {
        let streams = walks.1.len();
        for (d_inner, d_state, combine) in
            [(13, 16, Combine::Sum), (141, 16, Combine::None), (5, 3, Combine::Sum)]
        {
            let sizes = Sizes { batch: 3, seq_len: 19, d_inner, d_state };
            let operands = Operands { combine, ..Operands::random(sizes, walks, true, 8) };
            let scan = operands.scan();
            let [u, delta] = [scan.u, scan.delta].map(|values| by_stream(values, streams, d_inner));
            let [b, c] = [scan.b, scan.c].map(|values| by_stream(values, streams, d_state));
            let planar =
                Scan { layout: Layout::Streams, u: &u, delta: &delta, b: &b, c: &c, ..scan };
            let wide = |scan: &Scan<'_>, dense: usize| {
                let columns = Columns { width: 3 * dense + 2, b: dense + 2, c: 1 };
                let b = spread(scan.b, dense, columns.width, columns.b);
                let c = spread(scan.c, dense, columns.width, columns.c);
                (columns, b, c)
            };
            let (columns, b, c) = wide(&scan, streams * d_state);
            let wide_rows = Scan { columns: Some(columns), b: &b, c: &c, ..scan };
            let (columns, b, c) = wide(&planar, d_state);
            let both = Scan { columns: Some(columns), b: &b, c: &c, ..planar };
            for tier in tiers() {
                let want = run_on(tier, &scan);
                for (what, scan) in [("streams", planar), ("columns", wide_rows), ("both", both)] {
                    assert_eq!(run_on(tier, &scan), want, "{tier}, {walks:?}, {sizes:?}: {what}");
                }
            }
        }
    }
}

#[test]
fn rows_that_end_too_early_are_named_and_have_no_gradients() {
    let operands = Operands::random(
        Sizes { batch: 1, seq_len: 4, d_inner: 8, d_state: 16 },
        WALKS[2],
        true,
        1,
    );
    let rows = vec![0.0; 2 * 4 * 40];
    let scan = Scan { b: &rows, c: &rows, ..operands.scan() };
    let mut out = vec![0.0; scan.output_len()];
    let columns = |b, c, width| Some(Columns { width, b, c });
    for (layout, columns, needed) in [
        (Layout::Channels, columns(8, 3, 39), 40),
        (Layout::Channels, columns(0, 9, 40), 41),
        (Layout::Streams, columns(25, 0, 40), 41),
    ] {
        let scan = Scan { layout, columns, ..scan };
        let error = selective_scan(&scan, &mut out, &Inline).unwrap_err();
        let width = columns.unwrap().width;
        assert_eq!(error, ScanError::Columns { needed, width });
    }
    let scan = Scan { layout: Layout::Streams, columns: columns(24, 0, 40), ..scan };
    selective_scan(&scan, &mut out, &Inline).unwrap();
    let error = crate::selective_scan_backward(&scan, &out, &Inline).unwrap_err();
    assert_eq!(error, ScanError::Gradients);
}

/// Rows of `seq_len` tokens in the opposite order.
fn flipped(values: &[f32], seq_len: usize, batch: usize) -> Vec<f32> {
    let row = values.len() / (batch * seq_len);
    let sequences = values.chunks(seq_len * row);
    sequences.flat_map(|sequence| sequence.chunks(row).rev().flatten().copied()).collect()
}

#[test]
fn a_reverse_stream_is_flip_scan_flip() {
    let sizes = Sizes { batch: 3, seq_len: 23, d_inner: 45, d_state: 16 };
    let forward = Operands::random(sizes, (1, &[false]), true, 9);
    let flip = |values: &[f32]| flipped(values, sizes.seq_len, sizes.batch);
    let reverse = Operands {
        walks: (1, &[true]),
        u: flip(&forward.u),
        delta: flip(&forward.delta),
        b: flip(&forward.b),
        c: flip(&forward.c),
        z: forward.z.as_deref().map(flip),
        ..forward.clone()
    };
    for tier in tiers() {
        assert_eq!(flip(&run_on(tier, &reverse.scan())), run_on(tier, &forward.scan()));
    }
}

#[test]
fn every_pool_gives_the_same_bits() {
    for (walks, combine) in [(WALKS[6], Combine::Sum), (WALKS[3], Combine::None)] {
        let sizes = Sizes { batch: 3, seq_len: 37, d_inner: 141, d_state: 16 };
        let operands = Operands { combine, ..Operands::random(sizes, walks, true, 21) };
        let scan = operands.scan();
        for tier in tiers() {
            let want = run_on(tier, &scan);
            for threads in [1, 2, 5] {
                let pool = Threads(NonZeroUsize::new(threads).unwrap());
                let mut got = vec![f32::NAN; scan.output_len()];
                selective_scan_on(tier, &scan, &mut got, &pool).unwrap();
                assert_eq!(got, want, "{tier}, {threads} threads");
            }
        }
    }
}

#[test]
fn the_tiers_of_one_instruction_family_give_the_same_bits() {
    for walks in WALKS {
        let sizes = Sizes { batch: 2, seq_len: 37, d_inner: 141, d_state: 16 };
        let operands = Operands::random(sizes, walks, true, 8);
        let family = [Tier::Avx2, Tier::Avx512].into_iter().filter(|tier| tier.is_available());
        let results: Vec<_> = family.map(|tier| run_on(tier, &operands.scan())).collect();
        assert!(results.windows(2).all(|two| two[0] == two[1]), "{walks:?}");
    }
}

#[test]
fn decays_in_range_and_beyond_have_the_same_bits() {
    // Alone in its block a slow channel never leaves the range; beside a fast one its block does.
    let sizes = Sizes { batch: 1, seq_len: 21, d_inner: 64, d_state: 16 };
    let slow = Operands::random(sizes, (1, &[false]), true, 13);
    let slow = Operands { a: slow.a.iter().map(|rate| 0.1 * rate).collect(), ..slow };
    let mut mixed = slow.clone();
    mixed.a[63 * 16..].iter_mut().for_each(|rate| *rate *= 1e4);
    for tier in tiers() {
        let [slow, mixed] = [&slow, &mixed].map(|operands| run_on(tier, &operands.scan()));
        for (slow, mixed) in slow.chunks(64).zip(mixed.chunks(64)) {
            assert_eq!(slow[..63], mixed[..63], "{tier}");
        }
    }
}

#[test]
fn a_channel_has_the_same_bits_in_any_block() {
    let sizes = Sizes { batch: 1, seq_len: 21, d_inner: 75, d_state: 16 };
    let wide = Operands::random(sizes, (1, &[false]), true, 33);
    let first = 61;
    let columns = |values: &[f32], width: usize| -> Vec<f32> {
        values.chunks(75 * width).flat_map(|row| &row[first * width..]).copied().collect()
    };
    let narrow = Operands {
        sizes: Sizes { d_inner: 75 - first, ..sizes },
        u: columns(&wide.u, 1),
        delta: columns(&wide.delta, 1),
        a: columns(&wide.a, 16),
        z: wide.z.as_deref().map(|values| columns(values, 1)),
        d_skip: wide.d_skip.as_deref().map(|values| columns(values, 1)),
        delta_bias: wide.delta_bias.as_deref().map(|values| columns(values, 1)),
        ..wide.clone()
    };
    for tier in tiers() {
        let want = columns(&run_on(tier, &wide.scan()), 1);
        assert_eq!(run_on(tier, &narrow.scan()), want, "{tier}");
    }
}

#[test]
fn nan_stays_in_its_channel_and_ahead_of_its_token() {
    let sizes = Sizes { batch: 1, seq_len: 12, d_inner: 45, d_state: 16 };
    // In a full block, and in the remainder.
    for sick in [5, 44] {
        for operand in ["u", "delta", "a", "z", "d_skip", "delta_bias"] {
            let healthy = Operands::random(sizes, (1, &[false]), true, 17);
            let mut operands = healthy.clone();
            // Its bits are the worst that a shift into the exponent can meet.
            let nan = f32::from_bits(0xffff_ffff);
            let from = match operand {
                "u" | "delta" | "z" => 7,
                _ => 0,
            };
            match operand {
                "u" => operands.u[7 * 45 + sick] = nan,
                "delta" => operands.delta[7 * 45 + sick] = nan,
                "a" => operands.a[sick * 16 + 3] = nan,
                "z" => operands.z.as_mut().unwrap()[7 * 45 + sick] = nan,
                "d_skip" => operands.d_skip.as_mut().unwrap()[sick] = nan,
                _ => operands.delta_bias.as_mut().unwrap()[sick] = nan,
            }
            for tier in tiers() {
                let want = run_on(tier, &healthy.scan());
                for (index, got) in run_on(tier, &operands.scan()).into_iter().enumerate() {
                    let (token, channel) = (index / 45, index % 45);
                    let reached = match operand {
                        "z" => token == 7,
                        _ => token >= from,
                    };
                    if channel == sick && reached {
                        assert!(got.is_nan(), "{tier}, {operand}: token {token} is {got}");
                    } else {
                        assert_eq!(got, want[index], "{tier}, {operand}: token {token}, {channel}");
                    }
                }
            }
        }
    }
}

#[test]
fn steps_of_any_size_do_what_the_definition_says() {
    let sizes = Sizes { batch: 1, seq_len: 3, d_inner: 33, d_state: 16 };
    let mut operands = Operands::random(sizes, (1, &[false]), true, 2);
    operands.z = None;
    operands.delta.fill(f32::NEG_INFINITY);
    operands.u[33..].fill(1.0);
    let skips = operands.d_skip.clone().unwrap();
    for tier in tiers() {
        let got = run_on(tier, &operands.scan());
        assert!(got[33..66].iter().zip(&skips).all(|(got, skip)| *got == 0.5 * skip), "{tier}");
    }
    operands.delta.fill(0.0);
    operands.delta[33..66].fill(f32::INFINITY);
    operands.b.fill(1.0);
    operands.c.fill(1.0);
    for tier in tiers() {
        let got = run_on(tier, &operands.scan());
        assert!(got[33..66].iter().all(|y| *y == f32::INFINITY), "{tier}");
        assert!(got[..33].iter().all(|y| y.is_finite()), "{tier}");
    }
    operands.delta[33..66].fill(1e6);
    check(&operands);
}

#[test]
fn growth_beyond_the_greatest_number_is_infinite() {
    let sizes = Sizes { batch: 1, seq_len: 2, d_inner: 33, d_state: 16 };
    for (delta_softplus, delta, rate, u) in [(true, 8.0, 60.0, 1.0), (false, -8.0, -60.0, -1.0)] {
        let mut operands = Operands::random(sizes, (1, &[false]), delta_softplus, 2);
        (operands.z, operands.delta_bias) = (None, None);
        operands.delta.fill(delta);
        // The state of the first step is zero, which an infinite decay would turn into NaN.
        operands.delta[..33].fill(-0.01);
        operands.a.fill(rate);
        operands.u.fill(u);
        operands.b.fill(1.0);
        operands.c.fill(1.0);
        for tier in tiers() {
            let got = run_on(tier, &operands.scan());
            assert!(got[33..].iter().all(|y| *y == f32::INFINITY), "{tier}: {got:?}");
        }
    }
}

#[test]
fn nothing_to_scan_gives_an_empty_output() {
    for (batch, seq_len) in [(1, 0), (0, 5)] {
        let sizes = Sizes { batch, seq_len, d_inner: 13, d_state: 16 };
        let operands = Operands::random(sizes, WALKS[2], true, 1);
        assert_eq!(operands.scan().output_len(), 0);
        assert_eq!(selective_scan(&operands.scan(), &mut [], &Inline), Ok(()));
    }
}

#[test]
fn an_operand_of_the_wrong_length_is_named() {
    let sizes = Sizes { batch: 1, seq_len: 4, d_inner: 8, d_state: 16 };
    let operands = Operands::random(sizes, WALKS[2], true, 1);
    let scan = operands.scan();
    let cases = [
        ("u", Scan { u: &scan.u[1..], ..scan }),
        ("delta", Scan { delta: &scan.delta[1..], ..scan }),
        ("a", Scan { a: &scan.a[1..], ..scan }),
        ("b", Scan { b: &scan.b[1..], ..scan }),
        ("c", Scan { c: &scan.c[1..], ..scan }),
        ("d_skip", Scan { d_skip: scan.d_skip.map(|values| &values[1..]), ..scan }),
        ("z", Scan { z: scan.z.map(|values| &values[1..]), ..scan }),
        ("delta_bias", Scan { delta_bias: scan.delta_bias.map(|values| &values[1..]), ..scan }),
    ];
    let mut out = vec![0.0; scan.output_len()];
    for (name, scan) in cases {
        match selective_scan(&scan, &mut out, &Inline).unwrap_err() {
            ScanError::Length { operand, expected, got } => {
                assert_eq!((operand, expected), (name, got + 1));
            }
            other => panic!("{name}: {other}"),
        }
    }
    let error = selective_scan(&scan, &mut out[1..], &Inline).unwrap_err();
    assert_eq!(error.to_string(), "selective scan: `out` holds 31 values, expected 32");
}

#[test]
fn impossible_sizes_are_named() {
    let sizes = Sizes { batch: 1, seq_len: 4, d_inner: 8, d_state: 16 };
    let operands = Operands::random(sizes, WALKS[2], true, 1);
    let scan = operands.scan();
    let mut out = vec![0.0; scan.output_len()];
    let mut message = |scan| selective_scan(&scan, &mut out, &Inline).unwrap_err().to_string();
    let streams = "streams for 2 groups, expected one or two per group";
    for reverse in [&[true; 0][..], &[true; 1], &[true; 3], &[true; 6]] {
        let message = message(Scan { groups: 2, reverse, ..scan });
        assert!(message.ends_with(streams), "{message}");
    }
    assert!(message(Scan { groups: 0, ..scan }).contains("0 groups"));
    let state_width = "selective scan: `d_state` is 33, expected 1 to 32";
    assert_eq!(message(Scan { d_state: 33, ..scan }), state_width);
    assert!(message(Scan { d_state: 0, ..scan }).contains("`d_state` is 0"));
    let overflow = Scan { batch: usize::MAX / 3, ..scan };
    assert!(message(overflow).contains("`u` holds 64 values"));
}

#[test]
fn a_pool_that_breaks_its_promise_is_reported_and_harmless() {
    struct Careless(usize);
    impl Pool for Careless {
        fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
            (0..tasks.min(self.0)).for_each(task);
            (0..tasks.min(self.0)).for_each(task);
            task(tasks);
        }
    }
    let sizes = Sizes { batch: 3, seq_len: 4, d_inner: 8, d_state: 16 };
    let operands = Operands::random(sizes, WALKS[2], true, 1);
    let scan = operands.scan();
    let mut out = vec![0.0; scan.output_len()];
    let error = selective_scan(&scan, &mut out, &Careless(2)).unwrap_err();
    assert_eq!(error, ScanError::Unfinished { finished: 2, tasks: 3 });
    assert_eq!(selective_scan(&scan, &mut out, &Careless(9)), Ok(()));
    assert_eq!(out, run_on(tier(), &scan));
}
