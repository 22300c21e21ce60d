//! The arithmetic of a Mamba mixer between its projections, the short convolution and the selective
//! scan: `f32`, CPU, portable and vectorised, with the backward passes that training needs.
//!
//! [`short_conv`] runs one call of the operator `ssamba::ShortConv`: the convolutions of all streams
//! of all mixers of a node, with bias and SiLU. [`selective_scan`] runs one call of the operator `ssamba::SelectiveScan`: all streams of all
//! mixers of a node, with softplus, skip, gate, sum of directions and scale. [`ShortConv`] and
//! [`Scan`] say what the operands mean and how they lie. [`selective_scan_backward`] and
//! [`short_conv_backward`] give the gradients of all operands of either.
//!
//! ```
//! use ssamba_scan::{Combine, Inline, Layout, Scan, selective_scan};
//!
//! // One channel, one state, three tokens, no decay: the scan is a running sum of dt * u.
//! let scan = Scan {
//!     batch: 1,
//!     seq_len: 3,
//!     d_inner: 1,
//!     d_state: 1,
//!     groups: 1,
//!     reverse: &[false],
//!     delta_softplus: false,
//!     combine: Combine::Sum,
//!     scale: 1.0,
//!     layout: Layout::Channels,
//!     columns: None,
//!     u: &[1.0, 2.0, 3.0],
//!     delta: &[1.0, 1.0, 0.5],
//!     a: &[0.0],
//!     b: &[1.0; 3],
//!     c: &[1.0; 3],
//!     d_skip: None,
//!     z: None,
//!     delta_bias: None,
//! };
//! let mut out = vec![0.0; scan.output_len()];
//! selective_scan(&scan, &mut out, &Inline)?;
//! assert_eq!(out, [1.0, 3.0, 4.5]);
//! # Ok::<(), ssamba_scan::ScanError>(())
//! ```
//!
//! # Speed and agreement
//!
//! Channels are independent, so they are the SIMD lanes: no sum crosses lanes, and the result does
//! not depend on how channels are dealt to tasks. For one [`Tier`] it is equal to the bit for every
//! [`Pool`] and number of threads, and AVX2 and AVX-512 give the same bits. Other tiers differ, by less
//! than 2e-6 of the sum of the absolute values of the terms that an output adds up: the portable tier
//! rounds twice where the others multiply and add in one rounding, and the tiers of x86-64 compute
//! exponentials with a table, the others without.
//!
//! `cargo bench --workspace --bench kernels` times every tier of this CPU beside the definition. NEON was run under an
//! emulator alone: its results are right, its speed is not known.

mod backward;
mod blocks;
pub mod cuda;
mod kernel;
mod layout;
mod math;
mod output;
mod pool;
mod scan;
mod short_conv;
#[cfg(test)]
mod testing;
mod tier;
mod vector;

pub use backward::{
    ConvGradients, ScanGradients, selective_scan_backward, selective_scan_backward_on,
    short_conv_backward, short_conv_backward_on,
};
pub use layout::Layout;
pub use pool::{Inline, Pool, Threads};
pub use scan::{Columns, Combine, MAX_D_STATE, Scan, ScanError, selective_scan, selective_scan_on};
pub use short_conv::{Activation, MAX_TAPS, ShortConv, ShortConvError, short_conv, short_conv_on};
pub use tier::{Tier, tier};
