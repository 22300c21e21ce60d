//! The walk back over a block of channels: one body, generic over [`Vector`].
//!
//! Lanes are channels, one vector at a time; the sums over channels that `b` and `c` take stay spread
//! over the lanes until all channels of the task have added to them.

use std::f32::consts::{LN_2, LOG2_E};

use super::{CHANNELS, SEGMENT};
use crate::blocks::Block;
use crate::math::{exp2, sigmoid, silu, silu_slope, softplus};
use crate::output::Output;
use crate::scan::{Combine, MAX_D_STATE, Scan};
use crate::tier::Kernel;
use crate::vector::{MAX_LANES, Vector, in_lanes, load, store};

/// The `d_state` of all published SSAMBA checkpoints, which has a body of its own.
const USUAL_D_STATE: usize = 16;

/// A scan, the gradient of its output, and where gradients go.
pub(super) struct Backward<'a> {
    pub(super) scan: &'a Scan<'a>,
    pub(super) grad_out: &'a [f32],
    pub(super) delta: Output<'a>,
    /// `[B, L, G * D]`, or empty.
    pub(super) z: Output<'a>,
    /// `[B, S * D, N]`
    pub(super) a: Output<'a>,
    /// `[chunks, B, L, S * N]`
    pub(super) b: Output<'a>,
    /// `[chunks, B, L, S * N]`
    pub(super) c: Output<'a>,
    /// `[B, S * D]`
    pub(super) d_skip: Output<'a>,
    /// `[B, S * D]`
    pub(super) delta_bias: Output<'a>,
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run<V: Vector, const W: usize>(&self, zero: V, block: Block, out: &Output<'_>) {
        for direction in 0..self.scan.directions() {
            if self.scan.d_state == USUAL_D_STATE {
                Walk::<V, USUAL_D_STATE>::new(zero, self, block, direction, out).run(USUAL_D_STATE);
            } else {
                Walk::<V, MAX_D_STATE>::new(zero, self, block, direction, out)
                    .run(self.scan.d_state);
            }
        }
    }

    fn channels(&self, _: usize) -> usize {
        CHANNELS
    }
}

/// One vector of channels of a task.
#[derive(Clone, Copy)]
struct Lanes<V, const N: usize> {
    /// First channel within the stream, and how many.
    first: usize,
    width: usize,
    /// `a`, times log2(e).
    rates: [V; N],
    d_skip: V,
    delta_bias: V,
    /// What the token before this one gets of `lambda`.
    carry: [V; N],
    grad_a: [V; N],
    grad_d_skip: V,
    grad_delta_bias: V,
}

/// One token of a segment, for the walk back.
#[derive(Clone, Copy)]
struct Token<V, const N: usize> {
    dt: V,
    u: V,
    gs: V,
    slope: V,
    decay: [V; N],
    h: [V; N],
}

/// The channels of a task in one stream.
struct Walk<'a, V, const N: usize> {
    zero: V,
    scan: &'a Scan<'a>,
    task: &'a Backward<'a>,
    block: Block,
    stream: usize,
    direction: usize,
    grad_u: &'a Output<'a>,
    /// First of the values of a row of `grad_out` that are the stream's, and of how many.
    output_first: usize,
    output_width: usize,
    lanes: Vec<Lanes<V, N>>,
}

