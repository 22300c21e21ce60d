//! What can be wrong with an audio file.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a file gave no waveform.
#[derive(Debug)]
#[non_exhaustive]
pub enum AudioError {
    /// No file of that name.
    Missing {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A folder where a file was expected.
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// The system would not read the file.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A file of 0 bytes.
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// First bytes that belong to no known audio format.
    NotAudio {
        /// The file.
        path: PathBuf,
    },
    /// Audio of a kind that is not decoded here.
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The container, codec or sample format.
        what: String,
        /// The decoder's word, where it was asked.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// Content that breaks the rules of its format.
    Damaged {
        /// The file.
        path: PathBuf,
        /// The format that its first bytes announce.
        format: &'static str,
        /// The rule that is broken.
        source: Box<dyn Error + Send + Sync>,
    },
    /// An end before the one that the file itself announces.
    Truncated {
        /// The file.
        path: PathBuf,
        /// Samples a channel that are there.
        got: u64,
        /// Samples a channel that are announced, where a number is.
        expected: Option<u64>,
    },
    /// A sound file without sound.
    NoSamples {
        /// The file.
        path: PathBuf,
    },
    /// A sample that is not a number or is infinite.
    NotFinite {
        /// The file.
        path: PathBuf,
        /// Position in its channel, from 0.
        index: usize,
        /// The value found there.
        value: f32,
    },
    /// A sample rate that no recording has.
    SampleRate {
        /// The file.
        path: PathBuf,
        /// Hz.
        sample_rate: u32,
    },
    /// A sample rate, in Hz, that nothing can be resampled to.
    TargetRate(u32),
    /// The resampler refused.
    Resample {
        /// The file.
        path: PathBuf,
        /// Its word.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl AudioError {
    pub(crate) fn unsupported(path: &Path, what: String) -> Self {
        Self::Unsupported { path: path.into(), what, source: None }
    }

    pub(crate) fn damaged(
        path: &Path,
        format: &'static str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Damaged { path: path.into(), format, source: source.into() }
    }
}

impl Error for AudioError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Missing { source, .. } | Self::Unreadable { source, .. } => Some(source),
            Self::Unsupported { source, .. } => source.as_deref().map(|source| source as _),
            Self::Damaged { source, .. } | Self::Resample { source, .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}

impl fmt::Display for AudioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { path, .. } => {
                write!(f, "there is no file `{}`, check its path", path.display())
            }
            Self::Folder { path } => {
                write!(f, "`{}` is a folder, name an audio file in it", path.display())
            }
            Self::Unreadable { path, .. } => {
                write!(f, "cannot read `{}`, check its permissions", path.display())
            }
            Self::Empty { path } => {
                write!(f, "`{}` is empty, record or copy it again", path.display())
            }
            Self::NotAudio { path } => write!(
                f,
                "`{}` is not audio: expected WAV, FLAC, OGG Vorbis or MP3",
                path.display()
            ),
            Self::Unsupported { path, what, .. } => write!(
                f,
                "`{}` holds {what}, which is not supported: convert it to 16-bit PCM WAV, for \
                 example with `ffmpeg -i INPUT -c:a pcm_s16le OUTPUT.wav`",
                path.display()
            ),
            Self::Damaged { path, format, .. } => write!(
                f,
                "`{}` begins like {format} but cannot be decoded, record or copy it again",
                path.display()
            ),
            Self::Truncated { path, got, expected } => {
                write!(f, "`{}` is cut off after {got} ", path.display())?;
                if let Some(expected) = expected {
                    write!(f, "of {expected} ")?;
                }
                write!(f, "samples, record or copy it again")
            }
            Self::NoSamples { path } => {
                write!(f, "`{}` holds no samples, record or copy it again", path.display())
            }
            Self::NotFinite { path, index, value } => write!(
                f,
                "sample {index} of `{}` is {value}, expected a finite number: write the file again \
                 without it",
                path.display()
            ),
            Self::SampleRate { path, sample_rate } => write!(
                f,
                "`{}` says that its sample rate is {sample_rate} Hz, expected 1000 to 768000 Hz: \
                 record or convert it again",
                path.display()
            ),
            Self::TargetRate(sample_rate) => write!(
                f,
                "cannot resample to {sample_rate} Hz, expected 1000 to 768000 Hz, and 16000 Hz for \
                 the published models"
            ),
            Self::Resample { path, .. } => write!(
                f,
                "cannot change the sample rate of `{}`, convert it to the model's rate",
                path.display()
            ),
        }
    }
}
