//! Trains SSAMBA in candle, on the scan's own kernels.
//!
//! [`Network`] holds official parameters as variables, in a folded form that trains better; its
//! gradients come from candle's graph, in which a direction of a mixer is one node.

mod initial;
mod network;
mod ops;
mod random;

pub use network::{Network, Tokens, folding};
pub use random::Random;
