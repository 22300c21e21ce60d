//! The gradients of a scan and of short convolutions, one launch each. Both leave sums over the clips of
//! a batch, and over parts of channels or tokens, to [`SumPlan`](super::SumPlan).

use super::{
    ConvCall, Element, Launch, Limits, PlanError, ReverseBits, ScanCall, int, reverse_bits,
    training::kernel,
};
use crate::{Combine, Layout, MAX_D_STATE, MAX_TAPS};

/// Constants of the kernels: threads of a block, tokens of a segment, threads of a warp.
const SCAN_THREADS: usize = 128;
const SEGMENT: usize = 8;
const WARP: usize = 32;
/// The `d_state` and the taps with kernels of their own.
const USUAL_D_STATE: usize = 16;
const USUAL_TAPS: usize = 4;
const CONV_THREADS: usize = 128;
/// Tokens of a thread of the convolution.
const RUN: usize = 64;

/// Device addresses of `f32` values, dense, of a scan whose optional operands are all there, of the
/// gradient of its output, and of its results; the shapes are those of [`Scan`](crate::Scan) unless
/// said.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ScanBackwardAddresses {
    /// Operand.
    pub u: u64,
    /// Operand.
    pub delta: u64,
    /// Operand.
    pub a: u64,
    /// Operand.
    pub b: u64,
    /// Operand.
    pub c: u64,
    /// Operand.
    pub d_skip: u64,
    /// Operand.
    pub z: u64,
    /// Operand.
    pub delta_bias: u64,
    /// Gradient of the output.
    pub grad_y: u64,
    /// Room for [`ScanBackwardPlan::states`] values.
    pub states: u64,
    /// Gradient.
    pub grad_u: u64,
    /// Gradient.
    pub grad_delta: u64,
    /// Each direction's part of a gradient, as `u`.
    pub grad_z: u64,
    /// `[parts, B, L, S * N]`
    pub grad_b: u64,
    /// `[parts, B, L, S * N]`
    pub grad_c: u64,
    /// `[B, S * D, N]`
    pub grad_a: u64,
    /// `[B, S * D]`
    pub grad_d_skip: u64,
    /// `[B, S * D]`
    pub grad_delta_bias: u64,
}

/// What the kernels take, by value: the struct of this name in [`TRAINING`](super::TRAINING).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ScanBackwardArguments {
    addresses: ScanBackwardAddresses,
    batch: i32,
    seq_len: i32,
    d_inner: i32,
    d_state: i32,
    groups: i32,
    directions: i32,
    parts: i32,
    scale: f32,
    reverse: ReverseBits,
}

/// The launch of the backward pass of a call.
#[derive(Clone, Debug)]
pub struct ScanBackwardPlan {
    arguments: ScanBackwardArguments,
    launch: Launch,
    parts: usize,
    states: usize,
}

