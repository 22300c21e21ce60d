//! `ssamba::SelectiveScan`: the recurrence of all streams of a node.
//!
//! With B batch, L tokens, D `d_inner`, N `d_state`, G mixers, S streams:
//!
//! | # | operand | shape | |
//! |---|---|---|---|
//! | 0 | `u` | [B, L, S·D] | after the short convolution and SiLU |
//! | 1 | `delta` | [B, L, S·D] | before bias and softplus when `delta_softplus` is 1 |
//! | 2 | `A` | [S·D, N] | `-exp(A_log)` |
//! | 3 | `Bm` | [B, L, S·N] | |
//! | 4 | `Cm` | [B, L, S·N] | |
//! | 5 | `Dskip` | [S·D] | optional |
//! | 6 | `z` | [B, L, G·D] | optional gate, shared by the directions of a mixer |
//! | 7 | `delta_bias` | [S·D] | optional |
//!
//! ```text
//! dt = softplus(delta + delta_bias)
//! h  = exp(dt * A) * h + dt * Bm * u                     h is zero before the first step
//! s  = sum over n of Cm * h + Dskip * u
//! y  = scale * (sum over the mixer's directions of s) * silu(z)
//! ```
//!
//! With `layout` `streams` the streams of four operands lie one after the other, and the others are as
//! above; `z`, which alone says B and L, is required:
//!
//! | operand | shape |
//! |---|---|
//! | `u`, `delta` | [S, B·L, D] |
//! | `Bm`, `Cm` | [S, B·L, N] |
//!
//! A product with a matrix for each stream, [S, D, ..], then needs nothing cut or put together. Batch and
//! tokens are one axis so that it is S products in any runtime, however many clips there are.
//!
//! `Bm` and `Cm` may be parts of wider rows, and the same value: with `columns` `[b, c]` both are
//! [B, L, W], and the S·N columns from `b` on and from `c` on are read; with `layout` `streams` they are
//! [S, B·L, W], and of each row, which is of one stream, the N columns from `b` on and from `c` on.
//!
//! The output `y` is [B, L, G·D] when `combine` is `sum`, else [B, L, S·D]. A stream marked in
//! `reverse` walks from the last token to the first and stores each result at its own token, so a
//! graph never flips anything. `A`, `Dskip` and `delta_bias` are `float`, the other operands and the
//! output all `float` or all `float16`; state, exponential and softplus are `f32` in every
//! implementation.

use super::{
    OpError, attribute,
    streams::{Layout, Streams},
};

/// Type of the operator.
pub const SELECTIVE_SCAN: &str = "SelectiveScan";
/// Formal names of the operands, in order; also the input names of the function body.
pub const OPERANDS: [&str; 8] = ["u", "delta", "A", "Bm", "Cm", "Dskip", "z", "delta_bias"];
/// How many leading operands are required; the others may be omitted.
pub const REQUIRED_OPERANDS: usize = 5;
/// Which operands are parameters of the network, `float` in a file of any precision.
pub const PARAMETERS: [bool; 8] = [false, false, true, false, false, true, false, true];
/// Largest `d_state` that an implementation has to accept.
pub const MAX_D_STATE: usize = 32;

/// What becomes of the streams of a mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// They are added: the output holds one block of D values per mixer.
    Sum,
    /// They are kept side by side: one block per stream.
    None,
}

impl Combine {
    /// The attribute's value in a file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::None => "none",
        }
    }
}

/// Attributes of one node, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Attributes {
    streams: Streams,
    delta_softplus: bool,
    combine: Combine,
    scale: f32,
    columns: Option<[usize; 2]>,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            streams: Streams::default(),
            delta_softplus: true,
            combine: Combine::Sum,
            scale: 0.5,
            columns: None,
        }
    }
}

/// Attributes as a file spells them; what is absent takes the operator's default.
#[derive(Clone, Debug, Default)]
pub struct RawAttributes {
    /// [`attribute::GROUPS`]
    pub groups: Option<i64>,
    /// [`attribute::REVERSE`]
    pub reverse: Option<Vec<i64>>,
    /// [`attribute::DELTA_SOFTPLUS`]
    pub delta_softplus: Option<i64>,
    /// [`attribute::COMBINE`]
    pub combine: Option<String>,
    /// [`attribute::SCALE`]
    pub scale: Option<f32>,
    /// [`attribute::GATE`]
    pub gate: Option<String>,
    /// [`attribute::LAYOUT`]
    pub layout: Option<String>,
    /// [`attribute::COLUMNS`]
    pub columns: Option<Vec<i64>>,
}

