//! The operands of the short convolutions of a mixer, their checks, and the choice of a kernel.
//!
//! Streams are those of a scan. For every channel of every stream, with `back = K - 1 - k` and `x`
//! zero beyond the ends:
//!
//! ```text
//! u[t] = activation(bias + sum over k of weight[k] * x[t - back])      forward
//! u[t] = activation(bias + sum over k of weight[k] * x[t + back])      reverse
//! ```
//!
//! Source: `causal_conv1d_ref` with `activation="silu"`, Dao-AILab/causal-conv1d,
//! `causal_conv1d/causal_conv1d_interface.py`. Theirs is channel-major; here the token comes before
//! the channel.
//!
//! A task is one block of channels of one mixer in one batch, with all directions of the mixer and
//! all tokens: the directions share what they read.

mod kernel;

use std::fmt;

use crate::{
    blocks::{Blocks, Unfinished, one_or_two_per_group, product},
    layout::Layout,
    pool::Pool,
    tier::{NotRun, Tier, tier},
};

/// Most taps that a convolution accepts.
pub const MAX_TAPS: usize = 16;

/// What the sum goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// Nothing.
    None,
}

/// One call: sizes, settings, and operands, which are dense and row-major.
///
/// In the shapes, B is `batch`, L `seq_len`, D `d_inner`, K `taps`, G `groups`, and S the number of
/// streams.
#[derive(Clone, Copy, Debug)]
pub struct ShortConv<'a> {
    /// B
    pub batch: usize,
    /// L, tokens; with none the output is empty.
    pub seq_len: usize,
    /// D, channels of one stream.
    pub d_inner: usize,
    /// K, 1 to [`MAX_TAPS`].
    pub taps: usize,
    /// G, mixers.
    pub groups: usize,
    /// `[S]`, one or two streams per mixer: whether the stream walks from the last token to the first.
    pub reverse: &'a [bool],
    /// What the sum goes through.
    pub activation: Activation,
    /// How the output lies.
    pub layout: Layout,
    /// `[B, L, G * D]`, shared by the directions of a mixer.
    pub x: &'a [f32],
    /// `[S * D, K]`, in walking order: the last tap meets the current token.
    pub weight: &'a [f32],
    /// `[S * D]`; `None` is zero.
    pub bias: Option<&'a [f32]>,
}

/// Convolutions that were not run, or not to their end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShortConvError {
    /// `reverse` does not hold one or two streams per group.
    Streams {
        /// Mixers.
        groups: usize,
        /// Flags in `reverse`.
        streams: usize,
    },
    /// `taps` is zero or above [`MAX_TAPS`].
    Taps {
        /// The `taps` asked for.
        got: usize,
    },
    /// An operand's length does not follow from the sizes.
    Length {
        /// Its field in [`ShortConv`], or `out`.
        operand: &'static str,
        /// Values it should hold.
        expected: usize,
        /// Values it holds.
        got: usize,
    },
    /// Gradients are computed of an output of side-by-side streams.
    Gradients,
    /// The CPU lacks the instructions of a tier asked for by name.
    Unavailable(Tier),
    /// The pool came back with tasks still to run: `out` is not complete.
    Unfinished {
        /// Tasks that ran.
        finished: usize,
        /// Tasks of the call.
        tasks: usize,
    },
}

impl std::error::Error for ShortConvError {}

impl fmt::Display for ShortConvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("short convolution: ")?;
        match self {
            Self::Streams { groups, streams } => write!(
                f,
                "`reverse` holds {streams} streams for {groups} groups, expected one or two per group"
            ),
            Self::Taps { got } => write!(f, "`taps` is {got}, expected 1 to {MAX_TAPS}"),
            Self::Length { operand, expected, got } => {
                write!(f, "`{operand}` holds {got} values, expected {expected}")
            }
            Self::Gradients => f.write_str("gradients are computed of streams side by side alone"),
            Self::Unavailable(tier) => write!(f, "this CPU cannot run the tier `{tier}`"),
            Self::Unfinished { finished, tasks } => {
                write!(f, "the pool ran {finished} of {tasks} tasks")
            }
        }
    }
}

impl ShortConv<'_> {
    /// Values that the output holds: B * L * S * D.
    pub fn output_len(&self) -> usize {
        product(&[self.batch, self.seq_len, self.reverse.len(), self.d_inner])
    }

    /// Streams of a mixer, once [`check`](Self::check) has passed.
    pub(crate) fn directions(&self) -> usize {
        self.reverse.len() / self.groups
    }

    pub(crate) fn check(&self, out: &[f32]) -> Result<(), ShortConvError> {
        let (groups, streams) = (self.groups, self.reverse.len());
        if !one_or_two_per_group(groups, streams) {
            return Err(ShortConvError::Streams { groups, streams });
        }
        if !(1..=MAX_TAPS).contains(&self.taps) {
            return Err(ShortConvError::Taps { got: self.taps });
        }
        let channels = product(&[streams, self.d_inner]);
        let lengths = [
            ("x", Some(self.x), product(&[self.batch, self.seq_len, groups, self.d_inner])),
            ("weight", Some(self.weight), product(&[channels, self.taps])),
            ("bias", self.bias, channels),
            ("out", Some(out), self.output_len()),
        ];
        for (operand, values, expected) in lengths {
            if let Some(got) = values.map(<[f32]>::len).filter(|&got| got != expected) {
                return Err(ShortConvError::Length { operand, expected, got });
            }
        }
        Ok(())
    }
}

/// Runs the convolutions on the fastest tier of this CPU into `out`, `[B, L, S * D]` or with
/// [`Layout::Streams`] `[S, B * L, D]`, all of which is written.
///
/// # Errors
/// Names what does not fit, before anything is written; or says that the pool left tasks undone.
pub fn short_conv(
    conv: &ShortConv<'_>,
    out: &mut [f32],
    pool: &dyn Pool,
) -> Result<(), ShortConvError> {
    short_conv_on(tier(), conv, out, pool)
}

/// Runs the convolutions on the tier named, for tests and measurements.
///
/// # Errors
/// As [`short_conv`], and [`ShortConvError::Unavailable`].
pub fn short_conv_on(
    tier: Tier,
    conv: &ShortConv<'_>,
    out: &mut [f32],
    pool: &dyn Pool,
) -> Result<(), ShortConvError> {
    conv.check(out)?;
    let blocks = Blocks { batch: conv.batch, groups: conv.groups, d_inner: conv.d_inner };
    tier.run(conv, &blocks, out, pool).map_err(|error| match error {
        NotRun::Unavailable(tier) => ShortConvError::Unavailable(tier),
        NotRun::Unfinished(Unfinished { finished, tasks }) => {
            ShortConvError::Unfinished { finished, tasks }
        }
    })
}

#[cfg(test)]
mod tests;
