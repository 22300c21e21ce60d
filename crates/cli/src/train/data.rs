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

/// Log-mel frames of files, `[frames, n_mels]` each, not normalised. With `fill`, audio shorter than
/// the window is filled up with silence first; else its frames end where it does.
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
    let all = Mutex::new(vec![Vec::new(); paths.len()]);
    const TOGETHER: usize = 32;
    let read = in_parallel(paths.len().div_ceil(TOGETHER), threads, |index| {
        let mut extractor = Extractor::new(&front_end)?;
        let first = index * TOGETHER;
        for (offset, path) in paths[first..].iter().take(TOGETHER).enumerate() {
            let frames = one(path, &mut extractor, fill)?;
            all.lock().unwrap_or_else(PoisonError::into_inner)[first + offset] = frames;
            progress.inc(1);
        }
        Ok(())
    });
    progress.finish_and_clear();
    read?;
    Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn one(path: &Path, extractor: &mut Extractor, fill: bool) -> Result<Vec<f32>> {
    let front_end = extractor.front_end();
    let (n_mels, rate) = (front_end.n_mels, front_end.sample_rate);
    let window = front_end.window_samples();
    let mut samples = ssamba_audio::read(path, rate)?.samples;
    if fill && samples.len() < window {
        samples.resize(window, 0.0);
    }
    let features = extractor.extract(&samples).with_context(|| path.display().to_string())?;
    let rows = features.n_frames_of_clip.min(features.fbank.shape()[0]);
    Ok(features.fbank.data()[..rows * n_mels].to_vec())
}
