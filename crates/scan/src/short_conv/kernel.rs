//! The convolutions of a block of channels: one body, generic over [`Vector`].
//!
//! Lanes are channels. The taps of a block are turned to lanes once for the whole walk; the rows that
//! they meet are loaded again for every token, from the first-level cache.

use std::ops::Range;

use super::{Activation, MAX_TAPS, ShortConv};
use crate::blocks::Block;
use crate::math::silu;
use crate::output::Output;
use crate::tier::Kernel;
use crate::vector::{Vector, in_lanes, load, store};

/// The taps of all published SSAMBA checkpoints, which have a body of their own.
const USUAL_TAPS: usize = 4;

impl Kernel for ShortConv<'_> {
    #[inline(always)]
    fn run<V: Vector, const W: usize>(&self, zero: V, block: Block, out: &Output<'_>) {
        mixer::<V, W>(zero, self, block, out);
    }
}

/// Walks all directions of a mixer: a full block at once, what remains of the channels one vector at
/// a time.
#[inline(always)] // so that the caller's target features apply to the body
fn mixer<V: Vector, const W: usize>(zero: V, conv: &ShortConv<'_>, block: Block, out: &Output<'_>) {
    for direction in 0..conv.directions() {
        let stream = block.group * conv.directions() + direction;
        if block.width < W * V::LANES {
            for skipped in (0..block.width).step_by(V::LANES) {
                let first = block.first + skipped;
                let width = V::LANES.min(block.width - skipped);
                let walk = Walk { conv, block: Block { first, width, ..block }, stream };
                walk.run::<V, 1, MAX_TAPS>(zero, conv.taps, out);
            }
            continue;
        }
        let walk = Walk { conv, block, stream };
        if conv.taps == USUAL_TAPS {
            walk.run::<V, W, USUAL_TAPS>(zero, USUAL_TAPS, out);
        } else {
            walk.run::<V, W, MAX_TAPS>(zero, conv.taps, out);
        }
    }
}

/// One block of channels in one stream.
struct Walk<'a> {
    conv: &'a ShortConv<'a>,
    block: Block,
    stream: usize,
}

impl Walk<'_> {
    /// Walks the tokens with `W` vectors of channels and `taps` of at most `K` taps. The block fills
    /// the vectors, or is a part of a single one.
    ///
    /// As in a scan, nothing here goes through a closure.
    #[inline(always)]
    fn run<V: Vector, const W: usize, const K: usize>(
        &self,
        zero: V,
        taps: usize,
        out: &Output<'_>,
    ) {
        let Self { conv, block, stream } = *self;
        let channel = stream * conv.d_inner + block.first;
        let weight = &conv.weight[channel * taps..][..block.width * taps];
        let weight = in_lanes::<V, W, K>(zero, weight, taps);
        let mut bias = [zero; W];
        if let Some(values) = conv.bias {
            bias = load(zero, &values[channel..][..block.width]);
        }
        let narrow = conv.groups * conv.d_inner;
        let wide = conv.layout.streams_of_row(conv.reverse.len()) * conv.d_inner;
        let result = conv.layout.first_row([conv.batch, conv.seq_len], block.batch, stream) * wide
            + conv.layout.place_in_row(stream) * conv.d_inner
            + block.first;
        let first_row = block.batch * conv.seq_len;
        let rows = Rows {
            x: &conv.x[first_row * narrow + block.group * conv.d_inner + block.first..],
            width: narrow,
            block: block.width,
        };
        let reverse = conv.reverse[stream];

        for token in 0..conv.seq_len {
            // Tokens that lie behind this one on its walk.
            let behind = if reverse { conv.seq_len - 1 - token } else { token };
            // Past the edge the first tap is a constant, so that the loop unrolls.
            let mut sum = if behind >= taps - 1 {
                convolve::<V, W, K>(&weight, 0..taps, bias, &rows, token, reverse)
            } else {
                let missing = taps - 1 - behind;
                convolve::<V, W, K>(&weight, missing..taps, bias, &rows, token, reverse)
            };
            if conv.activation == Activation::Silu {
                sum = silu(sum);
            }
            // SAFETY: `ShortConv::check` made `out` hold `streams * d_inner` values for each of
            // `batch * seq_len` tokens, in either layout, and the block lies within `d_inner`. Blocks of
            // different tasks are disjoint, each task runs once, and within a task only one part is alive
            // at a time.
            #[expect(unsafe_code, reason = "tasks write disjoint channels of one output")]
            let out = unsafe { out.part(result + token * wide, block.width) };
            store(&sum, out);
        }
    }
}

/// The rows of one batch, from the block's first channel on.
struct Rows<'a> {
    x: &'a [f32],
    /// Values from a row to the next.
    width: usize,
    /// Channels of the block.
    block: usize,
}

/// `sum`, and what the given taps make of the tokens that they meet from `token`.
#[inline(always)]
fn convolve<V: Vector, const W: usize, const K: usize>(
    weight: &[[V; W]; K],
    taps: Range<usize>,
    mut sum: [V; W],
    rows: &Rows<'_>,
    token: usize,
    reverse: bool,
) -> [V; W] {
    let last = taps.end - 1;
    for k in taps {
        let met = if reverse { token + (last - k) } else { token - (last - k) };
        let x = load::<V, W>(sum[0], &rows.x[met * rows.width..][..rows.block]);
        for w in 0..W {
            sum[w] = weight[k][w].mul_add(x[w], sum[w]);
        }
    }
    sum
}
