//! `ssamba-edge bundle`: a model and all that an app ships with it, in one folder or one tar file.

mod archive;
mod golden;
mod readme;
mod triton;
mod verify;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use ssamba_contract::Card;
use ssamba_kws::Settings;
use ssamba_onnx::Options;

use crate::{
    Answer,
    convert::{RecipeArgs, Source, sha256},
    export::{Exported, export},
    pack,
    provider::{Provider, RuntimeArgs, is_checkpoint},
    spotting::SettingsArgs,
    targets::Target,
    terminal,
};
use archive::Files;

/// Put a model and all that an app ships with it into one folder or tar file, or check one.
#[derive(clap::Args)]
pub struct Args {
    /// Checkpoint, as `export` takes it; with --verify, a bundle.
    model: PathBuf,
    /// Runtime that it is for; `ssamba-edge targets` lists them.
    #[arg(long, value_enum, value_name = "NAME", required_unless_present = "verify")]
    target: Option<Target>,
    /// Folder to write, or file whose name ends with `.tar`.
    #[arg(short, long, value_name = "DIR|FILE.tar", required_unless_present = "verify")]
    output: Option<PathBuf>,
    /// Check a bundle: its files are what was written, and the model computes its golden scores here.
    #[arg(long, conflicts_with_all = ["target", "output", "name", "clip", "licenses", "ops_library", "detect"])]
    verify: bool,
    /// Runtime of the check.
    #[arg(long, value_enum, default_value = "auto", requires = "verify")]
    provider: Provider,
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Name of the model in its card [default: the checkpoint's file name].
    #[arg(long)]
    name: Option<String>,
    /// Clip whose scores the bundle tells [default: noise as long as the model hears, always the same].
    #[arg(long, value_name = "FILE")]
    clip: Option<PathBuf>,
    /// Licence or notice of the model, as often as there are some [default: files beside the
    /// checkpoint whose names begin with LICENSE, LICENCE, COPYING or NOTICE].
    #[arg(long = "license", value_name = "FILE")]
    licenses: Vec<PathBuf>,
    /// Our operators as a library for the machine that is to run it (`targets/ops-library`).
    #[arg(long, value_name = "FILE")]
    ops_library: Option<PathBuf>,
    /// Take thresholds from a `detect.json` that `bench detect --false-alarms` wrote.
    #[arg(long, value_name = "FILE")]
    detect: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// Names of what is in a bundle.
const MODEL: &str = "model.onnx";
/// Of a bundle for `ssamba-kws`, its folder.
const PACK: &str = "model";
const LABELS: &str = "labels.txt";
const CARD: &str = "card.json";
const THRESHOLDS: &str = "thresholds.json";

pub fn run(args: &Args) -> Result<Answer> {
    if args.verify {
        ensure!(
            args.settings.is_empty(),
            "--verify changes nothing: leave out{}",
            args.settings.words()
        );
        return verify::run(&args.model, args.provider, &args.runtime);
    }
    ensure!(
        args.runtime == RuntimeArgs::default(),
        "what runs the check is for --verify: a bundle is written without a runtime"
    );
    let (Some(target), Some(output)) = (args.target, &args.output) else {
        unreachable!("clap asks for both")
    };
    ensure!(
        is_checkpoint(&args.model)?,
        "{}: not a checkpoint; a bundle's file is exported for its target, so name the checkpoint \
         that this one came from",
        args.model.display()
    );
    let files = collect(args, target)?;
    archive::write(output, &files)?;

    terminal::note(format!("wrote       {} for {}", output.display(), target.name()));
    for (name, bytes) in files.iter() {
        let (size, sum) = (bytes.len() as f64 / 1e6, sha256(bytes));
        terminal::note(format!("            {name:<28} {size:>6.2} MB  sha256 {sum}"));
    }
    terminal::note(format!("check it with ssamba-edge bundle --verify {}", output.display()));
    Ok(Answer::Yes)
}

/// All files of the bundle.
fn collect(args: &Args, target: Target) -> Result<Files> {
    let work = tempfile::tempdir()?;
    let file = work.path().join(MODEL);
    let profile = target.profile()?;
    let options = |network| Options {
        precision: profile.precision,
        lowering: profile.lowering_of(network),
        input: profile.input,
        ..Options::default()
    };
    let name = args.name.as_deref();
    let Exported { source, options, bytes, .. } =
        export(&args.model, &file, &args.recipe, name, options, true, None)?;
    let card = card(&file)?;
    let settings = args.settings.with_measured(args.detect.as_deref(), &source.sha256)?;

    let mut files = Files::default();
    let mut labels = card.labels.join("\n");
    labels.push('\n');
    let library = match &args.ops_library {
        Some(path) => Some(add_library(&mut files, target, path)?),
        None => None,
    };
    match target {
        Target::Embedded => {
            for (name, bytes) in pack::pack(&file, &args.model, &settings)?.files() {
                files.add(format!("{PACK}/{name}"), bytes)?;
            }
        }
        Target::Triton => {
            let model = triton::Model { card: &card, library: library.as_deref() };
            for (name, bytes) in model.files(&bytes, &labels) {
                files.add(name, bytes)?;
            }
        }
        _ => files.add(MODEL, bytes)?,
    }
    files.add(LABELS, labels)?;
    files.add(CARD, json(&card.to_metadata())?)?;
    files.add(THRESHOLDS, json(&thresholds(&card, &settings))?)?;
    for path in licenses(args)? {
        let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        files.add(format!("licenses/{name}"), bytes)?;
    }
    let Source { network, .. } = source;
    let golden = golden::Golden::new(network, &card, options.precision, args.clip.as_deref())?;
    files.add(golden.clip_name.clone(), golden.clip.clone())?;
    files.add(golden::EXPECTED, json(&golden.expected)?)?;
    files.add("README.md", readme::readme(target, &card, &golden, library.as_deref()))?;
    files.seal();
    Ok(files)
}

/// The card of a file that was exported.
fn card(file: &Path) -> Result<Card> {
    Ok(Card::from_metadata(&ssamba_onnx::inspect(file)?.metadata)?)
}

/// Adds the library of operators: its name in the bundle.
fn add_library(files: &mut Files, target: Target, path: &Path) -> Result<String> {
    ensure!(
        !matches!(target, Target::Embedded | Target::Tract | Target::WebWasm | Target::WebWebgpu),
        "--ops-library is for programs with ONNX Runtime, which `{}` is not",
        target.name()
    );
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    ensure!(
        contains(&bytes, b"RegisterCustomOps"),
        "{}: not a library of operators, there is no `RegisterCustomOps` in it",
        path.display()
    );
    let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
    files.add(format!("lib/{name}"), bytes)?;
    Ok(name)
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

/// What is given, or what lies beside the checkpoint.
fn licenses(args: &Args) -> Result<Vec<PathBuf>> {
    if !args.licenses.is_empty() {
        return Ok(args.licenses.clone());
    }
    let folder = match args.model.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let at = || folder.display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(at)? {
        let path = entry.with_context(at)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        let is_one = ["LICENSE", "LICENCE", "COPYING", "NOTICE"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if is_one && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    ensure!(
        !found.is_empty(),
        "{}: no licence lies beside it, and a bundle is given away with one: name it with --license FILE",
        args.model.display()
    );
    Ok(found)
}

/// From which score on a label counts.
#[derive(serde::Serialize)]
struct Thresholds<'a> {
    /// How logits become scores.
    scores: ssamba_contract::Scores,
    /// Of every label without one of its own.
    threshold: f32,
    thresholds: &'a std::collections::BTreeMap<String, f32>,
}

fn thresholds<'a>(card: &Card, settings: &'a Settings) -> Thresholds<'a> {
    let Settings { threshold, thresholds, .. } = settings;
    Thresholds { scores: card.scores, threshold: *threshold, thresholds }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}
