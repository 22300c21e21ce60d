//! WAV files of every kind, written here and read back.

use std::fs;
use std::path::{Path, PathBuf};

use hound::{SampleFormat, WavSpec, WavWriter};
use ssamba_audio::{AudioError, read};
use tempfile::TempDir;

const PCM16_MONO: WavSpec = WavSpec {
    channels: 1,
    sample_rate: 16_000,
    bits_per_sample: 16,
    sample_format: SampleFormat::Int,
};

/// A folder for one test, and the file in it.
struct File(TempDir);

impl File {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with_bytes(bytes: &[u8]) -> Self {
        let file = Self::new();
        fs::write(file.path(), bytes).unwrap();
        file
    }

    fn with_samples<S: hound::Sample + Copy>(spec: WavSpec, samples: &[S]) -> Self {
        let file = Self::new();
        let mut writer = WavWriter::create(file.path(), spec).unwrap();
        samples.iter().for_each(|&sample| writer.write_sample(sample).unwrap());
        writer.finalize().unwrap();
        file
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("clip.wav")
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    fn samples(&self) -> Vec<f32> {
        read(&self.path(), 16_000).unwrap().samples
    }

    fn error(&self) -> AudioError {
        read(&self.path(), 16_000).unwrap_err()
    }

    /// What is shown, with the file called `clip.wav`.
    fn message(&self) -> String {
        let folder = format!("{}{}", self.0.path().display(), std::path::MAIN_SEPARATOR);
        self.error().to_string().replace(&folder, "")
    }
}

/// A whole WAV file from the contents of its chunks.
fn riff(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut body = b"WAVE".to_vec();
    for (name, content) in chunks {
        body.extend(*name);
        body.extend((content.len() as u32).to_le_bytes());
        body.extend(*content);
        body.extend(vec![0; content.len() % 2]);
    }
    let mut file = b"RIFF".to_vec();
    file.extend((body.len() as u32).to_le_bytes());
    file.extend(body);
    file
}

/// A fmt chunk for one channel at 16 kHz.
fn format_chunk(tag: u16, bits: u16) -> Vec<u8> {
    let bytes = bits.div_ceil(8);
    let mut chunk = Vec::new();
    chunk.extend(tag.to_le_bytes());
    chunk.extend(1_u16.to_le_bytes());
    chunk.extend(16_000_u32.to_le_bytes());
    chunk.extend((16_000 * u32::from(bytes)).to_le_bytes());
    chunk.extend(bytes.to_le_bytes());
    chunk.extend(bits.to_le_bytes());
    chunk
}

/// The extensible form: `valid` bits of each sample carry sound, the tag opens the GUID.
fn extensible_chunk(tag: u16, bits: u16, valid: u16) -> Vec<u8> {
    let mut chunk = format_chunk(0xfffe, bits);
    chunk.extend(22_u16.to_le_bytes());
    chunk.extend(valid.to_le_bytes());
    chunk.extend(4_u32.to_le_bytes());
    chunk.extend(tag.to_le_bytes());
    chunk.extend([0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71]);
    chunk
}

const TWO_SAMPLES: [u8; 4] = [0x00, 0x40, 0x00, 0xc0];

#[test]
fn integers_are_scaled_by_their_width() {
    for bits in [8, 16, 24, 32] {
        let full = 1_i64 << (bits - 1);
        let samples = [0, full / 2, -full / 4, -full, full - 1].map(|x| x as i32);
        let file = File::with_samples(WavSpec { bits_per_sample: bits, ..PCM16_MONO }, &samples);
        let expected = [0.0, 0.5, -0.25, -1.0, ((full - 1) as f64 / full as f64) as f32];
        assert_eq!(file.samples(), expected, "{bits} bits");
    }
}

#[test]
fn sixteen_bit_samples_at_the_models_rate_pass_to_the_bit() {
    let samples: Vec<i16> = (i16::MIN..=i16::MAX).collect();
    let expected: Vec<f32> = samples.iter().map(|&x| f32::from(x) / 32_768.0).collect();
    assert_eq!(File::with_samples(PCM16_MONO, &samples).samples(), expected);
}

#[test]
fn floats_are_taken_as_they_are() {
    let spec = WavSpec { bits_per_sample: 32, sample_format: SampleFormat::Float, ..PCM16_MONO };
    let samples = [0.0, 0.1, -1.0, 1.5, f32::MIN_POSITIVE];
    assert_eq!(File::with_samples(spec, &samples).samples(), samples);
}

#[test]
fn channels_are_averaged() {
    let stereo = WavSpec { channels: 2, ..PCM16_MONO };
    let file = File::with_samples(stereo, &[16_384_i16, 0, -16_384, -16_384]);
    assert_eq!(file.samples(), [0.25, -0.5]);

    let spec = WavSpec { channels: 6, bits_per_sample: 24, ..PCM16_MONO };
    let file = File::with_samples(spec, &[1 << 22, 1 << 22, 1 << 22, 0, 0, 0]);
    assert_eq!(file.samples(), [0.25]);
}

#[test]
fn other_rates_are_resampled() {
    let spec = WavSpec { sample_rate: 48_000, channels: 2, ..PCM16_MONO };
    let file = File::with_samples(spec, &[8_192_i16; 2 * 24_000]);
    let waveform = read(&file.path(), 16_000).unwrap();
    assert_eq!((waveform.sample_rate, waveform.samples.len()), (16_000, 8_000));
    assert_eq!(waveform.duration_seconds(), 0.5);
    assert!(waveform.samples[2_000..6_000].iter().all(|x| (x - 0.25).abs() < 1e-5));
}

#[test]
fn the_extensible_form_is_read() {
    let chunk = extensible_chunk(1, 16, 16);
    let file = File::with_bytes(&riff(&[(b"fmt ", &chunk), (b"data", &TWO_SAMPLES)]));
    assert_eq!(file.samples(), [0.5, -0.5]);

    let chunk = extensible_chunk(3, 32, 32);
    let file = File::with_bytes(&riff(&[(b"fmt ", &chunk), (b"data", &0.3_f32.to_le_bytes())]));
    assert_eq!(file.samples(), [0.3]);
}

#[test]
fn valid_bits_are_the_upper_ones() {
    let chunk = extensible_chunk(1, 32, 24);
    let file = File::with_bytes(&riff(&[(b"fmt ", &chunk), (b"data", &[0, 0, 0, 0x40])]));
    assert_eq!(file.samples(), [0.5]);

    let chunk = extensible_chunk(1, 16, 12);
    let file = File::with_bytes(&riff(&[(b"fmt ", &chunk), (b"data", &TWO_SAMPLES)]));
    assert_eq!(file.samples(), [0.5, -0.5]);
}

#[test]
fn other_chunks_are_stepped_over_with_their_padding() {
    let chunk = format_chunk(1, 16);
    let file = File::with_bytes(&riff(&[
        (b"JUNK", &[1; 27]),
        (b"fmt ", &chunk),
        (b"fact", &[2, 0, 0, 0, 9, 9]),
        (b"LIST", b"odd"),
        (b"data", &TWO_SAMPLES),
        (b"id3 ", b"behind"),
    ]));
    assert_eq!(file.samples(), [0.5, -0.5]);
}

#[test]
fn a_length_left_open_reaches_to_the_end() {
    let chunk = format_chunk(1, 16);
    let whole = riff(&[(b"fmt ", &chunk), (b"data", &TWO_SAMPLES)]);
    // ffmpeg, SoX and arecord into a pipe, and a recorder that was switched off.
    for (riff_length, length) in [
        (u32::MAX, u32::MAX),
        (0x7fff_f024, 0x7fff_f000),
        (0x8000_0024, 0x8000_0000),
        (36, 0),
        (0, 0),
    ] {
        let mut bytes = whole.clone();
        bytes[4..8].copy_from_slice(&riff_length.to_le_bytes());
        bytes[40..44].copy_from_slice(&length.to_le_bytes());
        bytes.push(0x11);
        assert_eq!(File::with_bytes(&bytes).samples(), [0.5, -0.5], "{length:#x}");
    }
}

#[test]
fn missing_samples_are_counted() {
    let file = File::with_samples(WavSpec { channels: 2, ..PCM16_MONO }, &[1000_i16; 2 * 100]);
    let bytes = file.bytes();
    let file = File::with_bytes(&bytes[..bytes.len() - 4 * 30 - 1]);
    assert!(matches!(file.error(), AudioError::Truncated { got: 69, expected: Some(100), .. }));
    assert_eq!(
        file.message(),
        "`clip.wav` is cut off after 69 of 100 samples, record or copy it again"
    );
}

#[test]
fn a_file_cut_off_in_its_header_is_damaged() {
    let bytes = File::with_samples(PCM16_MONO, &[1000_i16; 8]).bytes();
    for length in 12..44 {
        let file = File::with_bytes(&bytes[..length]);
        assert!(matches!(file.error(), AudioError::Damaged { .. }), "{length}: {}", file.error());
    }
    let file = File::with_bytes(&bytes[..40]);
    assert_eq!(
        file.message(),
        "`clip.wav` begins like WAV but cannot be decoded, record or copy it again"
    );
    let source = std::error::Error::source(&file.error()).unwrap().to_string();
    assert_eq!(source, "there is no data chunk");
}

#[test]
fn no_samples_is_an_error() {
    let file = File::with_samples::<i16>(PCM16_MONO, &[]);
    assert!(matches!(file.error(), AudioError::NoSamples { .. }));
    assert_eq!(file.message(), "`clip.wav` holds no samples, record or copy it again");

    let chunk = format_chunk(1, 16);
    let chunks: [(&[u8; 4], &[u8]); 3] = [(b"fmt ", &chunk), (b"data", &[]), (b"LIST", b"list")];
    assert!(matches!(File::with_bytes(&riff(&chunks)).error(), AudioError::NoSamples { .. }));
}

#[test]
fn samples_that_are_not_finite_are_named() {
    let spec = WavSpec {
        channels: 2,
        bits_per_sample: 32,
        sample_format: SampleFormat::Float,
        ..PCM16_MONO
    };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut samples = [0.25; 20];
        samples[15] = value;
        let message = File::with_samples(spec, &samples).message();
        assert_eq!(
            message,
            format!(
                "sample 7 of `clip.wav` is {value}, expected a finite number: write the file again \
                 without it"
            )
        );
    }
}

