//! Seeded operands, and the `f64` oracle that every tier is judged by.

use crate::{Activation, Combine, Inline, Layout, Scan, ShortConv, Tier, selective_scan_on};

/// A stream of random numbers that depends on its seed alone: splitmix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn below(&mut self, low: f32, high: f32) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        low + (high - low) * ((bits >> 40) as f32 / (1u64 << 24) as f32)
    }

    pub(crate) fn vec(&mut self, len: usize, low: f32, high: f32) -> Vec<f32> {
        (0..len).map(|_| self.below(low, high)).collect()
    }
}

/// Mixers and the walks of their streams.
pub(crate) type Walks = (usize, &'static [bool]);

/// Every arrangement that the models use, and their mirror images.
pub(crate) const WALKS: [Walks; 7] = [
    (1, &[false]),
    (1, &[true]),
    (1, &[false, true]),
    (1, &[true, false]),
    (2, &[false, true]),
    (2, &[false, true, false, true]),
    (2, &[false, true, true, false]),
];

/// Sizes of a problem.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) seq_len: usize,
    pub(crate) d_inner: usize,
    pub(crate) d_state: usize,
}

/// A problem: operands of its own, and which of them take part.
#[derive(Clone, Debug)]
pub(crate) struct Operands {
    pub(crate) sizes: Sizes,
    pub(crate) walks: Walks,
    pub(crate) delta_softplus: bool,
    pub(crate) combine: Combine,
    pub(crate) scale: f32,
    pub(crate) u: Vec<f32>,
    pub(crate) delta: Vec<f32>,
    pub(crate) a: Vec<f32>,
    pub(crate) b: Vec<f32>,
    pub(crate) c: Vec<f32>,
    pub(crate) d_skip: Option<Vec<f32>>,
    pub(crate) z: Option<Vec<f32>>,
    pub(crate) delta_bias: Option<Vec<f32>>,
}

impl Operands {
    /// All operands present. `dt` runs from 1e-4 to 9 in either setting of `delta_softplus`.
    pub(crate) fn random(sizes: Sizes, walks: Walks, delta_softplus: bool, seed: u64) -> Self {
        let Sizes { batch, seq_len, d_inner, d_state } = sizes;
        let (groups, streams) = (walks.0, walks.1.len());
        let (rows, channels) = (batch * seq_len, streams * d_inner);
        let mut random = Random(seed);
        let (low, high) = if delta_softplus { (-9.0, 8.5) } else { (1e-4, 8.5) };
        Self {
            sizes,
            walks,
            delta_softplus,
            combine: Combine::Sum,
            scale: 0.5,
            u: random.vec(rows * channels, -1.5, 1.5),
            delta: random.vec(rows * channels, low, high),
            a: (0..channels * d_state)
                .map(|i| -((i % d_state + 1) as f32) * random.below(0.01, 1.2))
                .collect(),
            b: random.vec(rows * streams * d_state, -1.5, 1.5),
            c: random.vec(rows * streams * d_state, -1.5, 1.5),
            d_skip: Some(random.vec(channels, -1.5, 1.5)),
            z: Some(random.vec(rows * groups * d_inner, -9.0, 9.0)),
            delta_bias: Some(random.vec(channels, 0.0, 0.5)),
        }
    }

    pub(crate) fn scan(&self) -> Scan<'_> {
        let Sizes { batch, seq_len, d_inner, d_state } = self.sizes;
        Scan {
            batch,
            seq_len,
            d_inner,
            d_state,
            groups: self.walks.0,
            reverse: self.walks.1,
            delta_softplus: self.delta_softplus,
            combine: self.combine,
            scale: self.scale,
            layout: Layout::Channels,
            columns: None,
            u: &self.u,
            delta: &self.delta,
            a: &self.a,
            b: &self.b,
            c: &self.c,
            d_skip: self.d_skip.as_deref(),
            z: self.z.as_deref(),
            delta_bias: self.delta_bias.as_deref(),
        }
    }
}

/// The tiers that this CPU runs.
pub(crate) fn tiers() -> Vec<Tier> {
    let all = [Tier::Portable, Tier::Neon, Tier::Avx2, Tier::Avx512];
    all.into_iter().filter(|tier| tier.is_available()).collect()
}

pub(crate) fn run_on(tier: Tier, scan: &Scan<'_>) -> Vec<f32> {
    // Filled with what a scan must overwrite.
    let mut out = vec![f32::NAN; scan.output_len()];
    selective_scan_on(tier, scan, &mut out, &Inline).unwrap();
    out
}

/// The values of `[B, L, S * width]` as `[S, B * L, width]`.
pub(crate) fn by_stream(values: &[f32], streams: usize, width: usize) -> Vec<f32> {
    let of = |stream: usize| {
        values.chunks(streams * width).flat_map(move |row| &row[stream * width..][..width])
    };
    (0..streams).flat_map(of).copied().collect()
}

/// A result, and the sum of the absolute values of the terms that it adds up. Rounding errors are in
/// proportion to the second: the terms may cancel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Exact {
    pub(crate) value: f64,
    pub(crate) magnitude: f64,
}

