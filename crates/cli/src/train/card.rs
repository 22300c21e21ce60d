//! The card beside a trained checkpoint: the recipe that `export` needs, then how the checkpoint was
//! made and how good it is.

use std::{collections::BTreeMap, env};

use anyhow::Result;
use serde::Serialize;
use ssamba_training::{Plan, Trainer, score::Report};

use super::metrics::Epoch;
use crate::{command::again, convert::sha256};

/// The clips of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Data {
    /// Table or folders, as they were named.
    pub source: String,
    /// Of the table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Clips to learn from.
    pub training: usize,
    /// Clips that choose the best epoch.
    pub validation: usize,
    /// Clips that score it, once.
    pub testing: usize,
}

/// How good the clips of the testing split say a checkpoint is.
pub struct Tested {
    pub report: Report,
    /// The class of [`Report::accuracy_without`].
    pub without: Option<String>,
}

impl Tested {
    /// A line for people.
    pub fn words(&self) -> String {
        let Self { report, without } = self;
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        let mut words =
            format!("testing     {} of {} clips", percent(report.accuracy), report.clips);
        if let (Some(label), Some(share)) = (without, report.accuracy_without) {
            words += &format!(", {} without {label}", percent(share));
        }
        words + &format!(", mAP {:.4}", report.mean_average_precision)
    }
}

#[derive(Serialize)]
struct Story<'a> {
    parameters: usize,
    sha256: String,
    #[serde(skip_serializing_if = "Scores::is_empty")]
    accuracy: Scores<'a>,
    #[serde(skip_serializing_if = "Scores::is_empty")]
    mean_average_precision: Scores<'a>,
    data: &'a Data,
    training: Training<'a>,
}

#[derive(Default, PartialEq, Serialize)]
struct Scores<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    validation: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    testing: Option<f64>,
    /// The same without the clips of a class, by its label.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    testing_without: BTreeMap<&'a str, f64>,
}

impl Scores<'_> {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Serialize)]
struct Training<'a> {
    command: String,
    version: &'a str,
    seed: u64,
    /// Passes over the clips that the weights have seen.
    epoch: usize,
    plan: &'a Plan,
}

/// Options that decide nothing of what comes out.
const LEFT_OUT: [&str; 3] = ["-o", "--output", "--threads"];

/// The card of the weights that `checkpoint` holds, with the figures of their epoch, if it ended.
pub fn card(
    trainer: &Trainer,
    checkpoint: &[u8],
    data: &Data,
    epoch: Option<&Epoch>,
    tested: Option<&Tested>,
) -> Result<String> {
    let network = &trainer.network;
    // Of a million clips, one shows.
    let rounded = |share: f64| (1e6 * share).round() / 1e6;
    let report = tested.map(|tested| &tested.report);
    let without = tested
        .and_then(|tested| Some((tested.without.as_deref()?, tested.report.accuracy_without?)));
    let arguments = env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    let arguments = arguments.filter(|argument| argument != "--resume");
    let story = Story {
        parameters: network.len(),
        sha256: sha256(checkpoint),
        accuracy: Scores {
            // That of pretraining is about patches, not about clips.
            validation: epoch
                .filter(|epoch| epoch.nce.is_none())
                .and_then(|epoch| epoch.validation_accuracy.map(rounded)),
            testing: report.map(|report| rounded(report.accuracy)),
            testing_without: without
                .map(|(label, share)| (label, rounded(share)))
                .into_iter()
                .collect(),
        },
        mean_average_precision: Scores {
            validation: epoch.and_then(|epoch| epoch.validation_map.map(rounded)),
            testing: report.map(|report| rounded(report.mean_average_precision)),
            ..Scores::default()
        },
        data,
        training: Training {
            command: again(arguments, &LEFT_OUT),
            version: env!("CARGO_PKG_VERSION"),
            seed: trainer.seed,
            epoch: epoch.map_or(trainer.progress.epoch, |epoch| epoch.epoch),
            plan: &trainer.plan,
        },
    };
    Ok(network.recipe().to_toml(network.config()) + &toml::to_string(&story)?)
}
