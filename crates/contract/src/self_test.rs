//! Whether a machine computes what it should: a test that rides in the file's metadata.
//!
//! The input is a formula, so that a few bytes are enough and any language can make it: see
//! [`samples`]. What candle gives for it is in the entry `ssamba.self_test`, JSON:
//!
//! ```text
//! {"output": "logits", "values": [..], "atol": 0.0001}
//! ```
//!
//! The test holds where every value of that output, in row-major order, is within `atol` of its
//! number. A long output is told by its first [`VALUES`] values.

use serde::{Deserialize, Serialize};

use crate::{Card, Outputs, Session, Tensor, TensorError};

/// Values that are told at most.
pub const VALUES: usize = 1_024;

/// What a file should put out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelfTest {
    /// Name of the output.
    pub output: String,
    /// Its first values for the input of [`input`].
    pub values: Vec<f32>,
    /// Largest absolute difference.
    pub atol: f32,
}

/// What the test found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether this machine computes what it should.
    pub holds: bool,
    /// Infinite where a value is not a number or missing.
    pub max_abs_error: f32,
}

impl SelfTest {
    /// The test of a file for which `outputs` are right, named in the order of the graph.
    pub fn new<'a>(
        outputs: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
        atol: f32,
    ) -> Option<Self> {
        let (name, tensor) = outputs.into_iter().next()?;
        let values = tensor.data().iter().take(VALUES).copied().collect();
        Some(Self { output: name.into(), values, atol })
    }

    /// Holds outputs against what they should be.
    pub fn judge(&self, outputs: &Outputs) -> Verdict {
        let got = outputs.get(&self.output).map_or(&[][..], Tensor::data);
        let mut max_abs_error = if got.len() < self.values.len() { f32::INFINITY } else { 0.0 };
        for (got, want) in got.iter().zip(&self.values) {
            let error = (got - want).abs();
            max_abs_error = max_abs_error.max(if error.is_nan() { f32::INFINITY } else { error });
        }
        Verdict { holds: max_abs_error <= self.atol, max_abs_error }
    }

    /// Runs a session on the input of the test.
    ///
    /// # Errors
    /// When the session fails.
    pub fn run(&self, session: &mut dyn Session) -> anyhow::Result<Verdict> {
        let input = input(session.card())?;
        Ok(self.judge(&session.run(&input)?))
    }
}

/// The input of a file's test: clips that fill the model's frames, one or as many as the file takes,
/// of [`samples`] in row-major order.
///
/// # Errors
/// Never for shapes that fit in memory.
pub fn input(card: &Card) -> Result<Tensor, TensorError> {
    let shape = card.window_shape(card.batch.unwrap_or(1));
    let data = samples().take(shape.iter().product()).collect();
    Tensor::new(shape, data)
}

/// Noise in [-1, 1) whose loudness steps up sixteen times in every 4,096 values and starts over; each
/// value is exact in `f32`, so that every language makes the same bits. With `state` a 32-bit number that
/// starts at 1 and wraps round, for index 0, 1, 2, ..:
///
/// ```text
/// state = 1664525 * state + 1013904223
/// value = ((state >> 16) - 32768) * (1 + (index >> 8) % 16) / 524288
/// ```
pub fn samples() -> impl Iterator<Item = f32> {
    let mut state = 1_u32;
    (0_u32..).map(move |index| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = (state >> 16) as f32 - 32_768.0;
        noise * (1 + (index >> 8) % 16) as f32 / 524_288.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by hand from the formula.
    #[test]
    fn the_input_is_the_formula() {
        let values: Vec<f32> = samples().take(4_097).collect();
        // 1664525 + 1013904223 = 1015568748, whose upper half is 15496.
        assert_eq!(values[0], (15_496.0 - 32_768.0) / 524_288.0);
        // 1664525 * 1015568748 + 1013904223 = 1586005467 modulo 2^32, upper half 24200.
        assert_eq!(values[1], (24_200.0 - 32_768.0) / 524_288.0);
        assert!(values.iter().all(|value| (-1.0..1.0).contains(value)));
        let loudest = |part: &[f32]| part.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
        assert!(loudest(&values[..256]) <= 1.0 / 16.0 && loudest(&values[3_840..4_096]) > 0.9);
        assert!(values[4_096].abs() <= 1.0 / 16.0);
    }

    #[test]
    fn what_is_off_or_missing_does_not_hold() {
        let outputs = |values: Vec<f32>| {
            let tensor = Tensor::new([1, values.len()], values).unwrap();
            Outputs::new(vec![("logits".into(), tensor)])
        };
        let right = outputs(vec![1.0, 2.0]);
        let test = SelfTest::new(right.iter(), 0.5).unwrap();
        assert_eq!(test.judge(&right), Verdict { holds: true, max_abs_error: 0.0 });
        assert_eq!(test.judge(&outputs(vec![1.25, 2.0])).max_abs_error, 0.25);
        for wrong in [vec![1.0, 2.75], vec![1.0, f32::NAN], vec![1.0]] {
            assert!(!test.judge(&outputs(wrong.clone())).holds, "{wrong:?}");
        }
        assert!(!test.judge(&Outputs::default()).holds);
        assert_eq!(SelfTest::new([], 1.0), None);
    }
}
