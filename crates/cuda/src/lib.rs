//! NVIDIA devices, for inference and for training: kernels compiled for the device when it is first
//! used, and kept; memory; products of matrices.
//!
//! CUDA's libraries are loaded at run time, when the first device is opened: building this crate needs
//! none, and neither does running it on a machine without a GPU. A library that is not there is a
//! [`MissingLibrary`].

#![deny(missing_docs)]

#[cfg(feature = "device")]
mod blas;
#[cfg(feature = "device")]
mod compiler;
#[cfg(feature = "device")]
mod device;
#[cfg(feature = "device")]
mod memory;
mod missing;
#[cfg(feature = "device")]
pub mod store;

#[cfg(feature = "device")]
pub use blas::{Blas, Matrix, Product};
#[cfg(feature = "device")]
pub use device::{Device, driver};
#[cfg(feature = "device")]
pub use memory::Memory;
pub use missing::MissingLibrary;
