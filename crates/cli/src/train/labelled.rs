//! `ssamba-edge train`: learning from labelled clips.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use ssamba_contract::{FrontEnd, Scores};
use ssamba_model_common::{Checkpoint, Recipe};
use ssamba_training::{
    Data, Example, Network, Plan, Teacher, Trainer, Validation,
    loss::loss,
    plan::{Loss, PLANS},
    score::report,
};

use super::{
    NetworkArgs, Objective, RunArgs, announce, card,
    data::frames,
    drive,
    metrics::Epoch,
    pair, recipe_of, share,
    split::{self, Split, SplitArgs, split},
};
use crate::{Answer, clips::TableArgs, convert::sha256_of};

/// Train a classifier on labelled clips; `export` takes the checkpoint that comes out.
#[derive(clap::Args)]
pub struct Args {
    /// CSV table with the columns path, label (several with `;` between) and split (training,
    /// validation, testing), or a folder with one folder of clips a label.
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
    /// Name of the model in its card [default: the recipe's].
    #[arg(long)]
    name: Option<String>,
    /// Licence of the clips, for the card.
    #[arg(long, value_name = "TEXT")]
    license: Option<String>,
    #[command(flatten)]
    table: TableArgs,
    #[command(flatten)]
    split: SplitArgs,
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

pub fn run(args: &Args) -> Result<Answer> {
    args.run.check()?;
    let split = split(&args.data, &args.table, &args.split, args.run.seed)?;
    let Some(plan) = Plan::named(&args.plan) else {
        bail!("no plan `{}`: expected {}", args.plan, PLANS.join(", "));
    };
    let mut plan = args.run.over(plan);
    plan.augmentation.mixup = args.mixup.unwrap_or(plan.augmentation.mixup);
    let network = args.run.device.place(network(args, &plan, &split)?)?;
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
        described: card::Data {
            source: args.data.display().to_string(),
            sha256: args.data.is_file().then(|| sha256_of(&args.data)).transpose()?,
            licence: args.license.clone(),
            training: split.training.len(),
            validation: split.validation.len(),
            testing: split.testing.len(),
        },
        background: background.map(|_| args.background.clone()),
        testing: data(&split.testing, None, &front_end, false, threads)?,
        labels: split.labels,
    };
    let clips = format!(
        "{} to learn from, {} for validation, {} for testing, {} labels",
        objective.training.clips.len(),
        objective.validation.clips.len(),
        objective.testing.clips.len(),
        objective.labels.len()
    );
    announce(&trainer, &args.from, &clips);
    drive(&args.run, trainer, &objective)
}

fn data(
    clips: &[split::Labelled],
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
        if let Some(name) = &args.name {
            recipe.name = name.clone();
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

struct Labelled {
    labels: Vec<String>,
    training: Data,
    validation: Data,
    testing: Data,
    /// The label that scores leave out once.
    background: Option<String>,
    described: card::Data,
}

impl Objective for Labelled {
    fn clips(&self) -> usize {
        self.training.clips.len()
    }

    fn data(&self) -> &card::Data {
        &self.described
    }

    fn test(&self, trainer: &Trainer, checkpoint: &Path) -> Result<Option<card::Tested>> {
        if self.testing.clips.is_empty() {
            return Ok(None);
        }
        let logits = trainer.logits_by(&Checkpoint::read(checkpoint)?, &self.testing.clips)?;
        let right: Vec<Vec<usize>> =
            self.testing.clips.iter().map(|clip| clip.classes.clone()).collect();
        let without = self.background.as_deref();
        let without = without.and_then(|left_out| self.labels.iter().position(|l| l == left_out));
        let report = report(&self.labels, &logits, &right, without);
        Ok(Some(card::Tested { report, without: self.background.clone() }))
    }

    fn step(&self, trainer: &mut Trainer, batch: &[usize], steps: usize) -> Result<f64> {
        Ok(trainer.step(&self.training, batch, steps)?.rate)
    }

    fn now(&self, trainer: &Trainer) -> String {
        let sums = &trainer.progress.sums;
        format!("loss {:.3}, accuracy {:.1} %", sums.mean_loss(), 100.0 * sums.mean(0))
    }

    fn validate(&self, trainer: &Trainer, epoch: &mut Epoch) -> Result<Option<Validation>> {
        epoch.accuracy = Some(trainer.progress.sums.mean(0));
        let clips = &self.validation.clips;
        if clips.is_empty() {
            return Ok(None);
        }
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
        let loss = f64::from(total) / clips.len() as f64;
        epoch.validation_loss = Some(loss);
        epoch.validation_accuracy = Some(report.accuracy);
        if right.iter().all(|classes| classes.len() == 1) {
            return Ok(Some(Validation { score: report.accuracy, loss }));
        }
        epoch.validation_map = Some(report.mean_average_precision);
        Ok(Some(Validation { score: report.mean_average_precision, loss }))
    }
}
