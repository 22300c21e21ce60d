//! `ssamba-edge train` and `ssamba-edge pretrain`.

mod card;
mod data;
pub mod labelled;
mod live;
mod metrics;
mod split;
pub mod unlabelled;

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use ssamba_contract::default_threads;
use ssamba_model_common::{Architecture, Checkpoint, Recipe};
use ssamba_ssast::HEAD_WIDTH;
use ssamba_training::{Config, Distillation, Gpu, Network, Plan, Trainer, Validation};

use self::{
    card::{Data, Tested, card},
    live::Live,
    metrics::{Epoch, Log},
};
use crate::{
    Answer,
    convert::{Arch, class_tokens, sha256_of, write_whole},
    terminal,
};

/// What training with labels and without share.
#[derive(clap::Args, Clone, Debug)]
struct RunArgs {
    /// Folder for checkpoints, metrics and the state of the run.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Go on from the state in the folder.
    #[arg(long)]
    resume: bool,
    /// Of all random draws; one seed gives one file.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Passes over the clips [default: the plan's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    epochs: Option<u32>,
    /// Clips of a step [default: the plan's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// Highest learning rate [default: the plan's].
    #[arg(long, value_name = "X")]
    rate: Option<f64>,
    /// Threads; the result does not depend on them [default: one for each core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// What computes: `cpu`, `cuda`, or `cuda:N` for the GPU of that number.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Device,
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU, by its number.
    Cuda(u32),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = match text.split_once(':') {
            None if text == "cpu" => return Ok(Self::Cpu),
            None if text == "cuda" => Some(0),
            Some(("cuda", number)) => number.parse().ok(),
            _ => None,
        };
        number.map(Self::Cuda).ok_or_else(|| "expected cpu, cuda or cuda:N".into())
    }
}

impl Device {
    /// The network where it is to be trained.
    ///
    /// # Errors
    /// When that GPU cannot be used.
    fn place(self, network: Network) -> Result<Network> {
        match self {
            Self::Cpu => Ok(network),
            Self::Cuda(number) => {
                let gpu = Gpu::open(number)?;
                terminal::note(format!("device      {}", gpu.name()?));
                Ok(network.on(gpu))
            }
        }
    }
}

/// Which network, and its sizes where it starts from nothing.
#[derive(clap::Args, Clone, Debug, Default)]
struct NetworkArgs {
    /// Network [default: ssamba from scratch, else the one whose names the checkpoint has].
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    /// Width of tokens, from scratch; of ssast a multiple of 64 [default: the plan's].
    #[arg(long, value_name = "E", value_parser = clap::value_parser!(u16).range(1..))]
    embed_dim: Option<u16>,
    /// Layers, from scratch; of ssamba an even number [default: the plan's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    depth: Option<u16>,
    /// Mel bins and frames of a patch, from scratch [default: the plan's].
    #[arg(long, value_name = "FxT")]
    patch: Option<String>,
}

impl NetworkArgs {
    /// The network that a plan trains from scratch, its sizes changed as asked.
    fn of_plan(&self, plan: &str) -> Result<(Recipe, Config)> {
        let architecture = self.arch.map_or(Architecture::Ssamba, Into::into);
        let (recipe, config) =
            Plan::network(plan, architecture).context("every plan has a network")?;
        let mut sizes = config.sizes();
        sizes.d_model = self.embed_dim.map_or(sizes.d_model, usize::from);
        sizes.depth = self.depth.map_or(sizes.depth, usize::from);
        if let Some(patch) = &self.patch {
            (sizes.patch_f, sizes.patch_t) = pair("--patch", patch)?;
        }
        ensure!(
            architecture == Architecture::Ssamba || sizes.d_model.is_multiple_of(HEAD_WIDTH),
            "--embed-dim is {}, and ssast has heads of {HEAD_WIDTH}: expected a multiple of it",
            sizes.d_model
        );
        Ok((recipe, Config::new(architecture, sizes)))
    }

    /// Reads a checkpoint to start from.
    fn checkpoint(&self, path: &Path) -> Result<Checkpoint> {
        ensure!(
            self.embed_dim.is_none() && self.depth.is_none() && self.patch.is_none(),
            "a checkpoint has its own sizes: --embed-dim, --depth and --patch are for a start from scratch"
        );
        let checkpoint = Checkpoint::read(path)?;
        Architecture::of(&checkpoint, self.arch.map(Into::into))?;
        Ok(checkpoint)
    }
}

