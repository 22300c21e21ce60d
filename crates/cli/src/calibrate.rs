//! `ssamba-edge export --calibrate`: what eight bits cost on real clips, layer by layer, and which layers
//! stay in single precision for it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use ssamba_contract::{Card, Input, Session, io::LOGITS};
use ssamba_model_common::Head;
use ssamba_onnx::{Layer, Options, Quantized, Selection, export_selected};

use crate::{
    audio,
    convert::Source,
    listen::{Clip, Reader, hear, top},
    provider::{Provider, RuntimeArgs},
    terminal,
};

/// What is asked for.
pub struct Calibration<'a> {
    /// A folder of clips, or a text file that lists them.
    pub clips: &'a Path,
    /// Points of accuracy, or of agreement, that may be lost.
    pub max_drop: f64,
}

/// What was measured, and what became of it.
#[derive(Debug, Serialize)]
pub struct Report {
    clips: usize,
    /// Runtime that everything was measured in.
    provider: String,
    max_drop: f64,
    /// In single precision, where the clips have labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy_fp32: Option<f64>,
    /// Each layer quantised alone.
    layers: Vec<Line>,
    /// All layers that stay quantised, together.
    total: Drift,
}

/// One layer quantised alone.
#[derive(Debug, Serialize)]
struct Line {
    layer: String,
    form: String,
    #[serde(flatten)]
    alone: Drift,
    kept: Fate,
}

/// What became of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Fate {
    /// In fewer bits.
    Quantised,
    /// In single precision: alone it loses more than is allowed.
    LosesAlone,
    /// In single precision: the worst of those that together lose more than is allowed.
    LosesTogether,
}

/// Against single precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Drift {
    /// Of any logit.
    max_abs: f64,
    mean_abs: f64,
    /// Clips with the same best class.
    same_top: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy: Option<f64>,
    /// Points of accuracy where the clips have labels, of agreement where they have none.
    lost: f64,
}

/// Clips, ready for the network.
struct Clips {
    clips: Vec<Clip>,
    /// Classes, where every clip lies in a folder that is named for one.
    truth: Option<Vec<usize>>,
}

impl Clips {
    fn read(path: &Path, card: &Card) -> Result<Self> {
        let files = match path.is_dir() {
            true => audio::collect(&[path.to_owned()])?,
            false => listed(path)?,
        };
        let class = |file: &PathBuf| {
            let folder = file.parent()?.file_name()?.to_str()?;
            card.labels.iter().position(|label| label == folder)
        };
        let truth = files.iter().map(class).collect();
        let mut reader = Reader::new(card)?;
        let clips = files.iter().map(|file| reader.read(file));
        Ok(Self { clips: clips.collect::<Result<_>>()?, truth })
    }
}

/// One file a line, relative to the folder of the list.
fn listed(list: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string(list).with_context(|| {
        format!("{}: expected a folder of clips, or a text file that lists them", list.display())
    })?;
    let folder = list.parent().unwrap_or(Path::new(""));
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let files: Vec<PathBuf> = lines.map(|line| folder.join(line)).collect();
    ensure!(!files.is_empty(), "{}: no clips are listed", list.display());
    Ok(files)
}

/// What a file answers on the clips.
struct Answers {
    logits: Vec<Vec<f32>>,
    best: Vec<usize>,
}

impl Answers {
    fn of(session: &mut dyn Session, clips: &Clips) -> Result<Self> {
        let (mut logits, mut best) = (Vec::new(), Vec::new());
        for clip in &clips.clips {
            let outputs = hear(session, &[clip])?.remove(0).outputs;
            let first = top(session.card(), &outputs, 1).first().map(|score| score.index);
            best.push(first.context("the network has no classes")?);
            let row = outputs.get(LOGITS).context("the network has no logits")?;
            logits.push(row.data().to_vec());
        }
        Ok(Self { logits, best })
    }

    fn correct(&self, truth: &[usize]) -> usize {
        self.best.iter().zip(truth).filter(|(got, want)| got == want).count()
    }