#[test]
fn other_encodings_are_named() {
    for (chunk, what) in [
        (format_chunk(3, 64), "64-bit float samples"),
        (format_chunk(1, 12), "12-bit integer samples"),
        (format_chunk(1, 64), "64-bit integer samples"),
        (format_chunk(2, 4), "ADPCM samples"),
        (format_chunk(7, 8), "mu-law samples"),
        (extensible_chunk(6, 8, 8), "A-law samples"),
        (format_chunk(0x674f, 16), "samples of WAV format 0x674f"),
    ] {
        let file = File::with_bytes(&riff(&[(b"fmt ", &chunk), (b"data", &[0; 8])]));
        assert_eq!(
            file.message(),
            format!(
                "`clip.wav` holds {what}, which is not supported: convert it to 16-bit PCM WAV, \
                 for example with `ffmpeg -i INPUT -c:a pcm_s16le OUTPUT.wav`"
            )
        );
    }
}

#[test]
fn sample_rates_that_no_recording_has_are_refused() {
    for sample_rate in [0_u32, 999, 768_001, 536_870_912] {
        let mut chunk = format_chunk(1, 16);
        chunk[4..8].copy_from_slice(&sample_rate.to_le_bytes());
        chunk[8..12].copy_from_slice(&(2 * sample_rate).to_le_bytes());
        let file = File::with_bytes(&riff(&[(b"fmt ", &chunk), (b"data", &TWO_SAMPLES)]));
        assert_eq!(
            file.message(),
            format!(
                "`clip.wav` says that its sample rate is {sample_rate} Hz, expected 1000 to 768000 \
                 Hz: record or convert it again"
            )
        );
    }
    let file = File::with_samples(PCM16_MONO, &[0_i16; 8]);
    assert!(matches!(read(&file.path(), 0), Err(AudioError::TargetRate(0))));
}

#[test]
fn what_is_no_audio_file_says_so() {
    let file = File::with_bytes(b"yes,no,up,down\n");
    let expected = "`clip.wav` is not audio: expected WAV, FLAC, OGG Vorbis or MP3";
    assert_eq!(file.message(), expected);
    assert_eq!(File::with_bytes(b"").message(), "`clip.wav` is empty, record or copy it again");
    let file = File::new();
    assert_eq!(file.message(), "there is no file `clip.wav`, check its path");
    let folder = read(file.0.path(), 16_000).unwrap_err().to_string();
    assert!(folder.ends_with("` is a folder, name an audio file in it"), "{folder}");
    assert!(matches!(read(Path::new(""), 16_000), Err(AudioError::Missing { .. })));
}

#[test]
fn broken_headers_give_errors() {
    let chunk = format_chunk(1, 16);
    let whole = riff(&[(b"fmt ", &chunk), (b"data", &TWO_SAMPLES)]);
    for position in 0..44 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[position] = value;
            let file = File::with_bytes(&bytes);
            if let Err(error) = read(&file.path(), 16_000) {
                assert!(!error.to_string().ends_with('.'), "{error}");
            }
        }
    }
}
