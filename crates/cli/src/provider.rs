//! Runtimes by name.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use ssamba_contract::Session;

#[cfg(feature = "cuda")]
use crate::gpu::{self, GpuArgs};
use crate::terminal;

/// A runtime, as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Provider {
    /// The runtime that is always there, tract where it is built in; of files that it refuses, ONNX Runtime.
    Auto,
    /// Pure Rust, on the CPU.
    Tract,
    /// ONNX Runtime on the CPU.
    Cpu,
    /// ONNX Runtime on an NVIDIA GPU.
    Cuda,
    /// ONNX Runtime on an NVIDIA GPU, with TensorRT engines; the scans stay on CUDA.
    #[value(name = "tensorrt")]
    TensorRt,
}

/// How to open a model.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeArgs {
    /// Threads for one clip; tract's matrix products stay on one [default: one for each core that this process may use, however many threads a core has].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// ONNX Runtime's shared library [default: ORT_DYLIB_PATH, beside this program, an installed Python package].
    #[arg(long, value_name = "FILE")]
    pub ort_lib: Option<PathBuf>,
    #[cfg(feature = "cuda")]
    #[command(flatten)]
    pub gpu: GpuArgs,
}

impl RuntimeArgs {
    #[cfg(any(feature = "tract", feature = "ort"))]
    fn threads(&self) -> Option<usize> {
        self.threads.map(usize::from)
    }

    /// # Errors
    /// Names an option that none of `providers` has.
    pub fn check(&self, providers: &[Provider]) -> Result<()> {
        #[cfg(feature = "cuda")]
        self.gpu.check(providers)?;
        let _ = providers;
        Ok(())
    }
}

impl Provider {
    /// Opens `model`; `auto` says what it chose.
    pub fn open(self, model: &Path, args: &RuntimeArgs) -> Result<Box<dyn Session>> {
        not_a_checkpoint(model)?;
        match self {
            Self::Auto => {
                let chosen = if cfg!(feature = "tract") { Self::Tract } else { Self::Cpu };
                let session =
                    chosen.open(model, args).or_else(|refusal| other_than(refusal, model, args))?;
                terminal::note(format!("provider: {} (auto)", session.provider()));
                Ok(session)
            }
            Self::Tract => open_tract(model, args),
            Self::Cpu | Self::Cuda | Self::TensorRt => open_ort(self, model, args),
        }
    }

    /// Whether clips are faster together, in batches of any size.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "of GPUs"))]
    pub fn likes_batches(self, args: &RuntimeArgs) -> bool {
        match self {
            Self::Auto | Self::Tract | Self::Cpu => true,
            #[cfg(feature = "cuda")]
            Self::Cuda => !args.gpu.cuda().cuda_graph,
            _ => false,
        }
    }

    /// Opens `model` in ONNX Runtime; with `profile`, for its placement.
    #[cfg(feature = "ort")]
    pub fn open_ort(
        self,
        model: &Path,
        args: &RuntimeArgs,
        profile: bool,
    ) -> Result<ssamba_ort::OrtSession> {
        not_a_checkpoint(model)?;
        let options = ssamba_ort::Options {
            provider: self.of_ort(args, profile)?,
            threads: args.threads(),
            library: args.ort_lib.clone(),
            profile,
            ..Default::default()
        };
        let open = || ssamba_ort::OrtSession::open(model, &options);
        #[cfg(feature = "cuda")]
        if let ssamba_ort::Provider::TensorRt(tensorrt) = &options.provider {
            // What is wrong with the file or the options is for the session to say.
            return match tensorrt.engines(model, options.library.as_deref()) {
                Ok(engines) => gpu::building(engines.as_ref(), open),
                Err(_) => open(),
            };
        }
        open()
    }

    /// The provider of ONNX Runtime, as asked for.
    #[cfg(feature = "ort")]
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "of GPUs"))]
    fn of_ort(self, args: &RuntimeArgs, profile: bool) -> Result<ssamba_ort::Provider> {
        match self {
            Self::Cpu => Ok(ssamba_ort::Provider::Cpu),
            #[cfg(feature = "cuda")]
            Self::Cuda => Ok(ssamba_ort::Provider::Cuda(ssamba_ort::Cuda {
                // The replay of a graph tells nothing of its nodes.
                cuda_graph: args.gpu.cuda().cuda_graph && !profile,
                ..args.gpu.cuda()
            })),
            #[cfg(feature = "cuda")]
            Self::TensorRt => Ok(ssamba_ort::Provider::TensorRt(args.gpu.tensorrt())),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda | Self::TensorRt => {
                anyhow::bail!("this build has no CUDA: build with `--features cuda`")
            }
            Self::Auto | Self::Tract => anyhow::bail!(
                "which provider runs which node is for ONNX Runtime to say: --provider cpu, cuda \
                 or tensorrt"
            ),
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
            Self::TensorRt => "tensorrt",
        }
    }
}

fn not_a_checkpoint(model: &Path) -> Result<()> {
    ensure!(
        !is_checkpoint(model)?,
        "{}: a checkpoint, turn it into a model first: ssamba-edge export {} -o model.onnx",
        model.display(),
        model.display()
    );
    Ok(())
}

/// Zip archives, pickles and safetensors are checkpoints.
pub fn is_checkpoint(path: &Path) -> Result<bool> {
    let at = || path.display().to_string();
    let mut head = [0; 9];
    let read = File::open(path).with_context(at)?.read(&mut head).with_context(at)?;
    Ok(matches!(&head[..read], [b'P', b'K', ..] | [0x80, ..] | [_, _, _, _, _, _, _, _, b'{']))
}

/// Opens in ONNX Runtime what tract refused, and says so; what neither takes has tract's error.
#[cfg(all(feature = "tract", feature = "ort"))]
fn other_than(
    refusal: anyhow::Error,
    model: &Path,
    args: &RuntimeArgs,
) -> Result<Box<dyn Session>> {
    match Provider::Cpu.open(model, args) {
        Ok(session) => {
            terminal::note(format!("not in tract: {refusal:#}"));
            Ok(session)
        }
        Err(_) => Err(refusal),
    }
}

#[cfg(not(all(feature = "tract", feature = "ort")))]
fn other_than(refusal: anyhow::Error, _: &Path, _: &RuntimeArgs) -> Result<Box<dyn Session>> {
    Err(refusal)
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
fn open_ort(provider: Provider, model: &Path, args: &RuntimeArgs) -> Result<Box<dyn Session>> {
    Ok(Box::new(provider.open_ort(model, args, false)?))
}

#[cfg(not(feature = "ort"))]
fn open_ort(_: Provider, _: &Path, _: &RuntimeArgs) -> Result<Box<dyn Session>> {
    anyhow::bail!("this build has no ONNX Runtime: build with `--features ort`")
}
