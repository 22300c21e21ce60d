//! `ssamba-edge eval`: how often a file, or a checkpoint, is right.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use ssamba_contract::{Session, io::LOGITS};
use ssamba_training::score::{Report, report};

use crate::{
    Answer,
    clips::{self, Clip, TableArgs},
    convert::{CandleSession, RecipeArgs, sha256_of},
    listen::{Reader, TOGETHER, hear},
    provider::{Provider, RuntimeArgs, is_checkpoint},
};

/// Score a model on labelled clips: accuracy, mean average precision, and both class by class.
#[derive(clap::Args)]
pub struct Args {
    /// File written by `ssamba-edge export`, or a checkpoint, which candle runs.
    model: PathBuf,
    /// CSV table with the columns path, label and split, or a folder with one folder of clips a label.
    data: PathBuf,
    /// Split of the table [default: all of it].
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    #[command(flatten)]
    table: TableArgs,
    /// Score once more without the clips of this label.
    #[arg(long, value_name = "LABEL")]
    without: Option<String>,
    /// Runtime of a file.
    #[arg(long, value_enum, default_value = "auto")]
    provider: Provider,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    recipe: RecipeArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

#[derive(Serialize)]
struct Line<'a> {
    model: String,
    sha256: String,
    provider: &'a str,
    data: String,
    label_column: Option<&'a str>,
    split: Option<&'a str>,
    without: Option<&'a str>,
    labels: &'a [&'a str],
    #[serde(flatten)]
    report: &'a Report,
}

pub fn run(args: &Args) -> Result<Answer> {
    let mut session = open(args)?;
    let clips = clips::of_either(&args.data, &args.table, args.split.as_deref())?;
    let report = score(session.as_mut(), &args.model, &clips, args.without.as_deref())?;
    let mut stdout = io::stdout().lock();
    if args.json {
        let labels: Vec<&str> = report.classes.iter().map(|class| class.label.as_str()).collect();
        let line = Line {
            model: args.model.display().to_string(),
            sha256: sha256_of(&args.model)?,
            provider: session.provider(),
            data: args.data.display().to_string(),
            label_column: args.table.label_column.as_deref(),
            split: args.split.as_deref(),
            without: args.without.as_deref(),
            labels: &labels,
            report: &report,
        };
        writeln!(stdout, "{}", serde_json::to_string(&line)?)?;
    } else {
        print(&mut stdout, args, session.provider(), &report)?;
    }
    Ok(Answer::Yes)
}

/// What a model says of clips, and what is right.
pub struct Heard {
    /// In the order of the logits.
    pub labels: Vec<String>,
    /// A row a clip.
    pub logits: Vec<Vec<f32>>,
    /// Classes of each clip.
    pub right: Vec<Vec<usize>>,
}

fn class_of(labels: &[String], label: &str) -> Result<usize> {
    labels.iter().position(|known| known == label).ok_or_else(|| {
        anyhow!("the model does not know the label `{label}`, but {}", labels.join(", "))
    })
}

/// Scores what `session` says of clips; `model` is its file, for messages. With `without`, once more
/// without the clips of that label.
pub fn score(
    session: &mut dyn Session,
    model: &Path,
    clips: &[Clip],
    without: Option<&str>,
) -> Result<Report> {
    let heard = hear_all(session, model, clips)?;
    let without =
        without.map(|label| class_of(&heard.labels, label)).transpose().context("--without")?;
    Ok(report(&heard.labels, &heard.logits, &heard.right, without))
}

/// Runs clips; `model` is the session's file, for messages.
pub fn hear_all(session: &mut dyn Session, model: &Path, clips: &[Clip]) -> Result<Heard> {
    let mut reader = Reader::new(session.card())?;
    let together = session.card().batch.unwrap_or(TOGETHER);
    let progress = ProgressBar::new(clips.len() as u64)
        .with_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} clips, {eta} left")?);
    let mut logits: Vec<Vec<f32>> = Vec::with_capacity(clips.len());
    for some in clips.chunks(together) {
        let prepared =
            some.iter().map(|clip| reader.read(&clip.path)).collect::<Result<Vec<_>>>()?;
        for heard in hear(session, &prepared.iter().collect::<Vec<_>>())? {
            let output = heard.outputs.get(LOGITS).with_context(|| {
                format!("{}: a model without classes has no score", model.display())
            })?;
            ensure!(
                output.shape().len() == 2,
                "{}: it says something of every second, and the clips have one label each",
                model.display()
            );
            logits.push(output.row(0).to_vec());
        }
        progress.inc(some.len() as u64);
    }
    progress.finish_and_clear();
    let n_classes = logits.first().map_or(0, Vec::len);
    let labels: Vec<String> = (0..n_classes).map(|index| session.card().label(index)).collect();
    let classes = |clip: &Clip| -> Result<Vec<usize>> {
        let classes = clip.labels().map(|label| class_of(&labels, label));
        classes.collect::<Result<_>>().with_context(|| clip.path.display().to_string())
    };
    let right = clips.iter().map(classes).collect::<Result<Vec<_>>>()?;
    Ok(Heard { labels, logits, right })
}

fn open(args: &Args) -> Result<Box<dyn Session>> {
    if !is_checkpoint(&args.model)? {
        args.runtime.check(&[args.provider])?;
        return args.provider.open(&args.model, &args.runtime);
    }
    ensure!(
        args.provider == Provider::Auto,
        "{}: a checkpoint runs in candle alone; export it to score another provider",
        args.model.display()
    );
    Ok(Box::new(CandleSession::open(&args.model, &args.recipe)?))
}

fn print(out: &mut impl Write, args: &Args, provider: &str, report: &Report) -> io::Result<()> {
    let percent = |share: f64| 100.0 * share;
    writeln!(out, "clips               {} in {provider}", report.clips)?;
    writeln!(out, "accuracy            {:.2} %", percent(report.accuracy))?;
    if let (Some(label), Some(accuracy)) = (&args.without, report.accuracy_without) {
        writeln!(out, "accuracy without    {:.2} % ({label})", percent(accuracy))?;
    }
    writeln!(out, "mAP                 {:.4}", report.mean_average_precision)?;
    let width = report.classes.iter().map(|class| class.label.chars().count()).max().unwrap_or(0);
    let width = width.max(5);
    writeln!(out, "\n{:<width$}  clips  recall  precision  average precision", "class")?;
    for class in &report.classes {
        let area = class.average_precision.map_or("-".into(), |area| format!("{area:.4}"));
        writeln!(
            out,
            "{:<width$}  {:>5}  {:>5.1} %  {:>7.1} %  {area:>17}",
            class.label,
            class.clips,
            percent(class.recall),
            percent(class.precision)
        )?;
    }
    writeln!(out, "\nright, in rows; heard, in columns")?;
    for (class, row) in report.classes.iter().zip(&report.confusion) {
        let cells: Vec<String> = row.iter().map(|count| format!("{count:>4}")).collect();
        writeln!(out, "{:<width$} {}", class.label, cells.join(""))?;
    }
    Ok(())
}
