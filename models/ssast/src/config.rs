//! Sizes of a network, all inferred from a checkpoint's tensors.

use ssamba_model_common::{
    Published, Sizes,
    sizes::{LARGEST, MOST_LAYERS, out_of_bounds},
};

/// Width of an attention head in every size of DeiT. A checkpoint stores all heads side by side and
/// does not tell how many they are.
pub const HEAD_WIDTH: usize = 64;
/// Epsilon of the norms of the encoder; the classifier's is [`ssamba_model_common::NORM_EPS`].
pub const NORM_EPS: f64 = 1e-6;
/// Tokens in front of the patches: class, then distillation.
pub const CLASS_TOKENS: usize = 2;

/// Sizes that a checkpoint's tensors tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Width of tokens, E.
    pub d_model: usize,
    /// Number of layers (blocks).
    pub depth: usize,
    /// Width inside the MLP of a block.
    pub d_mlp: usize,
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
    /// A published size: 12 layers over patches of 16 x 16.
    pub fn published(size: Published, n_classes: Option<usize>) -> Self {
        let d_model = size.d_model();
        Self { d_model, depth: 12, d_mlp: 4 * d_model, patch_f: 16, patch_t: 16, n_classes }
    }

    /// A size that no network has, if there is one.
    pub(crate) fn problem(&self) -> Option<String> {
        let Self { d_model, depth, d_mlp, patch_f, patch_t, n_classes } = *self;
        if !d_model.is_multiple_of(HEAD_WIDTH) {
            return Some(format!("its d_model is {d_model}, expected a multiple of {HEAD_WIDTH}"));
        }
        out_of_bounds([
            ("d_model", d_model, LARGEST),
            ("number of layers", depth, MOST_LAYERS),
            ("d_mlp", d_mlp, LARGEST),
            ("patch height", patch_f, LARGEST),
            ("patch width", patch_t, LARGEST),
            ("number of classes", n_classes.unwrap_or(1), LARGEST),
        ])
    }

    /// Attention heads of a block.
    pub fn heads(&self) -> usize {
        self.d_model / HEAD_WIDTH
    }

    /// Multiply-accumulates of one clip of `seq_len` tokens: projections, products of attention,
    /// MLPs, patch projection and head.
    pub fn macs(&self, seq_len: usize) -> u64 {
        let Self { d_model, depth, d_mlp, .. } = *self;
        let token = 4 * d_model * d_model + 2 * seq_len * d_model + 2 * d_model * d_mlp;
        let patches = seq_len.saturating_sub(CLASS_TOKENS) * self.patch_f * self.patch_t * d_model;
        let head = self.n_classes.unwrap_or(0) * d_model;
        (depth * token * seq_len + patches + head) as u64
    }
}
