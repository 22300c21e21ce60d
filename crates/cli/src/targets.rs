//! `ssamba-edge targets`: the runtimes that `export --target` knows, and what each is given and why.

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use ssamba_contract::{Input, Lowering, Precision};
use ssamba_onnx::Architecture;

use crate::{Answer, terminal};

/// List the targets of `export --target`.
#[derive(clap::Args)]
pub struct Args {
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// A runtime that a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// tract without our operators.
    Tract,
    /// ONNX Runtime on a CPU.
    OrtCpu,
    /// ONNX Runtime on an NVIDIA GPU.
    OrtCuda,
    /// TensorRT without a plug-in.
    #[value(name = "tensorrt")]
    TensorRt,
    /// onnxruntime-web on WebAssembly.
    WebWasm,
    /// onnxruntime-web on WebGPU.
    WebWebgpu,
    /// onnxruntime-android.
    Android,
    /// ONNX Runtime in an iOS or macOS app.
    Ios,
    /// Triton Inference Server, on its CPU.
    Triton,
    /// A folder for the keyword spotter `ssamba-kws`.
    Embedded,
}

/// What a target is given. Options of `export` that are spelled out come first.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub lowering: Lowering,
    pub precision: Precision,
    #[serde(rename = "frontend")]
    pub input: Input,
    /// Newest version of the standard operator set that the file may need.
    pub opset: i64,
    /// Newest version of the file format that it may be in.
    pub ir: i64,
    /// In one or two sentences.
    pub why: String,
}

macro_rules! profile {
    ($name:literal) => {
        include_str!(concat!("../../../targets/profiles/", $name, ".toml"))
    };
}

impl Target {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
    }

    /// # Errors
    /// When the profile that is built in cannot be read, or asks for what is not written.
    pub fn profile(self) -> Result<Profile> {
        let text = match self {
            Self::Tract => profile!("tract"),
            Self::OrtCpu => profile!("ort-cpu"),
            Self::OrtCuda => profile!("ort-cuda"),
            Self::TensorRt => profile!("tensorrt"),
            Self::WebWasm => profile!("web-wasm"),
            Self::WebWebgpu => profile!("web-webgpu"),
            Self::Android => profile!("android"),
            Self::Ios => profile!("ios"),
            Self::Triton => profile!("triton"),
            Self::Embedded => profile!("embedded"),
        };
        let name = self.name();
        let profile: Profile =
            toml::from_str(text).with_context(|| format!("the profile of target `{name}`"))?;
        ensure!(
            profile.opset >= ssamba_onnx::OPSET && profile.ir >= ssamba_onnx::IR_VERSION,
            "target `{name}` takes operator set {} in IR version {} at most, files are written in {} and {}",
            profile.opset,
            profile.ir,
            ssamba_onnx::OPSET,
            ssamba_onnx::IR_VERSION
        );
        Ok(profile)
    }
}

impl Profile {
    /// The lowering for a network: SSAST has no recurrence, and its file is one for every target.
    pub fn lowering_of(&self, network: Architecture) -> Lowering {
        match network {
            Architecture::Ssamba => self.lowering,
            Architecture::Ssast => Lowering::default(),
        }
    }
}

/// One line of `--json`.
#[derive(Serialize)]
struct Line {
    target: String,
    #[serde(flatten)]
    profile: Profile,
}

pub fn run(args: &Args) -> Result<Answer> {
    if !args.json {
        let [name, lowering, precision] = ["target", "lowering", "precision"];
        terminal::say(format!("{name:<11} {lowering:<17} {precision:<10} frontend"))?;
    }
    for &target in Target::value_variants() {
        let line = Line { target: target.name(), profile: target.profile()? };
        if args.json {
            terminal::say(serde_json::to_string(&line)?)?;
            continue;
        }
        let Line { target, profile: Profile { lowering, precision, input, why, .. } } = line;
        let [lowering, precision] = [lowering.to_string(), precision.to_string()];
        terminal::say(format!("{target:<11} {lowering:<17} {precision:<10} {input}\n    {why}"))?;
    }
    Ok(Answer::Yes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_can_be_read_and_says_why() {
        for target in Target::value_variants() {
            let profile = target.profile().unwrap();
            let sentences = profile.why.matches(['.', ':']).count();
            assert!(profile.why.ends_with('.') && (1..=4).contains(&sentences), "{target:?}");
            let chunks = profile.lowering == Lowering::Chunk;
            assert!(!chunks || profile.input == Input::Fbank, "{target:?}: every axis is fixed");
        }
    }
}
