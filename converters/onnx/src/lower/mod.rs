//! The networks as nodes: one file for each of `models/ssamba` and `models/common`, under the same
//! name, those of `models/ssast` in their own folder, and [`walks`] with one for
//! each way to write the recurrence without our operators.

pub(crate) mod block;
pub(crate) mod chunk;
pub(crate) mod front_end;
pub(crate) mod head;
pub(crate) mod linear_attention;
pub(crate) mod matrix;
pub(crate) mod mixer;
pub(crate) mod patch_embed;
pub(crate) mod scan;
pub(crate) mod ssast;
pub(crate) mod walks;
