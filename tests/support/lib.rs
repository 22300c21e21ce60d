//! What the suite shares: goldens, weights that any language can rebuild, comparisons.

pub mod compare;
pub mod golden;
pub mod hashed;
