//! Options of the GPU providers.

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use ssamba_ort::{Arena, Batches, Cuda, Engines, TensorRt};

use crate::{provider::Provider, terminal};

/// Options of the GPU providers.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "GPU options (--provider cuda and tensorrt)")]
pub struct GpuArgs {
    /// GPU, by its number [default: 0].
    #[arg(long, value_name = "N")]
    device: Option<u32>,
    /// Most memory that the GPU's arena may hold, in MiB [default: all there is].
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    gpu_memory: Option<u32>,
    /// How that arena grows [default: powers-of-two].
    #[arg(long, value_enum, value_name = "HOW")]
    gpu_arena: Option<ArenaGrowth>,
    /// cuda: capture the first runs as one graph, and replay it in later ones.
    #[arg(long)]
    cuda_graph: bool,
    /// tensorrt: let engines compute in half precision (TensorRT 10 and older).
    #[arg(long)]
    fp16: bool,
    /// tensorrt: folder to keep engines in [default: `ssamba-edge` in the user's cache folder].
    #[arg(long, value_name = "FOLDER")]
    engine_cache: Option<PathBuf>,
    /// tensorrt: clips in a run, one number or a range with the best in the middle [default: 1].
    #[arg(long, value_name = "MIN,OPT,MAX")]
    batch_profile: Option<Batches>,
    /// tensorrt: the steps of a build among ONNX Runtime's messages (ORT_LOG=verbose shows them).
    #[arg(long)]
    build_log: bool,
}

/// How an arena of device memory grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ArenaGrowth {
    /// Fewer requests to the driver.
    PowersOfTwo,
    /// Less memory held.
    AsRequested,
}

impl GpuArgs {
    /// # Errors
    /// Names an option that none of `providers` has.
    pub fn check(&self, providers: &[Provider]) -> Result<()> {
        let any = |wanted: &[Provider]| providers.iter().any(|provider| wanted.contains(provider));
        let both = [
            ("--device", self.device.is_some()),
            ("--gpu-memory", self.gpu_memory.is_some()),
            ("--gpu-arena", self.gpu_arena.is_some()),
        ];
        for (option, given) in both {
            ensure!(
                !given || any(&[Provider::Cuda, Provider::TensorRt]),
                "{option} is for GPUs, which takes --provider cuda or tensorrt"
            );
        }
        ensure!(!self.cuda_graph || any(&[Provider::Cuda]), "--cuda-graph takes --provider cuda");
        let tensorrt = [
            ("--fp16", self.fp16),
            ("--engine-cache", self.engine_cache.is_some()),
            ("--batch-profile", self.batch_profile.is_some()),
            ("--build-log", self.build_log),
        ];
        for (option, given) in tensorrt {
            ensure!(!given || any(&[Provider::TensorRt]), "{option} takes --provider tensorrt");
        }
        Ok(())
    }

    /// The provider `cuda` as asked for.
    pub fn cuda(&self) -> Cuda {
        Cuda {
            device: self.device.unwrap_or_default(),
            memory_limit: self.gpu_memory.map(|mib| (mib as usize).saturating_mul(1 << 20)),
            arena: match self.gpu_arena {
                Some(ArenaGrowth::AsRequested) => Arena::SameAsRequested,
                Some(ArenaGrowth::PowersOfTwo) | None => Arena::NextPowerOfTwo,
            },
            cuda_graph: self.cuda_graph,
        }
    }

    /// The provider `tensorrt` as asked for; a graph is for `cuda`, of a list of providers.
    pub fn tensorrt(&self) -> TensorRt {
        TensorRt {
            cuda: Cuda { cuda_graph: false, ..self.cuda() },
            fp16: self.fp16,
            cache: self.engine_cache.clone(),
            batches: self.batch_profile,
            build_log: self.build_log,
        }
    }
}

/// Opens a session that may have to build engines first, and says so: it can take minutes.
pub fn building<T>(engines: Option<&Engines>, open: impl FnOnce() -> Result<T>) -> Result<T> {
    let count = || engines.map_or(0, Engines::count);
    let before = count();
    match engines {
        None => terminal::note(
            "tensorrt: building engines, which can take minutes; the system names no cache \
             folder to keep them in, --engine-cache does",
        ),
        Some(engines) if before == 0 => terminal::note(format!(
            "tensorrt: no engines yet of this file for this GPU, building them can take minutes; \
             they are kept in {}",
            engines.folder().display()
        )),
        Some(_) => {}
    }
    let start = Instant::now();
    let session = terminal::waiting("building engines", open)?;
    let built = count().saturating_sub(before);
    if built > 0 {
        terminal::note(format!(
            "tensorrt: built {built} engines in {:.1} s",
            start.elapsed().as_secs_f64()
        ));
    }
    Ok(session)
}
