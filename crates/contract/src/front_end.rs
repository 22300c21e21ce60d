//! How a waveform becomes the input of a graph.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Order of the last two steps of the front end; upstream has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Zero frames are appended first, so that padding becomes `-mean / (2 * std)`: the main
    /// pipeline (SiavashShams/ssamba@019b276 `src/dataloader.py:138-218`).
    PadThenNormalise,
    /// Padding stays zero: the SUPERB pipeline (`src/finetune/voxceleb1/ssast/audio.py:88-109`).
    NormaliseThenPad,
}

/// What a file takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Input {
    /// Normalised filter banks: the caller computes the front end.
    #[default]
    Fbank,
    /// Samples: the front end is in the graph.
    Waveform,
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fbank => "fbank",
            Self::Waveform => "waveform",
        })
    }
}

/// Length of a frame in ms, 400 samples at 16 kHz (torchaudio 2.6 `compliance/kaldi.py:514-540`).
const FRAME_LENGTH_MS: usize = 25;
/// From one frame to the next in ms, 160 samples at 16 kHz (ssamba@019b276
/// `src/dataloader.py:135`).
const FRAME_SHIFT_MS: usize = 10;

/// Samples in one frame.
pub fn frame_length(sample_rate: u32) -> usize {
    sample_rate as usize * FRAME_LENGTH_MS / 1000
}

/// Samples from the start of one frame to the start of the next.
pub fn frame_shift(sample_rate: u32) -> usize {
    sample_rate as usize * FRAME_SHIFT_MS / 1000
}

/// Settings of the Kaldi filter-bank front end that differ between models.
///
/// What they share is fixed: 25 ms frames every 10 ms, pre-emphasis 0.97, symmetric Hann window,
/// 512-point power spectrum, triangles from 20 Hz to Nyquist, natural logarithm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrontEnd {
    /// Hz; 16 000 for every published model.
    pub sample_rate: u32,
    /// Mel bins, 128 for every published model.
    pub n_mels: usize,
    /// Frames that the model takes; shorter input is padded, longer input is cut.
    pub n_frames: usize,
    /// Mean of the log-mel values over the training set.
    pub mean: f64,
    /// Standard deviation over the training set; values are divided by twice this.
    pub std: f64,
    /// Order of padding and normalisation.
    pub order: Order,
    /// Whether the mean of the whole clip is removed before framing.
    pub subtract_clip_mean: bool,
}

impl FrontEnd {
    /// What no front end can be built from, if anything: settings come from files, and sizes decide
    /// how much memory is asked for.
    pub fn problem(&self) -> Option<String> {
        let Self { sample_rate, n_mels, n_frames, mean, std, .. } = *self;
        let scale = (2.0 * std) as f32;
        if !(1_000..=768_000).contains(&sample_rate) {
            return Some(format!("sample rate {sample_rate} Hz, expected 1000 to 768000"));
        }
        if !(1..=1_024).contains(&n_mels) {
            return Some(format!("{n_mels} mel bins, expected 1 to 1024"));
        }
        if !(1..=1_000_000).contains(&n_frames) {
            return Some(format!("{n_frames} frames, expected 1 to 1000000"));
        }
        if !(mean as f32).is_finite() || !scale.is_normal() || scale < 0.0 {
            return Some(format!(
                "mean {mean} and deviation {std}, which cannot normalise anything"
            ));
        }
        None
    }

    /// Samples that fill all frames exactly: longer input is cut.
    pub fn window_samples(&self) -> usize {
        let shifts = self.n_frames.saturating_sub(1);
        frame_length(self.sample_rate) + shifts * frame_shift(self.sample_rate)
    }

    /// Length in seconds of audio that fills all frames: longer input is cut.
    pub fn window_seconds(&self) -> f64 {
        (self.n_frames as f64 - 1.0) * 0.010 + 0.025
    }
}
