//! What the suite shares: goldens, weights that any language can rebuild, runtimes, comparisons.

pub mod compare;
pub mod golden;
pub mod hashed;
pub mod python;
pub mod suite;
pub mod tensorrt;