/// A share, on the command line.
fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a share from 0 to 1".into()),
    }
}

/// Two positive numbers with an `x` between.
fn pair(option: &str, text: &str) -> Result<(usize, usize)> {
    let numbers = text.split_once('x').and_then(|(f, t)| Some((f.parse().ok()?, t.parse().ok()?)));
    match numbers {
        Some((f, t)) if f > 0 && t > 0 => Ok((f, t)),
        _ => bail!("{option} takes mel bins and frames as in 16x16, got `{text}`"),
    }
}

impl RunArgs {
    /// # Errors
    /// When the device or a number cannot be had, or the folder holds a run that is not to be resumed.
    fn check(&self) -> Result<()> {
        ensure!(
            self.rate.is_none_or(|rate| rate > 0.0 && rate.is_finite()),
            "--rate takes a positive number"
        );
        let state = Folder(self.output.clone()).state();
        match self.resume {
            true => {
                ensure!(state.is_file(), "{}: no state of a run to resume", self.output.display())
            }
            false => ensure!(
                !state.exists(),
                "{}: a run is in this folder, add --resume to go on, or name another",
                self.output.display()
            ),
        }
        Ok(())
    }

    /// The plan, changed as asked.
    fn over(&self, mut plan: Plan) -> Plan {
        plan.epochs = self.epochs.map_or(plan.epochs, |epochs| epochs as usize);
        plan.batch = self.batch.map_or(plan.batch, |batch| batch as usize);
        plan.rate = self.rate.unwrap_or(plan.rate);
        plan
    }

    fn threads(&self) -> NonZeroUsize {
        let asked = self.threads.and_then(|threads| NonZeroUsize::new(usize::from(threads)));
        asked.unwrap_or_else(default_threads)
    }
}

/// The files of a run.
struct Folder(PathBuf);

impl Folder {
    fn state(&self) -> PathBuf {
        self.0.join("state.safetensors")
    }

    fn weights(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.safetensors"))
    }

    fn card(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.toml"))
    }

    /// Writes the network as it is, with its card beside it, which `export` needs.
    fn checkpoint(
        &self,
        name: &str,
        trainer: &Trainer,
        data: &Data,
        epoch: Option<&Epoch>,
    ) -> Result<()> {
        let checkpoint = trainer.checkpoint()?;
        let card = card(trainer, &checkpoint, data, epoch, None)?;
        write_whole(&self.card(name), card.as_bytes())?;
        write_whole(&self.weights(name), &checkpoint)
    }

    /// Writes what the best checkpoint scores into its card.
    fn tested(
        &self,
        trainer: &Trainer,
        data: &Data,
        best: Option<&Epoch>,
        tested: &Tested,
    ) -> Result<()> {
        let path = self.weights("best");
        let checkpoint = fs::read(&path).with_context(|| path.display().to_string())?;
        let card = card(trainer, &checkpoint, data, best, Some(tested))?;
        write_whole(&self.card("best"), card.as_bytes())
    }
}

/// Whether somebody asked the run to stop.
static STOP: AtomicBool = AtomicBool::new(false);

/// From now on the first Ctrl-C asks the run to stop and save, and the second ends the program.
fn listen_for_ctrl_c() -> Result<()> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("cannot listen for Ctrl-C")
}

/// What differs between training with labels and without.
trait Objective {
    /// Clips to learn from.
    fn clips(&self) -> usize;
    /// All clips, for the card.
    fn data(&self) -> &Data;
    fn step(&self, trainer: &mut Trainer, batch: &[usize], steps: usize) -> Result<f64>;
    /// Words for the line of a run under way.
    fn now(&self, trainer: &Trainer) -> String;
    /// Closes the figures of an epoch.
    fn validate(&self, trainer: &Trainer, epoch: &mut Epoch) -> Result<Option<Validation>>;
    /// Scores a checkpoint on clips that had no say in it, if there are any.
    fn test(&self, trainer: &Trainer, checkpoint: &Path) -> Result<Option<Tested>>;
}

