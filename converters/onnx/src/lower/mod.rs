//! The network as nodes: one file for each of `models/ssamba`, under the same name.

pub(crate) mod block;
pub(crate) mod head;
pub(crate) mod matrix;
pub(crate) mod mixer;
pub(crate) mod patch_embed;
