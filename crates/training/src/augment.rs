//! From the log-mel frames of clips to what a network sees in training.
//!
//! All draws of a clip come from a stream of its own, so that neither threads nor the place in a batch
//! matter.

use ssamba_contract::FrontEnd;

use crate::{plan::Augmentation, random::Random};

/// Log-mel frames of a clip, not normalised: `[frames, n_mels]`.
pub type Frames = [f32];

/// What a network sees of a clip: `[n_frames, n_mels]`, padded and normalised, as in evaluation.
pub fn plain(frames: &Frames, front_end: &FrontEnd) -> Vec<f32> {
    normalised(padded(frames.to_vec(), front_end), front_end)
}

/// What a network sees of a clip in training; `background` is mixed in where the draw says so.
pub fn augmented(
    frames: &Frames,
    background: Option<&Frames>,
    how: &Augmentation,
    front_end: &FrontEnd,
    random: &mut Random,
) -> Vec<f32> {
    let n_mels = front_end.n_mels;
    let speed = match how.speed {
        [low, high] if low > 0.0 => random.range(low, high),
        _ => 1.0,
    };
    let shift = random.range(-how.shift, how.shift);
    let mut fbank = match speed != 1.0 || shift != 0.0 {
        true => resampled(frames, n_mels, front_end.sample_rate, shift, speed),
        false => frames.to_vec(),
    };
    let mixes = random.unit() < how.background_probability;
    let volume = random.range(0.0, how.background);
    if let Some(background) = background.filter(|_| mixes && volume > 0.0) {
        let gain = (2.0 * volume.ln()) as f32;
        for (x, n) in fbank.iter_mut().zip(background) {
            *x = log_add_exp(*x, n + gain);
        }
    }
    let mut fbank = padded(fbank, front_end);
    let rows = front_end.n_frames;
    let (start, width) = mask(n_mels, how.frequency_mask, random);
    for row in fbank.chunks_exact_mut(n_mels) {
        row[start..start + width].fill(0.0);
    }
    let (start, width) = mask(rows, how.time_mask, random);
    fbank[start * n_mels..(start + width) * n_mels].fill(0.0);
    let mut fbank = normalised(fbank, front_end);
    if how.noise_and_roll {
        let volume = random.range(0.0, 0.1);
        fbank.iter_mut().for_each(|x| *x += (random.unit() * volume) as f32);
        // From -10 to 9, as upstream draws it.
        let by = random.below(20) + rows.saturating_sub(10);
        fbank.rotate_right(by % rows * n_mels);
    }
    fbank
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

fn normalised(mut fbank: Vec<f32>, front_end: &FrontEnd) -> Vec<f32> {
    let (mean, scale) = (front_end.mean as f32, (2.0 * front_end.std) as f32);
    fbank.iter_mut().for_each(|x| *x = (*x - mean) / scale);
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
    use ssamba_contract::Order;

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

    #[test]
    fn without_augmentation_a_clip_is_as_in_evaluation() {
        let front_end = front_end(7);
        let mut random = Random::new(1, &[]);
        let none = Augmentation::default();
        let got = augmented(&clip(5), None, &none, &front_end, &mut random);
        assert_eq!(got, plain(&clip(5), &front_end));
        assert_eq!(got[5 * 8..], [1.0; 16], "padding is zero before it is normalised");
        assert_eq!(got[0], (clip(5)[0] + 4.0) / 4.0);
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
