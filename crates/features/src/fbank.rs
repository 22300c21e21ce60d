//! Log-mel filter banks as Kaldi computes them.

use std::f64::consts::TAU;
use std::sync::Arc;

use mel_spec::mel::SparseMelFilterbank;
use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};
use ssamba_contract::front_end::{frame_length, frame_shift};

use crate::{FeatureError, mel};

/// Share of the previous sample that is taken off (torchaudio 2.6 `compliance/kaldi.py:514-540`).
pub const PREEMPHASIS: f64 = 0.97;
/// Least mel energy, 1.1920929e-7 (torchaudio 2.6 `compliance/kaldi.py`): its logarithm,
/// -15.942385, is what silence and an empty filter give.
pub const FLOOR: f64 = f32::EPSILON as f64;

/// Computes log-mel filter banks: `[n_frames, n_mels]`, natural logarithm, lowest bin first.
///
/// Built once, used for any number of clips or, with [`frame`](Self::frame), of frames.
///
/// From the samples to the logarithm all arithmetic is `f64`; only the mel weights keep upstream's
/// `f32` rounding. Near the floor a mel energy is what is left of products that cancel, and no two
/// `f32` transforms agree there: an exact one is nearer to each than they are to each other, and
/// 512 points are cheap.
pub struct Fbank {
    frame_length: usize,
    frame_shift: usize,
    window: Vec<f64>,
    fft: Arc<dyn RealToComplex<f64>>,
    filters: SparseMelFilterbank,
    /// A frame, zero-padded to the length of the transform.
    padded: Vec<f64>,
    spectrum: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
    power: Vec<f64>,
    energies: Vec<f64>,
}

impl Fbank {
    /// Plans the transform and lays out window and filters.
    ///
    /// # Errors
    /// When there are no mel bins, or the sample rate leaves no room for them.
    pub fn new(sample_rate: u32, n_mels: usize) -> Result<Self, FeatureError> {
        let (frame_length, frame_shift) = (frame_length(sample_rate), frame_shift(sample_rate));
        if frame_length < 2 || frame_shift == 0 {
            return Err(FeatureError::SampleRateTooLow(sample_rate));
        }
        let n_fft = frame_length.next_power_of_two();
        let filters = mel::filter_bank(sample_rate, n_fft, n_mels)?;
        let fft = RealFftPlanner::new().plan_fft_forward(n_fft);
        Ok(Self {
            frame_length,
            frame_shift,
            window: symmetric_hann(frame_length),
            padded: fft.make_input_vec(),
            spectrum: fft.make_output_vec(),
            scratch: fft.make_scratch_vec(),
            power: vec![0.0; n_fft / 2 + 1],
            energies: vec![0.0; n_mels],
            fft,
            filters,
        })
    }

    /// Samples in one frame.
    pub fn frame_length(&self) -> usize {
        self.frame_length
    }

    /// Samples from the start of one frame to the start of the next.
    pub fn frame_shift(&self) -> usize {
        self.frame_shift
    }

    /// Values in one frame.
    pub fn n_mels(&self) -> usize {
        self.energies.len()
    }

    /// Whole frames in `n_samples` samples; what is left over at the end is not used
    /// (`snip_edges` in Kaldi).
    pub fn n_frames(&self, n_samples: usize) -> usize {
        match n_samples.checked_sub(self.frame_length) {
            Some(rest) => 1 + rest / self.frame_shift,
            None => 0,
        }
    }

    /// Filter banks of a whole waveform, `[n_frames, n_mels]` in row-major order. Empty when the
    /// waveform is shorter than one frame.
    pub fn compute(&mut self, waveform: &[f32]) -> Vec<f32> {
        let mut fbank = vec![0.0; self.n_frames(waveform.len()) * self.n_mels()];
        self.compute_into(waveform, &mut fbank);
        fbank
    }

    /// As [`compute`](Self::compute), for the first frames of the waveform: as many as `fbank`
    /// has room for.
    pub(crate) fn compute_into(&mut self, waveform: &[f32], fbank: &mut [f32]) {
        let frames = waveform.windows(self.frame_length).step_by(self.frame_shift);
        let n_mels = self.n_mels();
        for (samples, row) in frames.zip(fbank.chunks_exact_mut(n_mels)) {
            self.frame(samples, row);
        }
    }

