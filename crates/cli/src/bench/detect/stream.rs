//! A long stream made of clips and noise: which clip when, and the samples.
//!
//! Clips keep their level. The noise has one level throughout: the signal-to-noise ratio is that of
//! a keyword's clip of median level. Samples are 16-bit, as a microphone's.

use std::path::Path;

use anyhow::{Result, ensure};
use ssamba_kws::SAMPLE_RATE;

use crate::clips::Clip;

/// Samples over which a clip comes and goes, so that its own background does not click: 10 ms.
const FADE: usize = 160;
/// Samples over which one noise becomes the next: 100 ms.
const CROSSFADE: usize = 1_600;
/// Samples in one piece of the stream: 100 ms.
const PIECE: usize = 1_600;

/// Seeded numbers: Steele et al., "Fast splittable pseudorandom number generators", 2014.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `end`, which is far below 2^64.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// A clip and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    pub clip: Clip,
    /// Its samples in the stream.
    pub start: u64,
    pub end: u64,
}

impl Placed {
    pub fn start_s(&self) -> f64 {
        seconds(self.start)
    }

    pub fn end_s(&self) -> f64 {
        seconds(self.end)
    }
}

/// Seconds of so many samples.
pub fn seconds(samples: u64) -> f64 {
    samples as f64 / f64::from(SAMPLE_RATE)
}

/// Which clip when.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    pub clips: Vec<Placed>,
    /// Of the whole stream.
    pub samples: u64,
    /// Root mean square of the keyword's clip of median level.
    pub level: f32,
}

impl Layout {
    /// Shuffles clips, and puts a pause of a random length before each and behind the last, in
    /// samples. `is_keyword` says whose level counts.
    pub fn new(
        mut clips: Vec<Clip>,
        pause: (usize, usize),
        seed: u64,
        is_keyword: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let mut random = SplitMix(seed);
        for index in (1..clips.len()).rev() {
            clips.swap(index, random.below(index + 1));
        }
        let mut pause = || (pause.0 + random.below(pause.1 - pause.0 + 1)) as u64;
        let (mut placed, mut levels, mut samples) = (Vec::new(), Vec::new(), 0);
        for clip in clips {
            let waveform = read(&clip.path)?;
            if is_keyword(&clip.label) {
                levels.push(root_mean_square(&waveform));
            }
            let start = samples + pause();
            samples = start + waveform.len() as u64;
            placed.push(Placed { clip, start, end: samples });
        }
        samples += pause();
        levels.sort_by(f32::total_cmp);
        let level = levels.get(levels.len() / 2).copied().unwrap_or_default();
        ensure!(level > 0.0, "most of the keywords' clips are silent");
        Ok(Self { clips: placed, samples, level })
    }

    /// Hands on the samples of the stream, piece by piece.
    pub fn each(
        &self,
        mut noise: Noise<'_>,
        mut body: impl FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let mut at = 0;
        let mut hand_on = |clip: &[f32]| {
            let mut piece = [0.0; PIECE];
            for clip in clip.chunks(PIECE) {
                let piece = &mut piece[..clip.len()];
                for (sample, clip) in piece.iter_mut().zip(clip) {
                    *sample = quantise(noise.next() + clip);
                }
                body(piece)?;
            }
            Ok::<_, anyhow::Error>(())
        };
        for placed in &self.clips {
            hand_on(&vec![0.0; (placed.start - at) as usize])?;
            let mut waveform = read(&placed.clip.path)?;
            ensure!(
                waveform.len() as u64 == placed.end - placed.start,
                "{}: it changed while it was read",
                placed.clip.path.display()
            );
            fade(&mut waveform);
            hand_on(&waveform)?;
            at = placed.end;
        }
        hand_on(&vec![0.0; (self.samples - at) as usize])
    }
}

/// Recordings of noise at one level, each scaled to it.
pub struct Noises(Vec<Vec<f32>>);

