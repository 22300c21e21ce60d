//! What a device calls a sample, as a number.

use cpal::{I24, Sample, SizedSample, U24};

/// A sample as a number in [-1, 1]; 0 is silence.
pub trait Scaled: SizedSample + Send + 'static {
    fn scaled(self) -> f32;
}

macro_rules! scaled {
    ($($sample:ty)*) => {$(
        impl Scaled for $sample {
            fn scaled(self) -> f32 {
                self.to_sample()
            }
        }
    )*};
}

scaled!(i8 i16 i32 i64 u8 u16 u32 u64 f32 f64);

// 24 bits lie in the lower three of four bytes. What lies in the fourth is the driver's affair, so it is shifted
// out.

impl Scaled for I24 {
    fn scaled(self) -> f32 {
        (self.inner() << 8).scaled()
    }
}

impl Scaled for U24 {
    fn scaled(self) -> f32 {
        ((self.inner() << 8) ^ i32::MIN).scaled()
    }
}

/// The mean of the channels of each frame.
pub fn mono<T: Scaled>(interleaved: &[T], channels: usize) -> impl ExactSizeIterator<Item = f32> {
    interleaved
        .chunks_exact(channels)
        .map(move |frame| frame.iter().map(|sample| sample.scaled()).sum::<f32>() / channels as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale<T: Scaled>(samples: &[T]) -> Vec<f32> {
        mono(samples, 1).collect()
    }

    #[test]
    fn every_format_has_the_same_scale() {
        let expected = [-1.0, -0.5, 0.0, 0.25];
        assert_eq!(scale(&[-128_i8, -64, 0, 32]), expected);
        assert_eq!(scale(&[i16::MIN, -16_384, 0, 8_192]), expected);
        assert_eq!(scale(&[i32::MIN, -(1 << 30), 0, 1 << 29]), expected);
        assert_eq!(scale(&[i64::MIN, -(1 << 62), 0, 1 << 61]), expected);
        assert_eq!(scale(&[0_u8, 64, 128, 160]), expected);
        assert_eq!(scale(&[0_u16, 16_384, 32_768, 40_960]), expected);
        assert_eq!(scale(&[0_u32, 1 << 30, 1 << 31, 5 << 29]), expected);
        assert_eq!(scale(&[0_u64, 1 << 62, 1 << 63, 5 << 61]), expected);
        assert_eq!(scale(&expected), expected);
        assert_eq!(scale(&expected.map(f64::from)), expected);
        // As read from a device: the fourth byte is what it likes.
        let signed = [-(1 << 23), -(1 << 22), 0, 1 << 21];
        let unsigned = [0, 1 << 22, 1 << 23, 5 << 21];
        for fourth in [0, 0x5a_00_0000, -0x100_0000] {
            let with = |sample: i32| (sample & 0xff_ffff) | fourth;
            assert_eq!(scale(&signed.map(|x| I24::new_unchecked(with(x)))), expected);
            assert_eq!(scale(&unsigned.map(|x| U24::new_unchecked(with(x)))), expected);
        }
    }

    #[test]
    fn sixteen_bits_are_those_of_a_wav_file() {
        for sample in [i16::MIN, -1, 0, 1, 12_345, i16::MAX] {
            assert_eq!(sample.scaled(), f32::from(sample) / 32_768.0);
        }
    }

    #[test]
    fn channels_are_averaged() {
        let got: Vec<f32> = mono(&[0.5_f32, -0.25, 1.0, 0.0], 2).collect();
        assert_eq!(got, [0.125, 0.5]);
        let got: Vec<f32> = mono(&[3 << 13, 0, 0, -3 << 13, 0, 0_i16], 3).collect();
        assert_eq!(got, [0.25, -0.25]);
    }
}