    /// Filter banks of the one frame that starts at the first of `samples`.
    ///
    /// # Panics
    /// When `samples` does not hold [`frame_length`](Self::frame_length) values, or `fbank` not
    /// [`n_mels`](Self::n_mels).
    pub fn frame(&mut self, samples: &[f32], fbank: &mut [f32]) {
        assert_eq!(samples.len(), self.frame_length, "one frame");
        assert_eq!(fbank.len(), self.energies.len(), "one value a mel bin");

        self.padded.fill(0.0);
        let frame = &mut self.padded[..self.frame_length];
        let mean = samples.iter().map(|&x| f64::from(x)).sum::<f64>() / samples.len() as f64;
        // The sample before the first one is taken to equal it.
        let mut previous = f64::from(samples[0]) - mean;
        for ((slot, &sample), &window) in frame.iter_mut().zip(samples).zip(&self.window) {
            let centred = f64::from(sample) - mean;
            *slot = (centred - PREEMPHASIS * previous) * window;
            previous = centred;
        }

        let transformed =
            self.fft.process_with_scratch(&mut self.padded, &mut self.spectrum, &mut self.scratch);
        debug_assert!(transformed.is_ok(), "the buffers were made by the plan");
        for (power, bin) in self.power.iter_mut().zip(&self.spectrum) {
            *power = bin.norm_sqr();
        }
        self.filters.project_power_f64(&self.power, &mut self.energies);
        for (value, &energy) in fbank.iter_mut().zip(&self.energies) {
            // Not `max`, which would turn NaN into the floor.
            let energy = if energy < FLOOR { FLOOR } else { energy };
            *value = energy.ln() as f32;
        }
    }
}

/// Ends on zero at both sides: "hanning" in Kaldi, `periodic=False` in PyTorch.
pub fn symmetric_hann(length: usize) -> Vec<f64> {
    let turn = TAU / (length - 1) as f64;
    (0..length).map(|i| 0.5 - 0.5 * (turn * i as f64).cos()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(n_samples: usize) -> Vec<f32> {
        (0..n_samples).map(|i| 0.5 * (0.3 * i as f32).sin()).collect()
    }

    #[test]
    fn only_whole_frames_count() {
        let mut fbank = Fbank::new(16_000, 128).unwrap();
        assert_eq!((fbank.frame_length(), fbank.frame_shift()), (400, 160));
        for (n_samples, n_frames) in
            [(0, 0), (399, 0), (400, 1), (559, 1), (560, 2), (16_000, 98), (160_000, 998)]
        {
            assert_eq!(fbank.n_frames(n_samples), n_frames, "{n_samples} samples");
            assert_eq!(fbank.compute(&tone(n_samples)).len(), n_frames * 128, "{n_samples}");
        }
    }

    #[test]
    fn silence_gives_the_logarithm_of_the_floor() {
        let fbank = Fbank::new(16_000, 128).unwrap().compute(&[0.0; 560]);
        assert_eq!(fbank, [-15.942385; 2 * 128]);
    }

    #[test]
    fn a_constant_is_silence() {
        let fbank = Fbank::new(16_000, 128).unwrap().compute(&[0.25; 400]);
        assert_eq!(fbank, [-15.942385; 128]);
    }

    #[test]
    fn the_empty_filter_gives_the_floor_for_any_sound() {
        let noise: Vec<f32> = (0..400_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0)
            .collect();
        let fbank = Fbank::new(16_000, 128).unwrap().compute(&noise);
        let floors: Vec<_> = (0..128).filter(|&i| fbank[i] == -15.942385).collect();
        assert_eq!(floors, [3]);
    }

    #[test]
    fn a_frame_alone_equals_the_frame_in_its_clip() {
        let mut fbank = Fbank::new(16_000, 128).unwrap();
        let waveform = tone(1000);
        let clip = fbank.compute(&waveform);
        let mut alone = [0.0; 128];
        for i in (0..fbank.n_frames(1000)).rev() {
            fbank.frame(&waveform[i * 160..i * 160 + 400], &mut alone);
            assert_eq!(alone, clip[i * 128..][..128], "frame {i}");
        }
    }

    #[test]
    fn not_a_number_is_not_hidden_by_the_floor() {
        let fbank = Fbank::new(16_000, 128).unwrap().compute(&[f32::NAN; 400]);
        assert!(fbank[0].is_nan());
    }

    #[test]
    fn rates_without_room_for_a_frame_are_refused() {
        for rate in [0, 39, 99] {
            assert_eq!(Fbank::new(rate, 128).err(), Some(FeatureError::SampleRateTooLow(rate)));
        }
    }
}
