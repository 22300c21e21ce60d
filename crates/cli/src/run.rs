//! `ssamba-edge run`: what a model hears in audio files.

use std::{
    collections::HashSet,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use ssamba_contract::{
    Card, SelfTest, Session, Tensor,
    io::{EMBEDDING, FEATURES, LOGITS},
    self_test::Verdict,
};

#[cfg(feature = "ort")]
use crate::placement::{self, Required};
use crate::{
    Answer, audio,
    listen::{Clip, Heard, Reader, Score, TOGETHER, hear, top},
    provider::{Provider, RuntimeArgs},
    terminal,
};

/// Say what a model hears in audio files.
#[derive(clap::Args)]
pub struct Args {
    /// File written by `ssamba-edge export`.
    model: PathBuf,
    /// WAV, FLAC, OGG Vorbis or MP3 files, or folders of them.
    #[arg(required_unless_present = "selftest")]
    audio: Vec<PathBuf>,
    /// Answer whether this machine computes what the file should put out, instead of hearing audio.
    #[arg(long, conflicts_with_all = ["audio", "top", "logits", "embedding", "batch"])]
    selftest: bool,
    /// Runtime.
    #[arg(long, value_enum, default_value = "auto")]
    provider: Provider,
    /// How many labels to print for each file.
    #[arg(long, value_name = "K", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    /// Print the logits as well.
    #[arg(long)]
    logits: bool,
    /// Print the embedding as well (`export --embedding` puts it into the file).
    #[arg(long)]
    embedding: bool,
    /// Clips to run together [default: 8, but 1 with --cuda-graph and in TensorRT].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    batch: Option<u16>,
    /// Run only if every node runs on this provider, those that compute shapes aside; the answer is
    /// no otherwise.
    #[cfg(feature = "ort")]
    #[arg(long, value_enum, value_name = "PROVIDER")]
    require: Option<Required>,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// One line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    file: String,
    provider: &'a str,
    top: &'a [Score],
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<&'a [f32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<&'a [f32]>,
    audio_s: f64,
    inference_ms: f64,
}

/// `--selftest --json`.
#[derive(Serialize)]
struct SelfTested<'a> {
    model: String,
    provider: &'a str,
    output: &'a str,
    atol: f32,
    #[serde(flatten)]
    verdict: Verdict,
}

fn self_test(args: &Args, session: &mut dyn Session) -> Result<Answer> {
    let model = args.model.display();
    let test = session.card().self_test.clone();
    let test = test.with_context(|| {
        format!("{model}: there is no self-test in it, export it without --no-selftest")
    })?;
    let verdict = test.run(session)?;
    let (provider, SelfTest { output, atol, .. }) = (session.provider(), &test);
    if args.json {
        let atol = *atol;
        let line = SelfTested { model: model.to_string(), provider, output, atol, verdict };
        terminal::say(serde_json::to_string(&line)?)?;
    } else {
        let verb = if verdict.holds { "computes" } else { "DOES NOT compute" };
        let error = verdict.max_abs_error;
        terminal::say(format!(
            "{model}: {provider} {verb} what it should: `{output}` is off by {error:.1e}, allowed {atol:e}"
        ))?;
    }
    Ok(if verdict.holds { Answer::Yes } else { Answer::No })
}

pub fn run(args: &Args) -> Result<Answer> {
    let files = audio::collect(&args.audio)?;
    args.runtime.check(&[args.provider])?;
    let Some(mut session) = open(args)? else { return Ok(Answer::No) };
    if args.selftest {
        return self_test(args, session.as_mut());
    }
    let together = together(args, session.card(), files.len())?;
    let mut reader = Reader::new(session.card())?;
    let mut planned = HashSet::new();
    let mut failed = false;
    for files_together in files.chunks(together) {
        let mut clips = Vec::with_capacity(together);
        for file in files_together {
            match reader.read(file) {
                Ok(clip) => clips.push((file, clip)),
                // One bad file among many does not keep the others from being heard.
                Err(error) if files.len() > 1 => {
                    terminal::error(&error);
                    failed = true;
                }
                Err(error) => return Err(error),
            }
        }
        // As they run together: the first run of a shape plans it, and what is timed is the network.
        for alike in clips.chunk_by(|(_, a), (_, b)| a.input.shape() == b.input.shape()) {
            let clips: Vec<&Clip> = alike.iter().map(|(_, clip)| clip).collect();
            let mut shape = clips[0].input.shape().to_vec();
            shape[0] = session.card().batch.unwrap_or(clips.len());
            if planned.insert(shape.clone()) {
                let zeros = vec![0.0; shape.iter().product()];
                session.run(&Tensor::new(shape, zeros)?)?;
            }
            let heard = hear(session.as_mut(), &clips)?;
            for ((file, clip), heard) in alike.iter().zip(&heard) {
                print(args, session.as_ref(), file, clip, heard)?;
            }
        }
    }
    Ok(if failed { Answer::Failed } else { Answer::Yes })
}

