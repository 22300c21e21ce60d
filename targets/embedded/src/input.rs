//! Where samples come from: a WAV file or raw samples on stdin, in pieces of bounded size.

use std::{
    fs::File,
    io::{self, BufReader, ErrorKind, IsTerminal, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, ensure};
use hound::{SampleFormat, WavReader};
use ssamba_kws::SAMPLE_RATE;

/// Samples in one piece of a file: 100 ms.
const PIECE: usize = 1600;

/// A WAV file at the right rate.
pub struct Wav {
    path: PathBuf,
    reader: WavReader<BufReader<File>>,
}

impl Wav {
    /// Opens a file and looks at its header.
    pub fn open(path: &Path) -> Result<Self> {
        let at = || path.display().to_string();
        let file = File::open(path).with_context(at)?;
        let reader = WavReader::new(BufReader::new(file)).map_err(said).with_context(at)?;
        let rate = reader.spec().sample_rate;
        ensure!(
            rate == SAMPLE_RATE,
            "{}: {rate} Hz, expected {SAMPLE_RATE} Hz; resample it first",
            path.display()
        );
        Ok(Self { path: path.into(), reader })
    }

    /// Hands on all samples, the mean of the channels.
    pub fn each(&mut self, body: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let spec = self.reader.spec();
        let path = self.path.display();
        let channels = usize::from(spec.channels);
        match spec.sample_format {
            SampleFormat::Float => mixed(self.reader.samples(), channels, |x: f32| x, body),
            SampleFormat::Int => {
                let full_scale = f64::from(1_u32 << (spec.bits_per_sample - 1));
                let scaled = |x: i32| (f64::from(x) / full_scale) as f32;
                mixed(self.reader.samples(), channels, scaled, body)
            }
        }
        .with_context(|| path.to_string())
    }
}

fn mixed<T>(
    samples: impl Iterator<Item = Result<T, hound::Error>>,
    channels: usize,
    scaled: impl Fn(T) -> f32,
    mut body: impl FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    let mut piece = Vec::with_capacity(PIECE);
    let (mut sum, mut summed) = (0.0, 0);
    for sample in samples {
        sum += scaled(sample.map_err(said)?);
        summed += 1;
        if summed == channels {
            piece.push(sum / channels as f32);
            (sum, summed) = (0.0, 0);
        }
        if piece.len() == PIECE {
            body(&piece)?;
            piece.clear();
        }
    }
    body(&piece)
}

/// What is wrong with a WAV file, in our words where hound's say little.
fn said(error: hound::Error) -> anyhow::Error {
    match error {
        // hound makes errors of its own, which the system does not number, of samples that are missing.
        hound::Error::IoError(error) if error.raw_os_error().is_some() => error.into(),
        hound::Error::Unsupported => {
            anyhow!("a WAV file of an unsupported kind, expected integers or 32-bit floats")
        }
        error => anyhow!("it is no whole WAV file: {error}"),
    }
}

/// Stdin, unless a person is typing there.
pub fn raw_stdin() -> Result<impl Read> {
    let stdin = io::stdin();
    ensure!(
        !stdin.is_terminal(),
        "stdin is a terminal, expected raw samples: name a WAV file or pipe a recorder into it, see --help"
    );
    Ok(stdin.lock())
}

/// Hands on 16-bit little-endian samples as they arrive; a last odd byte is no sample.
pub fn each_raw(mut input: impl Read, mut body: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
    let mut bytes = [0; 2 * PIECE];
    let mut samples = [0.0; PIECE];
    // Half a sample that an odd read left over.
    let mut left = 0;
    loop {
        let read = match input.read(&mut bytes[left..]) {
            Ok(0) => return Ok(()),
            Ok(read) => left + read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("cannot read stdin"),
        };
        let (pairs, rest) = bytes[..read].as_chunks::<2>();
        for (sample, pair) in samples.iter_mut().zip(pairs) {
            *sample = f32::from(i16::from_le_bytes(*pair)) / 32_768.0;
        }
        body(&samples[..pairs.len()])?;
        left = rest.len();
        bytes.copy_within(read - left..read, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in reads of a fixed size.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = self.1.min(buffer.len());
            self.0.read(&mut buffer[..size])
        }
    }

    #[test]
    fn samples_survive_reads_of_any_size() {
        let expected: Vec<i16> = (0..5000).map(|i| (i * 13 - 32_500) as i16).collect();
        let mut bytes: Vec<u8> = expected.iter().flat_map(|x| x.to_le_bytes()).collect();
        bytes.push(1);
        for size in [1, 3, 160, 100_000] {
            let mut got = Vec::new();
            each_raw(Dribble(&bytes, size), |piece| {
                got.extend(piece.iter().map(|x| (x * 32_768.0) as i16));
                Ok(())
            })
            .unwrap();
            assert_eq!(got, expected, "reads of {size}");
        }
    }

    #[test]
    fn channels_are_averaged() {
        let interleaved = [0.5, -0.25, 1.0, 0.0].map(Ok);
        let mut got = Vec::new();
        let collect = |piece: &[f32]| {
            got.extend_from_slice(piece);
            Ok(())
        };
        mixed(interleaved.into_iter(), 2, |x: f32| x, collect).unwrap();
        assert_eq!(got, [0.125, 0.5]);
    }
}