impl<'a, V: Vector, const N: usize> Walk<'a, V, N> {
    #[inline(always)]
    fn new(
        zero: V,
        task: &'a Backward<'a>,
        block: Block,
        direction: usize,
        grad_u: &'a Output<'a>,
    ) -> Self {
        let scan = task.scan;
        let stream = block.group * scan.directions() + direction;
        let (output, outputs) = match scan.combine {
            Combine::Sum => (block.group, scan.groups),
            Combine::None => (stream, scan.reverse.len()),
        };
        let mut lanes = Vec::with_capacity(block.width.div_ceil(V::LANES));
        for first in (block.first..block.first + block.width).step_by(V::LANES) {
            let width = V::LANES.min(block.first + block.width - first);
            let channel = stream * scan.d_inner + first;
            let mut of = Lanes {
                first,
                width,
                rates: [zero; N],
                d_skip: zero,
                delta_bias: zero,
                carry: [zero; N],
                grad_a: [zero; N],
                grad_d_skip: zero,
                grad_delta_bias: zero,
            };
            let a = &scan.a[channel * scan.d_state..][..width * scan.d_state];
            let a = in_lanes::<V, 1, N>(zero, a, scan.d_state);
            for (rate, [a]) in of.rates.iter_mut().zip(a) {
                *rate = a * zero.splat(LOG2_E);
            }
            if let Some(values) = scan.d_skip {
                [of.d_skip] = load(zero, &values[channel..][..width]);
            }
            if let Some(values) = scan.delta_bias {
                [of.delta_bias] = load(zero, &values[channel..][..width]);
            }
            lanes.push(of);
        }
        Self {
            zero,
            scan,
            task,
            block,
            stream,
            direction,
            grad_u,
            output_first: output * scan.d_inner,
            output_width: outputs * scan.d_inner,
            lanes,
        }
    }

    /// The row of batch and token that a walk meets at `step`.
    #[inline(always)]
    fn row(&self, step: usize) -> usize {
        let seq_len = self.scan.seq_len;
        let token = if self.scan.reverse[self.stream] { seq_len - 1 - step } else { step };
        self.block.batch * seq_len + token
    }

    #[inline(always)]
    fn run(mut self, d_state: usize) {
        let seq_len = self.scan.seq_len;
        let segments = seq_len.div_ceil(SEGMENT);
        let vectors = self.lanes.len();
        let mut kept = vec![[self.zero; N]; segments * vectors];
        for vector in 0..vectors {
            self.forth(vector, d_state, &mut kept);
        }
        let blank = Token {
            dt: self.zero,
            u: self.zero,
            gs: self.zero,
            slope: self.zero,
            decay: [self.zero; N],
            h: [self.zero; N],
        };
        let mut tokens = [blank; SEGMENT];
        let mut grad_b = [[self.zero; N]; SEGMENT];
        let mut grad_c = [[self.zero; N]; SEGMENT];
        for segment in (0..segments).rev() {
            let first = segment * SEGMENT;
            let len = SEGMENT.min(seq_len - first);
            grad_b.fill([self.zero; N]);
            grad_c.fill([self.zero; N]);
            for vector in 0..vectors {
                let start = kept[segment * vectors + vector];
                self.again(vector, d_state, first, &start, &mut tokens[..len]);
                let sums = (&mut grad_b[..len], &mut grad_c[..len]);
                self.back(vector, d_state, first, &start, &tokens[..len], sums);
            }
            for k in 0..len {
                self.store_sums(d_state, first + k, &grad_b[k], &grad_c[k]);
            }
        }
        self.store_parameters(d_state);
    }

    /// What the state takes from a token: `dt`, `u` and the sum that goes through softplus.
    #[inline(always)]
    fn input(&self, of: &Lanes<V, N>, row: usize) -> (V, V, V) {
        let scan = self.scan;
        let wide = (row * scan.reverse.len() + self.stream) * scan.d_inner + of.first;
        let [u] = load::<V, 1>(self.zero, &scan.u[wide..][..of.width]);
        let [delta] = load::<V, 1>(self.zero, &scan.delta[wide..][..of.width]);
        let sum = delta + of.delta_bias;
        let [dt] = if scan.delta_softplus { softplus([sum]) } else { [sum] };
        (dt, u, sum)
    }

    /// The gradient of the result at a row, and the gate there.
    #[inline(always)]
    fn gradient(&self, of: &Lanes<V, N>, row: usize) -> (V, Option<V>) {
        let scan = self.scan;
        let at = row * self.output_width + self.output_first + of.first;
        let [g] = load::<V, 1>(self.zero, &self.task.grad_out[at..][..of.width]);
        let g = g * self.zero.splat(scan.scale);
        let mut gate = None;
        if let Some(z) = scan.z {
            let at = (row * scan.groups + self.block.group) * scan.d_inner + of.first;
            let [z] = load::<V, 1>(self.zero, &z[at..][..of.width]);
            gate = Some(z);
        }
        (g, gate)
    }