    /// How far it is from `reference`.
    fn drift(&self, reference: &Self, truth: Option<&[usize]>) -> Drift {
        let values = self.logits.iter().flatten().zip(reference.logits.iter().flatten());
        let errors = values.map(|(got, want)| f64::from((got - want).abs()));
        let (mut max_abs, mut sum, mut count) = (0.0_f64, 0.0, 0_usize);
        for error in errors {
            (max_abs, sum, count) = (max_abs.max(error), sum + error, count + 1);
        }
        let clips = self.best.len();
        let same_top = reference.correct(&self.best);
        let percent = |of: f64| 100.0 * of / clips as f64;
        let correct = truth.map(|truth| self.correct(truth));
        let lost = match (truth, correct) {
            (Some(truth), Some(correct)) => reference.correct(truth) as f64 - correct as f64,
            _ => (clips - same_top) as f64,
        };
        Drift {
            max_abs,
            mean_abs: sum / count.max(1) as f64,
            same_top,
            accuracy: correct.map(|correct| percent(correct as f64)),
            lost: percent(lost),
        }
    }
}

/// Which layers stay quantised, given what `measure` says of a choice: each alone within `max_drop`,
/// and all together, the worst leaving one by one until they are. Returns the fate and the drift of
/// every layer, and the drift of those that stay.
fn choose(
    layers: &[Layer],
    max_drop: f64,
    mut measure: impl FnMut(&BTreeSet<String>) -> Result<Drift>,
) -> Result<(Vec<(Drift, Fate)>, Drift)> {
    let mut fates = Vec::new();
    for layer in layers {
        let drift = measure(&[layer.name.clone()].into())?;
        let fate = if drift.lost > max_drop { Fate::LosesAlone } else { Fate::Quantised };
        fates.push((drift, fate));
    }
    loop {
        let kept = quantised(layers, &fates);
        let total = measure(&kept)?;
        let worst = fates.iter_mut().filter(|(_, fate)| *fate == Fate::Quantised).max_by(
            |(a, _), (b, _)| a.lost.total_cmp(&b.lost).then(a.mean_abs.total_cmp(&b.mean_abs)),
        );
        match worst {
            Some((_, fate)) if total.lost > max_drop => *fate = Fate::LosesTogether,
            _ => return Ok((fates, total)),
        }
    }
}

fn quantised(layers: &[Layer], fates: &[(Drift, Fate)]) -> BTreeSet<String> {
    let kept = layers.iter().zip(fates).filter(|(_, (_, fate))| *fate == Fate::Quantised);
    kept.map(|(layer, _)| layer.name.clone()).collect()
}

/// The file whose layers hold what is asked for, and how they were found; `progress` hears of the
/// steps.
pub fn calibrate(
    source: &Source,
    card: &Card,
    options: &Options,
    asked: &Calibration<'_>,
    progress: impl Fn(String),
) -> Result<(Vec<u8>, Report)> {
    let network = &source.network;
    ensure!(
        network.sizes().n_classes.is_some() && network.recipe().head != Head::Features,
        "--calibrate judges by the best class, and this network has no classes"
    );
    let runtime = RuntimeArgs::default();
    let here = |provider: &Provider| provider.absent(&runtime).is_none();
    let Some(provider) = Provider::all().into_iter().rev().find(here) else {
        bail!("--calibrate has to run the file: build with `--features tract` or `ort`");
    };
    progress(format!("reading {}", asked.clips.display()));
    let clips = Clips::read(asked.clips, card)?;

    let folder = tempfile::tempdir().context("no room for the files to measure")?;
    let file = folder.path().join("model.onnx");
    let lower = |options, names| export_selected(network, card, options, &Selection::Only(names));
    // The front end is the same in every file: it is computed once.
    let measured = Options { input: Input::Fbank, ..*options };
    let answers = |file_bytes: &[u8]| {
        fs::write(&file, file_bytes).context("no room for the files to measure")?;
        Answers::of(provider.open(&file, &runtime)?.as_mut(), &clips)
    };
    progress("running in single precision".into());
    let Quantized { bytes, layers } = lower(&measured, BTreeSet::new())?;
    let reference = answers(&bytes)?;
    let truth = clips.truth.as_deref();
    let (fates, total) = choose(&layers, asked.max_drop, |names| {
        progress(match names.first() {
            Some(name) if names.len() == 1 => format!("running with {name} quantised"),
            _ => format!("running with {} layers quantised", names.len()),
        });
        let bytes = lower(&measured, names.clone())?.bytes;
        Ok(answers(&bytes)?.drift(&reference, truth))
    })?;

    let bytes = lower(options, quantised(&layers, &fates))?.bytes;
    let lines = layers.iter().zip(fates).map(|(layer, (alone, kept))| Line {
        layer: layer.name.clone(),
        form: layer.form.to_string(),
        alone,
        kept,
    });
    let count = clips.clips.len();
    let report = Report {
        clips: count,
        provider: provider.name().into(),
        max_drop: asked.max_drop,
        accuracy_fp32: truth.map(|truth| 100.0 * reference.correct(truth) as f64 / count as f64),
        layers: lines.collect(),
        total,
    };
    Ok((bytes, report))
}

