//! The short convolutions of a mixer as one launch.

use super::{Element, Launch, Limits, PlanError, ReverseBits, int, reverse_bits};
use crate::{Activation, Layout, MAX_TAPS};

/// Sizes and settings of a call, as in [`ShortConv`](crate::ShortConv).
#[derive(Clone, Copy, Debug)]
pub struct ConvCall<'a> {
    /// Of `x` and the output.
    pub element: Element,
    /// B
    pub batch: usize,
    /// L, tokens.
    pub seq_len: usize,
    /// D, channels of one stream.
    pub d_inner: usize,
    /// K, 1 to [`MAX_TAPS`].
    pub taps: usize,
    /// G, mixers.
    pub groups: usize,
    /// One or two streams per mixer: whether the stream walks from the last token to the first.
    pub reverse: &'a [bool],
    /// What the sum goes through.
    pub activation: Activation,
    /// How the output lies.
    pub layout: Layout,
}

/// Device addresses of values of the shapes that [`ShortConv`](crate::ShortConv) names, dense and
/// aligned to 16 bytes; an optional operand that is absent is 0.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ConvAddresses {
    /// Operand.
    pub x: u64,
    /// Operand, `f32`.
    pub weight: u64,
    /// Optional operand, `f32`.
    pub bias: u64,
    /// The output, which no operand overlaps.
    pub u: u64,
}

/// What the kernels take, by value: the struct of this name in [`INFERENCE`](super::INFERENCE).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ConvArguments {
    addresses: ConvAddresses,
    stream_step: u64,
    row: i32,
    batch: i32,
    seq_len: i32,
    d_inner: i32,
    taps: i32,
    groups: i32,
    directions: i32,
    silu: i32,
    run: i32,
    reverse: ReverseBits,
}

/// The launch of a call.
#[derive(Clone, Debug)]
pub struct ConvPlan {
    arguments: ConvArguments,
    launch: Option<Launch>,
}

/// Constants of the kernels: threads of a block, the taps with kernels of their own, and the channels of
/// a thread there.
const THREADS: usize = 128;
const USUAL_TAPS: usize = 4;
const WIDTH: usize = 4;
/// Tokens of a thread: many share what neighbouring ones read, few keep more threads busy.
const RUNS: [usize; 4] = [16, 8, 4, 2];
/// Blocks for each multiprocessor that keep it busy.
const BUSY: usize = 4;
/// Place of the first kernel in [`KERNELS`](super::KERNELS).
const FIRST: usize = 8;

impl ConvPlan {
    /// Plans a call whose `groups` and `reverse` fit each other.
    ///
    /// # Errors
    /// Names the size that is beyond what a launch can count.
    pub fn new(call: &ConvCall<'_>, limits: &Limits) -> Result<Self, PlanError> {
        let &ConvCall { batch, seq_len, d_inner, taps, groups, reverse, .. } = call;
        if !(1..=MAX_TAPS).contains(&taps) {
            return Err(PlanError { size: "taps", got: taps, most: MAX_TAPS });
        }
        let stream_step = match call.layout {
            Layout::Channels => d_inner,
            Layout::Streams => batch * seq_len * d_inner,
        };
        let mut arguments = ConvArguments {
            addresses: ConvAddresses::default(),
            stream_step: stream_step as u64,
            row: int("channels of a row", call.layout.streams_of_row(reverse.len()) * d_inner)?,
            batch: int("batch", batch)?,
            seq_len: int("seq_len", seq_len)?,
            d_inner: int("d_inner", d_inner)?,
            taps: int("taps", taps)?,
            groups: int("groups", groups)?,
            directions: int("directions", reverse.len() / groups.max(1))?,
            silu: (call.activation == Activation::Silu).into(),
            run: 0,
            reverse: reverse_bits(reverse)?,
        };
        if batch * seq_len * d_inner == 0 {
            return Ok(Self { arguments, launch: None });
        }
        let usual = taps == USUAL_TAPS && d_inner.is_multiple_of(WIDTH);
        let width = if usual { WIDTH } else { 1 };
        let blocks = |run: usize| {
            (batch * seq_len.div_ceil(run) * (groups * d_inner / width)).div_ceil(THREADS)
        };
        let busy = BUSY * limits.multiprocessors;
        let run = RUNS.into_iter().find(|&run| blocks(run) >= busy).unwrap_or(RUNS[3]);
        arguments.run = int("run", run)?;
        let half = call.element == Element::F16;
        let launch = Launch {
            kernel: FIRST + usize::from(half) * 2 + usize::from(!usual),
            blocks: int("blocks", blocks(run))?.unsigned_abs(),
            threads: THREADS as u32,
            shared_bytes: 0,
        };
        Ok(Self { arguments, launch: Some(launch) })
    }

    /// What to launch; nothing when the output is empty.
    pub fn launch(&self) -> Option<Launch> {
        self.launch
    }

    /// What to launch it with.
    pub fn arguments(&self, addresses: ConvAddresses) -> ConvArguments {
        ConvArguments { addresses, ..self.arguments }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::KERNELS, *};

    const LIMITS: Limits = Limits { multiprocessors: 132, shared_bytes: 227 * 1024 };
    const CALL: ConvCall<'_> = ConvCall {
        element: Element::F16,
        batch: 2,
        seq_len: 33,
        d_inner: 64,
        taps: 4,
        groups: 2,
        reverse: &[false, true, false, true],
        activation: Activation::Silu,
        layout: Layout::Channels,
    };

    #[test]
    fn a_thread_is_a_vector_of_channels_in_a_run_of_tokens() {
        let one = Limits { multiprocessors: 1, shared_bytes: 0 };
        let launch = ConvPlan::new(&CALL, &one).unwrap().launch().unwrap();
        assert_eq!(KERNELS[launch.kernel], "conv_f16_4");
        assert_eq!((launch.blocks, launch.threads), (5, 128));
        let long = ConvCall { seq_len: 1_000, ..CALL };
        let launch = ConvPlan::new(&long, &one).unwrap().launch().unwrap();
        assert_eq!(launch.blocks, (2 * 63 * 32_u32).div_ceil(128));
        let odd = ConvCall { d_inner: 65, element: Element::F32, ..CALL };
        let launch = ConvPlan::new(&odd, &one).unwrap().launch().unwrap();
        assert_eq!((KERNELS[launch.kernel], launch.blocks), ("conv_f32_any", 7));
        let taps = ConvCall { taps: 3, ..CALL };
        let launch = ConvPlan::new(&taps, &one).unwrap().launch().unwrap();
        assert_eq!(KERNELS[launch.kernel], "conv_f16_any");
    }

    #[test]
    fn streams_lie_where_the_layout_says() {
        let places = |layout| {
            let ConvArguments { stream_step, row, .. } =
                ConvPlan::new(&ConvCall { layout, ..CALL }, &LIMITS).unwrap().arguments;
            (stream_step, row)
        };
        assert_eq!(places(Layout::Channels), (64, 4 * 64));
        assert_eq!(places(Layout::Streams), (2 * 33 * 64, 64));
    }

    #[test]
    fn an_empty_output_needs_no_launch_and_a_size_that_cannot_be_is_named() {
        let empty = ConvCall { seq_len: 0, ..CALL };
        assert_eq!(ConvPlan::new(&empty, &LIMITS).unwrap().launch(), None);
        let message =
            ConvPlan::new(&ConvCall { taps: 17, ..CALL }, &LIMITS).unwrap_err().to_string();
        assert_eq!(message, "`taps` is 17 in a call on this GPU, which takes at most 16");
    }
}
