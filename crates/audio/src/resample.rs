//! Sample rate conversion of a whole waveform.

use std::error::Error;

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};

/// Samples of the slower of the two rates in one block, at least. The filter is one block long: at
/// 16 kHz it passes all but the top 2 % of the band.
const BLOCK: u32 = 1024;

/// Resamples from `from` to `to` Hz. Both ends stay where they are in time: the result has
/// round(n * to / from) samples. Equal rates give the samples back untouched.
pub(crate) fn resample(
    samples: Vec<f32>,
    from: u32,
    to: u32,
) -> Result<Vec<f32>, Box<dyn Error + Send + Sync>> {
    if from == to {
        return Ok(samples);
    }
    let mut resampler = Fft::<f32>::new_custom(
        from as usize,
        to as usize,
        block_length(from, to),
        1,
        1,
        WindowFunction::BlackmanHarris2,
        FixedSync::Input,
    )?;
    let input = InterleavedSlice::new(samples.as_slice(), 1, samples.len())?;
    // Drops the delay of the filter, and flushes what is still in it at the end.
    let mut resampled = resampler.process_all(&input, samples.len(), None)?.take_data();
    resampled.resize(resampled_len(samples.len(), from, to), 0.0);
    Ok(resampled)
}

/// Input samples in one block.
///
/// A block is an even multiple of the shortest span that is whole at both rates: the filter is then
/// centred on a sample at both, and its delay, half a block, can be dropped exactly.
fn block_length(from: u32, to: u32) -> usize {
    let divisor = gcd(from, to);
    let pair = 2 * (from / divisor) as usize;
    let pairs = BLOCK.div_ceil(2 * (from.min(to) / divisor)) as usize;
    pair * pairs
}

fn resampled_len(n_samples: usize, from: u32, to: u32) -> usize {
    let (n, from, to) = (n_samples as u128, u128::from(from), u128::from(to));
    ((2 * n * to + from) / (2 * from)) as usize
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::TAU;

    fn sine(frequency: f64, rate: u32, n_samples: usize) -> Vec<f32> {
        let step = TAU * frequency / f64::from(rate);
        (0..n_samples).map(|i| (0.5 * (step * i as f64).sin()) as f32).collect()
    }

    /// In dB, over the middle half, against the sine sampled at the other rate: a shift in time
    /// counts as noise.
    fn signal_to_noise(frequency: f64, from: u32, to: u32) -> f64 {
        let n_samples = from as usize;
        let got = resample(sine(frequency, from, n_samples), from, to).unwrap();
        let expected = sine(frequency, to, to as usize);
        assert_eq!(got.len(), expected.len());
        let (mut signal, mut noise) = (0.0, 0.0);
        for i in got.len() / 4..got.len() * 3 / 4 {
            signal += f64::from(expected[i]).powi(2);
            noise += f64::from(got[i] - expected[i]).powi(2);
        }
        10.0 * (signal / noise).log10()
    }

    #[test]
    fn a_sine_stays_a_sine_in_phase() {
        for from in [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000, 44_101] {
            for frequency in [55.0, 440.0, 3_000.0, 7_500.0] {
                if frequency < f64::from(from) / 2.0 {
                    let ratio = signal_to_noise(frequency, from, 16_000);
                    assert!(ratio > 80.0, "{frequency} Hz from {from} Hz: {ratio:.1} dB");
                }
            }
        }
    }

    #[test]
    fn what_the_lower_rate_cannot_hold_is_removed() {
        let high = resample(sine(9_000.0, 48_000, 48_000), 48_000, 16_000).unwrap();
        let loudest = high[4000..12_000].iter().fold(0.0_f32, |peak, x| peak.max(x.abs()));
        assert!(loudest < 1e-5, "{loudest:e}");
    }

    #[test]
    fn a_click_stays_at_its_time() {
        for (from, at) in [(48_000, 24_000), (44_100, 22_050), (8_000, 4_000)] {
            let mut click = vec![0.0; from as usize];
            click[at] = 1.0;
            let got = resample(click, from, 16_000).unwrap();
            let loudest = (0..got.len()).max_by(|&a, &b| got[a].abs().total_cmp(&got[b].abs()));
            assert_eq!(loudest, Some(8_000), "from {from} Hz");
        }
    }

    #[test]
    fn lengths_are_rounded() {
        for (n_samples, from, expected) in [
            (1, 8_000, 2),
            (1, 44_100, 0),
            (2, 44_100, 1),
            (3, 48_000, 1),
            (5, 48_000, 2),
            (44_100, 44_100, 16_000),
            (8_820, 44_100, 3_200),
            (100_000, 48_000, 33_333),
        ] {
            let got = resample(vec![0.25; n_samples], from, 16_000).unwrap();
            assert_eq!(got.len(), expected, "{n_samples} samples at {from} Hz");
        }
    }

    #[test]
    fn equal_rates_change_nothing() {
        let samples = vec![0.1, -1.0, 0.3];
        assert_eq!(resample(samples.clone(), 16_000, 16_000).unwrap(), samples);
    }
}
