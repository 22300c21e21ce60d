//! `ssamba-edge train`: learning from labelled clips.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use ssamba_contract::{FrontEnd, Scores};
use ssamba_model_common::{Checkpoint, Recipe, recipe::check_labels};
use ssamba_training::{
    Data, Example, Network, Plan, Random, Teacher, Trainer,
    loss::loss,
    plan::{Loss, PLANS},
    score::report,
};

use super::{
    NetworkArgs, Objective, RunArgs, announce, data::frames, drive, metrics::Epoch, pair,
    recipe_of, share,
};
use crate::{
    Answer,
    clips::{self, Clip},
    convert::sha256_of,
};

/// Train a classifier on labelled clips; `export` takes the checkpoint that comes out.
#[derive(clap::Args)]
pub struct Args {
    /// CSV table with the columns path, label (several with `;` between) and split (training,
    /// validation), or a folder with one folder of clips a label.
    data: PathBuf,
    /// Where to start: a checkpoint, pretrained or trained, or `scratch`.
    #[arg(long, value_name = "CHECKPOINT|scratch")]
    from: String,
    /// How to train: full-band and nano for keywords, or the published speech-commands, esc50, audioset.
    #[arg(long, value_name = "NAME", default_value = "full-band")]
    plan: String,
    /// Input of the network: a recipe as in `export` [default: the plan's from scratch, else the TOML file beside the checkpoint].
    #[arg(long, value_name = "NAME|FILE")]
    recipe: Option<String>,
    /// Mel bins and frames from patch to patch [default: the recipe's].
    #[arg(long, value_name = "FxT")]
    stride: Option<String>,
    #[command(flatten)]
    network: NetworkArgs,
    /// Folder from which the paths of the table go [default: the table's, or the one above].
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Share of the clips of each label that is kept for validation where there is no split.
    #[arg(long, value_name = "X", default_value_t = 0.1, value_parser = share)]
    validation: f64,
    /// Label whose clips are mixed into others, if there are any.
    #[arg(long, value_name = "LABEL", default_value = "_silence_")]
    background: String,
    /// How often two clips are mixed into one, labels too [default: the plan's].
    #[arg(long, value_name = "P", value_parser = share)]
    mixup: Option<f64>,
    /// Checkpoint of a trained network to learn from beside the labels, with its TOML file beside it;
    /// several are averaged.
    #[arg(long, value_name = "CHECKPOINT")]
    teacher: Vec<PathBuf>,
    /// The teachers' share of what is learned.
    #[arg(long, value_name = "W", default_value_t = 0.5, value_parser = share, requires = "teacher")]
    distill: f64,
    /// What the teachers' logits are divided by.
    #[arg(long, value_name = "T", default_value_t = 2.0, requires = "teacher")]
    temperature: f64,
    #[command(flatten)]
    run: RunArgs,
}

/// Clips by split, and the labels of all.
struct Split {
    labels: Vec<String>,
    training: Vec<(PathBuf, Vec<usize>)>,
    validation: Vec<(PathBuf, Vec<usize>)>,
}

pub fn run(args: &Args) -> Result<Answer> {
    args.run.check()?;
    let split = split(args)?;
    let Some(plan) = Plan::named(&args.plan) else {
        bail!("no plan `{}`: expected {}", args.plan, PLANS.join(", "));
    };
    let mut plan = args.run.over(plan);
    plan.augmentation.mixup = args.mixup.unwrap_or(plan.augmentation.mixup);
    let network = network(args, &plan, &split)?;
    let teachers = teachers(args, network.recipe())?;
    let threads = args.run.threads();
    let front_end = network.recipe().front_end.clone();
    let mut trainer = Trainer::new(network, plan, args.run.seed, threads)?;
    if !teachers.is_empty() {
        trainer = trainer.taught_by(teachers, args.distill, args.temperature)?;
    }
    let background = split.labels.iter().position(|label| *label == args.background);
    let objective = Labelled {
        training: data(&split.training, background, &front_end, true, threads)?,
        validation: data(&split.validation, None, &front_end, false, threads)?,
        labels: split.labels,
    };
    let clips = format!(
        "{} to learn from, {} for validation, {} labels",
        objective.training.clips.len(),
        objective.validation.clips.len(),
        objective.labels.len()
    );
    announce(&trainer, &args.from, &clips);
    drive(&args.run, trainer, &objective)
}

fn data(
    clips: &[(PathBuf, Vec<usize>)],
    background: Option<usize>,
    front_end: &FrontEnd,
    fill: bool,
    threads: std::num::NonZeroUsize,
) -> Result<Data> {
    let paths: Vec<PathBuf> = clips.iter().map(|(path, _)| path.clone()).collect();
    let frames = frames(&paths, front_end, fill, threads)?;
    let clips: Vec<Example> = frames
        .into_iter()
        .zip(clips)
        .map(|(frames, (_, classes))| Example { frames, classes: classes.clone() })
        .collect();
    let is_background =
        |index: &usize| background.is_some_and(|class| clips[*index].classes == [class]);
    Ok(Data { background: (0..clips.len()).filter(is_background).collect(), clips })
}