    /// `b` and `c` at a row.
    #[inline(always)]
    fn states(&self, row: usize) -> (&'a [f32], &'a [f32]) {
        let Scan { b, c, d_state, .. } = *self.scan;
        let at = (row * self.scan.reverse.len() + self.stream) * d_state;
        (&b[at..][..d_state], &c[at..][..d_state])
    }

    /// The first walk: keeps the state before every segment, and gives the gradient of the gate.
    #[inline(always)]
    fn forth(&self, vector: usize, d_state: usize, kept: &mut [[V; N]]) {
        let (scan, zero, vectors) = (self.scan, self.zero, self.lanes.len());
        let of = self.lanes[vector];
        let mut h = [zero; N];
        // Without a gate nobody asks for the last segment's end.
        let end = match scan.z {
            Some(_) => scan.seq_len,
            None => scan.seq_len.saturating_sub(1) / SEGMENT * SEGMENT + 1,
        };
        for step in 0..end.min(scan.seq_len) {
            if step.is_multiple_of(SEGMENT) {
                kept[step / SEGMENT * vectors + vector] = h;
            }
            let row = self.row(step);
            let (dt, u, _) = self.input(&of, row);
            let (b, c) = self.states(row);
            let dt_u = dt * u;
            let mut s = of.d_skip * u;
            for n in 0..d_state {
                let [decay] = exp2([dt * of.rates[n]]);
                h[n] = decay.mul_add(h[n], dt_u * zero.splat(b[n]));
                s = zero.splat(c[n]).mul_add(h[n], s);
            }
            if let (g, Some(z)) = self.gradient(&of, row) {
                let mut grad = [g * s * silu_slope(z)];
                let at = (row * scan.groups + self.block.group) * scan.d_inner + of.first;
                // SAFETY: `Scan::check` made `z`, and so its gradient, hold `groups * d_inner` values
                // for each row; the channels lie within the block, blocks of different tasks are
                // disjoint, each task runs once, and only one part is alive at a time.
                #[expect(unsafe_code, reason = "tasks write disjoint channels of one output")]
                let to = unsafe { self.task.z.part(at, of.width) };
                if self.direction > 0 {
                    let [other] = load::<V, 1>(zero, to);
                    grad[0] = other + grad[0];
                }
                store(&grad, to);
            }
        }
    }

    /// Computes the states of a segment again, from the one kept before it.
    #[inline(always)]
    fn again(
        &self,
        vector: usize,
        d_state: usize,
        first: usize,
        start: &[V; N],
        tokens: &mut [Token<V, N>],
    ) {
        let zero = self.zero;
        let of = &self.lanes[vector];
        let mut h = *start;
        for (k, token) in tokens.iter_mut().enumerate() {
            let row = self.row(first + k);
            let (dt, u, sum) = self.input(of, row);
            let (b, _) = self.states(row);
            let dt_u = dt * u;
            for n in 0..d_state {
                let [decay] = exp2([dt * of.rates[n]]);
                h[n] = decay.mul_add(h[n], dt_u * zero.splat(b[n]));
                token.decay[n] = decay;
                token.h[n] = h[n];
            }
            let (g, gate) = self.gradient(of, row);
            token.gs = match gate {
                Some(z) => {
                    let [gate] = silu([z]);
                    g * gate
                }
                None => g,
            };
            token.slope = match self.scan.delta_softplus {
                true => sigmoid(sum),
                false => zero.splat(1.0),
            };
            (token.dt, token.u) = (dt, u);
        }
    }

