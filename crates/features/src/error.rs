//! What can be wrong with a front end's settings or with a waveform.

use std::fmt;

use ssamba_contract::TensorError;

/// Why no features could be computed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum FeatureError {
    /// Half the sample rate, in Hz, does not lie above the lowest frequency of the filters.
    SampleRateTooLow(u32),
    /// A front end without mel bins.
    NoMelBins,
    /// A front end that takes no frames.
    NoFrames,
    /// A window of a stream that a model cannot take.
    Window {
        /// Frames of sound in the window.
        frames_heard: usize,
        /// Frames that the model takes.
        n_frames: usize,
    },
    /// Mean or standard deviation that cannot normalise anything.
    Statistics {
        /// Mean of the log-mel values.
        mean: f64,
        /// Their standard deviation.
        std: f64,
    },
    /// A waveform shorter than one frame.
    TooShort {
        /// Samples that there are.
        n_samples: usize,
        /// Samples in one frame.
        frame_length: usize,
        /// Hz.
        sample_rate: u32,
    },
    /// A sample that is not a number or is infinite.
    NotFinite {
        /// Position in the waveform, from 0.
        index: usize,
        /// The value found there.
        value: f32,
    },
    /// Values that do not fill the tensor.
    Tensor(TensorError),
}

impl std::error::Error for FeatureError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Tensor(source) => Some(source),
            _ => None,
        }
    }
}

impl From<TensorError> for FeatureError {
    fn from(source: TensorError) -> Self {
        Self::Tensor(source)
    }
}

impl fmt::Display for FeatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SampleRateTooLow(rate) => {
                write!(
                    f,
                    "a sample rate of {rate} Hz is too low for mel filters, expected 16000 Hz"
                )
            }
            Self::NoMelBins => write!(f, "the front end has 0 mel bins, expected at least 1"),
            Self::NoFrames => write!(f, "the front end takes 0 frames, expected at least 1"),
            Self::Window { frames_heard, n_frames } => write!(
                f,
                "a window of {frames_heard} frames does not fit the model, expected 1 to {n_frames}"
            ),
            Self::Statistics { mean, std } => write!(
                f,
                "the front end normalises with mean {mean} and standard deviation {std}, \
                 expected finite numbers and a deviation above 0"
            ),
            Self::TooShort { n_samples, frame_length, sample_rate } => {
                let rate = f64::from(*sample_rate);
                write!(
                    f,
                    "the waveform is too short: it has {n_samples} samples ({:.1} ms), and one \
                     frame takes {frame_length} ({:.1} ms at {sample_rate} Hz); record more audio, \
                     or append silence",
                    *n_samples as f64 * 1000.0 / rate,
                    *frame_length as f64 * 1000.0 / rate,
                )
            }
            Self::NotFinite { index, value } => write!(
                f,
                "sample {index} of the waveform is {value}, expected a finite number in [-1, 1)"
            ),
            Self::Tensor(_) => write!(f, "the features do not fill their tensor"),
        }
    }
}