/// The network that the run starts from.
fn network(args: &Args, plan: &Plan, split: &Split) -> Result<Network> {
    let n_classes = split.labels.len();
    let dress = |mut recipe: Recipe| -> Result<Recipe> {
        recipe.labels = split.labels.clone();
        recipe.scores = match plan.loss {
            Loss::CrossEntropy => Scores::Softmax,
            Loss::Binary => Scores::Sigmoid,
        };
        if let Some(stride) = &args.stride {
            (recipe.stride_f, recipe.stride_t) = pair("--stride", stride)?;
        }
        recipe.claims = Default::default();
        Ok(recipe)
    };
    if args.from == "scratch" {
        let (recipe, config) = args.network.of_plan(&args.plan)?;
        let recipe = recipe_of(args.recipe.as_deref(), None)?.unwrap_or(recipe);
        let config = config.with_classes(Some(n_classes));
        return Network::from_scratch(config, dress(recipe)?, args.run.seed);
    }
    let path = PathBuf::from(&args.from);
    let checkpoint = args.network.checkpoint(&path)?;
    let recipe = match recipe_of(args.recipe.as_deref(), Some(&path))? {
        Some(recipe) => recipe,
        None => args.network.of_plan(&args.plan)?.0,
    };
    Network::from_checkpoint(&checkpoint, dress(recipe)?, n_classes, args.run.seed)
        .with_context(|| path.display().to_string())
}

/// The networks to learn from.
fn teachers(args: &Args, student: &Recipe) -> Result<Vec<Teacher>> {
    let read = |path: &PathBuf| {
        let Some(recipe) = recipe_of(None, Some(path))? else {
            bail!(
                "teacher {}: no {} beside it to say what it hears",
                path.display(),
                path.with_extension("toml").display()
            );
        };
        Teacher::new(&Checkpoint::read(path)?, recipe, sha256_of(path)?, student)
    };
    args.teacher.iter().map(read).collect()
}

fn split(args: &Args) -> Result<Split> {
    let clips = clips::of_either(&args.data, args.root.as_deref(), None)?;
    let of = |clip: &Clip| -> Vec<String> {
        clip.label
            .split(';')
            .map(str::trim)
            .filter(|label| !label.is_empty())
            .map(Into::into)
            .collect()
    };
    let labels: Vec<String> =
        clips.iter().flat_map(of).collect::<BTreeSet<_>>().into_iter().collect();
    check_labels(&labels).with_context(|| args.data.display().to_string())?;
    ensure!(
        labels.len() > 1,
        "{}: {} label, expected at least two",
        args.data.display(),
        labels.len()
    );
    let indexed = |clip: &Clip| {
        let classes = of(clip);
        (
            clip.path.clone(),
            classes.iter().filter_map(|label| labels.binary_search(label).ok()).collect::<Vec<_>>(),
        )
    };
    let (mut training, mut validation) = (Vec::new(), Vec::new());
    if clips.iter().any(|clip| clip.split.is_some()) {
        for clip in &clips {
            match clip.split.as_deref() {
                Some("training" | "train") => training.push(indexed(clip)),
                Some("validation" | "valid" | "val") => validation.push(indexed(clip)),
                // Whatever else there is was not meant to be learned from or chosen by.
                _ => {}
            }
        }
    } else {
        let names: BTreeSet<&str> = clips.iter().map(|clip| clip.label.as_str()).collect();
        for (number, name) in names.into_iter().enumerate() {
            let of_label: Vec<&Clip> = clips.iter().filter(|clip| clip.label == name).collect();
            let held = (of_label.len() as f64 * args.validation).round() as usize;
            let order = Random::new(args.run.seed, &[4, number as u64]).order(of_label.len());
            for (place, index) in order.into_iter().enumerate() {
                let to = if place < held { &mut validation } else { &mut training };
                to.push(indexed(of_label[index]));
            }
        }
    }
    ensure!(
        !training.is_empty() && !validation.is_empty(),
        "{}: {} clips to learn from and {} for validation, expected some of both; the splits of a \
         table are called training and validation",
        args.data.display(),
        training.len(),
        validation.len()
    );
    Ok(Split { labels, training, validation })
}

struct Labelled {
    labels: Vec<String>,
    training: Data,
    validation: Data,
}

impl Objective for Labelled {
    fn clips(&self) -> usize {
        self.training.clips.len()
    }

    fn step(&self, trainer: &mut Trainer, batch: &[usize], steps: usize) -> Result<f64> {
        Ok(trainer.step(&self.training, batch, steps)?.rate)
    }

    fn now(&self, trainer: &Trainer) -> String {
        let sums = &trainer.progress.sums;
        format!("loss {:.3}, accuracy {:.1} %", sums.mean_loss(), 100.0 * sums.mean(0))
    }

    fn validate(&self, trainer: &Trainer, epoch: &mut Epoch) -> Result<Option<f64>> {
        epoch.accuracy = Some(trainer.progress.sums.mean(0));
        let clips = &self.validation.clips;
        let logits = trainer.logits(clips)?;
        let right: Vec<Vec<usize>> = clips.iter().map(|clip| clip.classes.clone()).collect();
        let report = report(&self.labels, &logits, &right, None);
        let n_classes = self.labels.len();
        let mut targets = vec![0.0_f32; clips.len() * n_classes];
        for (clip, classes) in right.iter().enumerate() {
            for class in classes {
                targets[clip * n_classes + class] = 1.0;
            }
        }
        let shape = (clips.len(), n_classes);
        let targets = Tensor::from_vec(targets, shape, &Device::Cpu)?;
        let logits = Tensor::from_vec(logits.concat(), shape, &Device::Cpu)?;
        let total = loss(trainer.plan.loss, &logits, &targets)?.to_scalar::<f32>()?;
        epoch.validation_loss = Some(f64::from(total) / clips.len() as f64);
        epoch.validation_accuracy = Some(report.accuracy);
        if right.iter().all(|classes| classes.len() == 1) {
            return Ok(Some(report.accuracy));
        }
        epoch.validation_map = Some(report.mean_average_precision);
        Ok(Some(report.mean_average_precision))
    }
}
