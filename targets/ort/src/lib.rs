//! Exported files in ONNX Runtime.
//!
//! ONNX Runtime is a shared library that is found and loaded at run time: building this crate needs
//! none. [`library`] says where it is looked for. [`OrtSession`] runs a file with our kernels of the
//! operators `ssamba::SelectiveScan`, `ssamba::ShortConv` and `ssamba::AddLayerNorm` registered, or, for
//! comparison, with the function bodies that the file carries. [`Provider`] says what it runs on. [`custom_ops`] is for
//! sessions of others.
//!
//! ONNX Runtime's own messages are off; the variable `ORT_LOG` (`verbose`, `info`, `warning`,
//! `error`, `fatal`) turns them on, on stderr. What fails is returned as an error either way.

#![deny(missing_docs)]

mod add_layer_norm;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub mod custom_ops;
pub mod library;
mod message;
mod operator;
mod placement;
mod providers;
mod selective_scan;
mod session;
mod settings;
mod short_conv;

#[cfg(feature = "cuda")]
pub use cuda::ArenaUse;
pub use library::Library;
pub use message::OUT_OF_MEMORY;
pub use placement::{PlacedNode, PlacedOp, Placement};
pub use providers::Provider;
#[cfg(feature = "cuda")]
pub use providers::{Arena, Batches, BatchesError, Cuda, Engines, Gpu, TensorRt};
pub use session::{Options, OrtSession};
pub use ssamba_cuda::MissingLibrary;
