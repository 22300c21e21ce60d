//! Kaldi's mel filters: triangles that are straight in mel, not in Hz.
//!
//! torchaudio 2.6 `compliance/kaldi.py`, `get_mel_banks`.

use mel_spec::mel::SparseMelFilterbank;
use ndarray::Array2;

use crate::FeatureError;

/// Hz; the default of torchaudio 2.6 `compliance/kaldi.py:514-540`, which SSAMBA keeps. The
/// highest frequency is half the sample rate.
pub(crate) const LOW_FREQUENCY: f32 = 20.0;

/// The filters of `n_mels` bins over the `n_fft / 2 + 1` bins of a power spectrum.
///
/// `mel_spec` makes triangles in Hz, so only its sparse product is used. It drops zero weights,
/// and a filter that holds no frequency bin at all (index 3 of 128 at 16 kHz) projects to 0.
pub(crate) fn filter_bank(
    sample_rate: u32,
    n_fft: usize,
    n_mels: usize,
) -> Result<SparseMelFilterbank, FeatureError> {
    Ok(SparseMelFilterbank::from_dense(&mel_weights(sample_rate, n_fft, n_mels)?))
}

/// The filters as a matrix, `[n_mels, n_fft / 2 + 1]`.
///
/// # Errors
/// When there are no mel bins, or the sample rate leaves no room for them.
pub fn mel_weights(
    sample_rate: u32,
    n_fft: usize,
    n_mels: usize,
) -> Result<Array2<f64>, FeatureError> {
    if n_mels == 0 {
        return Err(FeatureError::NoMelBins);
    }
    let nyquist = sample_rate as f32 / 2.0;
    if nyquist <= LOW_FREQUENCY {
        return Err(FeatureError::SampleRateTooLow(sample_rate));
    }
    Ok(Array2::from_shape_fn((n_mels, n_fft / 2 + 1), |(filter, bin)| {
        // The bin at half the sample rate belongs to no filter.
        if bin == n_fft / 2 { 0.0 } else { weight(sample_rate, n_fft, n_mels, filter, bin) }
    }))
}

/// Rises from edge `filter` to the next one and falls to the one after.
///
/// The arithmetic is `f32`, as upstream: a mel value near 2840 has a step of 2.4e-4, which moves
/// a weight by up to 1e-5, so exact weights would not be the ones that the models were trained on.
fn weight(sample_rate: u32, n_fft: usize, n_mels: usize, filter: usize, bin: usize) -> f64 {
    let low = f64::from(mel(LOW_FREQUENCY));
    let high = f64::from(mel(sample_rate as f32 / 2.0));
    let step = (high - low) / (n_mels + 1) as f64;
    let left = low as f32 + filter as f32 * step as f32;
    let right = left + (2.0 * step) as f32;
    let here = mel((f64::from(sample_rate) / n_fft as f64) as f32 * bin as f32);
    let rise = (here - left) / step as f32;
    let fall = (right - here) / step as f32;
    f64::from(rise.min(fall).max(0.0))
}

/// Mel value of a frequency in Hz. The logarithm is rounded once, from `f64`.
fn mel(hz: f32) -> f32 {
    1127.0 * f64::from(1.0 + hz / 700.0).ln() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fourth_of_128_filters_is_empty() {
        let bank = filter_bank(16_000, 512, 128).unwrap();
        assert_eq!((bank.n_mels(), bank.fft_bins(), bank.non_zero_weights()), (128, 257, 504));
        let empty: Vec<_> = (0..128).filter(|&i| bank.weights_for_mel(i).is_empty()).collect();
        assert_eq!(empty, [3]);
    }

    /// One step of an `f32` mel value above 2048, over the width of a filter: the reference's
    /// logarithm is now and then off by the last bit.
    const WEIGHT: f64 = 1.2e-5;

    #[test]
    fn weights_agree_with_torch() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let bytes = std::fs::read(root.join("tests/goldens/fbank.safetensors")).unwrap();
        let golden = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let golden = golden.tensor("mel_bank").unwrap();
        assert_eq!(golden.shape(), [128, 257]);
        let mut expected =
            golden.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        let mut inexact = 0;
        for filter in 0..128 {
            for bin in 0..256 {
                let (got, expected) =
                    (weight(16_000, 512, 128, filter, bin), f64::from(expected.next().unwrap()));
                let difference = (got - expected).abs();
                assert!(difference <= WEIGHT, "{filter}, {bin}: {got}, expected {expected}");
                assert_eq!(got == 0.0, expected == 0.0, "{filter}, {bin}");
                inexact += usize::from(difference > 0.0);
            }
            assert_eq!(expected.next(), Some(0.0));
        }
        assert!(inexact <= 41, "{inexact} of 504 weights differ");
    }

    #[test]
    fn impossible_settings_are_refused() {
        let error = filter_bank(40, 2, 128).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a sample rate of 40 Hz is too low for mel filters, expected 16000 Hz"
        );
        assert_eq!(filter_bank(16_000, 512, 0).unwrap_err(), FeatureError::NoMelBins);
    }
}
