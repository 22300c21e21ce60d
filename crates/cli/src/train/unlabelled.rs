//! `ssamba-edge pretrain`: learning from clips without labels.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use ssamba_training::{
    Data, Example, Masking, Network, Plan, Random, Trainer, Validation,
    plan::{Decay, Schedule},
    pretrain::GENERATIVE,
};

use super::{
    NetworkArgs, Objective, RunArgs, announce, card, data::frames, drive, metrics::Epoch, pair,
    recipe_of, share,
};
use crate::{
    Answer, audio,
    clips::{self, TableArgs},
};

/// Learn from audio without labels: hidden patches are told from each other, and said again.
#[derive(clap::Args)]
pub struct Args {
    /// Audio files, folders of them, or a CSV table with the columns path and label, of whose splits
    /// all but testing are taken.
    #[arg(required = true)]
    audio: Vec<PathBuf>,
    /// Folder from which the paths of the tables go [default: each table's, or the one above].
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// A pretraining checkpoint to go on from [default: from scratch].
    #[arg(long, value_name = "CHECKPOINT")]
    from: Option<PathBuf>,
    /// Input of the network: a recipe as in `export` [default: pretrain, with --frames].
    #[arg(long, value_name = "NAME|FILE")]
    recipe: Option<String>,
    /// Frames of the input, 10 ms each [default: the recipe's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    frames: Option<u32>,
    /// Patches to hide in a clip.
    #[arg(long, value_name = "N", default_value_t = 300)]
    mask: usize,
    /// Smallest and largest side of a cluster of hidden patches.
    #[arg(long, value_name = "AxB", default_value = "3x5")]
    cluster: String,
    /// How to step: `published`, or `cosine`, the rate and schedule of our plans for small networks.
    #[arg(long, value_name = "NAME", default_value = "published")]
    plan: String,
    #[command(flatten)]
    network: NetworkArgs,
    /// Share of the clips that is kept for validation.
    #[arg(long, value_name = "X", default_value_t = 0.05, value_parser = share)]
    validation: f64,
    #[command(flatten)]
    run: RunArgs,
}

pub fn run(args: &Args) -> Result<Answer> {
    args.run.check()?;
    let plan = args.run.over(plan(&args.plan)?);
    let network = args.run.device.place(network(args)?)?;
    let (low, high) = pair("--cluster", &args.cluster)?;
    let masking = Masking { patches: args.mask, cluster: low..=high };
    masking.check(network.grid())?;
    let table = TableArgs { root: args.root.clone(), ..TableArgs::default() };
    let mut paths = Vec::new();
    for argument in &args.audio {
        if argument.extension().is_some_and(|extension| extension == "csv") {
            let listed = clips::of_either(argument, &table, None)?;
            let listed = listed
                .into_iter()
                .filter(|clip| !matches!(clip.split.as_deref(), Some("testing" | "test")));
            paths.extend(listed.map(|clip| clip.path));
        } else {
            paths.extend(audio::collect(std::slice::from_ref(argument))?);
        }
    }
    let held = ((paths.len() as f64 * args.validation).round() as usize).max(1);
    ensure!(paths.len() > held, "{} clips are too few to learn from", paths.len());
    let threads = args.run.threads();
    let front_end = network.recipe().front_end.clone();
    let mut clips: Vec<Example> = frames(&paths, &front_end, true, threads)?
        .into_iter()
        .map(|frames| Example { frames, classes: Vec::new() })
        .collect();
    let mut held_out = Vec::new();
    let mut chosen = Random::new(args.run.seed, &[4]).order(clips.len());
    chosen.truncate(held);
    chosen.sort_unstable();
    for index in chosen.into_iter().rev() {
        held_out.push(clips.swap_remove(index));
    }
    let source: Vec<String> = args.audio.iter().map(|path| path.display().to_string()).collect();
    let described = card::Data {
        source: source.join(" "),
        training: clips.len(),
        validation: held_out.len(),
        ..card::Data::default()
    };
    let data = |clips| Data { clips, background: Vec::new() };
    let objective =
        Unlabelled { training: data(clips), validation: data(held_out), masking, data: described };
    let trainer = Trainer::new(network, plan, args.run.seed, threads)?;
    let from = args.from.as_ref().map_or("scratch".into(), |path| path.display().to_string());
    let words = format!(
        "{} to learn from, {} for validation; {} patches hidden",
        objective.training.clips.len(),
        objective.validation.clips.len(),
        args.mask
    );
    announce(&trainer, &from, &words);
    drive(&args.run, trainer, &objective)
}

fn plan(name: &str) -> Result<Plan> {
    let published = Plan::pretraining();
    match name {
        "published" => Ok(published),
        "cosine" => Ok(Plan {
            name: "pretrain, cosine".into(),
            epochs: 100,
            rate: 1e-3,
            weight_decay: 0.05,
            decay: Decay::Decoupled,
            clip: Some(1.0),
            schedule: Schedule::Cosine { warm_up: 5.0 },
            ..published
        }),
        _ => bail!("no plan `{name}` for pretraining: expected published, cosine"),
    }
}

fn network(args: &Args) -> Result<Network> {
    let checkpoint = args.from.as_ref().map(|path| args.network.checkpoint(path)).transpose()?;
    let (published, config) = args.network.of_plan("pretrain")?;
    let mut recipe = recipe_of(args.recipe.as_deref(), args.from.as_deref())?.unwrap_or(published);
    if let Some(frames) = args.frames {
        recipe.front_end.n_frames = frames as usize;
    }
    recipe.labels = Vec::new();
    recipe.claims = Default::default();
    if let Some(checkpoint) = checkpoint {
        ensure!(
            args.frames.is_none(),
            "a checkpoint has its own input: --frames is for a start from scratch"
        );
        return Network::to_pretrain(&checkpoint, recipe);
    }
    let sizes = config.sizes();
    (recipe.stride_f, recipe.stride_t) = (sizes.patch_f, sizes.patch_t);
    Network::for_pretraining(config, recipe, args.run.seed)
}

struct Unlabelled {
    training: Data,
    validation: Data,
    masking: Masking,
    data: card::Data,
}

impl Objective for Unlabelled {
    fn clips(&self) -> usize {
        self.training.clips.len()
    }

    fn data(&self) -> &card::Data {
        &self.data
    }

    fn test(&self, _: &Trainer, _: &Path) -> Result<Option<card::Tested>> {
        Ok(None)
    }

    fn step(&self, trainer: &mut Trainer, batch: &[usize], steps: usize) -> Result<f64> {
        Ok(trainer.pretraining_step(&self.training, &self.masking, batch, steps)?.rate)
    }

    fn now(&self, trainer: &Trainer) -> String {
        let sums = &trainer.progress.sums;
        format!("nce {:.3}, mse {:.4}, accuracy {:.3}", sums.mean(1), sums.mean(2), sums.mean(0))
    }

    fn validate(&self, trainer: &Trainer, epoch: &mut Epoch) -> Result<Option<Validation>> {
        let sums = &trainer.progress.sums;
        epoch.accuracy = Some(sums.mean(0));
        (epoch.nce, epoch.mse) = (Some(sums.mean(1)), Some(sums.mean(2)));
        let [accuracy, nce, mse] = trainer.pretraining_scores(&self.validation, &self.masking)?;
        epoch.validation_accuracy = Some(accuracy);
        (epoch.validation_nce, epoch.validation_mse) = (Some(nce), Some(mse));
        Ok(Some(Validation { score: accuracy, loss: nce + GENERATIVE * mse }))
    }
}
