//! `ssamba-edge export`: a checkpoint to one `.onnx` file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use ssamba_contract::{Input, Lowering};
use ssamba_model_common::Head;
use ssamba_onnx::Architecture;

use crate::{
    Answer,
    calibrate::{self, Calibration},
    convert::{RecipeArgs, Source, class_tokens, self_test, sha256, write_whole},
    targets::Target,
    terminal,
};

/// Export a checkpoint (.pth or .safetensors) to one ONNX file.
#[derive(clap::Args)]
pub struct Args {
    /// Official `.pth` file or safetensors with the same names.
    checkpoint: PathBuf,
    /// File to write; for `--target embedded`, folder.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Runtime that the file is for: it decides --lowering, --precision and --frontend, unless they
    /// are spelled out; `ssamba-edge targets` says how and why.
    #[arg(long, value_enum, value_name = "NAME")]
    target: Option<Target>,
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Name of the model in its card [default: the checkpoint's file name].
    #[arg(long)]
    name: Option<String>,
    /// Add the pooled embedding as a second output.
    #[arg(long)]
    embedding: bool,
    /// Lower layer by layer instead of two layers of a pair as one step.
    #[arg(long)]
    no_pair_fusion: bool,
    /// How the attention of SSAST is written [default: plain].
    #[arg(long, value_enum)]
    attention: Option<Attention>,
    /// Of the layers; state, norms, front end, input and outputs stay in `fp32` [default: fp32].
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Measure on these clips what `int8` costs, and leave layers that lose too much in `fp32`: a
    /// folder, or a text file that lists clips beside it. Clips in folders that are named for their
    /// class are judged by it, others by what single precision hears.
    #[arg(long, value_name = "DIR|FILE")]
    calibrate: Option<PathBuf>,
    /// Points of accuracy, or of agreement, that each layer and the whole file may lose.
    #[arg(long, value_name = "POINTS", default_value_t = 0.5, requires = "calibrate")]
    max_drop: f64,
    /// Print what was measured as JSON on stdout as well.
    #[arg(long, requires = "calibrate")]
    json: bool,
    /// How convolutions and recurrences are written [default: function].
    #[arg(long, value_enum)]
    lowering: Option<Form>,
    /// What the file takes [default: fbank].
    #[arg(long, value_enum)]
    frontend: Option<Frontend>,
    /// Fix the number of clips that a run takes; `run` and `verify` take files of one or of any number [default: any number].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// Leave the self-test out of the file (`run --selftest`).
    #[arg(long)]
    no_selftest: bool,
    /// Lay `fp32` out for a GPU, which then takes less memory, and a CPU more time; `fp16` always is.
    #[arg(long)]
    gpu: bool,
    #[cfg(feature = "embedded")]
    #[command(flatten)]
    pack: crate::pack::PackArgs,
}

/// [`ssamba_onnx::Attention`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Attention {
    /// Standard operators, for every runtime.
    Plain,
    /// One operator that ONNX Runtime alone has.
    Fused,
}

impl From<Attention> for ssamba_onnx::Attention {
    fn from(attention: Attention) -> Self {
        match attention {
            Attention::Plain => Self::Plain,
            Attention::Fused => Self::Fused,
        }
    }
}

/// [`ssamba_onnx::Precision`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// Single precision.
    Fp32,
    /// Half precision, for GPUs.
    Fp16,
    /// Eight-bit integers, for CPUs.
    Int8,
}

impl From<Precision> for ssamba_onnx::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Fp32 => Self::F32,
            Precision::Fp16 => Self::F16,
            Precision::Int8 => Self::I8,
        }
    }
}

/// [`Lowering`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    /// Nodes of our operators that carry function bodies: for every runtime that knows functions.
    Function,
    /// Standard operators alone, no functions: a loop over the tokens.
    Scan,
    /// The same, a loop over blocks of 16 tokens: for tract without our operators.
    ScanBlock,
    /// Standard operators alone, no functions, no control flow: for TensorRT without a plug-in.
    Chunk,
    /// ONNX Runtime's `LinearAttention`: for its WebGPU, and its CUDA without our library.
    LinearAttention,
}

