//! The operands of a scan, their checks, and the split into tasks.
//!
//! A mixer has one or two directions; a *stream* is one direction of one mixer, and stream
//! `g * directions + k` is direction `k` of mixer `g`. For every channel of every stream, with a
//! state `h` of `d_state` values that starts at zero:
//!
//! ```text
//! dt = softplus(delta + delta_bias)
//! h  = exp(dt * a) * h + dt * b * u
//! s  = sum over n of c * h + d_skip * u
//! y  = scale * (sum over the mixer's directions of s) * silu(z)
//! ```
//!
//! Source: `selective_scan_ref`, state-spaces/mamba@e9594ce,
//! `mamba_ssm/ops/selective_scan_interface.py:127`. Theirs is channel-major; here the token comes
//! before the channel, the order in which the projections produce it.
//!
//! A task is one block of channels of one mixer in one batch, with all directions of the mixer and
//! all tokens: a sum of two directions has one order, and time is never cut.

use std::fmt;

use crate::{
    blocks::{Blocks, Unfinished, one_or_two_per_group, product},
    layout::Layout,
    pool::Pool,
    tier::{NotRun, Tier, tier},
};

/// Largest `d_state` that a scan accepts.
pub const MAX_D_STATE: usize = 32;

/// What becomes of the streams of a mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// They are added: a row of the output holds `d_inner` values per mixer.
    Sum,
    /// They are kept side by side: `d_inner` values per stream, each gated by the mixer's `z`.
    None,
}

/// Where `b` and `c` are in rows that hold more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Values of a row of `b` and of `c`.
    pub width: usize,
    /// The first value of the row's first stream in a row of `b`.
    pub b: usize,
    /// The same in a row of `c`.
    pub c: usize,
}

/// One scan: sizes, settings, and operands, which are dense and row-major.
///
/// In the shapes, B is `batch`, L `seq_len`, D `d_inner`, N `d_state`, G `groups`, and S the number
/// of streams. `u`, `delta`, `b` and `c` are of the shapes given with [`Layout::Channels`]; with
/// [`Layout::Streams`] `[B, L, S * width]` is `[S, B * L, width]`.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// B
    pub batch: usize,
    /// L, tokens; with none the output is empty.
    pub seq_len: usize,
    /// D, channels of one stream.
    pub d_inner: usize,
    /// N, 1 to [`MAX_D_STATE`].
    pub d_state: usize,
    /// G, mixers.
    pub groups: usize,
    /// `[S]`, one or two streams per mixer: whether the stream walks from the last token to the first.
    /// Every result is stored at its own token.
    pub reverse: &'a [bool],
    /// Whether `delta` still lacks its softplus.
    pub delta_softplus: bool,
    /// What becomes of the streams of a mixer.
    pub combine: Combine,
    /// Factor on the combined result.
    pub scale: f32,
    /// How `u`, `delta`, `b` and `c` lie.
    pub layout: Layout,
    /// Where `b` and `c` are in their rows; `None` where these hold nothing else.
    pub columns: Option<Columns>,
    /// `[B, L, S * D]`, after the short convolution and SiLU.
    pub u: &'a [f32],
    /// `[B, L, S * D]`, before bias and softplus.
    pub delta: &'a [f32],
    /// `[S * D, N]`, `-exp(A_log)`.
    pub a: &'a [f32],
    /// `[B, L, S * N]`, or with `columns` as many rows of its width.
    pub b: &'a [f32],
    /// As `b`.
    pub c: &'a [f32],
    /// `[S * D]`
    pub d_skip: Option<&'a [f32]>,
    /// `[B, L, G * D]`, the gate before SiLU, shared by the directions of a mixer.
    pub z: Option<&'a [f32]>,
    /// `[S * D]`
    pub delta_bias: Option<&'a [f32]>,
}

/// A scan that was not run, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScanError {
    /// `reverse` does not hold one or two streams per group.
    Streams {
        /// Mixers.
        groups: usize,
        /// Flags in `reverse`.
        streams: usize,
    },
    /// `d_state` is zero or above [`MAX_D_STATE`].
    StateWidth {
        /// The `d_state` asked for.
        got: usize,
    },
    /// An operand's length does not follow from the sizes.
    Length {
        /// Its field in [`Scan`], or `out`.
        operand: &'static str,
        /// Values it should hold.
        expected: usize,
        /// Values it holds.
        got: usize,
    },
    /// A row of `b` and `c` ends before the columns that are read of it.
    Columns {
        /// Values that a row should hold at least.
        needed: usize,
        /// Values that it holds.
        width: usize,
    },
    /// Gradients are computed of rows of side-by-side streams that hold nothing else.
    Gradients,
    /// The CPU lacks the instructions of a tier asked for by name.
    Unavailable(Tier),
    /// The pool came back with tasks still to run: `out` is not complete.
    Unfinished {
        /// Tasks that ran.
        finished: usize,
        /// Tasks of the scan.
        tasks: usize,
    },
}

