//! The recurrence over a block of channels: one body, generic over [`Vector`].
//!
//! Lanes are channels. Operands are token-major, so a row of a block is one contiguous load, and the
//! sum over states needs no horizontal add: `b` and `c` are broadcast instead. The state of the
//! block stays in registers and the first-level cache for the whole walk.

#![expect(clippy::needless_range_loop, reason = "the same index goes through several arrays")]

use std::f32::consts::LOG2_E;

use crate::blocks::Block;
use crate::math::{exp2, exp2_in_range, silu, softplus};
use crate::output::Output;
use crate::scan::{Columns, Combine, MAX_D_STATE, Scan};
use crate::tier::Kernel;
use crate::vector::{Vector, in_lanes, load, store};

/// Powers of two from this on are normal numbers, and up to its opposite.
const LOWEST_EXPONENT: f32 = -126.0;

/// The `d_state` of all published SSAMBA checkpoints, which has a body of its own.
const USUAL_D_STATE: usize = 16;

impl Kernel for Scan<'_> {
    #[inline(always)]
    fn run<V: Vector, const W: usize>(&self, zero: V, block: Block, out: &Output<'_>) {
        mixer::<V, W>(zero, self, block, out);
    }
}

/// Walks all directions of a mixer: a full block `W` vectors at a time, what remains of the channels
/// one vector at a time.
#[inline(always)] // so that the caller's target features apply to the body
fn mixer<V: Vector, const W: usize>(zero: V, scan: &Scan<'_>, block: Block, out: &Output<'_>) {
    for direction in 0..scan.directions() {
        if block.width < W * V::LANES {
            for skipped in (0..block.width).step_by(V::LANES) {
                let first = block.first + skipped;
                let width = V::LANES.min(block.width - skipped);
                let walk = Walk::new(scan, Block { first, width, ..block }, direction);
                walk.run::<V, 1, MAX_D_STATE>(zero, scan.d_state, out);
            }
            continue;
        }
        let walk = Walk::new(scan, block, direction);
        if scan.d_state == USUAL_D_STATE {
            walk.run::<V, W, USUAL_D_STATE>(zero, USUAL_D_STATE, out);
        } else {
            walk.run::<V, W, MAX_D_STATE>(zero, scan.d_state, out);
        }
    }
}

/// A state of a block of channels, beside its decay rates: 2 % faster on Zen 3 than two arrays, which
/// lie a page apart.
#[derive(Clone, Copy)]
struct State<V, const W: usize> {
    /// Times log2(e), so that `2^(dt * a)` is the decay.
    a: [V; W],
    h: [V; W],
}

/// Of each channel, the lowest -|a|: the state that decays, or grows, the most.
#[inline(always)]
fn steepest<V: Vector, const W: usize>(zero: V, states: &[State<V, W>]) -> [V; W] {
    let mut steepest = [zero; W];
    for state in states {
        for w in 0..W {
            steepest[w] = state.a[w].negative_abs().at_most(steepest[w]);
        }
    }
    steepest
}

/// Takes a token into the states of a block: what they, and `d_skip`, make of it.
#[inline(always)]
fn take<V: Vector, const W: usize, const N: usize>(
    states: &mut [State<V, W>; N],
    steepest: &[V; W],
    d_skip: &[V; W],
    b: &[f32],
    c: &[f32],
    dt: &[V; W],
    u: &[V; W],
) -> [V; W] {
    let (mut dt_u, mut y) = (*u, *u);
    let mut in_range = true;
    for w in 0..W {
        in_range &= (dt[w] * steepest[w]).negative_abs().all_at_least(LOWEST_EXPONENT);
        dt_u[w] = dt[w] * u[w];
        y[w] = d_skip[w] * u[w];
    }
    if in_range {
        update::<V, W, N, true>(states, b, c, dt, &dt_u, &mut y);
    } else {
        update::<V, W, N, false>(states, b, c, dt, &dt_u, &mut y);
    }
    y
}

/// Takes a token into the states of a block, and adds their part to `y`. With `IN_RANGE` no decay of
/// the token needs a bound.
#[inline(always)]
fn update<V: Vector, const W: usize, const N: usize, const IN_RANGE: bool>(
    states: &mut [State<V, W>; N],
    b: &[f32],
    c: &[f32],
    dt: &[V; W],
    dt_u: &[V; W],
    y: &mut [V; W],
) {
    for n in 0..b.len() {
        let (b, c) = (y[0].splat(b[n]), y[0].splat(c[n]));
        let State { a, h } = &mut states[n];
        let mut decay = *a;
        for w in 0..W {
            decay[w] = dt[w] * decay[w];
        }
        decay = if IN_RANGE { exp2_in_range(decay) } else { exp2(decay) };
        for w in 0..W {
            h[w] = decay[w].mul_add(h[w], dt_u[w] * b);
        }
        for w in 0..W {
            y[w] = c.mul_add(h[w], y[w]);
        }
    }
}

/// One block of channels in one stream.
struct Walk<'a> {
    scan: &'a Scan<'a>,
    block: Block,
    /// Index of the stream.
    stream: usize,
    /// Which `d_inner` values of an output row are the stream's.
    output_block: usize,
    /// How many times `d_inner` values an output row holds.
    output_blocks: usize,
    /// Whether `out` already holds the other direction, to be added to.
    adds: bool,
    /// Whether gate and scale come now, and not with the other direction.
    finishes: bool,
}

/// Where a block's values of the first token lie, and how far those of the next are.
struct Places {
    /// Of `u` and `delta`.
    wide: usize,
    wide_row: usize,
    b: usize,
    c: usize,
    states_row: usize,
}

