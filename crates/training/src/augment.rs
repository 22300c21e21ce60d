//! From the log-mel frames of clips to what a network sees in training.
//!
//! All draws of a clip come from a stream of its own, so that neither threads nor the place in a batch
//! matter.

use ssamba_contract::{FrontEnd, Order};

use crate::{plan::Augmentation, random::Random};

/// Log-mel frames of a clip, not normalised: `[frames, n_mels]`.
pub type Frames = [f32];

/// What a network sees of a clip: `[n_frames, n_mels]`, padded and normalised, as in evaluation.
pub fn plain(frames: &Frames, front_end: &FrontEnd) -> Vec<f32> {
    normalised(padded(frames.to_vec(), front_end), frames.len(), front_end)
}

/// How a clip sounds in training, `[frames, n_mels]`, not normalised; `background` is mixed in where the
/// draw says so.
pub fn sound(
    frames: &Frames,
    background: Option<&Frames>,
    how: &Augmentation,
    front_end: &FrontEnd,
    random: &mut Random,
) -> Vec<f32> {
    let speed = match how.speed {
        [low, high] if low > 0.0 => random.range(low, high),
        _ => 1.0,
    };
    let shift = random.range(-how.shift, how.shift);
    let mut sound = match speed != 1.0 || shift != 0.0 {
        true => resampled(frames, front_end.n_mels, front_end.sample_rate, shift, speed),
        false => frames.to_vec(),
    };
    let mixes = random.unit() < how.background_probability;
    let volume = random.range(0.0, how.background);
    if let Some(background) = background.filter(|_| mixes && volume > 0.0) {
        let gain = (2.0 * volume.ln()) as f32;
        for (x, n) in sound.iter_mut().zip(background) {
            *x = log_add_exp(*x, n + gain);
        }
    }
    sound
}

/// What happens to a sound on its way into a network, drawn beforehand: masks, and upstream's noise and
/// roll.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finish {
    /// First mel bin that is masked, and how many are.
    frequency: (usize, usize),
    /// First frame that is masked, and how many are.
    time: (usize, usize),
    /// Added to normalised values.
    noise: Vec<f32>,
    /// Frames that everything is moved by, around the end.
    roll: isize,
}

impl Finish {
    /// Draws for an input of this size.
    pub fn draw(how: &Augmentation, front_end: &FrontEnd, random: &mut Random) -> Self {
        let FrontEnd { n_frames, n_mels, .. } = *front_end;
        let frequency = mask(n_mels, how.frequency_mask, random);
        let time = mask(n_frames, how.time_mask, random);
        let (mut noise, mut roll) = (Vec::new(), 0);
        if how.noise_and_roll {
            let volume = random.range(0.0, 0.1);
            noise = (0..n_frames * n_mels).map(|_| (random.unit() * volume) as f32).collect();
            // From -10 to 9, as upstream draws it.
            roll = random.below(20) as isize - 10;
        }
        Self { frequency, time, noise, roll }
    }

    /// The same noise and roll alone.
    pub fn without_masks(&self) -> Self {
        Self { frequency: (0, 0), time: (0, 0), ..self.clone() }
    }

    /// What a network sees of `sound`: `[n_frames, n_mels]`, padded and normalised. It may take other
    /// numbers of frames than was drawn for: no noise is added to frames beyond.
    pub fn apply(&self, sound: Vec<f32>, front_end: &FrontEnd) -> Vec<f32> {
        let FrontEnd { n_frames, n_mels, .. } = *front_end;
        let of_clip = sound.len();
        let mut fbank = padded(sound, front_end);
        let (start, width) = self.frequency;
        for row in fbank.chunks_exact_mut(n_mels) {
            row[start..start + width].fill(0.0);
        }
        let (start, width) = self.time;
        fbank[start * n_mels..(start + width) * n_mels].fill(0.0);
        let mut fbank = normalised(fbank, of_clip, front_end);
        fbank.iter_mut().zip(&self.noise).for_each(|(x, noise)| *x += noise);
        fbank.rotate_right(self.roll.rem_euclid(n_frames as isize) as usize * n_mels);
        fbank
    }
}

/// `part * a + (1 - part) * b`, in place.
pub fn mix(a: &mut [f32], b: &[f32], part: f32) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a = part * *a + (1.0 - part) * b);
}

/// Frames of two clips that sound together, `part` and `1 - part` loud, as long as the first.
pub fn powers(a: &Frames, b: &Frames, part: f64) -> Vec<f32> {
    let gain = |part: f64| (2.0 * part.max(1e-6).ln()) as f32;
    let (of_a, of_b) = (gain(part), gain(1.0 - part));
    let mut mixed: Vec<f32> = a.iter().map(|x| x + of_a).collect();
    for (x, y) in mixed.iter_mut().zip(b) {
        *x = log_add_exp(*x, y + of_b);
    }
    mixed
}

