//! `ssamba::ShortConv`: the depthwise convolutions of all streams of a node, with their activation.
//!
//! With B batch, L tokens, D `d_inner`, K taps, G mixers, S streams:
//!
//! | # | operand | shape | |
//! |---|---|---|---|
//! | 0 | `x` | [B, L, G·D] | shared by the directions of a mixer |
//! | 1 | `weight` | [S·D, K] | in walking order: the last tap meets the current token |
//! | 2 | `bias` | [S·D] | optional |
//!
//! ```text
//! u[t] = activation(bias + sum over k of weight[k] * x[t - (K - 1 - k)])      forward
//! u[t] = activation(bias + sum over k of weight[k] * x[t + (K - 1 - k)])      reverse
//! ```
//!
//! Tokens beyond either end are zero. The output `u` is [B, L, S·D]; with `layout` `streams` it is
//! [S, B·L, D], the streams one after the other. `weight` and `bias` are `float`,
//! `x` and `u` both `float` or both `float16`; the sum is `f32` in every implementation.

use super::{
    OpError, attribute,
    streams::{Layout, Streams},
};

/// Type of the operator.
pub const SHORT_CONV: &str = "ShortConv";

/// Formal names of the operands, in order; also the input names of the function body.
pub const OPERANDS: [&str; 3] = ["x", "weight", "bias"];
/// How many leading operands are required; the others may be omitted.
pub const REQUIRED_OPERANDS: usize = 2;
/// Which operands are parameters of the network, `float` in a file of any precision.
pub const PARAMETERS: [bool; 3] = [false, true, true];
/// Largest number of taps that an implementation has to accept.
pub const MAX_TAPS: usize = 16;

/// What the sum goes through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`
    #[default]
    Silu,
    /// Nothing.
    None,
}

/// Attributes of one node, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    streams: Streams,
    activation: Activation,
}

/// Attributes as a file spells them; what is absent takes the operator's default.
#[derive(Clone, Debug, Default)]
pub struct RawAttributes {
    /// [`attribute::GROUPS`]
    pub groups: Option<i64>,
    /// [`attribute::REVERSE`]
    pub reverse: Option<Vec<i64>>,
    /// [`attribute::ACTIVATION`]
    pub activation: Option<String>,
    /// [`attribute::LAYOUT`]
    pub layout: Option<String>,
}

impl Attributes {
    /// Checks what a file says.
    ///
    /// # Errors
    /// Names the attribute whose value the operator does not define.
    pub fn from_raw(raw: RawAttributes) -> Result<Self, OpError> {
        let streams = Streams::from_raw(SHORT_CONV, raw.groups, raw.reverse, raw.layout)?;
        let activation = match raw.activation.as_deref() {
            None | Some("silu") => Activation::Silu,
            Some("none") => Activation::None,
            Some(other) => {
                return Err(OpError::Attribute {
                    operator: SHORT_CONV,
                    name: attribute::ACTIVATION,
                    got: format!("`{other}`"),
                    expected: "`silu` or `none`",
                });
            }
        };
        Ok(Self { streams, activation })
    }

    /// Mixers in the node.
    pub fn groups(&self) -> usize {
        self.streams.groups()
    }

    /// One flag per stream: `true` walks from the last token to the first.
    pub fn reverse(&self) -> &[bool] {
        self.streams.reverse()
    }

    /// Streams in the node, S.
    pub fn streams(&self) -> usize {
        self.reverse().len()
    }

    /// Directions of a mixer, 1 or 2.
    pub fn directions(&self) -> usize {
        self.streams.directions()
    }

    /// How the streams of the output lie.
    pub fn layout(&self) -> Layout {
        self.streams.layout()
    }

    /// What the sum goes through.
    pub fn activation(&self) -> Activation {
        self.activation
    }
}

/// Sizes of one call, agreed on by all operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// B
    pub batch: usize,
    /// L
    pub seq_len: usize,
    /// D, channels of one stream
    pub d_inner: usize,
    /// K
    pub taps: usize,
}