impl ScanBackwardPlan {
    /// Plans a call that is not empty, in `f32`, with softplus, the sum of directions and streams side by
    /// side.
    ///
    /// # Errors
    /// Names the size that is beyond what a launch can count, or the device has.
    pub fn new(call: &ScanCall<'_>, limits: &Limits) -> Result<Self, PlanError> {
        let &ScanCall { batch, seq_len, d_inner, d_state, groups, reverse, .. } = call;
        debug_assert!(
            call.element == Element::F32
                && call.delta_softplus
                && call.combine == Combine::Sum
                && call.layout == Layout::Channels
        );
        if !(1..=MAX_D_STATE).contains(&d_state) {
            return Err(PlanError { size: "d_state", got: d_state, most: MAX_D_STATE });
        }
        let parts = d_inner.div_ceil(SCAN_THREADS);
        let arguments = ScanBackwardArguments {
            addresses: ScanBackwardAddresses::default(),
            batch: int("batch", batch)?,
            seq_len: int("seq_len", seq_len)?,
            d_inner: int("d_inner", d_inner)?,
            d_state: int("d_state", d_state)?,
            groups: int("groups", groups)?,
            directions: int("directions", reverse.len() / groups.max(1))?,
            parts: int("parts", parts)?,
            scale: call.scale,
            reverse: reverse_bits(reverse)?,
        };
        let usual = d_state <= USUAL_D_STATE;
        let width = if usual { USUAL_D_STATE } else { MAX_D_STATE };
        let values = SEGMENT * width * (SCAN_THREADS + 2 + 2 * SCAN_THREADS / WARP);
        let shared_bytes = values * size_of::<f32>();
        if shared_bytes > limits.shared_bytes {
            let (size, most) = ("shared memory", limits.shared_bytes);
            return Err(PlanError { size, got: shared_bytes, most });
        }
        let blocks = parts * reverse.len() * batch;
        let launch = Launch {
            kernel: if usual { kernel::SCAN_BACKWARD_16 } else { kernel::SCAN_BACKWARD_32 },
            blocks: int("blocks", blocks)?.unsigned_abs(),
            threads: SCAN_THREADS as u32,
            shared_bytes: shared_bytes as u32,
        };
        let states = blocks * seq_len.div_ceil(SEGMENT) * width * SCAN_THREADS;
        Ok(Self { arguments, launch, parts, states })
    }

    /// Parts of the channels, each of which has sums of its own for `b` and `c`.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// Values that the kernel needs room for.
    pub fn states(&self) -> usize {
        self.states
    }

    /// What to launch.
    pub fn launch(&self) -> Launch {
        self.launch
    }

    /// What to launch it with.
    pub fn arguments(&self, addresses: ScanBackwardAddresses) -> ScanBackwardArguments {
        ScanBackwardArguments { addresses, ..self.arguments }
    }
}

/// Device addresses of `f32` values, dense, of convolutions with a bias and SiLU, of the gradient of
/// their output, and of the results; the shapes are those of [`ShortConv`](crate::ShortConv) unless
/// said.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ConvBackwardAddresses {
    /// Operand.
    pub x: u64,
    /// Operand.
    pub weight: u64,
    /// Operand.
    pub bias: u64,
    /// Gradient of the output.
    pub grad_u: u64,
    /// Each direction's part of the gradient of a scan's gate, as the output.
    pub parts_of_z: u64,
    /// Gradient.
    pub grad_x: u64,
    /// The parts of the gate, added up, as `x`.
    pub grad_z: u64,
    /// `[parts, S * D, K]`
    pub grad_weight: u64,
    /// `[parts, S * D]`
    pub grad_bias: u64,
}

/// What the kernels take, by value: the struct of this name in [`TRAINING`](super::TRAINING).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ConvBackwardArguments {
    addresses: ConvBackwardAddresses,
    batch: i32,
    seq_len: i32,
    d_inner: i32,
    taps: i32,
    groups: i32,
    directions: i32,
    run: i32,
    runs: i32,
    reverse: ReverseBits,
}

/// The launch of the backward pass of a call.
#[derive(Clone, Debug)]
pub struct ConvBackwardPlan {
    arguments: ConvBackwardArguments,
    launch: Launch,
    parts: usize,
}