impl Noises {
    pub fn read(files: &[impl AsRef<Path>]) -> Result<Self> {
        let noises = files.iter().map(|path| {
            let path = path.as_ref();
            let mut waveform = read(path)?;
            ensure!(
                waveform.len() > 4 * CROSSFADE,
                "{}: {:.2} s of noise, expected more than {:.1} s",
                path.display(),
                seconds(waveform.len() as u64),
                seconds(4 * CROSSFADE as u64)
            );
            let level = root_mean_square(&waveform);
            ensure!(level > 0.0, "{}: silence, expected noise", path.display());
            waveform.iter_mut().for_each(|sample| *sample /= level);
            Ok(waveform)
        });
        Ok(Self(noises.collect::<Result<_>>()?))
    }

    /// A bed without end, at this root mean square: file after file at random, each from a random
    /// place to its end.
    pub fn bed(&self, level: f32, seed: u64) -> Noise<'_> {
        let mut noise = Noise {
            files: &self.0,
            // Not the numbers of the layout, whose seed is the same.
            random: SplitMix(!seed),
            level,
            now: &[],
            coming: &[],
        };
        noise.coming = noise.pick();
        noise.turn();
        noise
    }
}

/// See [`Noises::bed`].
pub struct Noise<'a> {
    files: &'a [Vec<f32>],
    random: SplitMix,
    level: f32,
    /// What is left of the file that is heard, and the one that follows.
    now: &'a [f32],
    coming: &'a [f32],
}

impl<'a> Noise<'a> {
    fn pick(&mut self) -> &'a [f32] {
        let file = &self.files[self.random.below(self.files.len())];
        // Room for both crossfades.
        &file[self.random.below(file.len() - 2 * CROSSFADE)..]
    }

    fn turn(&mut self) {
        self.now = self.coming;
        self.coming = self.pick();
    }

    fn next(&mut self) -> f32 {
        let Some((&sample, rest)) = self.now.split_first() else { return 0.0 };
        self.now = rest;
        let mut heard = sample;
        if rest.len() < CROSSFADE
            && let Some((&coming, behind)) = self.coming.split_first()
        {
            // Of equal power: the two are not correlated.
            let share = (rest.len() + 1) as f32 / (CROSSFADE + 1) as f32;
            heard = sample * share.sqrt() + coming * (1.0 - share).sqrt();
            self.coming = behind;
        }
        if self.now.is_empty() {
            self.turn();
        }
        heard * self.level
    }
}

fn read(path: &Path) -> Result<Vec<f32>> {
    let waveform = ssamba_audio::read(path, SAMPLE_RATE)?;
    ensure!(!waveform.samples.is_empty(), "{}: no samples", path.display());
    let finite = waveform.samples.iter().all(|sample| sample.is_finite());
    ensure!(finite, "{}: a sample is not finite", path.display());
    Ok(waveform.samples)
}

fn root_mean_square(samples: &[f32]) -> f32 {
    let sum: f64 = samples.iter().map(|&sample| f64::from(sample).powi(2)).sum();
    (sum / samples.len() as f64).sqrt() as f32
}

fn fade(samples: &mut [f32]) {
    let fade = FADE.min(samples.len() / 2);
    for step in 0..fade {
        let share = (step + 1) as f32 / (fade + 1) as f32;
        samples[step] *= share;
        let last = samples.len() - 1 - step;
        samples[last] *= share;
    }
}

/// To the nearest 16-bit value.
fn quantise(sample: f32) -> f32 {
    (sample * 32_768.0).round().clamp(-32_768.0, 32_767.0) / 32_768.0
}

