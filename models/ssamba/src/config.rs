//! Sizes of a network, all inferred from a checkpoint's tensors.

use ssamba_contract::op;
use ssamba_model_common::{
    Published, Sizes,
    sizes::{LARGEST, MOST_LAYERS, out_of_bounds},
};

/// Sizes that a checkpoint's tensors tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Width of tokens, E.
    pub d_model: usize,
    /// Number of layers (blocks).
    pub depth: usize,
    /// Width inside a mixer, D.
    pub d_inner: usize,
    /// State size per channel, N.
    pub d_state: usize,
    /// Taps of the short convolution, K.
    pub d_conv: usize,
    /// Rank of the step projection, R.
    pub dt_rank: usize,
    /// Mel bins of a patch.
    pub patch_f: usize,
    /// Frames of a patch.
    pub patch_t: usize,
    /// Classes of the head, if there is one.
    pub n_classes: Option<usize>,
}

impl From<&Config> for Sizes {
    fn from(config: &Config) -> Self {
        let &Config { d_model, depth, patch_f, patch_t, n_classes, .. } = config;
        Self { d_model, depth, patch_f, patch_t, n_classes }
    }
}

impl Config {
    /// A published size: 24 layers over patches of 16 x 16.
    pub fn published(size: Published, n_classes: Option<usize>) -> Self {
        let d_model = size.d_model();
        Self {
            d_model,
            depth: 24,
            d_inner: 2 * d_model,
            d_state: 16,
            d_conv: 4,
            dt_rank: d_model.div_ceil(16),
            patch_f: 16,
            patch_t: 16,
            n_classes,
        }
    }

    /// A size that no network has, if there is one.
    pub(crate) fn problem(&self) -> Option<String> {
        let Self { d_model, depth, d_inner, d_state, d_conv, dt_rank, patch_f, patch_t, n_classes } =
            *self;
        out_of_bounds([
            ("d_model", d_model, LARGEST),
            ("number of layers", depth, MOST_LAYERS),
            ("d_inner", d_inner, LARGEST),
            ("d_state", d_state, op::MAX_D_STATE),
            ("d_conv", d_conv, op::short_conv::MAX_TAPS),
            ("dt_rank", dt_rank, LARGEST),
            ("patch height", patch_f, LARGEST),
            ("patch width", patch_t, LARGEST),
            ("number of classes", n_classes.unwrap_or(1), LARGEST),
        ])
    }

    /// Columns of `x_proj`: step rank, then B, then C.
    pub fn x_proj_width(&self) -> usize {
        self.dt_rank + 2 * self.d_state
    }

    /// Multiply-accumulates of one clip of `seq_len` tokens: projections, convolutions, scans,
    /// patch projection and head.
    pub fn macs(&self, seq_len: usize) -> u64 {
        let stream = self.d_conv
            + self.x_proj_width()
            + self.dt_rank
            // Per state: decay, decay times state, input, output.
            + 4 * self.d_state;
        let mixer = self.d_model * 2 * self.d_inner
            + 2 * self.d_inner * stream
            + self.d_inner * self.d_model;
        let patches = seq_len.saturating_sub(1) * self.patch_f * self.patch_t * self.d_model;
        let head = self.n_classes.unwrap_or(0) * self.d_model;
        (self.depth * mixer * seq_len + patches + head) as u64
    }
}
