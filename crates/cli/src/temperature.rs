//! `ssamba-edge calibrate`: scores that say how often they are right.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use candle_core::DType;
use serde::Serialize;
use ssamba_contract::{Scores, Session};
use ssamba_model_common::Checkpoint;
use ssamba_training::{plan::Loss, score::highest, temperature, to_safetensors};

use crate::{
    Answer,
    clips::{self, TableArgs},
    convert::{CandleSession, RecipeArgs, Source, sha256, write_whole},
    eval::{Heard, hear_all},
    terminal,
};

/// Scale the classifier of a checkpoint so that its scores on labelled clips say how often they are
/// right. What is heard stays the same.
///
/// Networks that learned from smoothed labels, mixed clips or teachers are less sure than they may be,
/// others are surer. Logits are divided by one number, the temperature, for which the loss on the clips
/// is the lowest; it goes into the weights, so that every runtime has it.
#[derive(clap::Args)]
pub struct Args {
    /// Checkpoint with a classifier, and its TOML file beside it.
    checkpoint: PathBuf,
    /// CSV table with the columns path, label and split, or a folder with one folder of clips a label.
    data: PathBuf,
    /// Split of the table [default: all of it].
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    #[command(flatten)]
    table: TableArgs,
    /// Safetensors file to write; its card comes beside it.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    recipe: RecipeArgs,
}

/// Tensors that make logits of normalised tokens.
const CLASSIFIER: [&str; 2] = ["mlp_head.1.weight", "mlp_head.1.bias"];

/// What goes into the card.
#[derive(Serialize)]
struct Calibration {
    /// What the logits of the checkpoint were divided by.
    temperature: f64,
    /// SHA-256 of that checkpoint.
    of: String,
    data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    split: Option<String>,
    clips: usize,
}

pub fn run(args: &Args) -> Result<Answer> {
    let card_path = args.output.with_extension("toml");
    ensure!(
        args.output.extension().is_some_and(|extension| extension == "safetensors"),
        "{}: expected a name that ends in .safetensors",
        args.output.display()
    );
    let source = Source::read(&args.checkpoint, &args.recipe, None)?;
    let card = source.card(&source.network.recipe().name)?;
    let mut session = CandleSession::new(source.network.clone(), card);
    let clips = clips::of_either(&args.data, &args.table, args.split.as_deref())?;
    let heard = hear_all(&mut session, &args.checkpoint, &clips)?;
    let scores = session.card().scores;
    let loss = match scores {
        Scores::Softmax => Loss::CrossEntropy,
        Scores::Sigmoid => Loss::Binary,
    };
    if loss == Loss::CrossEntropy {
        let several = clips.iter().zip(&heard.right).find(|(_, right)| right.len() != 1);
        if let Some((clip, right)) = several {
            bail!(
                "{}: {} labels, and the scores of this model are shares of one",
                clip.path.display(),
                right.len()
            );
        }
    }
    let temperature = temperature(loss, &heard.logits, &heard.right)
        .with_context(|| args.data.display().to_string())?;
    let weights = scaled(&args.checkpoint, temperature)?;
    let calibration = Calibration {
        temperature: (1e6 * temperature).round() / 1e6,
        of: source.sha256.clone(),
        data: args.data.display().to_string(),
        split: args.split.clone(),
        clips: clips.len(),
    };
    let text = described(args, &source, &weights, &calibration)?;
    write_whole(&card_path, text.as_bytes())?;
    write_whole(&args.output, &weights)?;
    terminal::note(format!("clips       {}", clips.len()));
    terminal::note(format!("temperature {temperature:.3}, which logits were divided by"));
    for (when, temperature) in [("before", 1.0), ("after", temperature)] {
        let (right, score) = certainty(&heard, scores, temperature);
        terminal::note(format!(
            "{when:<11} {:.2} % of what is heard is right, at a mean score of {:.2} %",
            100.0 * right,
            100.0 * score
        ));
    }
    terminal::note(format!("wrote       {} and {}", args.output.display(), card_path.display()));
    Ok(Answer::Yes)
}

/// The checkpoint whose logits are those of `checkpoint`, divided.
fn scaled(checkpoint: &Path, temperature: f64) -> Result<Vec<u8>> {
    let mut tensors = Checkpoint::read(checkpoint)?.tensors;
    for name in CLASSIFIER {
        let tensor = tensors
            .get_mut(name)
            .with_context(|| format!("{}: no tensor `{name}`", checkpoint.display()))?;
        ensure!(
            tensor.dtype() == DType::F32,
            "{}: `{name}` is in {:?}, expected single precision",
            checkpoint.display(),
            tensor.dtype()
        );
        *tensor = (&*tensor / temperature)?;
    }
    to_safetensors(&tensors, None)
}

/// The card of `weights`: that of the checkpoint with their SHA-256, or a new one.
fn described(
    args: &Args,
    source: &Source,
    weights: &[u8],
    calibration: &Calibration,
) -> Result<String> {
    let beside = args.checkpoint.with_extension("toml");
    let asked = args.recipe.recipe.is_some() || args.recipe.labels.is_some();
    let network = &source.network;
    let text = match beside.is_file() && !asked {
        true => fs::read_to_string(&beside).with_context(|| beside.display().to_string())?,
        false => network.recipe().to_toml(network.sizes()),
    };
    let mut card: toml::Table = text.parse()?;
    card.insert("sha256".into(), sha256(weights).into());
    card.insert("calibration".into(), toml::Value::try_from(calibration)?);
    Ok(toml::to_string(&card)?)
}

/// Share of clips of which the class with the highest score is right, and the mean of that score.
fn certainty(heard: &Heard, scores: Scores, temperature: f64) -> (f64, f64) {
    let clips = heard.logits.len().max(1) as f64;
    let (mut right, mut sum) = (0, 0.0);
    for (row, classes) in heard.logits.iter().zip(&heard.right) {
        let best = highest(row);
        right += usize::from(classes.contains(&best));
        let row: Vec<f32> = row.iter().map(|x| (f64::from(*x) / temperature) as f32).collect();
        sum += f64::from(scores.apply(&row)[best]);
    }
    (right as f64 / clips, sum / clips)
}
