//! The networks as nodes: one file for each of `models/ssamba` and `models/common`, under the same
//! name, those of `models/ssast` in their own folder, and one for each other way to write a mixer's
//! convolutions and scan.

pub(crate) mod block;
pub(crate) mod chunk;
pub(crate) mod front_end;
pub(crate) mod head;
pub(crate) mod matrix;
pub(crate) mod mixer;
pub(crate) mod patch_embed;
pub(crate) mod ssast;
