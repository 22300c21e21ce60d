//! Trains SSAMBA in candle, on the scan's own kernels, and SSAST, which it is compared with.
//!
//! [`Network`] holds official parameters as variables, those of SSAMBA in a folded form that trains
//! better; its gradients come from candle's graph, in which a direction of a mixer is one node.
//! [`Plan`] names a way to train, and [`Trainer`] takes its steps, with labels or, in [`pretrain`],
//! without.

mod architecture;
pub mod augment;
mod distill;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(not(feature = "cuda"))]
#[path = "gpu/absent.rs"]
mod gpu;
mod initial;
pub mod loss;
mod network;
mod ops;
mod optimizer;
pub mod plan;
pub mod pretrain;
mod random;
pub mod score;
mod temperature;
mod trainer;

pub use architecture::{Config, folding};
pub use distill::{Distillation, Teacher};
pub use gpu::Gpu;
pub use network::{Network, Tokens};
pub use plan::Plan;
pub use pretrain::Masking;
pub use random::Random;
pub use temperature::temperature;
pub use trainer::{
    Data, Example, Measured, Progress, Step, Sums, Trainer, Validation, in_parallel, to_safetensors,
};