/// Runs to the end, or until somebody stops it.
fn drive(args: &RunArgs, mut trainer: Trainer, objective: &impl Objective) -> Result<Answer> {
    let folder = Folder(args.output.clone());
    fs::create_dir_all(&folder.0).with_context(|| folder.0.display().to_string())?;
    let clips = objective.clips();
    if args.resume {
        let path = folder.state();
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        trainer.restore(&bytes, clips).with_context(|| path.display().to_string())?;
        let at = &trainer.progress;
        terminal::note(format!("resumed after epoch {}, step {}", at.epoch, at.step));
    }
    listen_for_ctrl_c()?;
    let mut log = Log::open(&folder.0, trainer.progress.epoch)?;
    let epochs = trainer.plan.epochs;
    while trainer.progress.epoch < epochs {
        let batches = trainer.batches(clips);
        let mut live = Live::new(&trainer, batches.len());
        let mut rate = 0.0;
        for batch in &batches[trainer.progress.step..] {
            if STOP.load(Ordering::Relaxed) {
                live.clear();
                return stopped(&folder, &trainer, objective);
            }
            rate = objective.step(&mut trainer, batch, batches.len())?;
            live.step(batch.len(), &objective.now(&trainer));
        }
        let mut epoch = live.epoch(&trainer, rate);
        let validation = objective.validate(&trainer, &mut epoch)?;
        epoch.best = trainer.end_epoch(validation);
        if epoch.best {
            folder.checkpoint("best", &trainer, objective.data(), Some(&epoch))?;
        }
        folder.checkpoint("last", &trainer, objective.data(), Some(&epoch))?;
        log.add(epoch, &trainer)?;
        // Last: a run that is cut off before this line repeats the epoch.
        write_whole(&folder.state(), &trainer.state(clips)?)?;
    }
    let progress = &trainer.progress;
    if let Some(best) = progress.best {
        terminal::note(format!("best        {best:.4} at epoch {}", progress.best_epoch));
    }
    if let Some(tested) = objective.test(&trainer, &folder.weights("best"))? {
        terminal::note(tested.words());
        folder.tested(&trainer, objective.data(), log.best(), &tested)?;
    }
    terminal::note(format!("wrote       {}", folder.weights("best").display()));
    terminal::note(format!("curves      {}", folder.0.join("report.html").display()));
    Ok(Answer::Yes)
}

fn stopped(folder: &Folder, trainer: &Trainer, objective: &impl Objective) -> Result<Answer> {
    folder.checkpoint("last", trainer, objective.data(), None)?;
    write_whole(&folder.state(), &trainer.state(objective.clips())?)?;
    let at = &trainer.progress;
    terminal::note(format!(
        "stopped in epoch {} after step {}; the same command with --resume goes on",
        at.epoch + 1,
        at.step
    ));
    Ok(Answer::No)
}

/// Says what is about to happen.
fn announce(trainer: &Trainer, from: &str, clips: &str) {
    let network = &trainer.network;
    let (sizes, recipe, plan) = (network.sizes(), network.recipe(), &trainer.plan);
    let (rows, columns) = network.grid();
    terminal::note(format!(
        "network     {}, {} parameters in {} layers of width {}, from {from}",
        network.architecture(),
        network.len(),
        sizes.depth,
        sizes.d_model
    ));
    let class_tokens = class_tokens(network.architecture());
    terminal::note(format!(
        "tokens      {} ({rows} x {columns} patches of {} x {} and {class_tokens}) for {:.2} s of audio",
        network.seq_len(),
        sizes.patch_f,
        sizes.patch_t,
        recipe.front_end.window_seconds()
    ));
    terminal::note(format!("clips       {clips}"));
    terminal::note(format!(
        "plan        {}: {} epochs, batches of {}, rate {}, seed {}",
        plan.name, plan.epochs, plan.batch, plan.rate, trainer.seed
    ));
    if let Some(Distillation { weight, temperature, teachers }) = &plan.distillation {
        terminal::note(format!(
            "teachers    {}, with a share of {weight} at temperature {temperature}",
            teachers.len()
        ));
    }
}

/// A recipe by name or file, or the TOML file beside a checkpoint.
fn recipe_of(named: Option<&str>, checkpoint: Option<&Path>) -> Result<Option<Recipe>> {
    if let Some(name) = named {
        return Recipe::find(name).map(Some);
    }
    let Some(checkpoint) = checkpoint else { return Ok(None) };
    Recipe::beside(checkpoint, &sha256_of(checkpoint)?)
}
