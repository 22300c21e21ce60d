//! What can be chosen about a spotter.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// From one frame of the front end to the next.
pub(crate) const FRAME_MS: u32 = 10;
/// Longest pause that makes sense, and far below where a count of frames would overflow.
const LONGEST_MS: u32 = 3_600_000;
/// Windows that may be averaged; each costs memory.
const MOST_SMOOTHED: usize = 1_000;

/// What can be chosen about a spotter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// From one window to the next, in ms; a multiple of 10.
    pub hop_ms: u32,
    /// Sound in one window, in ms, rounded down to whole frames of 25 ms every 10 ms; the rest of
    /// what the model takes is padding. `None`: all that the model takes. A model that was trained
    /// on padded clips wants the length of those clips.
    pub window_ms: Option<u32>,
    /// Windows whose scores are averaged; after the start, as many as there are.
    pub smooth: usize,
    /// Mean score from which a label fires, above 0 and at most 1.
    pub threshold: f32,
    /// Labels with a threshold of their own.
    pub thresholds: BTreeMap<String, f32>,
    /// Pause after an event in which no label fires, in ms.
    pub refractory_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hop_ms: 100,
            window_ms: None,
            smooth: 3,
            threshold: 0.8,
            thresholds: BTreeMap::new(),
            refractory_ms: 1000,
        }
    }
}

impl Settings {
    /// Whether the settings make sense by themselves.
    ///
    /// # Errors
    /// Names the first that does not.
    pub fn check(&self) -> Result<()> {
        let Self { hop_ms, smooth, refractory_ms, .. } = *self;
        ensure!(
            hop_ms > 0 && hop_ms.is_multiple_of(FRAME_MS) && hop_ms <= LONGEST_MS,
            "a hop of {hop_ms} ms, expected a multiple of {FRAME_MS} ms, at most an hour"
        );
        ensure!(
            (1..=MOST_SMOOTHED).contains(&smooth),
            "{smooth} windows to average, expected 1 to {MOST_SMOOTHED}"
        );
        ensure!(
            refractory_ms <= LONGEST_MS,
            "a refractory time of {refractory_ms} ms, expected at most an hour"
        );
        check_threshold("", self.threshold)?;
        for (label, threshold) in &self.thresholds {
            check_threshold(&format!(" for `{label}`"), *threshold)?;
        }
        Ok(())
    }

    /// The threshold of each class, `None` for one that never fires.
    pub(crate) fn thresholds_of(&self, labels: &[String]) -> Result<Vec<Option<f32>>> {
        let mut thresholds: Vec<Option<f32>> =
            labels.iter().map(|label| (!is_background(label)).then_some(self.threshold)).collect();
        for (label, threshold) in &self.thresholds {
            ensure!(!is_background(label), "`{label}` never fires, it takes no threshold");
            let mut known = false;
            for (slot, _) in thresholds.iter_mut().zip(labels).filter(|(_, name)| *name == label) {
                *slot = Some(*threshold);
                known = true;
            }
            ensure!(known, "a threshold for `{label}`, expected one of {}", labels.join(", "));
        }
        ensure!(
            thresholds.iter().any(Option::is_some),
            "none of the model's {} labels can fire",
            labels.len()
        );
        Ok(thresholds)
    }
}

/// What a user asks for; what is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// [`Settings::hop_ms`].
    pub hop_ms: Option<u32>,
    /// [`Settings::window_ms`].
    pub window_ms: Option<u32>,
    /// [`Settings::smooth`].
    pub smooth: Option<usize>,
    /// [`Settings::refractory_ms`].
    pub refractory_ms: Option<u32>,
    /// [`Settings::threshold`]: of all labels, those with thresholds of their own too.
    pub threshold: Option<f32>,
    /// [`Settings::thresholds`], after that.
    pub thresholds: BTreeMap<String, f32>,
}

impl Changes {
    /// The settings, changed.
    pub fn of(&self, mut settings: Settings) -> Settings {
        settings.hop_ms = self.hop_ms.unwrap_or(settings.hop_ms);
        settings.window_ms = self.window_ms.or(settings.window_ms);
        settings.smooth = self.smooth.unwrap_or(settings.smooth);
        settings.refractory_ms = self.refractory_ms.unwrap_or(settings.refractory_ms);
        if let Some(threshold) = self.threshold {
            settings.threshold = threshold;
            settings.thresholds.clear();
        }
        settings.thresholds.extend(self.thresholds.clone());
        settings
    }
}

/// Whether a label stands for the absence of a keyword, as `_silence_` does: it never fires.
pub fn is_background(label: &str) -> bool {
    label.len() > 1 && label.starts_with('_') && label.ends_with('_')
}

fn check_threshold(whose: &str, threshold: f32) -> Result<()> {
    ensure!(
        threshold > 0.0 && threshold <= 1.0,
        "a threshold of {threshold}{whose}, expected above 0 and at most 1"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let ok = Settings::default();
        ok.check().unwrap();
        for (settings, word) in [
            (Settings { hop_ms: 0, ..ok.clone() }, "hop of 0 ms"),
            (Settings { hop_ms: 15, ..ok.clone() }, "hop of 15 ms"),
            (Settings { smooth: 0, ..ok.clone() }, "0 windows"),
            (Settings { threshold: 0.0, ..ok.clone() }, "threshold of 0"),
            (Settings { threshold: f32::NAN, ..ok.clone() }, "threshold of NaN"),
            (Settings { thresholds: [("go".into(), 1.5)].into(), ..ok.clone() }, "1.5 for `go`"),
            (Settings { refractory_ms: u32::MAX, ..ok }, "refractory time"),
        ] {
            let message = settings.check().unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn a_threshold_for_all_labels_replaces_those_of_some() {
        let before =
            Settings { thresholds: [("go".into(), 0.9)].into(), smooth: 5, ..Settings::default() };
        assert_eq!(Changes::default().of(before.clone()), before);
        let some = Changes { thresholds: [("no".into(), 0.8)].into(), ..Changes::default() };
        let expected = [("go".to_owned(), 0.9), ("no".to_owned(), 0.8)].into();
        assert_eq!(some.of(before.clone()).thresholds, expected);
        let all = Changes { threshold: Some(0.7), hop_ms: Some(50), ..some };
        let expected = Settings {
            threshold: 0.7,
            thresholds: [("no".into(), 0.8)].into(),
            hop_ms: 50,
            ..before.clone()
        };
        assert_eq!(all.of(before), expected);
    }

    #[test]
    fn background_is_written_between_underscores() {
        assert!(is_background("_unknown_") && is_background("__"));
        assert!(!is_background("yes") && !is_background("_") && !is_background("_yes"));
    }
}
