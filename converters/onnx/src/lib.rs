//! SSAMBA and SSAST weights to ONNX, declaratively: every node is written on purpose, nothing is traced.
//!
//! Operator set 20, IR version 10, input `fbank` `[batch, n_frames, n_mels]`, outputs `logits` and on
//! request `embedding`; or input `waveform` `[batch, samples]`, with the front end in the graph and
//! `scores` beside the logits. Convolutions and recurrences are nodes `ssamba::ShortConv` and
//! `ssamba::SelectiveScan`, in half precision the sums and norms of the residual `ssamba::AddLayerNorm`
//! (see [`ssamba_contract::op`]), all with model-local function bodies: a runtime
//! with our operators uses them, any other runs the bodies. Every other
//! [`Lowering`](ssamba_contract::Lowering) writes both without our operators and without functions. The
//! attention of SSAST is standard nodes, or on request ONNX Runtime's `MultiHeadAttention`
//! ([`Attention`]). Weights are embedded, in [`Precision::I8`] most of them in eight bits; the card rides
//! in the metadata.

mod conv_function;
mod export;
mod function;
mod graph;
mod inspect;
mod lower;
mod network;
mod norm_function;
mod quantize;
mod shapes;

pub use conv_function::conv_model;
pub use export::{Options, Quantized, card, export, export_selected};
pub use function::{IR_VERSION, OPSET, scan_model};
pub use inspect::{Inspection, inspect};
pub use lower::ssast::attention::Attention;
pub use lower::{front_end::front_end_model, walks::recurrence_model};
pub use network::{Network, Weights};
pub use norm_function::norm_model;
pub use quantize::{Form, Layer, Selection};
pub use ssamba_contract::Precision;
pub use ssamba_model_common::Architecture;
