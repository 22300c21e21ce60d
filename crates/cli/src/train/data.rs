//! Clips as features, computed once and kept in memory.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use ssamba_contract::FrontEnd;
use ssamba_features::Extractor;
use ssamba_training::in_parallel;

/// Log-mel frames of files, `[frames, n_mels]` each, not normalised. With `fill`, clips that are shorter
/// than the longest are filled up with silence first, as far as the window reaches; else a clip's frames
/// end where it does. What the window has beyond the longest clip is left to the network's padding, as
/// in evaluation.
pub fn frames(
    paths: &[PathBuf],
    front_end: &FrontEnd,
    fill: bool,
    threads: NonZeroUsize,
) -> Result<Vec<Vec<f32>>> {
    // What a run hears of a file when mean and scale leave the values alone.
    let front_end = FrontEnd { mean: 0.0, std: 0.5, ..front_end.clone() };
    let progress = ProgressBar::new(paths.len() as u64).with_style(ProgressStyle::with_template(
        "features    {wide_bar} {pos}/{len} clips, {eta} left",
    )?);
    let all = Mutex::new(vec![Clip::default(); paths.len()]);
    // The clips of these places, filled up to so many samples.
    let read = |places: &[usize], least: usize| -> Result<()> {
        const TOGETHER: usize = 32;
        let groups: Vec<&[usize]> = places.chunks(TOGETHER).collect();
        in_parallel(groups.len(), threads, |group| {
            let mut extractor = Extractor::new(&front_end)?;
            for &place in groups[group] {
                let clip = one(&paths[place], &mut extractor, least)?;
                all.lock().unwrap_or_else(PoisonError::into_inner)[place] = clip;
                progress.inc(1);
            }
            Ok(())
        })
    };
    let places: Vec<usize> = (0..paths.len()).collect();
    let mut done = read(&places, 0);
    if fill && done.is_ok() {
        let lengths: Vec<usize> = {
            let all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().map(|clip| clip.samples).collect()
        };
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let least = longest.min(front_end.window_samples());
        let short: Vec<usize> =
            places.into_iter().filter(|&place| lengths[place] < least).collect();
        progress.inc_length(short.len() as u64);
        done = read(&short, least);
    }
    progress.finish_and_clear();
    done?;
    let all = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(all.into_iter().map(|clip| clip.frames).collect())
}

/// A file's frames, and how many samples it has.
#[derive(Clone, Default)]
struct Clip {
    frames: Vec<f32>,
    samples: usize,
}

fn one(path: &Path, extractor: &mut Extractor, least: usize) -> Result<Clip> {
    let front_end = extractor.front_end();
    let (n_mels, rate) = (front_end.n_mels, front_end.sample_rate);
    let mut waveform = ssamba_audio::read(path, rate)?.samples;
    let samples = waveform.len();
    if samples < least {
        waveform.resize(least, 0.0);
    }
    let features = extractor.extract(&waveform).with_context(|| path.display().to_string())?;
    let rows = features.n_frames_of_clip.min(features.fbank.shape()[0]);
    let frames = features.fbank.data()[..rows * n_mels].to_vec();
    Ok(Clip { frames, samples })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssamba_contract::Order;

    #[test]
    fn clips_are_filled_up_to_the_longest_and_no_further() {
        let folder = tempfile::tempdir().unwrap();
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 16_000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let paths: Vec<PathBuf> = [16_000, 8_000, 560]
            .into_iter()
            .map(|samples| {
                let path = folder.path().join(format!("{samples}.wav"));
                let mut wav = hound::WavWriter::create(&path, spec).unwrap();
                (0..samples).for_each(|i| wav.write_sample((i * 7_919 % 2_001) as i16).unwrap());
                wav.finalize().unwrap();
                path
            })
            .collect();
        let front_end = |n_frames| FrontEnd {
            sample_rate: 16_000,
            n_mels: 8,
            n_frames,
            mean: -4.0,
            std: 2.0,
            order: Order::PadThenNormalise,
            subtract_clip_mean: true,
        };
        let rows = |n_frames, fill| -> Vec<usize> {
            let all = frames(&paths, &front_end(n_frames), fill, NonZeroUsize::MIN).unwrap();
            all.iter().map(|frames| frames.len() / 8).collect()
        };
        // The window is longer than any clip, and then shorter than the longest.
        assert_eq!(rows(128, true), [98, 98, 98]);
        assert_eq!(rows(128, false), [98, 48, 2]);
        assert_eq!(rows(60, true), [60, 60, 60]);
        assert_eq!(rows(60, false), [60, 48, 2]);
    }
}