/// Rows of zeros behind, or rows cut off.
fn padded(mut fbank: Vec<f32>, front_end: &FrontEnd) -> Vec<f32> {
    fbank.resize(front_end.n_frames * front_end.n_mels, 0.0);
    fbank
}

/// Normalises a clip of so many values, and the padding behind it where the front end does.
fn normalised(mut fbank: Vec<f32>, of_clip: usize, front_end: &FrontEnd) -> Vec<f32> {
    let (mean, scale) = (front_end.mean as f32, (2.0 * front_end.std) as f32);
    let values = match front_end.order {
        Order::PadThenNormalise => fbank.len(),
        Order::NormaliseThenPad => of_clip.min(fbank.len()),
    };
    fbank[..values].iter_mut().for_each(|x| *x = (*x - mean) / scale);
    fbank
}

/// First place and width of a mask, both truncated as upstream does.
fn mask(size: usize, widest: f64, random: &mut Random) -> (usize, usize) {
    let width = (random.unit() * widest).min(size as f64);
    let start = random.unit() * (size as f64 - width);
    (start as usize, (width as usize).min(size - start as usize))
}

fn log_add_exp(a: f32, b: f32) -> f32 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    high + (low - high).exp().ln_1p()
}

/// A place between two neighbours: the lower one, the upper one, and the share of the upper one.
type Between = (usize, usize, f32);

/// The place `at` of `0..len`, reflected at both ends.
fn between(at: f64, len: usize) -> Between {
    let last = (len - 1) as f64;
    let at = at.abs();
    let at = if at > last { (2.0 * last - at).max(0.0) } else { at };
    let low = at as usize;
    (low, (low + 1).min(len - 1), (at - low as f64) as f32)
}

