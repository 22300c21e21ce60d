//! What a session runs on.
//!
//! A provider that is asked for runs, or opening fails: there is no other to fall back to. The nodes
//! of ONNX Runtime's own that a provider has no kernel for, such as those that compute shapes, stay
//! on the CPU; our operators run on the provider alone, and where TensorRT is asked for, on CUDA alone.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod tensorrt;

use std::path::Path;

use anyhow::Result;
use half::f16;
use ort::{operator::OperatorDomain, session::builder::SessionBuilder};
use ssamba_contract::{Card, op::DOMAIN};
#[cfg(feature = "cuda")]
use ssamba_scan::cuda::Element;

#[cfg(feature = "cuda")]
pub use cuda::{Arena, Cuda, Gpu};
#[cfg(feature = "cuda")]
pub use tensorrt::{Batches, BatchesError, Engines, TensorRt};

use crate::{Library, cpu::Cpu, message::readable, operator};

/// What a session runs on.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Provider {
    /// The CPU.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda(Cuda),
    /// An NVIDIA GPU, with TensorRT for what it has operators for.
    #[cfg(feature = "cuda")]
    TensorRt(TensorRt),
}

impl Provider {
    /// Its name, as in [`Session::provider`](ssamba_contract::Session::provider).
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => "cuda",
            #[cfg(feature = "cuda")]
            Self::TensorRt(_) => "tensorrt",
        }
    }

    pub(crate) fn on_gpu(&self) -> bool {
        !matches!(self, Self::Cpu)
    }

    /// The GPU that it runs on.
    #[cfg(feature = "cuda")]
    pub(crate) fn device(&self) -> Option<&Cuda> {
        match self {
            Self::Cpu => None,
            Self::Cuda(cuda) => Some(cuda),
            Self::TensorRt(tensorrt) => Some(&tensorrt.cuda),
        }
    }

    /// Adds it to a session, which is to open `model`; `card` reads the file's card.
    ///
    /// # Errors
    /// When the library in use does not have it, or cannot load what it needs, which is named.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "for TensorRT"))]
    pub(crate) fn register(
        &self,
        builder: SessionBuilder,
        model: &Path,
        library: &Library,
        card: impl FnOnce() -> Result<Card>,
    ) -> Result<SessionBuilder> {
        match self {
            Self::Cpu => Ok(builder),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.register(builder),
            #[cfg(feature = "cuda")]
            Self::TensorRt(tensorrt) => tensorrt.register(builder, model, library, card),
        }
    }

    /// Whether it runs a batch of this size of a file of this card.
    ///
    /// # Errors
    /// When it was opened for others.
    #[cfg(feature = "cuda")]
    pub(crate) fn check_batch(&self, card: &Card, batch: usize) -> Result<()> {
        match self {
            Self::TensorRt(tensorrt) => tensorrt.check_batch(card, batch),
            _ => Ok(()),
        }
    }

    /// Our operators with the provider's kernels alone: a node that it cannot run is an error, and no
    /// other provider takes it.
    ///
    /// # Errors
    /// When the provider's device cannot be used.
    pub(crate) fn operators(&self) -> Result<OperatorDomain> {
        let domain = OperatorDomain::new(DOMAIN).map_err(readable)?;
        match self {
            Self::Cpu => operator::add(domain, &Cpu::<f32>::default())
                .and_then(|domain| operator::add(domain, &Cpu::<f16>::default())),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) | Self::TensorRt(TensorRt { cuda, .. }) => {
                let device = crate::cuda::open(cuda.device)?;
                [Element::F32, Element::F16].into_iter().try_fold(domain, |domain, element| {
                    operator::add(domain, &crate::cuda::Gpu { device: device.clone(), element })
                })
            }
        }
        .map_err(readable)
    }
}
