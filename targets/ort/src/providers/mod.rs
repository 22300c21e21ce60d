//! What a session runs on.
//!
//! A provider that is asked for runs, or opening fails: there is no other to fall back to. The nodes
//! of ONNX Runtime's own that a provider has no kernel for, such as those that compute shapes, stay
//! on the CPU; our operator runs on the provider alone.

#[cfg(feature = "cuda")]
mod cuda;

use anyhow::Result;
use ort::{operator::OperatorDomain, session::builder::SessionBuilder};
use ssamba_contract::op::DOMAIN;

#[cfg(feature = "cuda")]
pub use cuda::{Arena, Cuda, Gpu};

use crate::{message::readable, selective_scan, short_conv};

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
}

impl Provider {
    /// Its name, as in [`Session::provider`](ssamba_contract::Session::provider).
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => "cuda",
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
        }
    }

    /// Adds it to a session.
    ///
    /// # Errors
    /// When the library in use does not have it, or cannot load what it needs, which is named.
    pub(crate) fn register(&self, builder: SessionBuilder) -> Result<SessionBuilder> {
        match self {
            Self::Cpu => Ok(builder),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.register(builder),
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
            Self::Cpu => selective_scan::on_cpu(domain).and_then(short_conv::on_cpu),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => {
                let device = crate::cuda::Device::open(cuda.device)?;
                selective_scan::on_cuda(domain, &device)
                    .and_then(|domain| short_conv::on_cuda(domain, &device))
            }
        }
        .map_err(readable)
    }
}