impl Attributes {
    /// Checks what a file says.
    ///
    /// # Errors
    /// Names the attribute whose value the operator does not define.
    pub fn from_raw(raw: RawAttributes) -> Result<Self, OpError> {
        let invalid = |name, got, expected| OpError::Attribute {
            operator: SELECTIVE_SCAN,
            name,
            got,
            expected,
        };
        let streams = Streams::from_raw(SELECTIVE_SCAN, raw.groups, raw.reverse, raw.layout)?;
        let combine = match raw.combine.as_deref() {
            None | Some("sum") => Combine::Sum,
            Some("none") => Combine::None,
            Some(other) => {
                return Err(invalid(attribute::COMBINE, format!("`{other}`"), "`sum` or `none`"));
            }
        };
        if let Some(other) = raw.gate.filter(|gate| gate != "silu") {
            return Err(invalid(attribute::GATE, format!("`{other}`"), "`silu`"));
        }
        let delta_softplus = match raw.delta_softplus {
            None | Some(1) => true,
            Some(0) => false,
            Some(other) => {
                return Err(invalid(attribute::DELTA_SOFTPLUS, other.to_string(), "0 or 1"));
            }
        };
        let scale = raw.scale.unwrap_or(Self::default().scale);
        let columns = match raw.columns.as_deref() {
            None => None,
            Some(&[b, c]) if b >= 0 && c >= 0 => Some([b as usize, c as usize]),
            Some(other) => {
                let expected = "two numbers that are not negative";
                return Err(invalid(attribute::COLUMNS, format!("{other:?}"), expected));
            }
        };
        Ok(Self { streams, delta_softplus, combine, scale, columns })
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

    /// Whether `delta` still lacks its softplus.
    pub fn delta_softplus(&self) -> bool {
        self.delta_softplus
    }

    /// What becomes of the streams of a mixer.
    pub fn combine(&self) -> Combine {
        self.combine
    }

    /// Factor on the combined result.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// How the streams of `u`, `delta`, `Bm` and `Cm` lie.
    pub fn layout(&self) -> Layout {
        self.streams.layout()
    }

    /// Where the columns of a row's first stream begin in the rows of `Bm` and of `Cm`; `None` where the
    /// rows hold nothing else.
    pub fn columns(&self) -> Option<[usize; 2]> {
        self.columns
    }

    /// Blocks of D values in a row of the output: mixers or streams.
    pub fn output_blocks(&self) -> usize {
        match self.combine {
            Combine::Sum => self.groups(),
            Combine::None => self.streams(),
        }
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
    /// N
    pub d_state: usize,
    /// Values of a row of `Bm` and of `Cm`.
    pub states_width: usize,
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
        let streams = attributes.streams();
        let required = |index: usize| {
            shapes[index].ok_or(OpError::MissingOperand {
                operator: SELECTIVE_SCAN,
                operand: OPERANDS[index],
            })
        };
        let misshaped = |index: usize, expected: String| OpError::Shape {
            operator: SELECTIVE_SCAN,
            operand: OPERANDS[index],
            got: shapes[index].unwrap_or_default().to_vec(),
            expected,
        };
        let layout = attributes.layout();
        let axes = |index: usize, expected: &str| match *required(index)? {
            [first, second, third] => Ok([first, second, third]),
            _ => Err(misshaped(index, expected.into())),
        };
        let tokens = "three axes [batch, tokens, channels]";
        let (batch, seq_len, width) = match layout {
            Layout::Channels => {
                let [batch, seq_len, width] = axes(0, tokens)?;
                (batch, seq_len, width)
            }
            Layout::Streams => {
                let [.., d_inner] = axes(0, "three axes [streams, batch * tokens, channels]")?;
                let [batch, seq_len, _] = axes(6, tokens)?;
                (batch, seq_len, streams.saturating_mul(d_inner))
            }
        };
        let &[_, d_state] = required(2)? else {
            return Err(misshaped(2, "two axes [channels, d_state]".into()));
        };
        if width % streams != 0 {
            return Err(misshaped(0, format!("a last axis divisible by {streams} streams")));
        }
        if d_state == 0 || d_state > MAX_D_STATE {
            return Err(misshaped(2, format!("a last axis of 1 to {MAX_D_STATE}")));
        }
        let d_inner = width / streams;
        let states = match layout {
            Layout::Channels => streams * d_state,
            Layout::Streams => d_state,
        };
        let states_width = match attributes.columns() {
            None => states,
            Some(columns) => {
                let needed = columns.into_iter().max().unwrap_or_default().saturating_add(states);
                match *required(3)? {
                    [.., width] if width >= needed => width,
                    _ => return Err(misshaped(3, format!("a last axis of at least {needed}"))),
                }
            }
        };
        let [wide, narrow] = match layout {
            Layout::Channels => [width, states_width].map(|width| [batch, seq_len, width]),
            Layout::Streams => {
                let rows = batch.saturating_mul(seq_len);
                [d_inner, states_width].map(|width| [streams, rows, width])
            }
        };
        let expected: [&[usize]; OPERANDS.len()] = [
            &wide,
            &wide,
            &[width, d_state],
            &narrow,
            &narrow,
            &[width],
            &[batch, seq_len, attributes.groups() * d_inner],
            &[width],
        ];
        for (index, expected) in expected.into_iter().enumerate() {
            if index < REQUIRED_OPERANDS {
                required(index)?;
            }
            if shapes[index].is_some_and(|got| got != expected) {
                return Err(misshaped(index, format!("{expected:?}")));
            }
        }
        Ok(Self { batch, seq_len, d_inner, d_state, states_width })
    }

    /// Shape of the output.
    pub fn output_shape(&self, attributes: &Attributes) -> [usize; 3] {
        [self.batch, self.seq_len, attributes.output_blocks() * self.d_inner]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> Attributes {
        Attributes::from_raw(RawAttributes {
            groups: Some(2),
            reverse: Some(vec![0, 1, 1, 0]),
            scale: Some(1.0),
            ..Default::default()
        })
        .unwrap()
    }

    #[test]
    fn absent_attributes_take_the_defaults_of_the_operator() {
        let attributes = Attributes::from_raw(RawAttributes::default()).unwrap();
        assert_eq!(attributes, Attributes::default());
        assert_eq!((attributes.groups(), attributes.directions()), (1, 2));
    }

    #[test]
    fn undefined_attribute_values_are_named() {
        let cases = [
            (
                RawAttributes { groups: Some(3), ..Default::default() },
                "`groups` is 3 with 2 streams",
            ),
            (RawAttributes { groups: Some(0), ..Default::default() }, "`groups` is 0"),
            (RawAttributes { reverse: Some(vec![2]), ..Default::default() }, "`reverse` is 2"),
            (
                RawAttributes { combine: Some("max".into()), ..Default::default() },
                "`combine` is `max`",
            ),
            (RawAttributes { gate: Some("relu".into()), ..Default::default() }, "`gate` is `relu`"),
            (
                RawAttributes { delta_softplus: Some(7), ..Default::default() },
                "`delta_softplus` is 7",
            ),
            (
                RawAttributes { layout: Some("rows".into()), ..Default::default() },
                "`layout` is `rows`",
            ),
            (RawAttributes { columns: Some(vec![1]), ..Default::default() }, "`columns` is [1]"),
            (
                RawAttributes { columns: Some(vec![0, -1]), ..Default::default() },
                "`columns` is [0, -1]",
            ),
        ];
        for (raw, needle) in cases {
            let message = Attributes::from_raw(raw).unwrap_err().to_string();
            assert!(message.contains(needle), "{message}");
        }
    }

    #[test]
    fn sizes_follow_from_the_operands_and_the_odd_one_is_named() {
        let (wide, states) = ([3, 5, 4 * 8], [3, 5, 4 * 16]);
        let good: [Option<&[usize]>; 8] = [
            Some(&wide),
            Some(&wide),
            Some(&[32, 16]),
            Some(&states),
            Some(&states),
            None,
            Some(&[3, 5, 16]),
            Some(&[32]),
        ];
        let sizes = Sizes::infer(&pair(), &good).unwrap();
        let expected = Sizes { batch: 3, seq_len: 5, d_inner: 8, d_state: 16, states_width: 64 };
        assert_eq!(sizes, expected);
        assert_eq!(sizes.output_shape(&pair()), [3, 5, 16]);
        for index in 0..8 {
            let mut bad = good;
            bad[index] = Some(&[3, 5, 4]);
            let message = Sizes::infer(&pair(), &bad).unwrap_err().to_string();
            // A wrong `u` is taken at its word, so the next operand is the odd one out.
            let named = if index == 0 { "delta" } else { OPERANDS[index] };
            assert!(message.contains(&format!("`{named}`")), "{message}");
        }
        let mut missing = good;
        missing[4] = None;
        let message = Sizes::infer(&pair(), &missing).unwrap_err().to_string();
        assert_eq!(message, "ssamba::SelectiveScan: operand `Cm` is missing");
    }

    #[test]
    fn streams_may_lie_one_after_the_other() {
        let attributes = |columns| {
            let raw = RawAttributes {
                groups: Some(2),
                reverse: Some(vec![0, 1, 1, 0]),
                layout: Some("streams".into()),
                columns,
                ..Default::default()
            };
            Attributes::from_raw(raw).unwrap()
        };
        let (dense, wide) = (attributes(None), attributes(Some(vec![4, 20])));
        let shapes = |states: &'static [usize]| -> [Option<&[usize]>; 8] {
            let u: &[usize] = &[4, 15, 8];
            let z: &[usize] = &[3, 5, 16];
            let [u, states, z] = [u, states, z].map(Some);
            [u, u, Some(&[32, 16]), states, states, None, z, Some(&[32])]
        };
        let sizes = Sizes::infer(&dense, &shapes(&[4, 15, 16])).unwrap();
        let expected = Sizes { batch: 3, seq_len: 5, d_inner: 8, d_state: 16, states_width: 16 };
        assert_eq!(sizes, expected);
        assert_eq!(sizes.output_shape(&dense), [3, 5, 16]);
        let sizes = Sizes::infer(&wide, &shapes(&[4, 15, 36])).unwrap();
        assert_eq!(sizes.states_width, 36);
        let message = |attributes: &Attributes, shapes: &[Option<&[usize]>; 8]| {
            Sizes::infer(attributes, shapes).unwrap_err().to_string()
        };
        let short = message(&wide, &shapes(&[4, 15, 35]));
        assert!(short.ends_with("shape [4, 15, 35], expected a last axis of at least 36"));
        let good = shapes(&[4, 15, 16]);
        for index in 0..8 {
            let mut bad = good;
            bad[index] = Some(&[4, 7, 16]);
            let message = message(&dense, &bad);
            // A wrong channel of `u` is taken at its word, a wrong token of `z` too.
            let named = if index == 6 { "u" } else { OPERANDS[index] };
            let named = if index == 0 { "u" } else { named };
            assert!(message.contains(&format!("operand `{named}`")), "{index}: {message}");
        }
        let mut bad = good;
        bad[6] = None;
        assert_eq!(message(&dense, &bad), "ssamba::SelectiveScan: operand `z` is missing");
        bad[6] = Some(&[15, 16]);
        assert!(message(&dense, &bad).contains("expected three axes [batch, tokens, channels]"));
    }

    #[test]
    fn states_may_be_in_wider_rows() {
        let columns = Some(vec![6, 38]);
        let attributes =
            Attributes::from_raw(RawAttributes { columns, ..Default::default() }).unwrap();
        let infer = |width: usize, c: usize| {
            let wide = [3, 5, 2 * 8];
            let (b, c) = ([3, 5, width], [3, 5, c]);
            let shapes = [Some(&wide[..]), Some(&wide), Some(&[16, 16]), Some(&b), Some(&c)];
            let [u, delta, a, b, c] = shapes;
            Sizes::infer(&attributes, &[u, delta, a, b, c, None, None, None])
        };
        assert_eq!(infer(70, 70).unwrap().states_width, 70);
        assert_eq!(infer(80, 80).unwrap().states_width, 80);
        let message = infer(69, 69).unwrap_err().to_string();
        assert!(message.ends_with("shape [3, 5, 69], expected a last axis of at least 70"));
        let message = infer(70, 71).unwrap_err().to_string();
        assert!(message.contains("`Cm` has shape [3, 5, 71], expected [3, 5, 70]"), "{message}");
    }
}