impl Report {
    /// A table for people.
    pub fn print(&self) {
        let judged = match self.accuracy_fp32 {
            Some(accuracy) => format!(
                "with the names of their folders as labels; in single precision {accuracy:.2} % are right"
            ),
            None => "without labels: what is lost is agreement with single precision".into(),
        };
        terminal::note(format!(
            "calibrated on {} clips in {}, {judged}",
            self.clips, self.provider
        ));
        terminal::note(format!(
            "{:<24} {:<14} {:>9} {:>10} {:>11} {:>11}  at most {} allowed",
            "layer alone",
            "as",
            "max drift",
            "mean drift",
            "same top-1",
            "points lost",
            self.max_drop
        ));
        for Line { layer, form, alone, kept } in &self.layers {
            let fate = match kept {
                Fate::Quantised => "",
                Fate::LosesAlone => "stays fp32: loses too much",
                Fate::LosesTogether => "stays fp32: the worst of what together loses too much",
            };
            terminal::note(self.row(layer, form, alone, fate));
        }
        let kept = self.layers.iter().filter(|line| line.kept == Fate::Quantised).count();
        let what = format!("{kept} of {} layers", self.layers.len());
        terminal::note(self.row("together", &what, &self.total, ""));
        if kept == 0 {
            terminal::warning("no layer may be quantised: the file is in single precision");
        }
    }

    fn row(&self, name: &str, form: &str, drift: &Drift, fate: &str) -> String {
        let same = format!("{}/{}", drift.same_top, self.clips);
        let row = format!(
            "{name:<24} {form:<14} {:>9.4} {:>10.5} {same:>11} {:>11.2}  {fate}",
            drift.max_abs, drift.mean_abs, drift.lost
        );
        row.trim_end().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssamba_onnx::Form;

    fn layers(names: &[&str]) -> Vec<Layer> {
        let layer = |name: &&str| Layer { name: (*name).into(), form: Form::Product };
        names.iter().map(layer).collect()
    }

    /// Points add up: `a` loses 0.4, `b` 0.3, `c` 0.9, `d` nothing but drifts.
    fn choice(max_drop: f64) -> (Vec<Fate>, f64) {
        let cost = |name: &str| match name {
            "a" => (0.4, 0.1),
            "b" => (0.3, 0.2),
            "c" => (0.9, 0.0),
            _ => (0.0, 0.9),
        };
        let (fates, total) = choose(&layers(&["a", "b", "c", "d"]), max_drop, |names| {
            let lost = names.iter().map(|name| cost(name).0).sum();
            let mean_abs = names.iter().map(|name| cost(name).1).sum();
            Ok(Drift { lost, mean_abs, ..Drift::default() })
        })
        .unwrap();
        (fates.into_iter().map(|(_, fate)| fate).collect(), total.lost)
    }

    #[test]
    fn a_layer_that_loses_too_much_stays_and_then_the_worst_until_the_whole_holds() {
        use Fate::{LosesAlone, LosesTogether, Quantised};
        assert_eq!(choice(2.0).0, [Quantised; 4]);
        assert_eq!(choice(0.8), (vec![Quantised, Quantised, LosesAlone, Quantised], 0.7));
        assert_eq!(choice(0.5), (vec![LosesTogether, Quantised, LosesAlone, Quantised], 0.3));
        assert_eq!(choice(0.0), (vec![LosesAlone, LosesAlone, LosesAlone, Quantised], 0.0));
    }

    #[test]
    fn drift_counts_what_changed() {
        let reference = Answers {
            logits: vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![2.0, 0.0]],
            best: vec![0, 1, 0],
        };
        let got = Answers {
            logits: vec![vec![1.0, 0.5], vec![1.5, 1.0], vec![2.0, 0.0]],
            best: vec![0, 0, 0],
        };
        let agreement = got.drift(&reference, None);
        assert_eq!((agreement.max_abs, agreement.same_top), (1.5, 2));
        assert!((agreement.mean_abs - 2.0 / 6.0).abs() < 1e-12);
        assert!((agreement.lost - 100.0 / 3.0).abs() < 1e-12);
        let better = got.drift(&reference, Some(&[0, 0, 1]));
        assert_eq!(better.accuracy.map(f64::round), Some(67.0));
        assert!((better.lost + 100.0 / 3.0).abs() < 1e-12, "a gain");
    }
}