impl ConvBackwardPlan {
    /// Plans a call that is not empty, in `f32`, with SiLU and streams side by side.
    ///
    /// # Errors
    /// Names the size that is beyond what a launch can count.
    pub fn new(call: &ConvCall<'_>) -> Result<Self, PlanError> {
        let &ConvCall { batch, seq_len, d_inner, taps, groups, reverse, .. } = call;
        debug_assert!(call.layout == Layout::Channels);
        if !(1..=MAX_TAPS).contains(&taps) {
            return Err(PlanError { size: "taps", got: taps, most: MAX_TAPS });
        }
        let runs = seq_len.div_ceil(RUN);
        let arguments = ConvBackwardArguments {
            addresses: ConvBackwardAddresses::default(),
            batch: int("batch", batch)?,
            seq_len: int("seq_len", seq_len)?,
            d_inner: int("d_inner", d_inner)?,
            taps: int("taps", taps)?,
            groups: int("groups", groups)?,
            directions: int("directions", reverse.len() / groups.max(1))?,
            run: int("run", RUN)?,
            runs: int("runs", runs)?,
            reverse: reverse_bits(reverse)?,
        };
        let usual = taps <= USUAL_TAPS;
        let blocks = (batch * runs * groups * d_inner).div_ceil(CONV_THREADS);
        let launch = Launch {
            kernel: if usual { kernel::CONV_BACKWARD_4 } else { kernel::CONV_BACKWARD_16 },
            blocks: int("blocks", blocks)?.unsigned_abs(),
            threads: CONV_THREADS as u32,
            shared_bytes: 0,
        };
        Ok(Self { arguments, launch, parts: batch * runs })
    }

    /// Parts of the tokens, each of which has sums of its own for weights and biases.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// What to launch.
    pub fn launch(&self) -> Launch {
        self.launch
    }

    /// What to launch it with.
    pub fn arguments(&self, addresses: ConvBackwardAddresses) -> ConvBackwardArguments {
        ConvBackwardArguments { addresses, ..self.arguments }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::TRAINING, *};
    use crate::Activation;

    const LIMITS: Limits = Limits { multiprocessors: 132, shared_bytes: 227 * 1024 };
    const PAIR: [bool; 4] = [false, true, true, false];

    fn scan() -> ScanCall<'static> {
        ScanCall {
            element: Element::F32,
            batch: 3,
            seq_len: 49,
            d_inner: 384,
            d_state: 16,
            layout: Layout::Channels,
            states_width: 64,
            columns: [0, 0],
            groups: 2,
            reverse: &PAIR,
            delta_softplus: true,
            combine: Combine::Sum,
            scale: 0.5,
        }
    }

    #[test]
    fn a_block_is_a_part_of_the_channels_of_a_stream_and_clip() {
        let plan = ScanBackwardPlan::new(&scan(), &LIMITS).unwrap();
        assert_eq!((plan.parts(), plan.launch().blocks), (3, 36));
        assert_eq!(TRAINING.kernels[plan.launch().kernel], "scan_backward_16");
        assert_eq!(plan.launch().shared_bytes, 4 * (8 * 16 * 128 + 8 * 2 * 16 + 8 * 2 * 4 * 16));
        assert_eq!(plan.states(), 36 * 7 * 16 * 128);
        let wide = ScanCall { d_state: 17, ..scan() };
        let plan = ScanBackwardPlan::new(&wide, &LIMITS).unwrap();
        assert_eq!(TRAINING.kernels[plan.launch().kernel], "scan_backward_32");
        let small = Limits { shared_bytes: 99 * 1024, ..LIMITS };
        let message = ScanBackwardPlan::new(&wide, &small).unwrap_err().to_string();
        assert!(message.starts_with("`shared memory` is 141312"), "{message}");
    }

    #[test]
    fn a_thread_is_a_channel_in_a_run_of_tokens() {
        let call = ConvCall {
            element: Element::F32,
            batch: 3,
            seq_len: 65,
            d_inner: 100,
            taps: 4,
            groups: 2,
            reverse: &PAIR,
            activation: Activation::Silu,
            layout: Layout::Channels,
        };
        let plan = ConvBackwardPlan::new(&call).unwrap();
        assert_eq!((plan.parts(), plan.launch().blocks), (6, 1200_u32.div_ceil(128)));
        assert_eq!(TRAINING.kernels[plan.launch().kernel], "conv_backward_4");
        let long = ConvCall { taps: 5, ..call };
        let plan = ConvBackwardPlan::new(&long).unwrap();
        assert_eq!(TRAINING.kernels[plan.launch().kernel], "conv_backward_16");
    }
}