/// 16-bit value of a sample of a stream.
pub fn to_i16(sample: f32) -> i16 {
    (sample * 32_768.0) as i16
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn write(path: &Path, samples: &[i16]) {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: SAMPLE_RATE,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::create(path, spec).unwrap();
        samples.iter().for_each(|&sample| writer.write_sample(sample).unwrap());
        writer.finalize().unwrap();
    }

    fn hiss(seed: u64, samples: usize) -> Vec<i16> {
        let mut random = SplitMix(seed);
        (0..samples).map(|_| (random.next() >> 52) as i16 - 2_048).collect()
    }

    /// Two noises and ten clips of a tenth of a second.
    fn workshop() -> (TempDir, Vec<Clip>, Noises) {
        let folder = tempfile::tempdir().unwrap();
        let clips = (0..10).map(|index| {
            let path = folder.path().join(format!("{index}.wav"));
            write(&path, &vec![8_192; 1_600]);
            Clip { label: if index < 5 { "yes" } else { "no" }.into(), path, split: None }
        });
        let clips = clips.collect();
        let noises = ["a.wav", "b.wav"].map(|name| folder.path().join(name));
        write(&noises[0], &hiss(1, 8_000));
        write(&noises[1], &hiss(2, 8_000).iter().map(|x| x / 8).collect::<Vec<_>>());
        let noises = Noises::read(&noises).unwrap();
        (folder, clips, noises)
    }

    fn samples(layout: &Layout, noise: Noise<'_>) -> Vec<f32> {
        let mut samples = Vec::new();
        layout
            .each(noise, |piece| {
                samples.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
        samples
    }

    #[test]
    fn a_seed_is_a_stream_and_another_seed_another() {
        let (_folder, clips, noises) = workshop();
        let stream = |seed| {
            let layout =
                Layout::new(clips.clone(), (1_600, 8_000), seed, |label| label == "yes").unwrap();
            let samples = samples(&layout, noises.bed(0.01, seed));
            (layout, samples)
        };
        let (layout, sound) = stream(7);
        assert_eq!(stream(7), (layout.clone(), sound.clone()));
        assert_ne!(stream(8).0, layout);
        assert_eq!(sound.len() as u64, layout.samples);
        let mut end = 0;
        for placed in &layout.clips {
            assert!((1_600..=8_000).contains(&(placed.start - end)), "{placed:?}");
            end = placed.end;
        }
        let mut names: Vec<_> = layout.clips.iter().map(|placed| &placed.clip).collect();
        names.sort_by_key(|clip| &clip.path);
        assert_eq!(names, clips.iter().collect::<Vec<_>>());
        assert_ne!(layout.clips.iter().map(|placed| &placed.clip).collect::<Vec<_>>(), names);
    }

    #[test]
    fn clips_lie_where_the_layout_says_at_their_own_level() {
        let (_folder, clips, noises) = workshop();
        let layout = Layout::new(clips, (1_600, 8_000), 3, |_| true).unwrap();
        assert!((layout.level - 0.25).abs() < 1e-6, "{}", layout.level);
        let sound = samples(&layout, noises.bed(0.0, 3));
        let mut expected = vec![0.0; layout.samples as usize];
        for placed in &layout.clips {
            expected[placed.start as usize + FADE..placed.end as usize - FADE].fill(0.25);
        }
        for (index, (got, expected)) in sound.iter().zip(&expected).enumerate() {
            let placed = layout.clips.iter().any(|placed| {
                let at = index as u64;
                (placed.start..placed.start + FADE as u64).contains(&at)
                    || (placed.end - FADE as u64..placed.end).contains(&at)
            });
            assert!(placed || got == expected, "sample {index} is {got}");
        }
    }

    #[test]
    fn noise_has_one_level_through_all_files_and_crossfades() {
        let (_folder, _, noises) = workshop();
        let mut bed = noises.bed(0.1, 5);
        let sound: Vec<f32> = (0..400_000).map(|_| bed.next()).collect();
        for piece in sound.chunks(8_000) {
            let level = root_mean_square(piece);
            assert!((level - 0.1).abs() < 0.01, "{level}");
        }
    }
}
