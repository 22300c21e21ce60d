//! FLAC, OGG Vorbis and MP3: the tones in `tests/data`.

use std::f64::consts::TAU;
use std::fs;
use std::path::{Path, PathBuf};

use ssamba_audio::{AudioError, Waveform, read};

/// Of a codec that only sounds the same; a shift by one sample would make 0.2.
const LOSSY: f64 = 0.03;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn read_bytes(name: &str, bytes: &[u8]) -> Result<Waveform, AudioError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    read(&path, 16_000)
}

/// Of the middle half from 1 kHz of the given amplitude, in phase.
fn largest_difference(samples: &[f32], amplitude: f64) -> f64 {
    let tone = |i: usize| amplitude * (TAU * 1000.0 * i as f64 / 16_000.0).sin();
    let middle = samples.len() / 4..samples.len() * 3 / 4;
    middle.map(|i| (f64::from(samples[i]) - tone(i)).abs()).fold(0.0, f64::max)
}

#[test]
fn flac_keeps_every_sample() {
    let waveform = read(&fixture("mono_16k.flac"), 16_000).unwrap();
    assert_eq!((waveform.samples.len(), waveform.duration_seconds()), (3200, 0.2));
    for (i, &sample) in waveform.samples.iter().enumerate() {
        let steps = f64::from(sample) * 32_768.0;
        assert_eq!(steps, steps.round(), "sample {i} is no 16-bit value");
        let tone = 16_384.0 * (TAU * i as f64 / 16.0).sin();
        assert!((steps - tone).abs() <= 1.0, "sample {i}: {steps}, expected {tone}");
    }
}

#[test]
fn flac_of_24_bits_in_stereo_is_averaged_and_resampled() {
    let waveform = read(&fixture("stereo_24bit_44k.flac"), 16_000).unwrap();
    assert_eq!(waveform.samples.len(), 3200);
    let difference = largest_difference(&waveform.samples, 0.25);
    assert!(difference < 1e-5, "{difference:e}");
}

#[test]
fn vorbis_keeps_length_and_phase() {
    let waveform = read(&fixture("mono_16k.ogg"), 16_000).unwrap();
    assert_eq!(waveform.samples.len(), 3200);
    let difference = largest_difference(&waveform.samples, 0.5);
    assert!(difference < LOSSY, "{difference:e}");
}

#[test]
fn mp3_loses_the_silence_that_its_encoder_added() {
    let waveform = read(&fixture("mono_16k.mp3"), 16_000).unwrap();
    assert_eq!(waveform.samples.len(), 3200);
    let difference = largest_difference(&waveform.samples, 0.5);
    assert!(difference < LOSSY, "{difference:e}");
}

#[test]
fn content_decides_and_not_the_name() {
    let bytes = fs::read(fixture("mono_16k.flac")).unwrap();
    let expected = read(&fixture("mono_16k.flac"), 16_000).unwrap();
    assert_eq!(read_bytes("tone.wav", &bytes).unwrap(), expected);
    assert_eq!(read_bytes("tone", &bytes).unwrap(), expected);
}

#[test]
fn files_that_are_cut_off_are_errors() {
    for name in ["mono_16k.flac", "stereo_24bit_44k.flac", "mono_16k.ogg", "mono_16k.mp3"] {
        let bytes = fs::read(fixture(name)).unwrap();
        for keep in [bytes.len() / 3, bytes.len() / 2, bytes.len() - 40] {
            let error = read_bytes(name, &bytes[..keep]).expect_err(name);
            assert!(
                matches!(error, AudioError::Truncated { .. } | AudioError::Damaged { .. }),
                "{name} to {keep}: {error:?}"
            );
        }
    }
}

#[test]
fn a_cut_in_a_later_page_of_ogg_is_an_error() {
    let mut bytes = fs::read(fixture("mono_16k.ogg")).unwrap();
    assert!(read_bytes("tone.ogg", &bytes).is_ok());
    // The beginning of one more page.
    bytes.extend(b"OggS\0\x04");
    let error = read_bytes("tone.ogg", &bytes).unwrap_err();
    assert!(matches!(error, AudioError::Truncated { got: 3200, expected: None, .. }), "{error:?}");
    assert!(error.to_string().ends_with(" is cut off after 3200 samples, record or copy it again"));
}

#[test]
fn another_codec_in_ogg_is_named() {
    let error = read(&fixture("opus.ogg"), 16_000).unwrap_err();
    assert!(
        matches!(&error, AudioError::Unsupported { what, .. } if what == "OGG that is not Vorbis")
    );
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn a_wrong_checksum_is_an_error() {
    let mut bytes = fs::read(fixture("mono_16k.flac")).unwrap();
    // The last byte of the MD5 of the samples, which ends the first metadata block.
    bytes[8 + 33] ^= 1;
    let error = read_bytes("tone.flac", &bytes).unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "the checksum of the samples does not match");
}

/// Numbers that look random, the same on every machine.
struct XorShift(u64);

impl XorShift {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

#[test]
fn noise_behind_known_first_bytes_does_not_panic() {
    let mut random = XorShift(42);
    let beginnings: [&[u8]; 5] = [
        b"fLaC\0\0\0\x22",
        b"OggS\0\x02",
        b"ID3\x04\0\0\0\0\0\x10",
        &[0xff, 0xfb, 0x90, 0],
        b"RIFF\0\0\0\0WAVEfmt ",
    ];
    for beginning in beginnings {
        for _ in 0..50 {
            let mut bytes = beginning.to_vec();
            bytes.extend((0..2000).map(|_| random.below(256) as u8));
            let _ = read_bytes("noise", &bytes);
        }
    }
}

#[test]
fn damaged_bytes_do_not_panic() {
    let mut random = XorShift(7);
    for name in ["mono_16k.flac", "stereo_24bit_44k.flac", "mono_16k.ogg", "mono_16k.mp3"] {
        let whole = fs::read(fixture(name)).unwrap();
        for _ in 0..100 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.below(4) {
                let position = random.below(bytes.len());
                bytes[position] = random.below(256) as u8;
            }
            let _ = read_bytes(name, &bytes);
        }
    }
}
