//! Filter banks to tokens: patches, a linear map, the class token, positions.
//!
//! SiavashShams/ssamba@019b276 `src/models/both_models.py:282-293,700-702`. Patches are taken
//! frequency-major: token `f * columns + t`.

use candle_core::{Device, Result, Tensor};

use crate::{config::Config, recipe::Recipe, weights::Weights};

/// The patch projection with its strides, the class token and the positions.
#[derive(Clone, Debug)]
pub(crate) struct PatchEmbed {
    /// `[patch_f * patch_t, d_model]`
    weight: Tensor,
    bias: Tensor,
    cls_token: Tensor,
    pos_embed: Tensor,
    /// Where each value of each patch lies in a row-major `[n_frames, n_mels]` input.
    indices: Tensor,
    n_patches: usize,
}

impl PatchEmbed {
    /// `pos_embed` `[1 + patches, d_model]` fits `grid`, the patches over frequency and time.
    pub(crate) fn new(
        weights: &Weights,
        pos_embed: Tensor,
        recipe: &Recipe,
        grid: (usize, usize),
    ) -> Result<Self> {
        let Config { d_model, patch_f, patch_t, .. } = weights.config;
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
        Ok(Self {
            weight: weights
                .patch_weight
                .reshape((d_model, patch_f * patch_t))?
                .t()?
                .contiguous()?,
            bias: weights.patch_bias.clone(),
            cls_token: weights.cls_token.reshape((1, 1, d_model))?,
            pos_embed,
            indices: Tensor::new(indices, &Device::Cpu)?,
            n_patches: grid.0 * grid.1,
        })
    }

    /// `fbank` `[batch, n_frames, n_mels]` to patch tokens `[batch, patches, d_model]`.
    pub(crate) fn project(&self, fbank: &Tensor) -> Result<Tensor> {
        let (batch, _, _) = fbank.dims3()?;
        let (patch_size, d_model) = self.weight.dims2()?;
        let patches = fbank
            .flatten_from(1)?
            .index_select(&self.indices, 1)?
            .reshape((batch * self.n_patches, patch_size))?;
        patches.matmul(&self.weight)?.broadcast_add(&self.bias)?.reshape((
            batch,
            self.n_patches,
            d_model,
        ))
    }

    /// Puts the class token in front and adds the positions.
    pub(crate) fn place(&self, patch_tokens: &Tensor) -> Result<Tensor> {
        let (batch, _, d_model) = patch_tokens.dims3()?;
        let cls_token = self.cls_token.broadcast_as((batch, 1, d_model))?;
        Tensor::cat(&[&cls_token, patch_tokens], 1)?.broadcast_add(&self.pos_embed)
    }
}
