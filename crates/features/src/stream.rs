//! The front end of one model over a stream: each frame is computed once, every window reuses it.

use ssamba_contract::{FrontEnd, Order, Tensor};

use crate::{Fbank, FeatureError, extractor::Normalisation};

/// Keeps the newest normalised frames of a stream of samples.
///
/// Its windows are what [`Extractor`](crate::Extractor) makes of the same samples, but for the
/// rounding of a clip's mean: each frame loses its own mean, so a stream, which has no other, needs
/// none. All memory is taken when it is made.
pub struct Stream {
    fbank: Fbank,
    normalisation: Normalisation,
    /// The frame that is being filled, and how much of it is.
    frame: Box<[f32]>,
    filled: usize,
    /// The newest frames, `[frames_heard, n_mels]`; frame `i` of the stream lies in row
    /// `i % frames_heard`.
    ring: Box<[f32]>,
    frames_heard: usize,
    n_frames: usize,
    seen: u64,
    padding: f32,
}

impl Stream {
    /// Prepares the front end that a model's card asks for, over windows of `frames_heard` frames;
    /// the rest of the frames that the model takes is padding, as for a shorter clip.
    ///
    /// # Errors
    /// When the settings describe no possible filter bank, or `frames_heard` is 0 or more than the
    /// model takes.
    pub fn new(front_end: &FrontEnd, frames_heard: usize) -> Result<Self, FeatureError> {
        let FrontEnd { sample_rate, n_mels, n_frames, order, .. } = *front_end;
        let normalisation = Normalisation::new(front_end)?;
        if !(1..=n_frames).contains(&frames_heard) {
            return Err(FeatureError::Window { frames_heard, n_frames });
        }
        let fbank = Fbank::new(sample_rate, n_mels)?;
        Ok(Self {
            frame: vec![0.0; fbank.frame_length()].into(),
            filled: 0,
            ring: vec![0.0; frames_heard * n_mels].into(),
            frames_heard,
            n_frames,
            seen: 0,
            padding: match order {
                Order::PadThenNormalise => normalisation.apply(0.0),
                Order::NormaliseThenPad => 0.0,
            },
            fbank,
            normalisation,
        })
    }

    /// Takes in samples up to the end of the next frame and returns those behind it; `None` when
    /// all were taken in and the frame is not whole yet. Any cut of a stream into pieces gives the
    /// same frames.
    pub fn push<'a>(&mut self, samples: &'a [f32]) -> Option<&'a [f32]> {
        let missing = self.frame.len() - self.filled;
        let Some((taken, rest)) = samples.split_at_checked(missing) else {
            self.frame[self.filled..][..samples.len()].copy_from_slice(samples);
            self.filled += samples.len();
            return None;
        };
        self.frame[self.filled..].copy_from_slice(taken);
        let row = (self.seen % self.frames_heard as u64) as usize;
        let n_mels = self.fbank.n_mels();
        let row = &mut self.ring[row * n_mels..][..n_mels];
        self.fbank.frame(&self.frame, row);
        for value in row {
            *value = self.normalisation.apply(*value);
        }
        self.seen += 1;
        let shift = self.fbank.frame_shift();
        self.frame.copy_within(shift.., 0);
        self.filled = self.frame.len() - shift;
        Some(rest)
    }

    /// Whole frames since the start.
    pub fn frames(&self) -> u64 {
        self.seen
    }

    /// Frames of sound in one window.
    pub fn frames_heard(&self) -> usize {
        self.frames_heard
    }

    /// Samples from the start of the stream to the end of its newest frame.
    pub fn samples(&self) -> u64 {
        match self.seen.checked_sub(1) {
            Some(before) => {
                before * self.fbank.frame_shift() as u64 + self.fbank.frame_length() as u64
            }
            None => 0,
        }
    }

    /// The newest frames, `[1, n_frames, n_mels]`; `None` while there are not enough of them.
    pub fn window(&self) -> Option<Tensor> {
        if self.seen < self.frames_heard as u64 {
            return None;
        }
        let n_mels = self.fbank.n_mels();
        let oldest = (self.seen % self.frames_heard as u64) as usize;
        let (newer, older) = self.ring.split_at(oldest * n_mels);
        let mut fbank = Vec::with_capacity(self.n_frames * n_mels);
        fbank.extend_from_slice(older);
        fbank.extend_from_slice(newer);
        fbank.resize(self.n_frames * n_mels, self.padding);
        Tensor::new([1, self.n_frames, n_mels], fbank).ok()
    }

    /// Forgets all samples: the next one is the first of a stream.
    pub fn reset(&mut self) {
        self.filled = 0;
        self.seen = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Extractor;

    /// Rounding of the clip's mean, in normalised units.
    const ROUNDING: f32 = 1e-4;

    fn front_end(n_frames: usize, order: Order) -> FrontEnd {
        FrontEnd {
            sample_rate: 16_000,
            n_mels: 128,
            n_frames,
            mean: -6.845978,
            std: 5.5654526,
            order,
            subtract_clip_mean: true,
        }
    }

    /// Seeded noise that swells, on an offset.
    fn sound(n_samples: u32) -> Vec<f32> {
        let noise = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
        (0..n_samples).map(|i| 0.02 + 0.3 * noise(i) * (i as f32 * 3e-4).sin()).collect()
    }

    #[test]
    fn every_window_equals_the_extractor_on_its_samples() {
        let samples = sound(8_000);
        for (heard, order) in [(20, Order::PadThenNormalise), (13, Order::NormaliseThenPad)] {
            let front_end = front_end(20, order);
            let mut extractor = Extractor::new(&front_end).unwrap();
            let mut stream = Stream::new(&front_end, heard).unwrap();
            let mut rest = &samples[..];
            let mut windows = 0;
            while let Some(behind) = stream.push(rest) {
                rest = behind;
                let end = samples.len() - rest.len();
                assert_eq!(stream.samples(), end as u64);
                let Some(window) = stream.window() else {
                    assert!(stream.frames() < heard as u64);
                    continue;
                };
                let start = (stream.frames() as usize - heard) * 160;
                let expected = extractor.extract(&samples[start..end]).unwrap().fbank;
                assert_eq!(window.shape(), [1, 20, 128]);
                for (got, expected) in window.data().iter().zip(expected.data()) {
                    assert!((got - expected).abs() <= ROUNDING, "{got}, expected {expected}");
                }
                windows += 1;
            }
            assert_eq!(windows, 48 - heard + 1);
        }
    }

    #[test]
    fn pieces_of_any_size_give_the_same_frames() {
        let samples = sound(3_000);
        let mut stream = Stream::new(&front_end(9, Order::PadThenNormalise), 9).unwrap();
        let mut windows = Vec::new();
        for size in [1, 160, 401, 3_000] {
            stream.reset();
            for mut piece in samples.chunks(size) {
                while let Some(rest) = stream.push(piece) {
                    piece = rest;
                }
            }
            assert_eq!(stream.frames(), 17);
            windows.push(stream.window().unwrap());
        }
        assert!(windows.iter().all(|window| *window == windows[0]));
    }

    #[test]
    fn windows_that_the_model_cannot_take_are_refused() {
        let front_end = front_end(9, Order::PadThenNormalise);
        assert_eq!(
            Stream::new(&front_end, 10).err().unwrap().to_string(),
            "a window of 10 frames does not fit the model, expected 1 to 9"
        );
        assert!(Stream::new(&front_end, 0).is_err());
    }
}
