//! The line of an epoch under way.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use ssamba_training::Trainer;

use super::metrics::Epoch;

/// An epoch under way; nothing is drawn where stderr is no terminal.
pub struct Live {
    bar: ProgressBar,
    start: Instant,
    clips: usize,
}

impl Live {
    pub fn new(trainer: &Trainer, steps: usize) -> Self {
        let bar = ProgressBar::new(steps as u64);
        if let Ok(style) =
            ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg}, {eta} left")
        {
            bar.set_style(style);
        }
        let (epoch, epochs) = (trainer.progress.epoch + 1, trainer.plan.epochs);
        bar.set_prefix(format!("epoch {epoch}/{epochs}"));
        bar.set_position(trainer.progress.step as u64);
        Self { bar, start: Instant::now(), clips: 0 }
    }

    pub fn step(&mut self, clips: usize, words: &str) {
        self.clips += clips;
        let rate = self.clips as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
        self.bar.set_message(format!("{words}, {rate:.0} clips/s"));
        self.bar.inc(1);
    }

    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// The figures of the epoch that is through, validation aside.
    pub fn epoch(self, trainer: &Trainer, rate: f64) -> Epoch {
        self.clear();
        let seconds = self.start.elapsed().as_secs_f64();
        Epoch {
            epoch: trainer.progress.epoch + 1,
            loss: trainer.progress.sums.mean_loss(),
            rate,
            seconds,
            clips_per_second: self.clips as f64 / seconds.max(1e-9),
            ..Epoch::default()
        }
    }
}
