//! How `ssamba-kws` is to listen, on the command line and as `bench detect` measured it.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use ssamba_kws::{Changes, Settings};

/// Settings of the spotter; what is left out stays as the model has it.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct SettingsArgs {
    /// Mean score from which a label fires; may be repeated [default: 0.8].
    #[arg(long, value_name = "X|LABEL=X")]
    threshold: Vec<String>,
    /// From one window to the next, a multiple of 10 [default: 100].
    #[arg(long, value_name = "MS")]
    hop: Option<u32>,
    /// Sound in one window [default: all that the model takes].
    #[arg(long, value_name = "MS")]
    window: Option<u32>,
    /// Windows whose scores are averaged [default: 3].
    #[arg(long, value_name = "N")]
    smooth: Option<usize>,
    /// Pause after an event [default: 1000].
    #[arg(long, value_name = "MS")]
    refractory: Option<u32>,
}

impl SettingsArgs {
    /// The settings that were measured, or the default ones, changed as asked.
    pub fn with_measured(
        &self,
        detect: Option<&Path>,
        checkpoint_sha256: &str,
    ) -> Result<Settings> {
        self.over(match detect {
            Some(path) => measured(path, checkpoint_sha256)?,
            None => Settings::default(),
        })
    }

    /// The settings, changed as asked.
    pub fn over(&self, settings: Settings) -> Result<Settings> {
        let settings = self.changes()?.of(settings);
        settings.check()?;
        Ok(settings)
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.words().is_empty()
    }

    fn changes(&self) -> Result<Changes> {
        let mut changes = Changes {
            hop_ms: self.hop,
            window_ms: self.window,
            smooth: self.smooth,
            refractory_ms: self.refractory,
            ..Changes::default()
        };
        let number = |x: &str| {
            x.parse().map_err(|_| anyhow!("--threshold takes X or LABEL=X, got `{x}` for X"))
        };
        for threshold in &self.threshold {
            match threshold.rsplit_once('=') {
                Some((label, x)) => drop(changes.thresholds.insert(label.into(), number(x)?)),
                None => changes.threshold = Some(number(threshold)?),
            }
        }
        Ok(changes)
    }

    /// The options again, each behind a space.
    pub fn words(&self) -> String {
        let mut words = String::new();
        for threshold in &self.threshold {
            words += &format!(" --threshold {threshold}");
        }
        for (name, value) in [
            ("hop", self.hop),
            ("window", self.window),
            ("smooth", self.smooth.map(|windows| windows as u32)),
            ("refractory", self.refractory),
        ] {
            if let Some(value) = value {
                words += &format!(" --{name} {value}");
            }
        }
        words
    }
}

/// Thresholds that keep to a number of false alarms, and what was measured with them.
#[derive(Serialize)]
pub struct Chosen<T> {
    pub false_alarms_per_hour: f64,
    /// Of all labels.
    pub threshold: f32,
    /// Of each, where one keeps to its share.
    pub thresholds: BTreeMap<String, f32>,
    /// With the first, and with the second.
    pub at_threshold: T,
    pub at_thresholds: T,
}

/// What `export` reads of a `detect.json`.
#[derive(Deserialize)]
struct Detect {
    checkpoint_sha256: String,
    settings: Settings,
    chosen: Option<Thresholds>,
}

#[derive(Deserialize)]
struct Thresholds {
    threshold: f32,
    thresholds: BTreeMap<String, f32>,
}

/// The settings that `bench detect` measured with, and the thresholds that it chose.
fn measured(path: &Path, checkpoint_sha256: &str) -> Result<Settings> {
    let at = || path.display().to_string();
    let text = fs::read_to_string(path).with_context(at)?;
    let detect: Detect = serde_json::from_str(&text)
        .map_err(|error| anyhow!("{}: not a result of `bench detect`: {error}", path.display()))?;
    if detect.checkpoint_sha256 != checkpoint_sha256 {
        bail!(
            "{}: measured with another checkpoint, {}; this one is {checkpoint_sha256}",
            path.display(),
            detect.checkpoint_sha256
        );
    }
    let Thresholds { threshold, thresholds } = detect.chosen.with_context(|| {
        format!("{}: no thresholds were chosen, measure with --false-alarms N", path.display())
    })?;
    Ok(Settings { threshold, thresholds, ..detect.settings })
}
