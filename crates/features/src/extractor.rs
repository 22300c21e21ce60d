//! The front end of one model, from samples to the rows that its graph takes.

use ssamba_contract::{FrontEnd, Order, Tensor};

use crate::{Fbank, FeatureError};

/// Turns waveforms into normalised filter banks of a fixed number of frames.
pub struct Extractor {
    front_end: FrontEnd,
    fbank: Fbank,
    normalisation: Normalisation,
}

/// The last step of a front end, value by value.
#[derive(Clone, Copy)]
pub(crate) struct Normalisation {
    mean: f32,
    scale: f32,
}

impl Normalisation {
    pub(crate) fn new(front_end: &FrontEnd) -> Result<Self, FeatureError> {
        let FrontEnd { n_frames, mean, std, .. } = *front_end;
        if n_frames == 0 {
            return Err(FeatureError::NoFrames);
        }
        if !mean.is_finite() || !std.is_finite() || std <= 0.0 {
            return Err(FeatureError::Statistics { mean, std });
        }
        Ok(Self { mean: mean as f32, scale: (2.0 * std) as f32 })
    }

    pub(crate) fn apply(self, value: f32) -> f32 {
        (value - self.mean) / self.scale
    }
}

/// The input of a graph, and how much of the clip is in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// `[n_frames, n_mels]`, padded or cut to the front end's number of frames.
    pub fbank: Tensor,
    /// Frames in the clip before padding or cutting.
    pub n_frames_of_clip: usize,
}

impl Features {
    /// Whether the end of the clip had to be left out.
    pub fn is_cut(&self) -> bool {
        self.n_frames_of_clip > self.fbank.shape()[0]
    }
}

impl Extractor {
    /// Prepares the front end that a model's card asks for.
    ///
    /// # Errors
    /// When the settings describe no possible filter bank.
    pub fn new(front_end: &FrontEnd) -> Result<Self, FeatureError> {
        let normalisation = Normalisation::new(front_end)?;
        let fbank = Fbank::new(front_end.sample_rate, front_end.n_mels)?;
        Ok(Self { front_end: front_end.clone(), fbank, normalisation })
    }

    /// The settings.
    pub fn front_end(&self) -> &FrontEnd {
        &self.front_end
    }

    /// Frames of a waveform that can be heard: one frame at least, of finite samples.
    ///
    /// # Errors
    /// As [`extract`](Self::extract).
    pub fn check(&self, samples: &[f32]) -> Result<usize, FeatureError> {
        let n_frames_of_clip = self.fbank.n_frames(samples.len());
        if n_frames_of_clip == 0 {
            return Err(FeatureError::TooShort {
                n_samples: samples.len(),
                frame_length: self.fbank.frame_length(),
                sample_rate: self.front_end.sample_rate,
            });
        }
        if let Some(index) = samples.iter().position(|x| !x.is_finite()) {
            return Err(FeatureError::NotFinite { index, value: samples[index] });
        }
        Ok(n_frames_of_clip)
    }

    /// Filter banks of a mono waveform at the front end's sample rate.
    ///
    /// Each frame loses its own mean, so that of the clip cancels but for rounding. It is
    /// removed all the same where upstream does (ssamba@019b276 `src/dataloader.py:104`).
    ///
    /// # Errors
    /// When the waveform is shorter than one frame, of which upstream would make padding alone,
    /// or when a sample is not finite.
    pub fn extract(&mut self, samples: &[f32]) -> Result<Features, FeatureError> {
        let FrontEnd { n_mels, n_frames, order, subtract_clip_mean, .. } = self.front_end;
        let n_frames_of_clip = self.check(samples)?;
        let mut fbank = vec![0.0; n_frames * n_mels];
        if subtract_clip_mean {
            self.fbank.compute_into(&without_mean(samples), &mut fbank);
        } else {
            self.fbank.compute_into(samples, &mut fbank);
        }
        let n_normalised = match order {
            Order::PadThenNormalise => n_frames,
            Order::NormaliseThenPad => n_frames.min(n_frames_of_clip),
        };
        for value in &mut fbank[..n_normalised * n_mels] {
            *value = self.normalisation.apply(*value);
        }
        Ok(Features { fbank: Tensor::new([n_frames, n_mels], fbank)?, n_frames_of_clip })
    }
}