impl From<Form> for Lowering {
    fn from(form: Form) -> Self {
        match form {
            Form::Function => Self::Function,
            Form::Scan => Self::Scan,
            Form::ScanBlock => Self::ScanBlock,
            Form::Chunk => Self::Chunk,
            Form::LinearAttention => Self::LinearAttention,
        }
    }
}

/// [`Input`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Frontend {
    /// Log-mel filter banks, which the caller computes.
    Fbank,
    /// Samples: the front end is in the file, which puts out scores beside the logits.
    Waveform,
}

impl From<Frontend> for Input {
    fn from(frontend: Frontend) -> Self {
        match frontend {
            Frontend::Fbank => Self::Fbank,
            Frontend::Waveform => Self::Waveform,
        }
    }
}

/// What was written.
pub struct Exported {
    pub source: Source,
    pub options: ssamba_onnx::Options,
    pub bytes: Vec<u8>,
    /// Of a calibration that was asked for.
    pub report: Option<calibrate::Report>,
}

/// Lowers a checkpoint and writes the file.
pub fn export(
    checkpoint: &Path,
    output: &Path,
    recipe: &RecipeArgs,
    name: Option<&str>,
    options: impl FnOnce(Architecture) -> ssamba_onnx::Options,
    with_self_test: bool,
    calibration: Option<&Calibration<'_>>,
) -> Result<Exported> {
    let beside = checkpoint.with_extension("toml");
    let named = recipe.recipe.as_deref().map(Path::new);
    for (what, input) in [
        ("the checkpoint", Some(checkpoint)),
        ("the recipe", named),
        ("the recipe", Some(&*beside)),
        ("the list of labels", recipe.labels.as_deref()),
    ] {
        ensure!(
            !input.is_some_and(|input| is_same_file(input, output)),
            "{}: the file to write is {what} itself, name another",
            output.display()
        );
    }
    // Hidden by itself where stderr is no terminal.
    let progress = ProgressBar::new_spinner()
        .with_style(ProgressStyle::with_template("{spinner} {msg}").context("a valid template")?);
    progress.enable_steady_tick(std::time::Duration::from_millis(100));
    let steps = || -> Result<Exported> {
        progress.set_message(format!("reading {}", checkpoint.display()));
        let source = Source::read(checkpoint, recipe, None)?;
        progress.set_message("lowering");
        let options = options(source.network.architecture());
        let stem = checkpoint.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let mut card = source.card(name.unwrap_or(&stem.unwrap_or_default()))?;
        if with_self_test {
            progress.set_message("running the self-test in candle");
            card.self_test = self_test(&source.network, &card, &options)?;
            progress.set_message("lowering");
        }
        let (bytes, report) = match calibration {
            None => {
                let bytes = ssamba_onnx::export(&source.network, &card, &options)
                    .with_context(|| checkpoint.display().to_string())?;
                (bytes, None)
            }
            Some(asked) => {
                let say = |step| progress.set_message(step);
                let (bytes, report) = calibrate::calibrate(&source, &card, &options, asked, say)?;
                (bytes, Some(report))
            }
        };
        progress.set_message(format!("writing {}", output.display()));
        write_whole(output, &bytes)?;
        Ok(Exported { source, options, bytes, report })
    };
    let exported = steps();
    progress.finish_and_clear();
    exported
}

/// Also through links; a file that is not there yet is no other.
fn is_same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

