//! `ssamba-edge inspect`: what is in a checkpoint or an `.onnx` file.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use ssamba_contract::Card;
use ssamba_model_common::{Checkpoint, Mismatch, Unused, recipes_for};
use ssamba_onnx::{Architecture, Weights};

use crate::{
    Answer,
    convert::{Arch, sha256_of},
    provider::is_checkpoint,
};
#[cfg(feature = "ort")]
use crate::{
    placement,
    provider::{Provider, RuntimeArgs},
};

/// Show what is in a checkpoint or an ONNX file.
#[derive(clap::Args)]
pub struct Args {
    /// `.pth`, `.safetensors` or `.onnx` file; the content decides.
    file: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Network that a checkpoint holds [default: the one whose names it has].
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    #[cfg(feature = "ort")]
    #[command(flatten)]
    placement: PlacementArgs,
}

/// Which provider runs which node.
#[cfg(feature = "ort")]
#[derive(clap::Args)]
struct PlacementArgs {
    /// Run an ONNX file on zeros, and show which provider ran which nodes for how long.
    #[arg(long)]
    placement: bool,
    /// Runtime of --placement: cpu, cuda or tensorrt.
    #[arg(long, value_enum, default_value = "cpu", requires = "placement")]
    provider: Provider,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// Runs of --placement: one that plans, and five that are timed.
#[cfg(feature = "ort")]
const RUNS: usize = 6;

#[cfg(feature = "ort")]
fn place(file: &Path, args: &PlacementArgs, json: bool) -> Result<Answer> {
    args.runtime.check(&[args.provider])?;
    let (session, placement) = placement::observe(args.provider, file, &args.runtime, RUNS)?;
    placement::table::print(file, &session, &placement, json)?;
    Ok(Answer::Yes)
}

pub fn run(args: &Args) -> Result<Answer> {
    #[cfg(feature = "ort")]
    if args.placement.placement {
        return place(&args.file, &args.placement, args.json);
    }
    #[cfg(feature = "ort")]
    ensure!(
        args.placement.runtime == RuntimeArgs::default(),
        "options of a runtime take --placement"
    );
    let (report, answer) = match is_checkpoint(&args.file)? {
        true => checkpoint(&args.file, args.arch.map(Into::into))?,
        false => {
            let file = args.file.display();
            ensure!(args.arch.is_none(), "{file}: no checkpoint, --arch says nothing of it");
            (model(&args.file)?, Answer::Yes)
        }
    };
    let mut stdout = io::stdout().lock();
    match args.json {
        true => writeln!(stdout, "{report}")?,
        false => print(&mut stdout, &report, 0)?,
    }
    Ok(answer)
}

/// What the names and shapes of a checkpoint tell.
struct Audit {
    /// For people, by name.
    sizes: Value,
    unused: Unused,
    mismatch: Mismatch,
}

fn audit(file: &Checkpoint, kind: Architecture) -> Result<Audit> {
    Ok(match kind {
        Architecture::Ssamba => {
            let audit = ssamba_model::Weights::audit(file)?;
            let config = &audit.config;
            let sizes = json!({
                "d_model": config.d_model,
                "depth": config.depth,
                "d_inner": config.d_inner,
                "d_state": config.d_state,
                "d_conv": config.d_conv,
                "dt_rank": config.dt_rank,
                "patch": [config.patch_f, config.patch_t],
                "n_classes": config.n_classes,
                "norm": audit.norm,
            });
            Audit { sizes, unused: audit.unused, mismatch: audit.mismatch }
        }
        Architecture::Ssast => {
            let audit = ssamba_ssast::Weights::audit(file)?;
            let config = &audit.config;
            let sizes = json!({
                "d_model": config.d_model,
                "depth": config.depth,
                "heads": config.heads(),
                "d_mlp": config.d_mlp,
                "patch": [config.patch_f, config.patch_t],
                "n_classes": config.n_classes,
            });
            Audit { sizes, unused: audit.unused, mismatch: audit.mismatch }
        }
    })
}

/// The answer is no when the file does not fit the network.
fn checkpoint(path: &Path, asked: Option<Architecture>) -> Result<(Value, Answer)> {
    let file = Checkpoint::read(path)?;
    let kind = Architecture::of(&file, asked)?;
    let audit = audit(&file, kind)?;
    let (parameters, tokens, gflop, recipes) = match Weights::load(&file, Some(kind)) {
        Ok(weights) => (
            json!(weights.parameters()),
            json!(weights.seq_len()),
            json!((2.0 * weights.macs() as f64 / 1e6).round() / 1e3),
            json!(recipes_for(weights.sizes(), weights.patches())),
        ),
        Err(_) => (Value::Null, Value::Null, Value::Null, Value::Null),
    };
    let fits = audit.mismatch.is_empty();
    let report = json!({
        "file": path.display().to_string(),
        "kind": if file.is_pretraining() { "pretraining checkpoint" } else { "checkpoint" },
        "network": kind.to_string(),
        "sha256": sha256_of(path)?,
        "tensors": file.tensors.len(),
        "parameters": parameters,
        "tokens": tokens,
        "gflop_per_clip": gflop,
        "sizes": audit.sizes,
        "recipes_with_as_many_tokens": recipes,
        "fits": fits,
        "mismatch": if fits { Value::Null } else { json!(audit.mismatch) },
        "unused": audit.unused.iter().map(|(name, why)| (name.clone(), json!(why))).collect::<serde_json::Map<_, _>>(),
    });
    Ok((report, if fits { Answer::Yes } else { Answer::No }))
}

fn model(path: &Path) -> Result<Value> {
    let inspection = ssamba_onnx::inspect(path)?;
    let card = match Card::from_metadata(&inspection.metadata) {
        Ok(card) => serde_json::to_value(card)?,
        Err(error) => json!(error.to_string()),
    };
    let mut report = json!({
        "file": path.display().to_string(),
        "kind": "ONNX model",
        "sha256": sha256_of(path)?,
        "bytes": std::fs::metadata(path)?.len(),
    });
    let mut rest = serde_json::to_value(inspection)?;
    if let (Some(report), Some(rest)) = (report.as_object_mut(), rest.as_object_mut()) {
        // The card says the same, decoded.
        rest.remove("metadata");
        report.append(rest);
        report.insert("card".into(), card);
    }
    Ok(report)
}

/// Indented `key  value` lines; short lists stay on one line.
fn print(out: &mut impl Write, value: &Value, indent: usize) -> io::Result<()> {
    let Value::Object(entries) = value else {
        return writeln!(out, "{:indent$}{}", "", inline(value));
    };
    let width = entries.keys().map(String::len).max().unwrap_or_default();
    for (key, value) in entries {
        match value {
            Value::Null => {}
            Value::Object(inner) if inner.is_empty() => {}
            Value::Array(items) if items.is_empty() => {}
            Value::Object(_) => {
                writeln!(out, "{:indent$}{key}", "")?;
                print(out, value, indent + 2)?;
            }
            _ => writeln!(out, "{:indent$}{key:<width$}  {}", "", inline(value))?,
        }
    }
    Ok(())
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(inline).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