fn without_mean(samples: &[f32]) -> Vec<f32> {
    let sum: f64 = samples.iter().map(|&x| f64::from(x)).sum();
    let mean = (sum / samples.len() as f64) as f32;
    samples.iter().map(|x| x - mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn front_end(n_frames: usize, order: Order) -> FrontEnd {
        FrontEnd {
            sample_rate: 16_000,
            n_mels: 128,
            n_frames,
            mean: -4.0,
            std: 2.0,
            order,
            subtract_clip_mean: true,
        }
    }

    #[test]
    fn the_order_decides_what_padding_becomes() {
        for (order, padding) in [(Order::PadThenNormalise, 1.0), (Order::NormaliseThenPad, 0.0)] {
            let mut extractor = Extractor::new(&front_end(3, order)).unwrap();
            let features = extractor.extract(&[0.0; 560]).unwrap();
            assert_eq!(features.fbank.shape(), [3, 128]);
            assert_eq!(features.fbank.row(1), [(-15.942385 + 4.0) / 4.0; 128], "{order:?}");
            assert_eq!(features.fbank.row(2), [padding; 128], "{order:?}");
            assert_eq!((features.n_frames_of_clip, features.is_cut()), (2, false));
        }
    }

    #[test]
    fn a_long_clip_keeps_its_first_frames() {
        let waveform: Vec<f32> = (0..2000).map(|i| (0.001 * (i * i) as f32).sin()).collect();
        for order in [Order::PadThenNormalise, Order::NormaliseThenPad] {
            let whole = Extractor::new(&front_end(11, order)).unwrap().extract(&waveform).unwrap();
            let cut = Extractor::new(&front_end(4, order)).unwrap().extract(&waveform).unwrap();
            assert!((whole.n_frames_of_clip, whole.is_cut()) == (11, false));
            assert!((cut.n_frames_of_clip, cut.is_cut()) == (11, true));
            assert_eq!(cut.fbank.data(), &whole.fbank.data()[..4 * 128]);
        }
    }

    #[test]
    fn the_mean_of_the_clip_cancels_but_for_rounding() {
        let waveform: Vec<f32> = (0..1600).map(|i| 0.1 + 0.5 * (0.2 * i as f32).sin()).collect();
        let settings = front_end(8, Order::PadThenNormalise);
        let with = Extractor::new(&settings).unwrap().extract(&waveform).unwrap();
        let settings = FrontEnd { subtract_clip_mean: false, ..settings };
        let without = Extractor::new(&settings).unwrap().extract(&waveform).unwrap();
        assert_ne!(with, without);
        for (a, b) in with.fbank.data().iter().zip(without.fbank.data()) {
            assert!((a - b).abs() < 1e-3, "{a} and {b}");
        }
    }

    #[test]
    fn less_than_a_frame_is_an_error() {
        let mut extractor = Extractor::new(&front_end(8, Order::PadThenNormalise)).unwrap();
        assert_eq!(
            extractor.extract(&[0.1; 399]).unwrap_err().to_string(),
            "the waveform is too short: it has 399 samples (24.9 ms), and one frame takes 400 \
             (25.0 ms at 16000 Hz); record more audio, or append silence"
        );
        assert_eq!(extractor.extract(&[0.1; 400]).unwrap().n_frames_of_clip, 1);
    }

    #[test]
    fn samples_that_are_not_finite_are_refused_by_index() {
        let mut extractor = Extractor::new(&front_end(8, Order::PadThenNormalise)).unwrap();
        let mut waveform = [0.1; 800];
        waveform[700] = f32::NEG_INFINITY;
        assert_eq!(
            extractor.extract(&waveform).unwrap_err().to_string(),
            "sample 700 of the waveform is -inf, expected a finite number in [-1, 1)"
        );
    }

    #[test]
    fn settings_that_normalise_nothing_are_refused() {
        for std in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let settings = FrontEnd { std, ..front_end(8, Order::PadThenNormalise) };
            let error = Extractor::new(&settings).err().unwrap();
            assert!(matches!(error, FeatureError::Statistics { .. }), "{error}");
        }
        let error = Extractor::new(&front_end(0, Order::PadThenNormalise)).err().unwrap();
        assert_eq!(error, FeatureError::NoFrames);
    }
}
