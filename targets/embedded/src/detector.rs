//! Scores of windows to events: smoothing, thresholds, refractory time.

use anyhow::Result;

use crate::{Settings, settings::FRAME_MS};

/// What a [`Spotter`](crate::Spotter) decides by: the scores of window after window go in, the
/// classes that fire come out. All memory is taken when it is made.
#[derive(Clone, Debug)]
pub struct Detector {
    /// The threshold of each class, `None` for one that never fires.
    thresholds: Vec<Option<f32>>,
    /// The last windows, `[smooth, n_classes]`; window `i` lies in row `i % smooth`.
    recent: Box<[f32]>,
    smooth: usize,
    windows: u64,
    /// Pause after an event, in frames.
    refractory: u64,
    /// First frame at which a class may fire.
    quiet_until: u64,
}

impl Detector {
    /// For a model with these labels, one a class.
    ///
    /// # Errors
    /// When a setting makes no sense, by itself or for these labels.
    pub fn new(settings: &Settings, labels: &[String]) -> Result<Self> {
        settings.check()?;
        let refractory = u64::from(settings.refractory_ms.div_ceil(FRAME_MS));
        Ok(Self::with(settings.thresholds_of(labels)?, settings.smooth, refractory))
    }

    /// `thresholds` has one entry a class, `smooth` is at least 1.
    fn with(thresholds: Vec<Option<f32>>, smooth: usize, refractory: u64) -> Self {
        let recent = vec![0.0; smooth * thresholds.len()].into();
        Self { thresholds, recent, smooth, windows: 0, refractory, quiet_until: 0 }
    }

    /// Scores that each window has.
    pub fn n_classes(&self) -> usize {
        self.thresholds.len()
    }

    /// Takes in the scores of the window that ends with frame `frame`; the class that fires, if one
    /// does, and its mean score. Of several over their thresholds it is the one with the highest.
    ///
    /// # Panics
    /// When there are not as many scores as classes.
    pub fn push(&mut self, scores: &[f32], frame: u64) -> Option<(usize, f32)> {
        let n_classes = self.n_classes();
        let row = (self.windows % self.smooth as u64) as usize;
        self.recent[row * n_classes..][..n_classes].copy_from_slice(scores);
        self.windows += 1;
        if frame < self.quiet_until {
            return None;
        }
        let fired = (0..n_classes)
            .filter_map(|class| {
                let mean = self.mean(class);
                (mean >= self.thresholds[class]?).then_some((class, mean))
            })
            .max_by(|(_, a), (_, b)| a.total_cmp(b));
        if fired.is_some() {
            self.quiet_until = frame + self.refractory;
        }
        fired
    }

    /// Mean score of a class over the last windows, as many as there are.
    fn mean(&self, class: usize) -> f32 {
        let windows = self.windows.min(self.smooth as u64) as usize;
        let rows = self.recent.chunks_exact(self.n_classes()).take(windows);
        rows.map(|row| row[class]).sum::<f32>() / windows as f32
    }

    /// Forgets all windows.
    pub fn reset(&mut self) {
        self.windows = 0;
        self.quiet_until = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_the_last_windows_decides() {
        let mut detector = Detector::with(vec![Some(0.5)], 3, 0);
        let fired: Vec<bool> = [0.4, 0.9, 0.1, 0.4, 0.9, 0.5]
            .into_iter()
            .zip(0..)
            .map(|(score, frame)| detector.push(&[score], frame).is_some())
            .collect();
        // Means: 0.4, 0.65, 0.467, 0.467, 0.467, 0.6.
        assert_eq!(fired, [false, true, false, false, false, true]);
    }

    #[test]
    fn nothing_fires_within_the_refractory_time() {
        let mut detector = Detector::with(vec![Some(0.5), Some(0.5)], 1, 30);
        let fired: Vec<u64> = (98..200)
            .step_by(10)
            .filter(|frame| detector.push(&[0.9, 0.8], *frame).is_some())
            .collect();
        assert_eq!(fired, [98, 128, 158, 188]);
        detector.reset();
        assert_eq!(detector.push(&[0.9, 0.8], 98), Some((0, 0.9)));
    }

    #[test]
    fn classes_have_their_own_thresholds_and_some_none() {
        let mut detector = Detector::with(vec![Some(0.7), Some(0.2), None], 1, 0);
        assert_eq!(detector.push(&[0.6, 0.1, 0.9], 0), None);
        assert_eq!(detector.push(&[0.6, 0.3, 0.9], 1), Some((1, 0.3)));
        assert_eq!(detector.push(&[0.8, 0.3, 0.9], 2), Some((0, 0.8)));
        assert_eq!(detector.push(&[f32::NAN; 3], 3), None);
    }
}
