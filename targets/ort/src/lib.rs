//! Exported files in ONNX Runtime.
//!
//! ONNX Runtime is a shared library that is found and loaded at run time: building this crate needs
//! none. [`library`] says where it is looked for. [`OrtSession`] runs a file with our kernel of the
//! operator `ssamba::SelectiveScan` registered, or, for comparison, with the function body that the
//! file carries.
//!
//! ONNX Runtime's own messages are off; the variable `ORT_LOG` (`verbose`, `info`, `warning`,
//! `error`, `fatal`) turns them on, on stderr. What fails is returned as an error either way.

#![deny(missing_docs)]

pub mod library;
mod message;
mod selective_scan;
mod session;

pub use library::Library;
pub use session::{Options, OrtSession};
