//! What both sides of an exported `.onnx` file agree on, written once.
//!
//! The converter writes these names, shapes and keys; the targets read them. Neither knows the
//! other: the file is the border.
//!
//! - [`op`]: the custom operator `ssamba::SelectiveScan`, its operands, attributes and shape rules.
//! - [`io`]: names of the graph's inputs and outputs, and the tensors that cross them.
//! - [`front_end`]: how a waveform becomes the graph's input.
//! - [`card`]: what a model says of itself in the file's metadata.
//! - [`self_test`]: what a file should put out, for whoever runs it.
//! - [`session`]: the one trait that every runtime implements.

#![deny(missing_docs)]

pub mod card;
pub mod front_end;
pub mod io;
pub mod op;
pub mod self_test;
pub mod session;

pub use card::{Card, CardError, Lowering, Precision, Scores};
pub use front_end::{FrontEnd, Input, Order};
pub use io::{Tensor, TensorError};
pub use self_test::SelfTest;
pub use session::{Outputs, Session, default_threads};
