//! An update to the residual and its layer norm as one launch.

use super::{Element, Launch, Limits, PlanError, int};

/// Sizes and settings of a call of `ssamba::AddLayerNorm`.
#[derive(Clone, Copy, Debug)]
pub struct NormCall {
    /// Of `x`, `update` and the outputs.
    pub element: Element,
    /// B
    pub batch: usize,
    /// L, tokens.
    pub seq_len: usize,
    /// D, values of a token.
    pub d_model: usize,
    /// Whether every clip has an update of its own.
    pub update_per_clip: bool,
    /// Whether every token has an update of its own.
    pub update_per_token: bool,
    /// What is added to the variance.
    pub epsilon: f32,
}

/// Device addresses of values of the shapes that the operator names, dense and aligned to 16 bytes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct NormAddresses {
    /// Operand.
    pub x: u64,
    /// Operand.
    pub update: u64,
    /// Operand, `f32`.
    pub weight: u64,
    /// Operand, `f32`.
    pub bias: u64,
    /// An output, which no operand overlaps.
    pub y: u64,
    /// An output, which no operand overlaps.
    pub sum: u64,
}

/// What the kernels take, by value: the struct of this name in [`INFERENCE`](super::INFERENCE).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct NormArguments {
    addresses: NormAddresses,
    rows: i32,
    seq_len: i32,
    d_model: i32,
    clip_hop: i32,
    token_hop: i32,
    epsilon: f32,
}

/// The launch of a call.
#[derive(Clone, Debug)]
pub struct NormPlan {
    arguments: NormArguments,
    launch: Option<Launch>,
}

/// Constants of the kernels: threads of a block, rows that they walk at a time; in the order of
/// [`KERNELS`](super::KERNELS) the most values of a row, an even number, and the blocks that run on a
/// multiprocessor at once.
const THREADS: usize = 128;
const ROWS: usize = 4;
const WIDTHS: [usize; 2] = [192, 768];
const RESIDENT: [usize; 3] = [12, 4, 12];
/// Place of the first kernel in [`KERNELS`](super::KERNELS).
const FIRST: usize = 12;

impl NormPlan {
    /// Plans a call.
    ///
    /// # Errors
    /// Names the size that is beyond what a launch can count.
    pub fn new(call: &NormCall, limits: &Limits) -> Result<Self, PlanError> {
        let &NormCall { element, batch, seq_len, d_model, epsilon, .. } = call;
        let rows = batch * seq_len;
        let rows_of_clip = if call.update_per_token { seq_len } else { 1 };
        let arguments = NormArguments {
            addresses: NormAddresses::default(),
            rows: int("rows", rows)?,
            seq_len: int("seq_len", seq_len)?,
            d_model: int("d_model", d_model)?,
            clip_hop: if call.update_per_clip { int("seq_len", rows_of_clip)? } else { 0 },
            token_hop: call.update_per_token.into(),
            epsilon,
        };
        if rows * d_model == 0 {
            return Ok(Self { arguments, launch: None });
        }
        let kept = WIDTHS.iter().position(|&width| d_model.is_multiple_of(2) && d_model <= width);
        let kind = kept.unwrap_or(WIDTHS.len());
        let half = usize::from(element == Element::F16);
        let blocks = rows.div_ceil(ROWS).min(RESIDENT[kind] * limits.multiprocessors.max(1));
        let launch = Launch {
            kernel: FIRST + half * (WIDTHS.len() + 1) + kind,
            blocks: int("blocks", blocks)?.unsigned_abs(),
            threads: THREADS as u32,
            shared_bytes: 0,
        };
        Ok(Self { arguments, launch: Some(launch) })
    }

    /// What to launch; nothing when the outputs are empty.
    pub fn launch(&self) -> Option<Launch> {
        self.launch
    }

    /// What to launch it with.
    pub fn arguments(&self, addresses: NormAddresses) -> NormArguments {
        NormArguments { addresses, ..self.arguments }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::KERNELS, *};

    const LIMITS: Limits = Limits { multiprocessors: 132, shared_bytes: 227 * 1024 };
    const CALL: NormCall = NormCall {
        element: Element::F16,
        batch: 4,
        seq_len: 22_017,
        d_model: 192,
        update_per_clip: true,
        update_per_token: true,
        epsilon: 1e-5,
    };

    fn plan(call: NormCall) -> (&'static str, u32, NormArguments) {
        let plan = NormPlan::new(&call, &LIMITS).unwrap();
        let launch = plan.launch().unwrap();
        (KERNELS[launch.kernel], launch.blocks, plan.arguments(NormAddresses::default()))
    }

    #[test]
    fn a_warp_is_a_row_and_no_more_blocks_than_run_at_once() {
        let (kernel, blocks, arguments) = plan(CALL);
        assert_eq!((kernel, blocks, arguments.rows), ("norm_f16_192", 132 * 12, 88_068));
        let short = plan(NormCall { batch: 1, seq_len: 145, d_model: 384, ..CALL });
        assert_eq!((short.0, short.1), ("norm_f16_768", 37));
        for d_model in [193, 770] {
            let odd = NormCall { d_model, element: Element::F32, ..CALL };
            assert_eq!(plan(odd).0, "norm_f32_any");
        }
    }

    #[test]
    fn an_update_of_fewer_axes_is_read_again() {
        let hops = |update_per_clip, update_per_token| {
            let call = NormCall { update_per_clip, update_per_token, ..CALL };
            let arguments = plan(call).2;
            (arguments.clip_hop, arguments.token_hop)
        };
        assert_eq!(hops(true, true), (22_017, 1));
        assert_eq!(hops(false, true), (0, 1));
        assert_eq!(hops(true, false), (1, 0));
        assert_eq!(hops(false, false), (0, 0));
    }

    #[test]
    fn an_empty_output_needs_no_launch_and_a_size_that_cannot_be_is_named() {
        let empty = NormCall { batch: 0, ..CALL };
        assert_eq!(NormPlan::new(&empty, &LIMITS).unwrap().launch(), None);
        let long = NormCall { batch: 1 << 20, ..CALL };
        let message = NormPlan::new(&long, &LIMITS).unwrap_err().to_string();
        assert!(message.starts_with("`rows` is 23086497792 in a call"), "{message}");
    }
}
