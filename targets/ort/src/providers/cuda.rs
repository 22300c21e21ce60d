//! ONNX Runtime's CUDA provider.

use anyhow::{Result, bail};
use ort::{
    ep::{
        self, ArenaExtendStrategy, ExecutionProvider, ExecutionProviderDispatch,
        cuda::ConvAlgorithmSearch,
    },
    session::builder::SessionBuilder,
};

use ssamba_cuda::MissingLibrary;

use crate::{cuda, message::readable};

/// An NVIDIA GPU.
#[derive(Clone, Debug, Default)]
pub struct Cuda {
    /// Number of the device, as CUDA counts them.
    pub device: u32,
    /// Bytes that the arena may hold; `None`: all there is.
    pub memory_limit: Option<usize>,
    /// How the arena grows.
    pub arena: Arena,
    /// Whether the first runs are captured as a graph, which later ones replay: one launch for all
    /// kernels, for one size of batch.
    pub cuda_graph: bool,
}

/// A GPU as its driver sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// What the driver calls it.
    pub name: String,
    /// Bytes of its memory that are in use, by this process and others.
    pub memory_in_use: usize,
}

impl Gpu {
    /// The device of that number.
    ///
    /// # Errors
    /// Names the library that is missing, or says what the driver says.
    pub fn query(number: u32) -> Result<Self> {
        let device = cuda::open(number)?;
        Ok(Self { name: device.name()?, memory_in_use: device.memory_in_use()? })
    }
}

/// How an arena of device memory grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arena {
    /// By powers of two: fewer requests to the driver.
    #[default]
    NextPowerOfTwo,
    /// By what is asked for: less memory held.
    SameAsRequested,
}

impl Cuda {
    pub(super) fn register(&self, builder: SessionBuilder) -> Result<SessionBuilder> {
        builder.with_execution_providers([self.provider()?]).map_err(readable)
    }

    /// The provider, which fails where it cannot run.
    ///
    /// # Errors
    /// When the library in use does not have it.
    pub(super) fn provider(&self) -> Result<ExecutionProviderDispatch> {
        if !ep::CUDA::is_available().map_err(readable)? {
            return Err(MissingLibrary::new(PROVIDER, "provider `cuda`").into());
        }
        let Ok(device) = i32::try_from(self.device) else {
            bail!("no device has the number {}", self.device);
        };
        // Two sessions run the same algorithms, and products are those of `f32`.
        let mut provider = ep::CUDA::default()
            .with_device_id(device)
            .with_arena_extend_strategy(match self.arena {
                Arena::NextPowerOfTwo => ArenaExtendStrategy::NextPowerOfTwo,
                Arena::SameAsRequested => ArenaExtendStrategy::SameAsRequested,
            })
            .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
            .with_conv_max_workspace(false)
            .with_cuda_graph(self.cuda_graph)
            .with_tf32(false);
        if let Some(limit) = self.memory_limit {
            provider = provider.with_memory_limit(limit);
        }
        Ok(provider.build().error_on_failure())
    }
}

/// The file of ONNX Runtime's provider, beside its library.
const PROVIDER: &str = if cfg!(windows) {
    "onnxruntime_providers_cuda.dll"
} else {
    "libonnxruntime_providers_cuda.so"
};