impl std::error::Error for ScanError {}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("selective scan: ")?;
        match self {
            Self::Streams { groups, streams } => write!(
                f,
                "`reverse` holds {streams} streams for {groups} groups, expected one or two per group"
            ),
            Self::StateWidth { got } => {
                write!(f, "`d_state` is {got}, expected 1 to {MAX_D_STATE}")
            }
            Self::Length { operand, expected, got } => {
                write!(f, "`{operand}` holds {got} values, expected {expected}")
            }
            Self::Columns { needed, width } => {
                write!(f, "a row of `b` and `c` holds {width} values, expected at least {needed}")
            }
            Self::Gradients => f.write_str(
                "gradients are computed of streams side by side, and of dense `b` and `c`, alone",
            ),
            Self::Unavailable(tier) => write!(f, "this CPU cannot run the tier `{tier}`"),
            Self::Unfinished { finished, tasks } => {
                write!(f, "the pool ran {finished} of {tasks} tasks")
            }
        }
    }
}

impl Scan<'_> {
    /// Values that the output holds: B * L * G * D for [`Combine::Sum`], else B * L * S * D.
    pub fn output_len(&self) -> usize {
        let blocks = match self.combine {
            Combine::Sum => self.groups,
            Combine::None => self.reverse.len(),
        };
        product(&[self.batch, self.seq_len, blocks, self.d_inner])
    }

    /// Streams of a mixer, once [`check`](Self::check) has passed.
    pub(crate) fn directions(&self) -> usize {
        self.reverse.len() / self.groups
    }

    pub(crate) fn check(&self, out: &[f32]) -> Result<(), ScanError> {
        let (groups, streams) = (self.groups, self.reverse.len());
        if !one_or_two_per_group(groups, streams) {
            return Err(ScanError::Streams { groups, streams });
        }
        if !(1..=MAX_D_STATE).contains(&self.d_state) {
            return Err(ScanError::StateWidth { got: self.d_state });
        }
        let wide = product(&[self.batch, self.seq_len, streams, self.d_inner]);
        // Of a row of `b` and `c`.
        let in_row = self.layout.streams_of_row(streams);
        let dense = product(&[in_row, self.d_state]);
        let width = self.columns.map_or(dense, |columns| columns.width);
        if let Some(Columns { b, c, .. }) = self.columns {
            let needed = b.max(c).saturating_add(dense);
            if needed > width {
                return Err(ScanError::Columns { needed, width });
            }
        }
        let states = product(&[self.batch, self.seq_len, streams / in_row, width]);
        let gate = product(&[self.batch, self.seq_len, groups, self.d_inner]);
        let channels = product(&[streams, self.d_inner]);
        let lengths = [
            ("u", Some(self.u), wide),
            ("delta", Some(self.delta), wide),
            ("a", Some(self.a), product(&[channels, self.d_state])),
            ("b", Some(self.b), states),
            ("c", Some(self.c), states),
            ("d_skip", self.d_skip, channels),
            ("z", self.z, gate),
            ("delta_bias", self.delta_bias, channels),
            ("out", Some(out), self.output_len()),
        ];
        for (operand, values, expected) in lengths {
            if let Some(got) = values.map(<[f32]>::len).filter(|&got| got != expected) {
                return Err(ScanError::Length { operand, expected, got });
            }
        }
        Ok(())
    }
}

/// Runs the scan on the fastest tier of this CPU into `out`, all of which is written.
///
/// # Errors
/// Names what does not fit, before anything is written; or says that the pool left tasks undone.
pub fn selective_scan(scan: &Scan<'_>, out: &mut [f32], pool: &dyn Pool) -> Result<(), ScanError> {
    selective_scan_on(tier(), scan, out, pool)
}

/// Runs the scan on the tier named, for tests and measurements.
///
/// # Errors
/// As [`selective_scan`], and [`ScanError::Unavailable`].
pub fn selective_scan_on(
    tier: Tier,
    scan: &Scan<'_>,
    out: &mut [f32],
    pool: &dyn Pool,
) -> Result<(), ScanError> {
    scan.check(out)?;
    let blocks = Blocks { batch: scan.batch, groups: scan.groups, d_inner: scan.d_inner };
    tier.run(scan, &blocks, out, pool).map_err(|error| match error {
        NotRun::Unavailable(tier) => ScanError::Unavailable(tier),
        NotRun::Unfinished(Unfinished { finished, tasks }) => {
            ScanError::Unfinished { finished, tasks }
        }
    })
}

#[cfg(test)]
mod tests;
