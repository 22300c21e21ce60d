//! Figures of a run: a line of JSON an epoch, and a page with curves.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use ssamba_training::Trainer;

use crate::{
    chart::{self, Curve, Panel, Scale},
    convert::write_whole,
    terminal,
};

/// Figures of one epoch; what an objective does not have is absent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: usize,
    /// Mean over the clips of the epoch, as they were seen.
    pub loss: f64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub accuracy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub nce: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mse: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_accuracy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_map: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_nce: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_mse: Option<f64>,
    /// Of the last step.
    pub rate: f64,
    /// Validation aside.
    pub seconds: f64,
    pub clips_per_second: f64,
    /// Whether validation was never better.
    pub best: bool,
}

/// Figures of the epochs so far.
pub struct Log {
    lines: PathBuf,
    page: PathBuf,
    epochs: Vec<Epoch>,
}

impl Log {
    /// The figures of the first `done` epochs that the folder has.
    pub fn open(folder: &Path, done: usize) -> Result<Self> {
        let lines = folder.join("metrics.jsonl");
        let mut epochs = Vec::new();
        if done > 0 && lines.is_file() {
            let text = fs::read_to_string(&lines).with_context(|| lines.display().to_string())?;
            for line in text.lines().take(done) {
                epochs.push(
                    serde_json::from_str(line)
                        .map_err(|error| anyhow!("{}: line `{line}`: {error}", lines.display()))?,
                );
            }
        }
        Ok(Self { lines, page: folder.join("report.html"), epochs })
    }

    /// The epoch with the best validation.
    pub fn best(&self) -> Option<&Epoch> {
        self.epochs.iter().rev().find(|epoch| epoch.best)
    }

    /// Writes an epoch down, and says it.
    pub fn add(&mut self, epoch: Epoch, trainer: &Trainer) -> Result<()> {
        let epochs = trainer.plan.epochs;
        let share = |share: Option<f64>| share.map(|share| format!("{:.1} %", 100.0 * share));
        let number = |x: Option<f64>| x.map(|x| format!("{x:.3}"));
        let mut words = format!("epoch {}/{epochs}  loss {:.3}", epoch.epoch, epoch.loss);
        for (name, value) in [
            ("accuracy", share(epoch.accuracy)),
            ("nce", number(epoch.nce)),
            ("mse", number(epoch.mse)),
            ("validation", share(epoch.validation_accuracy)),
            ("mAP", number(epoch.validation_map)),
            ("nce", number(epoch.validation_nce)),
            ("mse", number(epoch.validation_mse)),
        ] {
            if let Some(value) = value {
                words += &format!("  {name} {value}");
            }
        }
        let left = epoch.seconds * (epochs - epoch.epoch) as f64;
        words += &format!(
            "  {:.0} s, {:.0} clips/s, {} left",
            epoch.seconds,
            epoch.clips_per_second,
            duration(left)
        );
        if epoch.best {
            words += "  best";
        }
        terminal::note(words);
        self.epochs.push(epoch);
        let lines = self.epochs.iter().map(|epoch| Ok(serde_json::to_string(epoch)? + "\n"));
        let lines = lines.collect::<Result<String>>()?;
        write_whole(&self.lines, lines.as_bytes())?;
        write_whole(&self.page, self.html(trainer).as_bytes())
    }

    fn html(&self, trainer: &Trainer) -> String {
        let curve = |name: &str, value: &dyn Fn(&Epoch) -> Option<f64>| {
            let point = |epoch: &Epoch| Some((epoch.epoch as f64, value(epoch)?));
            let points: Vec<_> = self.epochs.iter().filter_map(point).collect();
            Curve { name: name.into(), points, marked: self.best().and_then(point) }
        };
        let steps = (self.epochs.len() as f64 / 8.0).ceil().max(1.0);
        let panel = |title: &str, training: Curve, validation: Curve| {
            let all = training.points.iter().chain(&validation.points);
            let highest = all.fold(0.0_f64, |highest, point| highest.max(point.1));
            Panel {
                title: title.into(),
                x_label: "epoch",
                x: Scale::Steps(steps),
                y: Scale::Steps(round_step(highest / 6.0)),
                curves: vec![training, validation],
            }
        };
        let mut panels = vec![panel(
            "loss",
            curve("training, augmented", &|epoch| Some(epoch.loss)),
            curve("validation", &|epoch| epoch.validation_loss),
        )];
        let panel_of = |title: &str,
                        training: &dyn Fn(&Epoch) -> Option<f64>,
                        validation: &dyn Fn(&Epoch) -> Option<f64>| {
            panel(title, curve("training, augmented", training), curve("validation", validation))
        };
        for panel in [
            panel_of("accuracy, %", &|epoch| Some(100.0 * epoch.accuracy?), &|epoch| {
                Some(100.0 * epoch.validation_accuracy?)
            }),
            panel_of("mean average precision", &|_| None, &|epoch| epoch.validation_map),
            panel_of("nce", &|epoch| epoch.nce, &|epoch| epoch.validation_nce),
            panel_of("mse", &|epoch| epoch.mse, &|epoch| epoch.validation_mse),
            panel_of("learning rate, thousandths", &|epoch| Some(1e3 * epoch.rate), &|_| None),
        ] {
            if panel.curves.iter().any(|curve| !curve.points.is_empty()) {
                panels.push(panel);
            }
        }
        let plan = serde_json::to_string_pretty(&trainer.plan).unwrap_or_default();
        format!(
            "<!doctype html><meta charset=\"utf-8\"><title>{0}</title>\
             <style>body{{font-family:sans-serif;margin:2em}}svg{{max-width:100%}}</style>\
             <h1>{0}, seed {1}</h1>\n{2}<pre>{3}</pre>\n",
            chart::escape(&trainer.plan.name),
            trainer.seed,
            chart::svg(&panels),
            chart::escape(&plan)
        )
    }
}

/// 1, 2 or 5 times a power of ten, not below `step`.
fn round_step(step: f64) -> f64 {
    if step.is_nan() || step <= 0.0 {
        return 1.0;
    }
    let power = 10.0_f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|x| x * power).find(|&x| x >= step).unwrap_or(step)
}

/// Seconds in words.
fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        0 => format!("{seconds:.0} s"),
        1..60 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_an_axis_are_round() {
        for (step, round) in [(0.03, 0.05), (0.7, 1.0), (13.0, 20.0), (5.0, 5.0), (0.0, 1.0)] {
            assert!((round_step(step) - round).abs() < 1e-9, "{step}: {}", round_step(step));
        }
    }

    #[test]
    fn durations_are_words() {
        assert_eq!([12.0, 90.0, 7300.0].map(duration), ["12 s", "2 min", "2 h 2 min"]);
    }
}
