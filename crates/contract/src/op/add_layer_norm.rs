//! `ssamba::AddLayerNorm`: an update to the residual, and the layer norm of what comes of it.
//!
//! With B batch, L tokens, D the width of a token:
//!
//! | # | operand | shape | |
//! |---|---|---|---|
//! | 0 | `x` | [B, L, D] | the residual |
//! | 1 | `update` | [B or 1, L or 1, D] | the same for all clips or tokens where the axis is 1 |
//! | 2 | `weight` | `[D]` | |
//! | 3 | `bias` | `[D]` | |
//!
//! ```text
//! sum = x + update
//! y   = (sum - mean(sum)) / sqrt(variance(sum) + epsilon) * weight + bias
//! ```
//!
//! Mean and variance are those of a token's D values, the variance without Bessel's correction. Both
//! outputs, `y` and then `sum`, are [B, L, D]. `weight` and `bias` are `float`, the other operands and
//! the outputs all `float` or all `float16`; `y` is computed in `f32` from the `sum` that is put out.

use super::{OpError, attribute};

/// Type of the operator.
pub const ADD_LAYER_NORM: &str = "AddLayerNorm";
/// Formal names of the operands, in order; also the input names of the function body.
pub const OPERANDS: [&str; 4] = ["x", "update", "weight", "bias"];
/// Formal names of the outputs, in order.
pub const RESULTS: [&str; 2] = ["y", "sum"];
/// How many leading operands are required: all.
pub const REQUIRED_OPERANDS: usize = 4;
/// Which operands are parameters of the network, `float` in a file of any precision.
pub const PARAMETERS: [bool; 4] = [false, false, true, true];

/// Attributes of one node, checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attributes {
    epsilon: f32,
}

impl Default for Attributes {
    fn default() -> Self {
        Self { epsilon: 1e-5 }
    }
}

/// Attributes as a file spells them; what is absent takes the operator's default.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawAttributes {
    /// [`attribute::EPSILON`]
    pub epsilon: Option<f32>,
}

impl Attributes {
    /// Checks what a file says.
    ///
    /// # Errors
    /// Names the attribute whose value the operator does not define.
    pub fn from_raw(raw: RawAttributes) -> Result<Self, OpError> {
        let epsilon = raw.epsilon.unwrap_or(Self::default().epsilon);
        if !(epsilon.is_finite() && epsilon >= 0.0) {
            return Err(OpError::Attribute {
                operator: ADD_LAYER_NORM,
                name: attribute::EPSILON,
                got: epsilon.to_string(),
                expected: "a number that is not negative",
            });
        }
        Ok(Self { epsilon })
    }

    /// What is added to the variance.
    pub fn epsilon(&self) -> f32 {
        self.epsilon
    }
}

/// Sizes of one call, agreed on by all operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// B
    pub batch: usize,
    /// L
    pub seq_len: usize,
    /// D
    pub d_model: usize,
    /// Whether every clip has an update of its own.
    pub update_per_clip: bool,
    /// Whether every token has an update of its own.
    pub update_per_token: bool,
}

impl Sizes {
    /// Derives the sizes from the shapes of the operands, in the order of [`OPERANDS`], and checks
    /// every one against the rest.
    ///
    /// # Errors
    /// Names the operand that is missing or whose shape does not fit.
    pub fn infer(shapes: &[Option<&[usize]>; OPERANDS.len()]) -> Result<Self, OpError> {
        let required = |index: usize| {
            shapes[index].ok_or(OpError::MissingOperand {
                operator: ADD_LAYER_NORM,
                operand: OPERANDS[index],
            })
        };
        let misshaped = |index: usize, expected: String| OpError::Shape {
            operator: ADD_LAYER_NORM,
            operand: OPERANDS[index],
            got: shapes[index].unwrap_or_default().to_vec(),
            expected,
        };
        let &[batch, seq_len, d_model] = required(0)? else {
            return Err(misshaped(0, "three axes [batch, tokens, channels]".into()));
        };
        let (clips, tokens) = match *required(1)? {
            [clips, tokens, width]
                if width == d_model
                    && [1, batch].contains(&clips)
                    && [1, seq_len].contains(&tokens) =>
            {
                (clips, tokens)
            }
            _ => {
                let expected = format!("[{batch} or 1, {seq_len} or 1, {d_model}]");
                return Err(misshaped(1, expected));
            }
        };
        for index in [2, 3] {
            if required(index)? != [d_model] {
                return Err(misshaped(index, format!("[{d_model}]")));
            }
        }
        Ok(Self {
            batch,
            seq_len,
            d_model,
            update_per_clip: clips == batch,
            update_per_token: tokens == seq_len,
        })
    }

    /// Shape of each output.
    pub fn output_shape(&self) -> [usize; 3] {
        [self.batch, self.seq_len, self.d_model]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epsilon_that_is_none_is_named() {
        let read = |epsilon| Attributes::from_raw(RawAttributes { epsilon });
        assert_eq!(read(None).unwrap(), Attributes::default());
        assert_eq!(read(Some(0.0)).unwrap().epsilon(), 0.0);
        for odd in [-1e-9, f32::NAN, f32::INFINITY] {
            let message = read(Some(odd)).unwrap_err().to_string();
            let wanted = format!("attribute `epsilon` is {odd}, expected a number");
            assert!(message.contains(&wanted), "{message}");
        }
    }

    #[test]
    fn sizes_follow_from_the_operands_and_the_odd_one_is_named() {
        let sizes = |update: &[usize]| {
            Sizes::infer(&[Some(&[3, 5, 8]), Some(update), Some(&[8]), Some(&[8])])
        };
        let all = sizes(&[3, 5, 8]).unwrap();
        assert_eq!(all.output_shape(), [3, 5, 8]);
        assert!(all.update_per_clip && all.update_per_token);
        let table = sizes(&[1, 5, 8]).unwrap();
        assert!(!table.update_per_clip && table.update_per_token);
        let one = sizes(&[1, 1, 8]).unwrap();
        assert!(!one.update_per_clip && !one.update_per_token);
        for odd in [&[2, 5, 8][..], &[3, 4, 8], &[3, 5, 1], &[5, 8]] {
            let message = sizes(odd).unwrap_err().to_string();
            assert!(message.contains("`update` has shape"), "{message}");
            assert!(message.ends_with("expected [3 or 1, 5 or 1, 8]"), "{message}");
        }
        let good: [Option<&[usize]>; 4] =
            [Some(&[3, 5, 8]), Some(&[3, 5, 8]), Some(&[8]), Some(&[8])];
        for index in 0..4 {
            let mut bad = good;
            bad[index] = Some(&[3, 5]);
            let message = Sizes::infer(&bad).unwrap_err().to_string();
            assert!(message.contains(&format!("`{}` has shape", OPERANDS[index])), "{message}");
            bad[index] = None;
            let message = Sizes::infer(&bad).unwrap_err().to_string();
            assert!(message.ends_with(&format!("`{}` is missing", OPERANDS[index])), "{message}");
        }
    }
}
