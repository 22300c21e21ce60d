//! A selective scan as one launch.

use super::{Element, Launch, Limits, PlanError, ReverseBits, int, reverse_bits};
use crate::{Combine, Layout, MAX_D_STATE};

/// Sizes and settings of a call, as in [`Scan`](crate::Scan).
#[derive(Clone, Copy, Debug)]
pub struct ScanCall<'a> {
    /// Of `u`, `delta`, `b`, `c`, `z` and the output.
    pub element: Element,
    /// B
    pub batch: usize,
    /// L, tokens.
    pub seq_len: usize,
    /// D, channels of one stream.
    pub d_inner: usize,
    /// N, 1 to [`MAX_D_STATE`].
    pub d_state: usize,
    /// How `u`, `delta`, `b` and `c` lie.
    pub layout: Layout,
    /// Values of a row of `b` and of `c`, of which those of the row's streams are read from `columns` on.
    pub states_width: usize,
    /// Where the values of its first stream begin in a row of `b`, and of `c`.
    pub columns: [usize; 2],
    /// G, mixers.
    pub groups: usize,
    /// One or two streams per mixer: whether the stream walks from the last token to the first.
    pub reverse: &'a [bool],
    /// Whether `delta` still lacks its softplus.
    pub delta_softplus: bool,
    /// What becomes of the streams of a mixer.
    pub combine: Combine,
    /// Factor on the combined result.
    pub scale: f32,
}

/// Device addresses of values of the shapes that [`Scan`](crate::Scan) names, but for the width of the
/// rows of `b` and `c`, dense and aligned to 16 bytes; an optional operand that is absent is 0.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ScanAddresses {
    /// Operand.
    pub u: u64,
    /// Operand.
    pub delta: u64,
    /// Operand, `f32`.
    pub a: u64,
    /// Operand.
    pub b: u64,
    /// Operand.
    pub c: u64,
    /// Optional operand, `f32`.
    pub d_skip: u64,
    /// Optional operand.
    pub z: u64,
    /// Optional operand, `f32`.
    pub delta_bias: u64,
    /// The output, which no operand overlaps; it may be `u` itself where both have the same shape.
    pub y: u64,
}

/// What the kernels take, by value: the struct of this name in [`INFERENCE`](super::INFERENCE).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ScanArguments {
    addresses: ScanAddresses,
    batch: i32,
    seq_len: i32,
    d_inner: i32,
    d_state: i32,
    states_width: i32,
    groups: i32,
    directions: i32,
    by_stream: i32,
    delta_softplus: i32,
    sum: i32,
    scale: f32,
    reverse: ReverseBits,
}

/// The launch of a call.
#[derive(Clone, Debug)]
pub struct ScanPlan {
    arguments: ScanArguments,
    /// Bytes in front of a row's first stream in a row of `b`, and of `c`.
    skipped: [u64; 2],
    launch: Option<Launch>,
}

/// Constants of the kernels: scanning and moving threads of a channel, tokens of a tile, channels of the
/// blocks in the order of [`KERNELS`](super::KERNELS), the `d_state` with kernels of its own.
const LANES: usize = 4;
const MOVERS: usize = 8;
const TILE: usize = 32;
const CHANNELS: [usize; 3] = [8, 16, 24];
const USUAL_D_STATE: usize = 16;

