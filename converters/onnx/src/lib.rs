//! SSAMBA weights to ONNX, declaratively: every node is written on purpose, nothing is traced.
//!
//! Operator set 20, IR version 10, input `fbank` `[batch, n_frames, n_mels]`, outputs `logits` and on
//! request `embedding`. The recurrences are nodes `ssamba::SelectiveScan` (see
//! [`ssamba_contract::op`]) with a model-local function body: a runtime with our operator uses it,
//! any other runs the body. Weights are embedded; the card rides in the metadata.

mod export;
mod function;
mod graph;
mod inspect;
mod lower;

pub use export::{Options, card, export};
pub use function::scan_model;
pub use inspect::{Inspection, inspect};