/// How many of `files` clips are to run together: as many as the file takes, as are asked for, or as
/// suits the provider.
fn together(args: &Args, card: &Card, files: usize) -> Result<usize> {
    let asked = args.batch.map(usize::from);
    if let Some(fixed) = card.batch {
        ensure!(
            asked.is_none_or(|asked| asked == fixed),
            "{}: it takes {fixed} clips at a time, --batch says {}",
            args.model.display(),
            asked.unwrap_or_default()
        );
        return Ok(fixed);
    }
    // A graph and TensorRT's engines are for one size.
    let suits = if args.provider.likes_batches(&args.runtime) { TOGETHER } else { 1 };
    Ok(asked.unwrap_or(suits).min(files))
}

/// The session, unless a node runs elsewhere than is required.
#[cfg(feature = "ort")]
fn open(args: &Args) -> Result<Option<Box<dyn Session>>> {
    let (model, runtime) = (&args.model, &args.runtime);
    let tensorrt = args.provider == Provider::TensorRt;
    if args.require.is_none() && !tensorrt {
        return args.provider.open(model, runtime).map(Some);
    }
    let (session, placement) = placement::observe(args.provider, model, runtime, 1)?;
    if tensorrt {
        terminal::note(placement::beside_engines(&placement));
    }
    let breach = args.require.and_then(|required| placement::breach(&placement, required));
    if let Some(breach) = breach {
        terminal::note(format!("{}: {breach}", model.display()));
        return Ok(None);
    }
    Ok(Some(Box::new(session)))
}

#[cfg(not(feature = "ort"))]
fn open(args: &Args) -> Result<Option<Box<dyn Session>>> {
    args.provider.open(&args.model, &args.runtime).map(Some)
}

fn print(
    args: &Args,
    session: &dyn Session,
    file: &Path,
    clip: &Clip,
    heard: &Heard,
) -> Result<()> {
    let output = |wanted: bool, name: &str| match heard.outputs.get(name) {
        Some(tensor) if wanted => Ok(Some(tensor.row(0))),
        None if wanted => bail!(
            "{}: the file has no output `{name}`{}",
            args.model.display(),
            if name == EMBEDDING { ", export it with --embedding" } else { "" }
        ),
        _ => Ok(None),
    };
    let logits = output(args.logits, LOGITS)?;
    // The vectors of a feature extractor are its embedding.
    let vectors = match heard.outputs.get(FEATURES) {
        Some(_) => FEATURES,
        None => EMBEDDING,
    };
    let embedding = output(args.embedding, vectors)?;
    let top = top(session.card(), &heard.outputs, args.top as usize);
    ensure!(
        !top.is_empty() || embedding.is_some(),
        "{}: a model without classes has no labels to print, ask for --embedding",
        args.model.display()
    );

    let mut stdout = io::stdout().lock();
    if args.json {
        let line = Line {
            file: file.display().to_string(),
            provider: session.provider(),
            top: &top,
            logits,
            embedding,
            audio_s: clip.seconds,
            inference_ms: heard.milliseconds,
        };
        serde_json::to_writer(&mut stdout, &line).map_err(io::Error::from)?;
        writeln!(stdout)?;
        return Ok(());
    }
    let words: Vec<String> =
        top.iter().map(|score| format!("{} {:.3}", score.label, score.score)).collect();
    writeln!(stdout, "{}: {}", file.display(), words.join(", "))?;
    for (name, values) in [("logits", logits), ("embedding", embedding)] {
        if let Some(values) = values {
            let values: Vec<String> = values.iter().map(f32::to_string).collect();
            writeln!(stdout, "  {name}: {}", values.join(" "))?;
        }
    }
    Ok(())
}