impl ScanPlan {
    /// Plans a call whose `groups` and `reverse` fit each other.
    ///
    /// # Errors
    /// Names the size that is beyond what a launch can count, or the device has.
    pub fn new(call: &ScanCall<'_>, limits: &Limits) -> Result<Self, PlanError> {
        let &ScanCall { batch, seq_len, d_inner, d_state, groups, reverse, .. } = call;
        let &ScanCall { states_width, columns, .. } = call;
        let directions = reverse.len() / groups.max(1);
        if !(1..=MAX_D_STATE).contains(&d_state) {
            return Err(PlanError { size: "d_state", got: d_state, most: MAX_D_STATE });
        }
        let arguments = ScanArguments {
            addresses: ScanAddresses::default(),
            batch: int("batch", batch)?,
            seq_len: int("seq_len", seq_len)?,
            d_inner: int("d_inner", d_inner)?,
            d_state: int("d_state", d_state)?,
            states_width: int("states_width", states_width)?,
            groups: int("groups", groups)?,
            directions: int("directions", directions)?,
            by_stream: (call.layout == Layout::Streams).into(),
            delta_softplus: call.delta_softplus.into(),
            sum: (call.combine == Combine::Sum).into(),
            scale: call.scale,
            reverse: reverse_bits(reverse)?,
        };
        let skipped = columns.map(|column| (column * call.element.bytes()) as u64);
        if batch * seq_len * d_inner == 0 {
            return Ok(Self { arguments, skipped, launch: None });
        }
        // Places of values are counted in 32 bits.
        let states = reverse.len() / call.layout.streams_of_row(reverse.len()) * states_width;
        let width = (reverse.len() * d_inner).max(states);
        let (values, most) = (batch * seq_len * width, u32::MAX);
        if values > most as usize {
            return Err(PlanError { size: "number of values", got: values, most: most as usize });
        }
        // Pairs of channels move at once, and four states.
        let usual = d_state == USUAL_D_STATE
            && d_inner.is_multiple_of(2)
            && [states_width, columns[0], columns[1]].iter().all(|size| size.is_multiple_of(4));
        let blocks = |channels| batch * groups * d_inner.div_ceil(channels);
        // The busiest multiprocessor decides, which is the one with the most channels; of the blocks
        // that leave it the fewest, the largest.
        let busiest = |&(_, channels): &(usize, usize)| {
            blocks(channels).div_ceil(limits.multiprocessors.max(1)) * channels
        };
        let kinds = CHANNELS.into_iter().enumerate().rev();
        let kinds = kinds.filter(|&(kind, channels)| {
            (usual && shared_bytes(directions, channels, USUAL_D_STATE) <= limits.shared_bytes)
                || kind == 0
        });
        let (kind, channels) = kinds.min_by_key(busiest).unwrap_or((0, CHANNELS[0]));
        let states = if usual { USUAL_D_STATE } else { MAX_D_STATE };
        let shared_bytes = shared_bytes(directions, channels, states);
        if shared_bytes > limits.shared_bytes {
            let (size, most) = ("shared memory", limits.shared_bytes);
            return Err(PlanError { size, got: shared_bytes, most });
        }
        let half = call.element == Element::F16;
        let any = CHANNELS.len();
        let launch = Launch {
            kernel: usize::from(half) * (any + 1) + if usual { kind } else { any },
            blocks: int("blocks", blocks(channels))?.unsigned_abs(),
            threads: (directions * channels * (LANES + MOVERS)) as u32,
            shared_bytes: shared_bytes as u32,
        };
        Ok(Self { arguments, skipped, launch: Some(launch) })
    }

    /// What to launch; nothing when the output is empty.
    pub fn launch(&self) -> Option<Launch> {
        self.launch
    }

    /// What to launch it with.
    pub fn arguments(&self, addresses: ScanAddresses) -> ScanArguments {
        let [b, c] = self.skipped;
        let addresses = ScanAddresses { b: addresses.b + b, c: addresses.c + c, ..addresses };
        ScanArguments { addresses, ..self.arguments }
    }
}

/// Shared memory of a block: two tiles a direction of rows of `b` and `c`, steps of `dt` and `dt * u`,
/// and a partial sum of each lane.
fn shared_bytes(directions: usize, channels: usize, states: usize) -> usize {
    let values = TILE * (2 * states + 2 * channels + LANES * channels);
    2 * directions * values * size_of::<f32>()
}

#[cfg(test)]
mod tests {
    use super::{super::KERNELS, *};

    const LIMITS: Limits = Limits { multiprocessors: 132, shared_bytes: 227 * 1024 };

