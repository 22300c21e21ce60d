//! Audio files to mono `f32` waveforms at the sample rate of a model.
//!
//! [`read`] takes WAV (integers of 8, 16, 24 and 32 bits and 32-bit floats), FLAC, OGG Vorbis and
//! MP3, of any sample rate and number of channels. The content decides what a file is, not its
//! name.
//!
//! Nothing is normalised. Integers are divided by 2^(bits - 1), so samples lie in [-1, 1); floats
//! are taken as they are. A lossy decoder or the resampler may overshoot a little.
//!
//! Channels are averaged, as in the preparation of upstream's data (SiavashShams/ssamba@019b276
//! `src/prep_data`). Upstream's filter banks themselves read the first channel only (torchaudio 2.6
//! `compliance/kaldi.py:514-540`), which makes a difference for files that were never prepared.

#![deny(missing_docs)]

mod compressed;
mod error;
mod resample;
mod wav;

use std::fs;
use std::io;
use std::path::Path;

pub use error::AudioError;

/// Hz; rates of files outside are taken for damage, and would make the resampler huge.
const SAMPLE_RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// Mono audio.
#[derive(Clone, Debug, PartialEq)]
pub struct Waveform {
    /// Hz.
    pub sample_rate: u32,
    /// Amplitudes, full scale at 1.
    pub samples: Vec<f32>,
}

impl Waveform {
    /// Length in seconds.
    pub fn duration_seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.sample_rate)
    }
}

/// What a decoder makes of a file, before channels are mixed.
struct Decoded {
    sample_rate: u32,
    channels: usize,
    /// Frames of one sample a channel, one after the other.
    interleaved: Vec<f32>,
}

/// Reads a file and resamples it to `sample_rate`. A file at that rate keeps its samples to the
/// bit.
///
/// A cut is noticed where the file says how long it should be, or where an OGG page breaks off: not
/// in MP3 or FLAC that were streamed without a length.
///
/// # Errors
/// When the file cannot be read, is not audio, is damaged or cut off, holds no samples or samples
/// that are not finite, or when `sample_rate` is not from 1 000 to 768 000 Hz.
pub fn read(path: &Path, sample_rate: u32) -> Result<Waveform, AudioError> {
    if !SAMPLE_RATES.contains(&sample_rate) {
        return Err(AudioError::TargetRate(sample_rate));
    }
    let bytes = load(path)?;
    let decoded = match Container::of(&bytes) {
        Some(Container::Wav) => wav::decode(path, &bytes)?,
        Some(Container::Compressed(format)) => compressed::decode(path, format, &bytes)?,
        Some(Container::Unsupported(what)) => {
            return Err(AudioError::unsupported(path, what.to_owned()));
        }
        None => return Err(AudioError::NotAudio { path: path.into() }),
    };
    if !SAMPLE_RATES.contains(&decoded.sample_rate) {
        let (path, sample_rate) = (path.into(), decoded.sample_rate);
        return Err(AudioError::SampleRate { path, sample_rate });
    }
    if decoded.interleaved.is_empty() {
        return Err(AudioError::NoSamples { path: path.into() });
    }
    if let Some(index) = decoded.interleaved.iter().position(|x| !x.is_finite()) {
        let value = decoded.interleaved[index];
        let index = index / decoded.channels;
        return Err(AudioError::NotFinite { path: path.into(), index, value });
    }
    let mono = mix(decoded.interleaved, decoded.channels);
    let samples = resample::resample(mono, decoded.sample_rate, sample_rate)
        .map_err(|source| AudioError::Resample { path: path.into(), source })?;
    Ok(Waveform { sample_rate, samples })
}

/// Whether the name of a file ends like one that [`read`] takes: for listing folders, since
/// [`read`] itself goes by content.
pub fn is_audio(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    ["wav", "flac", "ogg", "oga", "mp3"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

fn load(path: &Path) -> Result<Vec<u8>, AudioError> {
    if path.is_dir() {
        return Err(AudioError::Folder { path: path.into() });
    }
    match fs::read(path) {
        Ok(bytes) if bytes.is_empty() => Err(AudioError::Empty { path: path.into() }),
        Ok(bytes) => Ok(bytes),
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            Err(AudioError::Missing { path: path.into(), source })
        }
        Err(source) => Err(AudioError::Unreadable { path: path.into(), source }),
    }
}

/// What the first bytes of a file say that it is.
#[derive(Debug, PartialEq)]
enum Container {
    Wav,
    Compressed(&'static str),
    /// Audio for sure, of a kind that nothing here decodes.
    Unsupported(&'static str),
}

impl Container {
    fn of(bytes: &[u8]) -> Option<Self> {
        Some(match bytes {
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Self::Wav,
            [b'f', b'L', b'a', b'C', ..] => Self::Compressed("FLAC"),
            [b'O', b'g', b'g', b'S', ..] => Self::Compressed("OGG"),
            [b'I', b'D', b'3', ..] => Self::Compressed("MP3"),
            // Eleven bits of frame sync, any MPEG version, layer III.
            [0xff, second, ..] if second & 0b1110_0110 == 0b1110_0010 => Self::Compressed("MP3"),
            [b'R', b'F', b'6', b'4', ..] => Self::Unsupported("64-bit WAV (RF64)"),
            [b'R', b'I', b'F', b'X', ..] => Self::Unsupported("big-endian WAV (RIFX)"),
            [b'F', b'O', b'R', b'M', _, _, _, _, b'A', b'I', b'F', b'F' | b'C', ..] => {
                Self::Unsupported("AIFF")
            }
            [_, _, _, _, b'f', b't', b'y', b'p', ..] => Self::Unsupported("MP4"),
            _ => return None,
        })
    }
}

fn mix(interleaved: Vec<f32>, channels: usize) -> Vec<f32> {
    if channels == 1 {
        return interleaved;
    }
    let frames = interleaved.chunks_exact(channels);
    frames.map(|frame| frame.iter().sum::<f32>() / channels as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_audio_files_are_told_from_others() {
        for name in ["a.wav", "a.WAV", "x/b.flac", "c.Ogg", "d.oga", "e.mp3"] {
            assert!(is_audio(Path::new(name)), "{name}");
        }
        for name in ["wav", ".wav", "a.wav.txt", "a.m4a", "a.", "a/b"] {
            assert!(!is_audio(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn first_bytes_tell_what_a_file_is() {
        let cases: [(&[u8], Option<Container>); 10] = [
            (b"RIFF\0\0\0\0WAVEfmt ", Some(Container::Wav)),
            (b"RIFF\0\0\0\0AVI LIST", None),
            (b"fLaC", Some(Container::Compressed("FLAC"))),
            (b"OggS", Some(Container::Compressed("OGG"))),
            (b"ID3\x04", Some(Container::Compressed("MP3"))),
            (&[0xff, 0xfb, 0x90, 0x00], Some(Container::Compressed("MP3"))),
            // AAC, and text in UTF-16.
            (&[0xff, 0xf1, 0x50, 0x80], None),
            (&[0xff, 0xfe, b'a', 0], None),
            (b"\0\0\0 ftypM4A ", Some(Container::Unsupported("MP4"))),
            (b"R", None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Container::of(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn duration_is_samples_over_rate() {
        let waveform = Waveform { sample_rate: 16_000, samples: vec![0.0; 4000] };
        assert_eq!(waveform.duration_seconds(), 0.25);
    }
}
