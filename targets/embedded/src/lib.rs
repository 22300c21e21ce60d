//! A small always-on keyword spotter: a stream of 16 kHz samples in, events out.
//!
//! [`Spotter`] opens a file that `ssamba-edge export` wrote. Filter-bank frames are computed once;
//! every hop the newest window goes through the network, scores are averaged over the last windows,
//! and a label whose mean reaches its threshold fires, after which all are quiet for a while
//! ([`Settings`]).
//!
//! `include/ssamba_kws.h` describes the same for C.

#![deny(missing_docs)]

mod bundle;
mod c_abi;
mod detector;
mod settings;
mod spotter;

#[cfg(feature = "onnx")]
pub use bundle::Bundle;
pub use detector::Detector;
pub use settings::{Changes, Settings, is_background};
pub use spotter::{Event, SAMPLE_RATE, Spotter, Window};
