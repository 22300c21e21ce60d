//! The kernels on every instruction set of this CPU, on one thread, beside the definition as one would
//! write it down: `cargo bench --workspace --bench kernels`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ssamba_scan::{
    Activation, Combine, Inline, Layout, Scan, ShortConv, Tier, selective_scan_on, short_conv_on,
};

const D_INNER: usize = 384;
const D_STATE: usize = 16;
const TAPS: usize = 4;

fn tiers() -> impl Iterator<Item = Tier> {
    let all = [Tier::Portable, Tier::Neon, Tier::Avx2, Tier::Avx512];
    all.into_iter().filter(|tier| tier.is_available())
}

/// Numbers between `low` and `high` that follow no simple pattern.
fn numbers(len: usize, low: f32, high: f32) -> Vec<f32> {
    (0..len).map(|i| low + (high - low) * ((i * 7919 % 10_007) as f32 / 10_007.0)).collect()
}

/// One direction of one mixer of the tiny size.
fn scan(criterion: &mut Criterion, seq_len: usize) {
    let sequence = |low, high| numbers(seq_len * D_INNER, low, high);
    let (u, delta, z) = (sequence(-1.0, 1.0), sequence(-4.0, 1.0), sequence(-2.0, 2.0));
    let (b, c) = (numbers(seq_len * D_STATE, -1.0, 1.0), numbers(seq_len * D_STATE, -0.9, 1.1));
    let a = numbers(D_INNER * D_STATE, -16.0, -0.5);
    let (d_skip, delta_bias) = (numbers(D_INNER, -1.0, 1.0), numbers(D_INNER, -1.0, 0.0));
    let scan = Scan {
        batch: 1,
        seq_len,
        d_inner: D_INNER,
        d_state: D_STATE,
        groups: 1,
        reverse: &[false],
        delta_softplus: true,
        combine: Combine::Sum,
        scale: 1.0,
        layout: Layout::Channels,
        columns: None,
        u: &u,
        delta: &delta,
        a: &a,
        b: &b,
        c: &c,
        d_skip: Some(&d_skip),
        z: Some(&z),
        delta_bias: Some(&delta_bias),
    };
    let mut out = vec![0.0; scan.output_len()];
    let mut group = criterion.benchmark_group(format!("scan {seq_len}x{D_INNER}x{D_STATE}"));
    group.bench_function("naive", |bencher| {
        bencher.iter(|| naive_scan(black_box(&scan), &mut out));
    });
    for tier in tiers() {
        group.bench_function(tier.to_string(), |bencher| {
            bencher.iter(|| {
                selective_scan_on(tier, black_box(&scan), &mut out, &Inline).unwrap();
            });
        });
    }
    group.finish();
}

fn naive_scan(scan: &Scan<'_>, out: &mut [f32]) {
    let [d_skip, delta_bias, z] =
        [scan.d_skip, scan.delta_bias, scan.z].map(Option::unwrap_or_default);
    for channel in 0..D_INNER {
        let mut h = [0.0_f32; D_STATE];
        for token in 0..scan.seq_len {
            let at = token * D_INNER + channel;
            let dt = (scan.delta[at] + delta_bias[channel]).exp().ln_1p();
            let mut sum = d_skip[channel] * scan.u[at];
            for (n, h) in h.iter_mut().enumerate() {
                let decay = (dt * scan.a[channel * D_STATE + n]).exp();
                *h = decay * *h + dt * scan.b[token * D_STATE + n] * scan.u[at];
                sum += scan.c[token * D_STATE + n] * *h;
            }
            out[at] = scan.scale * sum * z[at] / (1.0 + (-z[at]).exp());
        }
    }
}

/// Both directions of one mixer of the tiny size.
fn short_conv(criterion: &mut Criterion, seq_len: usize) {
    let x = numbers(seq_len * D_INNER, -2.0, 2.0);
    let weight = numbers(2 * D_INNER * TAPS, -1.0, 1.0);
    let bias = numbers(2 * D_INNER, -1.0, 1.0);
    let conv = ShortConv {
        batch: 1,
        seq_len,
        d_inner: D_INNER,
        taps: TAPS,
        groups: 1,
        reverse: &[false, true],
        activation: Activation::Silu,
        layout: Layout::Channels,
        x: &x,
        weight: &weight,
        bias: Some(&bias),
    };
    let mut out = vec![0.0; 2 * x.len()];
    let mut group = criterion.benchmark_group(format!("short conv {seq_len}x{D_INNER}x{TAPS}"));
    group.bench_function("naive", |bencher| {
        bencher.iter(|| naive_conv(black_box(&conv), &mut out));
    });
    for tier in tiers() {
        group.bench_function(tier.to_string(), |bencher| {
            bencher.iter(|| short_conv_on(tier, black_box(&conv), &mut out, &Inline).unwrap());
        });
    }
    group.finish();
}

fn naive_conv(conv: &ShortConv<'_>, out: &mut [f32]) {
    let bias = conv.bias.unwrap_or_default();
    for (stream, &reverse) in conv.reverse.iter().enumerate() {
        for channel in 0..D_INNER {
            let wide = stream * D_INNER + channel;
            for token in 0..conv.seq_len {
                let mut sum = bias[wide];
                for tap in 0..TAPS {
                    let back = TAPS - 1 - tap;
                    let met = match reverse {
                        false => token.checked_sub(back),
                        true => Some(token + back).filter(|&met| met < conv.seq_len),
                    };
                    if let Some(met) = met {
                        sum += conv.weight[wide * TAPS + tap] * conv.x[met * D_INNER + channel];
                    }
                }
                out[token * 2 * D_INNER + wide] = sum / (1.0 + (-sum).exp());
            }
        }
    }
}

fn kernels(criterion: &mut Criterion) {
    for seq_len in [145, 1213] {
        scan(criterion, seq_len);
        short_conv(criterion, seq_len);
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
