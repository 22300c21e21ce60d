//! Names of the graph's inputs and outputs, and the tensors that cross them.

use std::fmt;

/// Input: normalised log-mel filter banks, `[batch, n_frames, n_mels]`.
pub const FBANK: &str = "fbank";
/// Input of files with the front end inside: mono samples in [-1, 1), `[batch, samples]`.
pub const WAVEFORM: &str = "waveform";
/// The axis that files leave open: the clips of a run.
pub const BATCH: &str = "batch";
/// The axis that files with the front end inside leave open: the length of the clips.
pub const SAMPLES: &str = "samples";
/// Output: scores before sigmoid or softmax, `[batch, n_classes]` (`[batch, 60, n_classes]` for the
/// per-second head).
pub const LOGITS: &str = "logits";
/// Output of files with the front end inside: `logits` after sigmoid or softmax, same shape.
pub const SCORES: &str = "scores";
/// Output: the pooled clip vector before the head, `[batch, d_model]`.
pub const EMBEDDING: &str = "embedding";
/// Output of feature extractors: one vector per patch column, [batch, patches over time,
/// patches over frequency * d_model].
pub const FEATURES: &str = "features";

/// A dense row-major `f32` tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl Tensor {
    /// Wraps `data` in row-major order.
    ///
    /// # Errors
    /// When the shape does not hold as many values as `data` does.
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Result<Self, TensorError> {
        let shape = shape.into();
        if shape.iter().product::<usize>() != data.len() {
            return Err(TensorError { shape, len: data.len() });
        }
        Ok(Self { shape, data })
    }

    /// Sizes of the axes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values in row-major order.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The values of entry `index` of the first axis.
    ///
    /// # Panics
    /// When `index` is not below the size of the first axis.
    pub fn row(&self, index: usize) -> &[f32] {
        let width: usize = self.shape[1..].iter().product();
        &self.data[index * width..(index + 1) * width]
    }
}

/// A shape that does not hold the given number of values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorError {
    shape: Vec<usize>,
    len: usize,
}

impl std::error::Error for TensorError {}

impl fmt::Display for TensorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a tensor of shape {:?} cannot hold {} values", self.shape, self.len)
    }
}
