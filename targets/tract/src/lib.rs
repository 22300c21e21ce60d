//! Exported files in tract, in pure Rust: what runs where there is no ONNX Runtime.
//!
//! [`TractSession`] knows the operators `ssamba::SelectiveScan` and `ssamba::ShortConv`; function
//! bodies, which other runtimes expand, are ignored. Shapes are always fixed: tract plans a symbolic length much worse,
//! so a session holds one plan for each shape that it has met.
//!
//! Without the feature `onnx` it opens what [`TractSession::pack`](TractSession) made of a file, and no ONNX.

#![deny(missing_docs)]

#[cfg(feature = "onnx")]
mod integer_product;
#[cfg(feature = "onnx")]
mod kept;
mod nnef;
#[cfg(feature = "onnx")]
mod onnx;
mod operator;
mod quantize;
mod selective_scan;
mod session;
mod short_conv;

pub use session::{Options, TractSession};
