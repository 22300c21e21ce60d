//! Filter banks to tokens: patches, a linear map, the class tokens, positions.
//!
//! SiavashShams/ssamba@019b276 `src/models/both_models.py:282-293,700-702`. Patches are taken
//! frequency-major: token `f * columns + t`.

use candle_core::{Device, Result, Tensor};

use crate::Recipe;

/// Parameters of the patch embedding, with positions for one grid of patches.
#[derive(Clone, Debug)]
pub struct PatchWeights {
    /// `[d_model, patch_f, patch_t]`; row 0 of a patch is the lowest mel bin.
    pub weight: Tensor,
    /// `[d_model]`
    pub bias: Tensor,
    /// Tokens in front of the patches, `[class_tokens, d_model]`.
    pub class_tokens: Tensor,
    /// `[class_tokens + patches, d_model]`
    pub pos_embed: Tensor,
}

/// The patch projection with its strides, the class tokens and the positions.
#[derive(Clone, Debug)]
pub struct PatchEmbed {
    weights: PatchWeights,
    stride: (usize, usize),
    grid: (usize, usize),
    /// `[patch_f * patch_t, d_model]`
    projection: Tensor,
    /// Where each value of each patch lies in a row-major `[n_frames, n_mels]` input.
    indices: Tensor,
}

impl PatchEmbed {
    /// `weights` have positions for `grid`, the patches of `recipe` over frequency and time.
    ///
    /// # Errors
    /// When the weights have other axes.
    pub fn new(weights: PatchWeights, recipe: &Recipe, grid: (usize, usize)) -> Result<Self> {
        let (d_model, patch_f, patch_t) = weights.weight.dims3()?;
        let n_mels = recipe.front_end.n_mels;
        let mut indices = Vec::with_capacity(grid.0 * grid.1 * patch_f * patch_t);
        for f in 0..grid.0 {
            for t in 0..grid.1 {
                for bin in 0..patch_f {
                    for frame in 0..patch_t {
                        let (bin, frame) = (f * recipe.stride_f + bin, t * recipe.stride_t + frame);
                        indices.push((frame * n_mels + bin) as u32);
                    }
                }
            }
        }
        let projection = weights.weight.reshape((d_model, patch_f * patch_t))?.t()?;
        Ok(Self {
            stride: (recipe.stride_f, recipe.stride_t),
            grid,
            projection: projection.contiguous()?,
            indices: Tensor::new(indices, &Device::Cpu)?,
            weights,
        })
    }

    /// The parameters.
    pub fn weights(&self) -> &PatchWeights {
        &self.weights
    }

    /// Mel bins and frames between patches.
    pub fn stride(&self) -> (usize, usize) {
        self.stride
    }

    /// Patches over frequency and over time.
    pub fn grid(&self) -> (usize, usize) {
        self.grid
    }

    /// The values of every patch of `fbank` `[batch, n_frames, n_mels]`:
    /// `[batch, patches, patch_f * patch_t]`, frequency by frequency.
    ///
    /// # Errors
    /// When the shape is not the recipe's.
    pub fn patches(&self, fbank: &Tensor) -> Result<Tensor> {
        let (batch, _, _) = fbank.dims3()?;
        let shape = (batch, self.grid.0 * self.grid.1, self.projection.dim(0)?);
        fbank.flatten_from(1)?.index_select(&self.indices, 1)?.reshape(shape)
    }

    /// `fbank` `[batch, n_frames, n_mels]` to patch tokens `[batch, patches, d_model]`.
    ///
    /// # Errors
    /// When the shape is not the recipe's.
    pub fn project(&self, fbank: &Tensor) -> Result<Tensor> {
        let patches = self.patches(fbank)?;
        let (batch, n_patches, patch_size) = patches.dims3()?;
        let d_model = self.projection.dim(1)?;
        patches
            .reshape((batch * n_patches, patch_size))?
            .matmul(&self.projection)?
            .broadcast_add(&self.weights.bias)?
            .reshape((batch, n_patches, d_model))
    }

    /// Puts the class tokens in front of `patch_tokens` and adds the positions.
    ///
    /// # Errors
    /// When there are not as many tokens as positions.
    pub fn place(&self, patch_tokens: &Tensor) -> Result<Tensor> {
        let (batch, _, d_model) = patch_tokens.dims3()?;
        let class_tokens = &self.weights.class_tokens;
        let class_tokens = class_tokens.broadcast_as((batch, class_tokens.dim(0)?, d_model))?;
        Tensor::cat(&[&class_tokens, patch_tokens], 1)?.broadcast_add(&self.weights.pos_embed)
    }
}
