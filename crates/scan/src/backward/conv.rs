//! The gradients of a short convolution over a block of channels.
//!
//! The sum before the activation is computed again. Each token's gradient is handed to the rows that
//! its taps met.

use super::CHANNELS;
use crate::blocks::Block;
use crate::math::silu_slope;
use crate::output::Output;
use crate::short_conv::{Activation, MAX_TAPS, ShortConv};
use crate::tier::Kernel;
use crate::vector::{MAX_LANES, Vector, in_lanes, load, store};

/// A convolution, the gradient of its output, and where gradients go.
pub(super) struct Backward<'a> {
    pub(super) conv: &'a ShortConv<'a>,
    pub(super) grad_out: &'a [f32],
    /// `[B, S * D, K]`
    pub(super) weight: Output<'a>,
    /// `[B, S * D]`
    pub(super) bias: Output<'a>,
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run<V: Vector, const W: usize>(&self, zero: V, block: Block, out: &Output<'_>) {
        for direction in 0..self.conv.directions() {
            for skipped in (0..block.width).step_by(V::LANES) {
                let first = block.first + skipped;
                let width = V::LANES.min(block.width - skipped);
                self.walk(zero, Block { first, width, ..block }, direction, out);
            }
        }
    }

    fn channels(&self, _: usize) -> usize {
        CHANNELS
    }
}

impl Backward<'_> {
    /// One vector of channels of one stream.
    #[inline(always)]
    fn walk<V: Vector>(&self, zero: V, block: Block, direction: usize, out: &Output<'_>) {
        let conv = self.conv;
        let ShortConv { seq_len, d_inner, taps, .. } = *conv;
        let stream = block.group * conv.directions() + direction;
        let reverse = conv.reverse[stream];
        let channel = stream * d_inner + block.first;
        let weight = &conv.weight[channel * taps..][..block.width * taps];
        let weight = in_lanes::<V, 1, MAX_TAPS>(zero, weight, taps).map(|[tap]| tap);
        let mut bias = zero;
        if let Some(values) = conv.bias {
            [bias] = load(zero, &values[channel..][..block.width]);
        }
        let (mut grad_weight, mut grad_bias) = ([zero; MAX_TAPS], zero);
        // Where a walk's step lies in `x`.
        let narrow = |step: usize| {
            let token = if reverse { seq_len - 1 - step } else { step };
            let row = block.batch * seq_len + token;
            (row * conv.groups + block.group) * d_inner + block.first
        };
        for step in 0..seq_len {
            let first_tap = (taps - 1).saturating_sub(step);
            let mut x = [zero; MAX_TAPS];
            let mut sum = bias;
            for k in first_tap..taps {
                let at = narrow(step + k + 1 - taps);
                [x[k]] = load::<V, 1>(zero, &conv.x[at..][..block.width]);
                sum = weight[k].mul_add(x[k], sum);
            }
            let token = if reverse { seq_len - 1 - step } else { step };
            let row = block.batch * seq_len + token;
            let at = (row * conv.reverse.len() + stream) * d_inner + block.first;
            let [mut g] = load::<V, 1>(zero, &self.grad_out[at..][..block.width]);
            if conv.activation == Activation::Silu {
                g = g * silu_slope(sum);
            }
            grad_bias = grad_bias + g;
            for k in first_tap..taps {
                grad_weight[k] = g.mul_add(x[k], grad_weight[k]);
                // SAFETY: `ShortConv::check` made `x`, and so its gradient, hold `groups * d_inner`
                // values for each row; the channels lie within the block, blocks of different tasks
                // are disjoint, each task runs once, and only one part is alive at a time.
                #[expect(unsafe_code, reason = "tasks write disjoint channels of one output")]
                let to = unsafe { out.part(narrow(step + k + 1 - taps), block.width) };
                let [before] = load::<V, 1>(zero, to);
                store(&[weight[k].mul_add(g, before)], to);
            }
        }
        let channel = block.batch * conv.reverse.len() * d_inner + channel;
        // SAFETY: for each batch and stream there is a place for every channel, with `taps` values in
        // `weight`; batch, stream and channels are the task's.
        #[expect(unsafe_code, reason = "tasks write disjoint channels of one output")]
        let (to_weight, to_bias) = unsafe {
            (
                self.weight.part(channel * taps, block.width * taps),
                self.bias.part(channel, block.width),
            )
        };
        store(&[grad_bias], to_bias);
        for k in 0..taps {
            let mut lanes = [0.0; MAX_LANES];
            grad_weight[k].store(&mut lanes);
            for lane in 0..block.width {
                to_weight[lane * taps + k] = lanes[lane];
            }
        }
    }
}
