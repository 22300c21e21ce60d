//! `ssamba-edge inspect`: what is in a checkpoint or an `.onnx` file.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Result;
#[cfg(feature = "ort")]
use anyhow::ensure;
use serde_json::{Value, json};
use ssamba_contract::Card;
use ssamba_model::{Checkpoint, Weights, recipes_for};

use crate::{Answer, convert::sha256_of, provider::is_checkpoint};
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
        true => checkpoint(&args.file)?,
        false => (model(&args.file)?, Answer::Yes),
    };
    let mut stdout = io::stdout().lock();
    match args.json {
        true => writeln!(stdout, "{report}")?,
        false => print(&mut stdout, &report, 0)?,
    }
    Ok(answer)
}

/// The answer is no when the file does not fit the network.
fn checkpoint(path: &Path) -> Result<(Value, Answer)> {
    let file = Checkpoint::read(path)?;
    let audit = Weights::audit(&file)?;
    let config = &audit.config;
    let (parameters, tokens, gflop) = match Weights::load(&file) {
        Ok(weights) => {
            let tokens = weights.pos_embed.dim(0)?;
            let gflop = 2.0 * config.macs(tokens) as f64 / 1e9;
            (json!(weights.parameters()), json!(tokens), json!((gflop * 1e3).round() / 1e3))
        }
        Err(_) => (Value::Null, Value::Null, Value::Null),
    };
    let recipes = tokens.as_u64().map(|tokens| recipes_for(config, tokens as usize));
    let fits = audit.mismatch.is_empty();
    let report = json!({
        "file": path.display().to_string(),
        "kind": if file.is_pretraining() { "pretraining checkpoint" } else { "checkpoint" },
        "sha256": sha256_of(path)?,
        "tensors": file.tensors.len(),
        "parameters": parameters,
        "tokens": tokens,
        "gflop_per_clip": gflop,
        "sizes": {
            "d_model": config.d_model,
            "depth": config.depth,
            "d_inner": config.d_inner,
            "d_state": config.d_state,
            "d_conv": config.d_conv,
            "dt_rank": config.dt_rank,
            "patch": [config.patch_f, config.patch_t],
            "n_classes": config.n_classes,
            "norm": audit.norm,
        },
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
