//! Runtimes by name.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use ssamba_contract::Session;

use crate::terminal;

/// A runtime, as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Provider {
    /// The runtime that is always there: tract where it is built in.
    Auto,
    /// Pure Rust, on the CPU.
    Tract,
    /// ONNX Runtime on the CPU.
    Cpu,
    /// ONNX Runtime on an NVIDIA GPU.
    Cuda,
}

/// How to open a model.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct RuntimeArgs {
    /// Threads for one clip; tract's matrix products stay on one [default: one per core that this process may use].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// ONNX Runtime's shared library [default: ORT_DYLIB_PATH, beside this program, an installed Python package].
    #[arg(long, value_name = "FILE")]
    pub ort_lib: Option<PathBuf>,
    /// GPU, by its number, of the provider `cuda` [default: 0].
    #[arg(long, value_name = "N")]
    pub device: Option<u32>,
}

impl RuntimeArgs {
    #[cfg(any(feature = "tract", feature = "ort"))]
    fn threads(&self) -> Option<usize> {
        self.threads.map(usize::from)
    }
}

impl Provider {
    /// Opens `model`; `auto` says what it chose.
    pub fn open(self, model: &Path, args: &RuntimeArgs) -> Result<Box<dyn Session>> {
        ensure!(
            !is_checkpoint(model)?,
            "{}: a checkpoint, turn it into a model first: ssamba-edge export {} -o model.onnx",
            model.display(),
            model.display()
        );
        ensure!(
            args.device.is_none() || self == Self::Cuda,
            "--device names a GPU, which takes --provider cuda"
        );
        match self {
            Self::Auto => {
                let chosen = if cfg!(feature = "tract") { Self::Tract } else { Self::Cpu };
                let session = chosen.open(model, args)?;
                terminal::note(format!("provider: {} (auto)", session.provider()));
                Ok(session)
            }
            Self::Tract => open_tract(model, args),
            Self::Cpu => open_ort(model, args),
            Self::Cuda => open_cuda(model, args),
        }
    }

    /// Every provider of this build that any machine has, `auto` aside.
    #[cfg(feature = "convert")]
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        if cfg!(feature = "tract") {
            all.push(Self::Tract);
        }
        if cfg!(feature = "ort") {
            all.push(Self::Cpu);
        }
        all
    }

    /// Why this provider cannot be expected to work here, unless it was asked for.
    #[cfg(feature = "convert")]
    pub fn absent(self, args: &RuntimeArgs) -> Option<String> {
        #[cfg(feature = "ort")]
        if self == Self::Cpu
            && args.ort_lib.is_none()
            && std::env::var_os("ORT_DYLIB_PATH").is_none_or(|path| path.is_empty())
        {
            return ssamba_ort::library::load(None).err().map(|error| format!("{error:#}"));
        }
        let _ = args;
        None
    }

    /// Its name, as in [`Session::provider`].
    #[cfg(feature = "convert")]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tract => "tract",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// Zip archives, pickles and safetensors are checkpoints.
pub fn is_checkpoint(path: &Path) -> Result<bool> {
    let at = || path.display().to_string();
    let mut head = [0; 9];
    let read = File::open(path).with_context(at)?.read(&mut head).with_context(at)?;
    Ok(matches!(&head[..read], [b'P', b'K', ..] | [0x80, ..] | [_, _, _, _, _, _, _, _, b'{']))
}

#[cfg(feature = "tract")]
fn open_tract(model: &Path, args: &RuntimeArgs) -> Result<Box<dyn Session>> {
    let options = ssamba_tract::Options { threads: args.threads() };
    Ok(Box::new(ssamba_tract::TractSession::open(model, &options)?))
}

#[cfg(not(feature = "tract"))]
fn open_tract(_: &Path, _: &RuntimeArgs) -> Result<Box<dyn Session>> {
    anyhow::bail!("this build has no tract: build with `--features tract`")
}

#[cfg(feature = "ort")]
fn open_ort(model: &Path, args: &RuntimeArgs) -> Result<Box<dyn Session>> {
    open_on(ssamba_ort::Provider::Cpu, model, args)
}

#[cfg(feature = "cuda")]
fn open_cuda(model: &Path, args: &RuntimeArgs) -> Result<Box<dyn Session>> {
    let gpu = ssamba_ort::Cuda { device: args.device.unwrap_or_default(), ..Default::default() };
    open_on(ssamba_ort::Provider::Cuda(gpu), model, args)
}

#[cfg(feature = "ort")]
fn open_on(
    provider: ssamba_ort::Provider,
    model: &Path,
    args: &RuntimeArgs,
) -> Result<Box<dyn Session>> {
    let options = ssamba_ort::Options {
        provider,
        threads: args.threads(),
        library: args.ort_lib.clone(),
        ..Default::default()
    };
    Ok(Box::new(ssamba_ort::OrtSession::open(model, &options)?))
}

#[cfg(not(feature = "ort"))]
fn open_ort(_: &Path, _: &RuntimeArgs) -> Result<Box<dyn Session>> {
    anyhow::bail!("this build has no ONNX Runtime: build with `--features ort`")
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_: &Path, _: &RuntimeArgs) -> Result<Box<dyn Session>> {
    anyhow::bail!("this build has no CUDA: build with `--features cuda`")
}