/// One bilinear resampling: frames `shift` later, everything `speed` times as fast, and so every
/// frequency `speed` times as high.
fn resampled(frames: &Frames, n_mels: usize, sample_rate: u32, shift: f64, speed: f64) -> Vec<f32> {
    let rows = frames.len() / n_mels;
    if rows == 0 {
        return Vec::new();
    }
    // Centres of the filters are equally spaced between these, in mel.
    let mel = |hz: f64| 1127.0 * (1.0 + hz / 700.0).ln();
    let hz = |mel: f64| 700.0 * ((mel / 1127.0).exp() - 1.0);
    let (low, high) = (mel(20.0), mel(f64::from(sample_rate) / 2.0));
    let step = (high - low) / (n_mels as f64 + 1.0);
    let bins: Vec<Between> = (0..n_mels)
        .map(|bin| {
            let from = mel(hz(low + (bin as f64 + 1.0) * step) / speed);
            let at = ((from - low) / step - 1.0).clamp(0.0, n_mels as f64 - 1.0);
            between(at, n_mels)
        })
        .collect();
    let mut out = Vec::with_capacity(frames.len());
    for row in 0..rows {
        let (above, below, share) = between((row as f64 - shift) * speed, rows);
        let (above, below) =
            (&frames[above * n_mels..][..n_mels], &frames[below * n_mels..][..n_mels]);
        let at = |bin: usize| above[bin] + share * (below[bin] - above[bin]);
        out.extend(bins.iter().map(|&(left, right, share)| {
            let left = at(left);
            left + share * (at(right) - left)
        }));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn front_end(n_frames: usize) -> FrontEnd {
        FrontEnd {
            sample_rate: 16_000,
            n_mels: 8,
            n_frames,
            mean: -4.0,
            std: 2.0,
            order: Order::PadThenNormalise,
            subtract_clip_mean: true,
        }
    }

    fn clip(rows: usize) -> Vec<f32> {
        (0..rows * 8).map(|i| -((i * 7 % 13) as f32) - (i / 8) as f32).collect()
    }

    /// All of it, one after the other.
    fn augmented(
        frames: &Frames,
        background: Option<&Frames>,
        how: &Augmentation,
        front_end: &FrontEnd,
        random: &mut Random,
    ) -> Vec<f32> {
        let sound = sound(frames, background, how, front_end, random);
        Finish::draw(how, front_end, random).apply(sound, front_end)
    }

    #[test]
    fn without_augmentation_a_clip_is_as_in_evaluation() {
        let front_end = front_end(7);
        let mut random = Random::new(1, &[]);
        let none = Augmentation::default();
        let got = augmented(&clip(5), None, &none, &front_end, &mut random);
        assert_eq!(got, plain(&clip(5), &front_end));
        assert_eq!(got[5 * 8..], [1.0; 16], "padding is zero before it is normalised");
        assert_eq!(got[0], (clip(5)[0] + 4.0) / 4.0);

        let after = FrontEnd { order: Order::NormaliseThenPad, ..front_end };
        let got = augmented(&clip(5), None, &none, &after, &mut random);
        assert_eq!(got, plain(&clip(5), &after));
        assert_eq!(got[5 * 8..], [0.0; 16], "padding is zero and stays so");
        assert_eq!(got[..5 * 8], plain(&clip(5), &front_end)[..5 * 8]);
        assert_eq!(plain(&clip(9), &after), plain(&clip(9), &front_end), "nothing is padded");
    }

    #[test]
    fn a_whole_shift_moves_rows_and_reflects() {
        let frames = clip(6);
        let moved = resampled(&frames, 8, 16_000, 2.0, 1.0);
        for (row, from) in [(0, 2), (1, 1), (2, 0), (3, 1), (5, 3)] {
            for bin in 0..8 {
                let (got, want) = (moved[row * 8 + bin], frames[from * 8 + bin]);
                assert!((got - want).abs() < 1e-5, "row {row}: {got} and {want}");
            }
        }
    }

    #[test]
    fn speed_raises_frequencies() {
        // One loud bin in every frame.
        let frames: Vec<f32> = (0..80).map(|i| if i % 8 == 3 { 0.0 } else { -9.0 }).collect();
        let beside = |speed| {
            let fbank = resampled(&frames, 8, 16_000, 0.0, speed);
            (fbank[2], fbank[4])
        };
        assert_eq!(beside(1.0), (-9.0, -9.0));
        // What bin 3 holds moves towards bin 4 when faster, towards bin 2 when slower.
        assert!(beside(1.1).1 > -8.9 && beside(1.1).0 == -9.0, "{:?}", beside(1.1));
        assert!(beside(0.9).0 > -8.9 && beside(0.9).1 == -9.0, "{:?}", beside(0.9));
    }

    #[test]
    fn masks_are_zero_before_normalisation_and_of_the_width_drawn() {
        let how = Augmentation { frequency_mask: 4.0, time_mask: 3.0, ..Augmentation::default() };
        let front_end = front_end(6);
        let frames = vec![-8.0; 6 * 8];
        let mut widths = [0; 6];
        for seed in 0..200 {
            let got = augmented(&frames, None, &how, &front_end, &mut Random::new(seed, &[]));
            assert!(got.iter().all(|&x| x == 1.0 || x == -1.0));
            let full = got.chunks(8).filter(|row| row.iter().all(|&x| x == 1.0)).count();
            widths[full] += 1;
        }
        assert!(widths[0] > 0 && widths[2] > 0 && widths[3] == 0, "{widths:?}");
    }

    /// What one network sees and another does not are the masks; noise and roll are the same, and longer
    /// inputs only go on.
    #[test]
    fn without_masks_the_rest_is_the_same() {
        let how = Augmentation {
            frequency_mask: 6.0,
            time_mask: 5.0,
            noise_and_roll: true,
            ..Augmentation::default()
        };
        let (short, long) = (front_end(20), front_end(24));
        let loud = vec![-2.0; 20 * 8];
        let mut masked = 0;
        for seed in 0..20 {
            let finish = Finish::draw(&how, &short, &mut Random::new(seed, &[]));
            let with = finish.apply(loud.clone(), &short);
            let without = finish.without_masks().apply(loud.clone(), &short);
            assert!(without.iter().all(|x| (0.5..=0.6).contains(x)), "{without:?}");
            for (with, without) in with.iter().zip(&without) {
                // Masked values are those of silence, and have their noise too.
                let off = with - without;
                assert!(off == 0.0 || (off - 0.5).abs() < 1e-6, "{with} and {without}");
                masked += usize::from(off != 0.0);
            }
            let mut beyond = finish.without_masks().apply(loud.clone(), &long);
            let mut within = without;
            beyond.rotate_left(finish.roll.rem_euclid(24) as usize * 8);
            within.rotate_left(finish.roll.rem_euclid(20) as usize * 8);
            assert_eq!(beyond[..20 * 8], within);
            assert_eq!(beyond[20 * 8..], [1.0; 4 * 8]);
        }
        assert!(masked > 0);
    }

    #[test]
    fn a_background_adds_its_power() {
        let how = Augmentation {
            background: 1.0,
            background_probability: 1.0,
            ..Augmentation::default()
        };
        let front_end = FrontEnd { mean: 0.0, std: 0.5, ..front_end(1) };
        let (quiet, loud) = ([-5.0; 8], [0.0; 8]);
        let mut random = Random::new(4, &[]);
        let got = augmented(&quiet, Some(&loud), &how, &front_end, &mut random);
        let power = got[0].exp() - (-5.0_f32).exp();
        assert!(power > 0.0 && power < 1.0, "{power}");
    }
}
