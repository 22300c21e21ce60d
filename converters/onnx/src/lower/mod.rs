//! The network as nodes: one file for each of `models/ssamba`, under the same name, and one for each
//! other way to write a mixer's convolutions and scan.

pub(crate) mod block;
pub(crate) mod chunk;
pub(crate) mod head;
pub(crate) mod matrix;
pub(crate) mod mixer;
pub(crate) mod patch_embed;
