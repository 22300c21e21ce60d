//! The operators of the domain `ssamba`, version 1: [`selective_scan`] and [`short_conv`], and
//! [`add_layer_norm`], which only files for a GPU hold.
//!
//! A node of the first two holds `groups` mixers of one or two directions each; a *stream* is one
//! direction of one mixer, and stream `g * directions + k` is direction `k` of mixer `g`. Streams lie
//! side by side in the last axis, or one after the other in the first: see [`Layout`]. A stream marked
//! in `reverse` walks from the last token to the first and stores each result at its own token, so a
//! graph never flips anything.

use std::fmt;

pub mod add_layer_norm;
pub mod selective_scan;
pub mod short_conv;
mod streams;

pub use add_layer_norm::ADD_LAYER_NORM;
pub use selective_scan::{
    Attributes, Combine, MAX_D_STATE, OPERANDS, PARAMETERS, REQUIRED_OPERANDS, RawAttributes,
    SELECTIVE_SCAN, Sizes,
};
pub use short_conv::SHORT_CONV;
pub use streams::Layout;

/// Domain of the operators. tract looks nodes up by type alone, so its target checks this itself.
pub const DOMAIN: &str = "ssamba";
/// Version of the operator set [`DOMAIN`].
pub const VERSION: i64 = 1;

/// ONNX Runtime's own operators, as far as a file may hold them.
pub mod contrib {
    /// Their domain.
    pub const DOMAIN: &str = "com.microsoft";
    /// Version of the operator set [`DOMAIN`].
    pub const VERSION: i64 = 1;
    /// `query`, `key`, `value` `[batch, tokens, heads * head_width]` to the same shape, all heads in
    /// one kernel.
    pub const MULTI_HEAD_ATTENTION: &str = "MultiHeadAttention";
    /// `query`, `key` `[batch, tokens, d_state]`, `value` `[batch, tokens, channels]`, a state that
    /// may be absent, and `decay` `[batch, tokens, channels * d_state]`, to `value`'s shape and the
    /// state: the recurrence, with one head a channel.
    pub const LINEAR_ATTENTION: &str = "LinearAttention";
}

/// Names of the attributes of the operators.
pub mod attribute {
    /// int, default 1: mixers in the node.
    pub const GROUPS: &str = "groups";
    /// ints, default `[0, 1]`: one flag per stream, 1 walks from the last token to the first.
    pub const REVERSE: &str = "reverse";
    /// int, default 1: `dt = softplus(delta + delta_bias)`; 0: `dt = delta + delta_bias`.
    pub const DELTA_SOFTPLUS: &str = "delta_softplus";
    /// string, default `sum`: `sum` adds the directions of a mixer, `none` keeps every stream.
    pub const COMBINE: &str = "combine";
    /// float, default 0.5: factor on the combined result.
    pub const SCALE: &str = "scale";
    /// string, default `silu`: the gate's activation; only `silu` is defined.
    pub const GATE: &str = "gate";
    /// string, default `silu`: what the convolution's sum goes through, `silu` or `none`.
    pub const ACTIVATION: &str = "activation";
    /// string, default `channels`: how the streams of `u`, `delta`, `Bm` and `Cm` lie, `channels` side by
    /// side in the last axis, `streams` one after the other in the first.
    pub const LAYOUT: &str = "layout";
    /// ints, absent by default: the columns in which those of a row's first stream begin, of `Bm` and of
    /// `Cm`. With `layout` `streams` every row is of one stream.
    pub const COLUMNS: &str = "columns";
    /// float, default 1e-5: what is added to the variance of a norm.
    pub const EPSILON: &str = "epsilon";
}

/// A node of our operators that breaks its operator's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpError {
    /// An attribute with a value that is not defined.
    Attribute {
        /// Type of the node.
        operator: &'static str,
        /// Its name.
        name: &'static str,
        /// What the file says.
        got: String,
        /// What is defined.
        expected: &'static str,
    },
    /// A required operand is absent.
    MissingOperand {
        /// Type of the node.
        operator: &'static str,
        /// Its formal name.
        operand: &'static str,
    },
    /// An operand's shape does not follow from the others.
    Shape {
        /// Type of the node.
        operator: &'static str,
        /// Its formal name.
        operand: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// The shape that would fit.
        expected: String,
    },
}

impl std::error::Error for OpError {}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attribute { operator, name, got, expected } => {
                write!(f, "{DOMAIN}::{operator}: attribute `{name}` is {got}, expected {expected}")
            }
            Self::MissingOperand { operator, operand } => {
                write!(f, "{DOMAIN}::{operator}: operand `{operand}` is missing")
            }
            Self::Shape { operator, operand, got, expected } => write!(
                f,
                "{DOMAIN}::{operator}: operand `{operand}` has shape {got:?}, expected {expected}"
            ),
        }
    }
}
