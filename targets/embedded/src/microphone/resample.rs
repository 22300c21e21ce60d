//! Sample rate conversion of a stream.

use anyhow::{Context, Result};
use rubato::{
    Fft, FixedSync, Resampler as _, WindowFunction, audioadapter_buffers::direct::InterleavedSlice,
};
use ssamba_kws::SAMPLE_RATE;

/// Samples of the slower of the two rates in one block, at least. The filter is one block long: at 16 kHz it passes
/// all but the top 4 % of the band, and delays what is heard by 32 ms.
const BLOCK: u32 = 512;

/// Brings a stream to [`SAMPLE_RATE`]. Its start stays where it is in time.
pub struct Resampler {
    /// `None`: the rate is right.
    blocks: Option<Blocks>,
}

struct Blocks {
    fft: Fft<f32>,
    /// Samples of a block that is not whole yet.
    input: Vec<f32>,
    length: usize,
    output: Vec<f32>,
    /// What is left of the filter's delay, in samples of the output: they come before the start.
    delay: usize,
}

impl Resampler {
    /// For a stream of `from` Hz.
    ///
    /// # Errors
    /// When the rate is 0.
    pub fn new(from: u32) -> Result<Self> {
        if from == SAMPLE_RATE {
            return Ok(Self { blocks: None });
        }
        let length = block_length(from);
        let fft = Fft::<f32>::new_custom(
            from as usize,
            SAMPLE_RATE as usize,
            length,
            1,
            1,
            WindowFunction::BlackmanHarris2,
            FixedSync::Input,
        )
        .with_context(|| format!("{from} Hz cannot be resampled to {SAMPLE_RATE} Hz"))?;
        let blocks = Blocks {
            input: Vec::with_capacity(length),
            length,
            output: vec![0.0; fft.output_frames_max()],
            delay: fft.output_delay(),
            fft,
        };
        Ok(Self { blocks: Some(blocks) })
    }

    /// Takes in the next samples, any number of them, and hands on what is ready.
    ///
    /// # Errors
    /// Those of `body`.
    pub fn push(
        &mut self,
        mut samples: &[f32],
        mut body: impl FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let Some(blocks) = &mut self.blocks else { return body(samples) };
        while !samples.is_empty() {
            let missing = blocks.length - blocks.input.len();
            let (taken, rest) = samples.split_at(missing.min(samples.len()));
            blocks.input.extend_from_slice(taken);
            samples = rest;
            if blocks.input.len() == blocks.length {
                body(blocks.convert()?)?;
            }
        }
        Ok(())
    }
}

impl Blocks {
    /// Resamples the whole block that came in.
    fn convert(&mut self) -> Result<&[f32]> {
        let capacity = self.output.len();
        let input = InterleavedSlice::new(self.input.as_slice(), 1, self.length)?;
        let mut output = InterleavedSlice::new_mut(self.output.as_mut_slice(), 1, capacity)?;
        let (_, written) = self.fft.process_into_buffer(&input, &mut output, None)?;
        self.input.clear();
        let skipped = self.delay.min(written);
        self.delay -= skipped;
        Ok(&self.output[skipped..written])
    }
}

/// Input samples in one block.
///
/// A block is an even multiple of the shortest span that is whole at both rates: the filter is then centred on a
/// sample at both, and its delay, half a block, can be dropped exactly.
fn block_length(from: u32) -> usize {
    let divisor = gcd(from, SAMPLE_RATE).max(1);
    let pair = 2 * (from / divisor) as usize;
    let pairs = BLOCK.div_ceil((2 * (from.min(SAMPLE_RATE) / divisor)).max(1)) as usize;
    pair * pairs
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use super::*;

    fn sine(frequency: f64, rate: u32) -> Vec<f32> {
        let step = TAU * frequency / f64::from(rate);
        (0..rate).map(|i| (0.5 * (step * f64::from(i)).sin()) as f32).collect()
    }

    fn resampled(samples: &[f32], from: u32, piece: usize) -> Vec<f32> {
        let mut resampler = Resampler::new(from).unwrap();
        let mut got = Vec::new();
        for piece in samples.chunks(piece) {
            let collect = |ready: &[f32]| {
                got.extend_from_slice(ready);
                Ok(())
            };
            resampler.push(piece, collect).unwrap();
        }
        got
    }

    #[test]
    fn a_sine_stays_a_sine_in_phase() {
        for from in [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000] {
            for frequency in [55.0, 440.0, 3_000.0, 7_500.0] {
                if frequency > 0.45 * f64::from(from) {
                    continue;
                }
                let got = resampled(&sine(frequency, from), from, 480);
                // What is still in the filter is less than two blocks.
                assert!((14_000..=16_000).contains(&got.len()), "{} from {from} Hz", got.len());
                let expected = sine(frequency, SAMPLE_RATE);
                let (mut signal, mut noise) = (0.0, 0.0);
                for i in 4_000..12_000 {
                    signal += f64::from(expected[i]).powi(2);
                    noise += f64::from(got[i] - expected[i]).powi(2);
                }
                let ratio = 10.0 * (signal / noise).log10();
                assert!(ratio > 80.0, "{frequency} Hz from {from} Hz: {ratio:.1} dB");
            }
        }
    }

    #[test]
    fn what_16_khz_cannot_hold_is_removed() {
        for from in [44_100, 48_000] {
            let high = resampled(&sine(9_000.0, from), from, 1_000);
            let loudest = high[4_000..12_000].iter().fold(0.0_f32, |peak, x| peak.max(x.abs()));
            assert!(loudest < 1e-4, "{loudest:e} from {from} Hz");
        }
    }

    #[test]
    fn how_a_stream_is_cut_changes_nothing() {
        let samples = sine(440.0, 48_000);
        let whole = resampled(&samples, 48_000, samples.len());
        for piece in [1, 480, 1_537] {
            assert_eq!(resampled(&samples, 48_000, piece), whole, "pieces of {piece}");
        }
    }

    #[test]
    fn the_right_rate_changes_nothing() {
        let samples = [0.1, -1.0, 0.3];
        assert_eq!(resampled(&samples, SAMPLE_RATE, 2), samples);
    }

    #[test]
    fn no_rate_is_an_error() {
        assert!(Resampler::new(0).is_err());
    }
}