/// The definition, word for word, in `f64`.
pub(crate) fn oracle(scan: &Scan<'_>) -> Vec<Exact> {
    let Scan { batch, seq_len, d_inner, d_state, groups, reverse, .. } = *scan;
    let streams = reverse.len();
    let directions = streams / groups;
    let at = |values: &[f32], index: usize| f64::from(values[index]);
    let or_zero = |values: Option<&[f32]>, index| values.map_or(0.0, |values| at(values, index));
    let blocks = if scan.combine == Combine::Sum { groups } else { streams };
    let mut out = vec![Exact::default(); batch * seq_len * blocks * d_inner];
    for batch in 0..batch {
        for (stream, &is_reverse) in reverse.iter().enumerate() {
            let group = stream / directions;
            let output = if scan.combine == Combine::Sum { group } else { stream };
            let mut tokens: Vec<usize> = (0..seq_len).collect();
            if is_reverse {
                tokens.reverse();
            }
            for d in 0..d_inner {
                let channel = stream * d_inner + d;
                let mut h = vec![Exact::default(); d_state];
                for &token in &tokens {
                    let row = batch * seq_len + token;
                    let u = at(scan.u, row * streams * d_inner + channel);
                    let mut dt = at(scan.delta, row * streams * d_inner + channel)
                        + or_zero(scan.delta_bias, channel);
                    if scan.delta_softplus && dt <= 20.0 {
                        dt = dt.exp().ln_1p();
                    }
                    let skip = or_zero(scan.d_skip, channel) * u;
                    let mut s = Exact { value: skip, magnitude: skip.abs() };
                    for (n, h) in h.iter_mut().enumerate() {
                        let state = (row * streams + stream) * d_state + n;
                        let decay = (dt * at(scan.a, channel * d_state + n)).exp();
                        let input = dt * at(scan.b, state) * u;
                        h.value = decay * h.value + input;
                        h.magnitude = decay * h.magnitude + input.abs();
                        s.value += at(scan.c, state) * h.value;
                        s.magnitude += at(scan.c, state).abs() * h.magnitude;
                    }
                    let gate = scan.z.map_or(1.0, |z| {
                        let z = at(z, (row * groups + group) * d_inner + d);
                        z / (1.0 + (-z).exp())
                    });
                    let factor = f64::from(scan.scale) * gate;
                    let y = &mut out[(row * blocks + output) * d_inner + d];
                    y.value += factor * s.value;
                    y.magnitude += factor.abs() * s.magnitude;
                }
            }
        }
    }
    out
}

/// The result of a scan in `f64`, with the values of one operand replaced.
pub(crate) fn oracle_f64(scan: &Scan<'_>, operand: &str, values: &[f64]) -> Vec<f64> {
    let Scan { batch, seq_len, d_inner, d_state, groups, reverse, .. } = *scan;
    let streams = reverse.len();
    let directions = streams / groups;
    let at = |name: &str, original: &[f32], index: usize| {
        if name == operand { values[index] } else { f64::from(original[index]) }
    };
    let blocks = if scan.combine == Combine::Sum { groups } else { streams };
    let mut out = vec![0.0; batch * seq_len * blocks * d_inner];
    for row_of_batch in 0..batch {
        for (stream, &is_reverse) in reverse.iter().enumerate() {
            let group = stream / directions;
            let output = if scan.combine == Combine::Sum { group } else { stream };
            for d in 0..d_inner {
                let channel = stream * d_inner + d;
                let skip = scan.d_skip.map_or(0.0, |skip| at("d_skip", skip, channel));
                let bias = scan.delta_bias.map_or(0.0, |bias| at("delta_bias", bias, channel));
                let mut h = vec![0.0; d_state];
                for step in 0..seq_len {
                    let token = if is_reverse { seq_len - 1 - step } else { step };
                    let row = row_of_batch * seq_len + token;
                    let wide = row * streams * d_inner + channel;
                    let u = at("u", scan.u, wide);
                    let mut dt = at("delta", scan.delta, wide) + bias;
                    if scan.delta_softplus {
                        dt = dt.exp().ln_1p();
                    }
                    let mut s = skip * u;
                    for (n, h) in h.iter_mut().enumerate() {
                        let state = (row * streams + stream) * d_state + n;
                        let decay = (dt * at("a", scan.a, channel * d_state + n)).exp();
                        *h = decay * *h + dt * at("b", scan.b, state) * u;
                        s += at("c", scan.c, state) * *h;
                    }
                    let gate = scan.z.map_or(1.0, |z| {
                        let z = at("z", z, (row * groups + group) * d_inner + d);
                        z / (1.0 + (-z).exp())
                    });
                    out[(row * blocks + output) * d_inner + d] += f64::from(scan.scale) * gate * s;
                }
            }
        }
    }
    out
}

/// The sum of the weighted outputs of a convolution in `f64`, with the values of one operand replaced.
pub(crate) fn loss_of_conv(
    conv: &ShortConv<'_>,
    operand: &str,
    values: &[f64],
    weights: &[f32],
) -> f64 {
    let ShortConv { batch, seq_len, d_inner, taps, groups, reverse, .. } = *conv;
    let streams = reverse.len();
    let at = |name: &str, original: &[f32], index: usize| {
        if name == operand { values[index] } else { f64::from(original[index]) }
    };
    let mut loss = 0.0;
    for row in 0..batch * seq_len {
        let (first, token) = (row / seq_len * seq_len, row % seq_len);
        for (stream, &reverse) in reverse.iter().enumerate() {
            let group = stream / (streams / groups);
            for d in 0..d_inner {
                let channel = stream * d_inner + d;
                let mut sum = conv.bias.map_or(0.0, |bias| at("bias", bias, channel));
                for k in 0..taps {
                    let back = taps - 1 - k;
                    let met = match reverse {
                        false => token.checked_sub(back),
                        true => Some(token + back).filter(|&met| met < seq_len),
                    };
                    if let Some(met) = met {
                        let x = ((first + met) * groups + group) * d_inner + d;
                        sum += at("weight", conv.weight, channel * taps + k) * at("x", conv.x, x);
                    }
                }
                if conv.activation == Activation::Silu {
                    sum /= 1.0 + (-sum).exp();
                }
                loss += sum * f64::from(weights[row * streams * d_inner + channel]);
            }
        }
    }
    loss
}