    /// The walk back over a segment.
    #[inline(always)]
    fn back(
        &mut self,
        vector: usize,
        d_state: usize,
        first: usize,
        start: &[V; N],
        tokens: &[Token<V, N>],
        (grad_b, grad_c): (&mut [[V; N]], &mut [[V; N]]),
    ) {
        let zero = self.zero;
        let mut of = self.lanes[vector];
        for k in (0..tokens.len()).rev() {
            let token = &tokens[k];
            let before = if k == 0 { start } else { &tokens[k - 1].h };
            let row = self.row(first + k);
            let (b, c) = self.states(row);
            let Token { dt, u, gs, .. } = *token;
            let dt_u = dt * u;
            let (mut lambda_b, mut rate) = (zero, zero);
            let (grad_b, grad_c) = (&mut grad_b[k], &mut grad_c[k]);
            for n in 0..d_state {
                let lambda = zero.splat(c[n]).mul_add(gs, of.carry[n]);
                grad_c[n] = gs.mul_add(token.h[n], grad_c[n]);
                grad_b[n] = lambda.mul_add(dt_u, grad_b[n]);
                lambda_b = lambda.mul_add(zero.splat(b[n]), lambda_b);
                of.carry[n] = lambda * token.decay[n];
                let of_exponent = of.carry[n] * before[n];
                rate = of_exponent.mul_add(of.rates[n], rate);
                of.grad_a[n] = of_exponent.mul_add(dt, of.grad_a[n]);
            }
            let grad_dt = u.mul_add(lambda_b, rate * zero.splat(LN_2));
            let grad_delta = grad_dt * token.slope;
            let grad_u = of.d_skip.mul_add(gs, dt * lambda_b);
            of.grad_d_skip = gs.mul_add(u, of.grad_d_skip);
            of.grad_delta_bias = of.grad_delta_bias + grad_delta;

            let scan = self.scan;
            let wide = (row * scan.reverse.len() + self.stream) * scan.d_inner + of.first;
            // SAFETY: `Scan::check` made `u` and `delta`, and so their gradients, hold
            // `streams * d_inner` values for each row; else as in `forth`.
            #[expect(unsafe_code, reason = "tasks write disjoint channels of one output")]
            let (to_u, to_delta) =
                unsafe { (self.grad_u.part(wide, of.width), self.task.delta.part(wide, of.width)) };
            store(&[grad_u], to_u);
            store(&[grad_delta], to_delta);
        }
        self.lanes[vector] = of;
    }

    /// The gradients of `b` and `c` at one step.
    #[inline(always)]
    fn store_sums(&self, d_state: usize, step: usize, grad_b: &[V; N], grad_c: &[V; N]) {
        let scan = self.scan;
        let row = self.block.first / CHANNELS * scan.batch * scan.seq_len + self.row(step);
        let at = (row * scan.reverse.len() + self.stream) * d_state;
        // SAFETY: `b` and `c` hold `streams * d_state` values for each row of each chunk of channels.
        // The chunk is the task's, and so are its rows and streams.
        #[expect(unsafe_code, reason = "tasks write disjoint chunks of one output")]
        let (to_b, to_c) =
            unsafe { (self.task.b.part(at, d_state), self.task.c.part(at, d_state)) };
        for n in 0..d_state {
            to_b[n] = sum_of_lanes(grad_b[n]);
            to_c[n] = sum_of_lanes(grad_c[n]);
        }
    }

    #[inline(always)]
    fn store_parameters(&self, d_state: usize) {
        let scan = self.scan;
        for of in &self.lanes {
            let channel =
                (self.block.batch * scan.reverse.len() + self.stream) * scan.d_inner + of.first;
            // SAFETY: for each batch and stream there is a place for every channel, with `d_state`
            // values in `a`; batch, stream and channels are the task's.
            #[expect(unsafe_code, reason = "tasks write disjoint channels of one output")]
            let (to_a, to_skip, to_bias) = unsafe {
                (
                    self.task.a.part(channel * d_state, of.width * d_state),
                    self.task.d_skip.part(channel, of.width),
                    self.task.delta_bias.part(channel, of.width),
                )
            };
            store(&[of.grad_d_skip], to_skip);
            store(&[of.grad_delta_bias], to_bias);
            for n in 0..d_state {
                let mut lanes = [0.0; MAX_LANES];
                of.grad_a[n].store(&mut lanes);
                for lane in 0..of.width {
                    to_a[lane * d_state + n] = lanes[lane];
                }
            }
        }
    }
}

/// Halves are added until one lane is left.
#[inline(always)]
fn sum_of_lanes<V: Vector>(vector: V) -> f32 {
    let mut lanes = [0.0; MAX_LANES];
    vector.store(&mut lanes);
    let mut width = MAX_LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}