impl<'a> Walk<'a> {
    fn new(scan: &'a Scan<'a>, block: Block, direction: usize) -> Self {
        let directions = scan.directions();
        let stream = block.group * directions + direction;
        let (output_block, output_blocks, adds, finishes) = match scan.combine {
            Combine::Sum => (block.group, scan.groups, direction > 0, direction + 1 == directions),
            Combine::None => (stream, scan.reverse.len(), false, true),
        };
        Self { scan, block, stream, output_block, output_blocks, adds, finishes }
    }

    /// Walks the tokens with `W` vectors of channels and `d_state` of at most `N` states. The block
    /// fills the vectors, or is a part of a single one.
    ///
    /// Nothing here goes through a closure: one that the compiler leaves out of line loses the
    /// caller's target features, and each operation becomes a call.
    #[inline(always)]
    fn run<V: Vector, const W: usize, const N: usize>(
        &self,
        zero: V,
        d_state: usize,
        out: &Output<'_>,
    ) {
        let Self { scan, block, .. } = *self;
        let channel = self.stream * scan.d_inner + block.first;
        let places = self.places();
        let (mut d_skip, mut delta_bias) = ([zero; W], [zero; W]);
        if let Some(values) = scan.d_skip {
            d_skip = load(zero, &values[channel..][..block.width]);
        }
        if let Some(values) = scan.delta_bias {
            delta_bias = load(zero, &values[channel..][..block.width]);
        }
        let scale = zero.splat(scan.scale);
        let a = &scan.a[channel * d_state..][..block.width * d_state];
        let mut states = in_lanes::<V, W, N>(zero, a, d_state).map(|a| State { a, h: [zero; W] });
        let log2_e = zero.splat(LOG2_E);
        for state in &mut states {
            for w in 0..W {
                state.a[w] = state.a[w] * log2_e;
            }
        }
        let steepest = steepest(zero, &states[..d_state]);

        // The step of a token is computed before the states take the token that comes first: a chain that
        // waits for itself, while they have work for all units.
        let mut next = [zero; W];
        for step in 0..=scan.seq_len {
            let dt = next;
            if step < scan.seq_len {
                next = self.step::<V, W>(zero, &places, step, &delta_bias);
            }
            let Some(step) = step.checked_sub(1) else { continue };
            let token = self.token(step);
            let row = block.batch * scan.seq_len + token;
            let wide = places.wide + token * places.wide_row;
            let u = load::<V, W>(zero, &scan.u[wide..][..block.width]);
            let narrow_row = token * places.states_row;
            let b = &scan.b[places.b + narrow_row..][..d_state];
            let c = &scan.c[places.c + narrow_row..][..d_state];
            let mut y = take::<V, W, N>(&mut states, &steepest, &d_skip, b, c, &dt, &u);

            let narrow = (row * self.output_blocks + self.output_block) * scan.d_inner;
            // SAFETY: `Scan::check` made `out` hold `output_blocks * d_inner` values for each of
            // `batch * seq_len` rows, and the block lies within `d_inner`. Blocks of different tasks
            // are disjoint, each task runs once, and within a task only one part is alive at a time.
            #[expect(unsafe_code, reason = "tasks write disjoint channels of one output")]
            let out = unsafe { out.part(narrow + block.first, block.width) };
            if self.adds {
                let other = load::<V, W>(zero, out);
                for w in 0..W {
                    y[w] = other[w] + y[w];
                }
            }
            if self.finishes {
                for w in 0..W {
                    y[w] = y[w] * scale;
                }
                if let Some(z) = scan.z {
                    let gate = (row * scan.groups + block.group) * scan.d_inner + block.first;
                    let gate = silu(load::<V, W>(zero, &z[gate..][..block.width]));
                    for w in 0..W {
                        y[w] = y[w] * gate[w];
                    }
                }
            }
            store(&y, out);
        }
    }

    /// The token that is reached after so many others.
    #[inline(always)]
    fn token(&self, step: usize) -> usize {
        match self.scan.reverse[self.stream] {
            false => step,
            true => self.scan.seq_len - 1 - step,
        }
    }

    /// `dt` of a token.
    #[inline(always)]
    fn step<V: Vector, const W: usize>(
        &self,
        zero: V,
        places: &Places,
        step: usize,
        bias: &[V; W],
    ) -> [V; W] {
        let Self { scan, block, .. } = *self;
        let wide = places.wide + self.token(step) * places.wide_row;
        let mut dt = load::<V, W>(zero, &scan.delta[wide..][..block.width]);
        for w in 0..W {
            dt[w] = dt[w] + bias[w];
        }
        if scan.delta_softplus { softplus(dt) } else { dt }
    }

    /// Where the operands of the first token lie.
    fn places(&self) -> Places {
        let Self { scan, block, stream, .. } = *self;
        let row = scan.layout.first_row([scan.batch, scan.seq_len], block.batch, stream);
        let streams = scan.layout.streams_of_row(scan.reverse.len());
        let place = scan.layout.place_in_row(stream);
        let wide_row = streams * scan.d_inner;
        let dense = Columns { width: streams * scan.d_state, b: 0, c: 0 };
        let Columns { width, b, c } = scan.columns.unwrap_or(dense);
        let states = row * width + place * scan.d_state;
        Places {
            wide: row * wide_row + place * scan.d_inner + block.first,
            wide_row,
            b: states + b,
            c: states + c,
            states_row: width,
        }
    }
}