impl Sizes {
    /// Derives the sizes from the shapes of the operands, in the order of [`OPERANDS`], and checks
    /// every one against the rest.
    ///
    /// # Errors
    /// Names the operand that is missing or whose shape does not fit.
    pub fn infer(
        attributes: &Attributes,
        shapes: &[Option<&[usize]>; OPERANDS.len()],
    ) -> Result<Self, OpError> {
        let groups = attributes.groups();
        let required = |index: usize| {
            shapes[index]
                .ok_or(OpError::MissingOperand { operator: SHORT_CONV, operand: OPERANDS[index] })
        };
        let misshaped = |index: usize, expected: String| OpError::Shape {
            operator: SHORT_CONV,
            operand: OPERANDS[index],
            got: shapes[index].unwrap_or_default().to_vec(),
            expected,
        };
        let &[batch, seq_len, width] = required(0)? else {
            return Err(misshaped(0, "three axes [batch, tokens, channels]".into()));
        };
        if width % groups != 0 {
            return Err(misshaped(0, format!("a last axis divisible by {groups} groups")));
        }
        let d_inner = width / groups;
        let channels = attributes.streams() * d_inner;
        let taps = match *required(1)? {
            [rows, taps] if rows == channels && (1..=MAX_TAPS).contains(&taps) => taps,
            _ => return Err(misshaped(1, format!("[{channels}, 1 to {MAX_TAPS}]"))),
        };
        if shapes[2].is_some_and(|bias| bias != [channels]) {
            return Err(misshaped(2, format!("[{channels}]")));
        }
        Ok(Self { batch, seq_len, d_inner, taps })
    }

    /// Shape of the output.
    pub fn output_shape(&self, attributes: &Attributes) -> [usize; 3] {
        let (rows, streams) = (self.batch * self.seq_len, attributes.streams());
        match attributes.layout() {
            Layout::Channels => [self.batch, self.seq_len, streams * self.d_inner],
            Layout::Streams => [streams, rows, self.d_inner],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: std::fmt::Debug>(result: Result<T, OpError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn absent_attributes_take_the_defaults_of_the_operator() {
        let attributes = Attributes::from_raw(RawAttributes::default()).unwrap();
        assert_eq!(attributes, Attributes::default());
        assert_eq!((attributes.groups(), attributes.reverse()), (1, &[false, true][..]));
        assert_eq!(attributes.activation(), Activation::Silu);
        assert_eq!(attributes.layout(), Layout::Channels);
    }

    #[test]
    fn undefined_attribute_values_are_named() {
        let activation = |text: &str| {
            let activation = Some(text.into());
            Attributes::from_raw(RawAttributes { activation, ..Default::default() })
        };
        assert_eq!(activation("none").unwrap().activation(), Activation::None);
        assert_eq!(
            message(activation("relu")),
            "ssamba::ShortConv: attribute `activation` is `relu`, expected `silu` or `none`"
        );
        let raw = RawAttributes { layout: Some("rows".into()), ..Default::default() };
        assert_eq!(
            message(Attributes::from_raw(raw)),
            "ssamba::ShortConv: attribute `layout` is `rows`, expected `channels` or `streams`"
        );
        let raw = RawAttributes { groups: Some(3), ..Default::default() };
        assert_eq!(
            message(Attributes::from_raw(raw)),
            "ssamba::ShortConv: attribute `groups` is 3 with 2 streams in `reverse`, expected one or two \
             streams per group"
        );
    }

    #[test]
    fn sizes_follow_from_the_operands_and_the_odd_one_is_named() {
        let raw = RawAttributes {
            groups: Some(2),
            reverse: Some(vec![0, 1, 1, 0]),
            ..Default::default()
        };
        let by_stream = RawAttributes { layout: Some("streams".into()), ..raw.clone() };
        let by_stream = Attributes::from_raw(by_stream).unwrap();
        let pair = Attributes::from_raw(raw).unwrap();
        let good: [Option<&[usize]>; 3] = [Some(&[3, 5, 16]), Some(&[32, 4]), Some(&[32])];
        let sizes = Sizes::infer(&pair, &good).unwrap();
        assert_eq!(sizes, Sizes { batch: 3, seq_len: 5, d_inner: 8, taps: 4 });
        assert_eq!(sizes.output_shape(&pair), [3, 5, 32]);
        assert_eq!(Sizes::infer(&by_stream, &good).unwrap(), sizes);
        assert_eq!(sizes.output_shape(&by_stream), [4, 15, 8]);
        assert!(Sizes::infer(&pair, &[good[0], good[1], None]).is_ok());
        let cases: [(usize, Option<&[usize]>, &str); 8] = [
            (0, None, "`x` is missing"),
            (0, Some(&[3, 16]), "`x` has shape [3, 16], expected three axes"),
            (0, Some(&[3, 5, 15]), "`x` has shape [3, 5, 15], expected a last axis divisible by 2"),
            (1, None, "`weight` is missing"),
            (1, Some(&[16, 4]), "`weight` has shape [16, 4], expected [32, 1 to 16]"),
            (1, Some(&[32, 17]), "`weight` has shape [32, 17], expected [32, 1 to 16]"),
            (1, Some(&[32, 0]), "`weight` has shape [32, 0], expected [32, 1 to 16]"),
            (2, Some(&[16]), "`bias` has shape [16], expected [32]"),
        ];
        for (index, shape, needle) in cases {
            let mut bad = good;
            bad[index] = shape;
            let message = message(Sizes::infer(&pair, &bad));
            assert!(message.contains(needle), "{message}");
        }
    }
}