pub fn run(args: &Args) -> Result<Answer> {
    let calibration =
        args.calibrate.as_deref().map(|clips| Calibration { clips, max_drop: args.max_drop });
    let profile = args.target.map(Target::profile).transpose()?;
    let precision = match (args.precision, &profile) {
        (Some(precision), _) => precision.into(),
        (None, Some(profile)) => profile.precision,
        (None, None) => Default::default(),
    };
    ensure!(
        calibration.is_none() || precision == ssamba_onnx::Precision::I8,
        "--calibrate takes --precision int8"
    );
    ensure!(
        args.max_drop >= 0.0,
        "--max-drop is {}, expected a number that is not negative",
        args.max_drop
    );
    let input = match (args.frontend, &profile) {
        (Some(frontend), _) => frontend.into(),
        (None, Some(profile)) => profile.input,
        (None, None) => Input::default(),
    };
    let options = |network| ssamba_onnx::Options {
        pair_fusion: !args.no_pair_fusion,
        embedding: args.embedding,
        attention: args.attention.map(Into::into),
        precision,
        lowering: match (args.lowering, &profile) {
            (Some(lowering), _) => lowering.into(),
            (None, Some(profile)) => profile.lowering_of(network),
            (None, None) => Lowering::default(),
        },
        batch: args.batch.map(|batch| batch as usize),
        input,
        gpu: args.gpu,
    };
    let name = args.name.as_deref();
    let (checkpoint, output) = (&args.checkpoint, &args.output);
    let export_to = |file: &Path| -> Result<Exported> {
        let calibration = calibration.as_ref();
        let exported =
            export(checkpoint, file, &args.recipe, name, options, !args.no_selftest, calibration)?;
        if let Some(report) = &exported.report {
            report.print();
            if args.json {
                terminal::say(serde_json::to_string(report)?)?;
            }
        }
        Ok(exported)
    };
    #[cfg(feature = "embedded")]
    args.pack.check(args.target)?;
    if args.target == Some(Target::Embedded) {
        #[cfg(feature = "embedded")]
        return crate::pack::run(&args.pack, checkpoint, output, export_to);
        #[cfg(not(feature = "embedded"))]
        anyhow::bail!("this build has no ssamba-kws: build with `--features embedded`");
    }
    let Exported { source, options, bytes, .. } = export_to(output)?;

    let network = &source.network;
    let sizes = network.sizes();
    let (rows, columns) = network.grid();
    let recipe = network.recipe();
    let class_tokens = class_tokens(network.architecture());
    terminal::note(format!("wrote       {}", args.output.display()));
    terminal::note(format!("network     {}", network.architecture()));
    terminal::note(format!("recipe      {} ({})", recipe.name, source.recipe_origin));
    terminal::note(format!(
        "parameters  {} in {} layers of width {}",
        network.parameters(),
        sizes.depth,
        sizes.d_model
    ));
    terminal::note(format!(
        "tokens      {} ({rows} x {columns} patches and {class_tokens}) for {:.2} s of audio",
        network.seq_len(),
        recipe.front_end.window_seconds()
    ));
    let input = match options.input {
        Input::Fbank => "filter banks, `fbank`",
        Input::Waveform => "samples, `waveform`: the front end is inside",
    };
    terminal::note(format!("takes       {input}"));
    terminal::note(format!("precision   {}", options.precision));
    terminal::note(format!("lowering    {}", options.lowering));
    terminal::note(format!("size        {:.2} MB", bytes.len() as f64 / 1e6));
    terminal::note(format!("sha256      {}", sha256(&bytes)));
    if !network.unused().is_empty() {
        let names: Vec<&str> = network.unused().iter().map(|(name, _)| name.as_str()).collect();
        terminal::note(format!("left out    {} (never used by inference)", names.join(", ")));
    }
    match sizes.n_classes {
        None => terminal::note("no classifier in the checkpoint: the file puts out embeddings"),
        Some(_) if recipe.head == Head::Features => {
            terminal::note("a feature extractor: the classifier is left out");
        }
        Some(classes) if recipe.labels.is_empty() => terminal::note(format!(
            "no labels: the {classes} classes are called by number; pass --labels FILE"
        )),
        Some(classes) => {
            terminal::note(format!("labels      {classes} ({})", source.labels_origin));
        }
    }
    Ok(Answer::Yes)
}