    fn call(reverse: &[bool]) -> ScanCall<'_> {
        ScanCall {
            element: Element::F32,
            batch: 4,
            seq_len: 100,
            d_inner: 384,
            d_state: 16,
            layout: Layout::Channels,
            states_width: 16 * reverse.len(),
            columns: [0, 0],
            groups: 2,
            reverse,
            delta_softplus: true,
            combine: Combine::Sum,
            scale: 0.5,
        }
    }

    fn launch(call: &ScanCall<'_>, limits: &Limits) -> (&'static str, u32, u32) {
        let launch = ScanPlan::new(call, limits).unwrap().launch().unwrap();
        (KERNELS[launch.kernel], launch.blocks, launch.threads)
    }

    #[test]
    fn blocks_are_as_large_as_keeps_every_multiprocessor_busy() {
        let pair = [false, true, false, true];
        assert_eq!(launch(&call(&pair), &LIMITS), ("scan_f32_24", 128, 576));
        let one = ScanCall { batch: 1, element: Element::F16, ..call(&pair) };
        assert_eq!(launch(&one, &LIMITS), ("scan_f16_8", 96, 192));
        let single = ScanCall { groups: 1, ..call(&pair[..2]) };
        assert_eq!(launch(&single, &LIMITS), ("scan_f32_16", 96, 384));
        let small = Limits { shared_bytes: 64 * 1024, ..LIMITS };
        assert_eq!(launch(&call(&pair), &small), ("scan_f32_8", 384, 192));
    }

    #[test]
    fn other_states_and_odd_channels_have_a_kernel() {
        let single = [true, false];
        let odd = ScanCall { d_state: 5, ..call(&single) };
        assert_eq!(launch(&odd, &LIMITS).0, "scan_f32_any");
        assert_eq!(launch(&odd, &LIMITS).2, 96);
        let odd = ScanCall { d_inner: 385, batch: 1, ..call(&single) };
        assert_eq!(launch(&odd, &LIMITS).0, "scan_f32_any");
        let wide = ScanCall { states_width: 88, columns: [24, 56], ..call(&single) };
        assert_eq!(launch(&wide, &LIMITS).0, "scan_f32_24");
        let arguments = ScanPlan::new(&ScanCall { element: Element::F16, ..wide }, &LIMITS);
        let addresses = ScanAddresses { b: 1 << 20, c: 1 << 20, ..Default::default() };
        let ScanAddresses { b, c, .. } = arguments.unwrap().arguments(addresses).addresses;
        assert_eq!([b, c], [(1 << 20) + 48, (1 << 20) + 112]);
        for odd in [ScanCall { states_width: 90, ..wide }, ScanCall { columns: [22, 56], ..wide }] {
            assert_eq!(launch(&odd, &LIMITS).0, "scan_f32_any");
        }
    }

    #[test]
    fn rows_of_one_stream_are_counted_for_every_stream() {
        let reverse = [true, false, false, true];
        let planar = ScanCall {
            layout: Layout::Streams,
            states_width: 44,
            columns: [12, 28],
            ..call(&reverse)
        };
        assert_eq!(launch(&planar, &LIMITS), launch(&call(&reverse), &LIMITS));
        // 2^20 tokens of four rows of 1,024 values are 2^32.
        let long = ScanCall { batch: 1, seq_len: 1 << 20, states_width: 1_024, ..planar };
        let message = ScanPlan::new(&long, &LIMITS).unwrap_err().to_string();
        assert!(message.contains("`number of values` is 4294967296"), "{message}");
        let side_by_side = ScanCall { layout: Layout::Channels, ..long };
        assert!(ScanPlan::new(&side_by_side, &LIMITS).is_ok());
    }

    #[test]
    fn an_empty_output_needs_no_launch() {
        let reverse = [true, false];
        for empty in [
            ScanCall { batch: 0, ..call(&reverse) },
            ScanCall { seq_len: 0, ..call(&reverse) },
            ScanCall { d_inner: 0, ..call(&reverse) },
        ] {
            assert_eq!(ScanPlan::new(&empty, &LIMITS).unwrap().launch(), None);
        }
    }

    #[test]
    fn a_size_that_cannot_be_is_named() {
        let reverse = [true, false];
        for (call, needle) in [
            (ScanCall { d_state: 33, ..call(&reverse) }, "`d_state` is 33"),
            (ScanCall { seq_len: 1 << 31, ..call(&reverse) }, "`seq_len` is 2147483648"),
            (ScanCall { batch: 1 << 20, ..call(&reverse) }, "`number of values` is"),
        ] {
            let message = ScanPlan::new(&call, &LIMITS).unwrap_err().to_string();
            assert!(message.contains(needle), "{message}");
        }
        let small = Limits { shared_bytes: 32 * 1024, ..LIMITS };
        let message =
            ScanPlan::new(&call(&[true, false, true, false]), &small).unwrap_err().to_string();
        assert!(message.starts_with("`shared memory` is 40960"), "{message}");
    }
}
