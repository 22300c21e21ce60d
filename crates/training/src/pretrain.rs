//! Learning without labels: patches are hidden, and told from the rest of the clip, in two ways.
//!
//! SiavashShams/ssamba@019b276 `src/models/both_models.py:254-275,467-640` and `src/traintest_mask.py`.
//! The discriminative task picks each hidden patch among the hidden patches of its clip, the generative
//! one says what was in it; each hides patches of its own, so a step runs the encoder twice.

use std::{collections::BTreeSet, ops::RangeInclusive};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use ssamba_model_common::{Checkpoint, Recipe, Sizes};

use crate::{
    architecture::{Config, Weights},
    augment, initial,
    loss::log_softmax,
    network::Network,
    random::Random,
    score::highest,
    trainer::{Data, MASKS, Measured, Step, Trainer},
};

/// Weight of the generative loss beside the discriminative one.
pub const GENERATIVE: f64 = 10.0;

/// Which patches are hidden.
#[derive(Clone, Debug, PartialEq)]
pub struct Masking {
    /// Patches hidden in a clip.
    pub patches: usize,
    /// Side of a cluster, drawn once a clip.
    pub cluster: RangeInclusive<usize>,
}

/// Losses of some clips, each clip's by itself.
#[derive(Clone, Debug)]
pub struct Losses {
    /// Discriminative, summed over clips: a scalar.
    pub nce: Tensor,
    /// Generative, summed over clips: a scalar.
    pub mse: Tensor,
    /// Summed over clips: the share of predictions whose own patch fits them best.
    pub accuracy: f64,
}

impl Masking {
    /// Upstream's, for `patches` of 250, 300 or 400 in 512.
    pub fn published(patches: usize) -> Self {
        Self { patches, cluster: 3..=5 }
    }

    /// # Errors
    /// When a grid does not have so many patches beside its first, which clusters never reach.
    pub fn check(&self, grid: (usize, usize)) -> Result<()> {
        let all = grid.0 * grid.1;
        ensure!(
            (2..all.saturating_sub(1)).contains(&self.patches),
            "{} hidden patches of {all}, expected 2 to {}",
            self.patches,
            all.saturating_sub(2)
        );
        ensure!(
            *self.cluster.start() > 0 && !self.cluster.is_empty(),
            "clusters of {:?} patches, expected at least 1",
            self.cluster
        );
        Ok(())
    }

    /// Hidden patches of a clip, in order. Clusters wrap into the next row of frequencies, and the
    /// surplus is taken from the highest ones, as upstream does; patches of full height are drawn one
    /// by one.
    pub fn draw(&self, grid: (usize, usize), random: &mut Random) -> Vec<u32> {
        let all = grid.0 * grid.1;
        if grid.0 == 1 {
            let mut chosen: Vec<u32> = random
                .order(all)
                .into_iter()
                .take(self.patches)
                .map(|patch| patch as u32)
                .collect();
            chosen.sort_unstable();
            return chosen;
        }
        let (low, high) = (*self.cluster.start(), *self.cluster.end());
        let side = low + random.below(high - low + 1);
        let mut chosen = BTreeSet::new();
        while chosen.len() <= self.patches {
            let corner = random.below(all);
            let cluster = (0..side).flat_map(|row| (0..side).map(move |column| (row, column)));
            let indices = cluster.map(|(row, column)| corner + row * grid.1 + column);
            chosen.extend(indices.filter(|index| (1..all).contains(index)));
        }
        chosen.into_iter().take(self.patches).map(|patch| patch as u32).collect()
    }
}

impl Network {
    /// A network for pretraining with initial values.
    ///
    /// # Errors
    /// When patches would overlap, as they must not, or do not fit the recipe.
    pub fn for_pretraining(config: impl Into<Config>, recipe: Recipe, seed: u64) -> Result<Self> {
        let config = config.into().with_classes(None);
        let (rows, columns) = recipe.grid(&config)?;
        let mut tensors = config.initial(rows * columns, seed)?;
        tensors.extend(initial::pretraining_heads(config.sizes(), seed)?);
        let Sizes { patch_f, patch_t, .. } = config.sizes();
        ensure!(
            (recipe.stride_f, recipe.stride_t) == (patch_f, patch_t),
            "pretraining takes patches that do not overlap: patch {patch_f} x {patch_t}, stride {} x {}",
            recipe.stride_f,
            recipe.stride_t
        );
        let input = (recipe.front_end.n_mels, recipe.front_end.n_frames);
        Self::new(recipe, tensors, Some(input))
    }

    /// A network for pretraining that goes on from a pretraining checkpoint; its input and its patches
    /// take the place of the recipe's.
    ///
    /// # Errors
    /// When it is no pretraining checkpoint of either network.
    pub fn to_pretrain(checkpoint: &Checkpoint, mut recipe: Recipe) -> Result<Self> {
        let weights = Weights::load(checkpoint)?;
        let Some((n_mels, n_frames)) = weights.pretraining_input() else {
            bail!(
                "{}: no pretraining checkpoint, it has no prediction heads",
                checkpoint.path.display()
            );
        };
        let Sizes { patch_f, patch_t, .. } = weights.config().sizes();
        (recipe.front_end.n_mels, recipe.front_end.n_frames) = (n_mels, n_frames);
        (recipe.stride_f, recipe.stride_t) = (patch_f, patch_t);
        // Neither the size of the input, which the recipe tells, nor the heads that are never called.
        let trained = |name: &str| !name.starts_with("p_input_") && !name.starts_with("v.head");
        let tensors = checkpoint.tensors.iter().filter(|(name, _)| trained(name));
        let tensors = tensors.map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
        Self::new(recipe, tensors, Some((n_mels, n_frames)))
    }

    /// Both losses of `fbank` `[batch, n_frames, n_mels]`, with the patches of each clip that are
    /// hidden from the discriminative task and from the generative one, as many in every clip.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn pretraining_losses(
        &self,
        fbank: &Tensor,
        discriminative: &[Vec<u32>],
        generative: &[Vec<u32>],
    ) -> Result<Losses> {
        let patches = self.patches(fbank)?;
        let (truth, tokens) = self.hidden(fbank, &patches, discriminative)?;
        let count = truth.dim(1)?;
        let predicted = self.predict("cpredlayer", &tokens)?;
        let scores = log_softmax(&truth.matmul(&predicted.t()?)?)?;
        let own = scores.broadcast_mul(&Tensor::eye(count, scores.dtype(), &Device::Cpu)?)?;
        let nce = (own.sum_all()?.neg()? / count as f64)?;
        // Down the columns: which patch fits a prediction best.
        let columns = scores.transpose(1, 2)?.contiguous()?.to_vec3::<f32>()?;
        let hits = columns.iter().flat_map(|clip| clip.iter().enumerate());
        let hits = hits.filter(|(i, column)| highest(column) == *i).count();

        let (truth, tokens) = self.hidden(fbank, &patches, generative)?;
        let of_clip = truth.elem_count() as f64 / truth.dim(0)? as f64;
        let mse = ((self.predict("gpredlayer", &tokens)? - truth)?.sqr()?.sum_all()? / of_clip)?;
        Ok(Losses { nce, mse, accuracy: hits as f64 / count as f64 })
    }

    /// What was in the hidden patches, `[batch, hidden, patch_f * patch_t]`, and their tokens after the
    /// encoder, `[batch, hidden, d_model]`.
    fn hidden(
        &self,
        fbank: &Tensor,
        patches: &Tensor,
        hidden: &[Vec<u32>],
    ) -> Result<(Tensor, Tensor)> {
        let (batch, all, _) = patches.dims3()?;
        let count = hidden.first().map_or(0, Vec::len);
        ensure!(
            hidden.len() == batch && hidden.iter().all(|row| row.len() == count),
            "{batch} clips take as many rows of hidden patches, one as long as the other"
        );
        let hit: Vec<u8> = hidden
            .iter()
            .flat_map(|row| (0..all).map(|patch| u8::from(row.contains(&(patch as u32)))))
            .collect();
        let hit = Tensor::from_vec(hit, (batch, all, 1), &Device::Cpu)?;
        let mask = self.parameter("mask_embed")?;
        let tokens = self.masked_tokens(fbank, |tokens| {
            let mask = mask.broadcast_as(tokens.shape())?;
            Ok(hit.broadcast_as(tokens.shape())?.where_cond(&mask, &tokens)?)
        })?;
        let chosen = |of: &Tensor, before: usize| -> Result<Tensor> {
            let (_, rows, width) = of.dims3()?;
            let clips = hidden.iter().enumerate();
            let indices: Vec<u32> = clips
                .flat_map(|(clip, row)| {
                    row.iter().map(move |patch| (clip * rows + before) as u32 + patch)
                })
                .collect();
            let indices = Tensor::from_vec(indices, batch * count, &Device::Cpu)?;
            let flat = of.reshape((batch * rows, width))?.index_select(&indices, 0)?;
            Ok(flat.reshape((batch, count, width))?)
        };
        Ok((chosen(patches, 0)?, chosen(&tokens, self.config().class_tokens())?))
    }

    /// A prediction head: two linear maps with a ReLU between.
    fn predict(&self, head: &str, tokens: &Tensor) -> Result<Tensor> {
        let linear = |x: &Tensor, layer: &str| -> Result<Tensor> {
            let weight = self.parameter(&format!("{head}.{layer}.weight"))?;
            let bias = self.parameter(&format!("{head}.{layer}.bias"))?;
            Ok(x.matmul(&weight.t()?)?.broadcast_add(bias)?)
        };
        let (batch, count, width) = tokens.dims3()?;
        let flat = tokens.reshape((batch * count, width))?;
        Ok(linear(&linear(&flat, "0")?.relu()?, "2")?.reshape((batch, count, ()))?)
    }
}

impl Trainer {
    /// One step on clips without labels; what is counted besides the loss is the accuracy, nce and
    /// mse.
    ///
    /// # Errors
    /// When a loss or gradient is not finite; the message names the step and the tensor.
    pub fn pretraining_step(
        &mut self,
        data: &Data,
        masking: &Masking,
        batch: &[usize],
        steps_of_epoch: usize,
    ) -> Result<Step> {
        let this = &*self;
        let (gradients, sums) = this.accumulate(batch, |part| {
            let masks = |clip: &usize| {
                let mut random = this.random(MASKS, *clip);
                let mut draw = || masking.draw(this.network.grid(), &mut random);
                (draw(), draw())
            };
            let masks: (Vec<_>, Vec<_>) = part.iter().map(masks).unzip();
            let clips = part.iter().map(|&clip| data.clips[clip].frames.as_slice());
            this.measure_losses(clips, masks)
        })?;
        self.apply(gradients, &sums, steps_of_epoch)
    }

    /// Means over `data` of accuracy, nce and mse, always with the same masks.
    ///
    /// # Errors
    /// Never for clips of the recipe's mel bins.
    pub fn pretraining_scores(&self, data: &Data, masking: &Masking) -> Result<[f64; 3]> {
        let mut sums = [0.0; 3];
        for (number, part) in data.clips.chunks(self.part()).enumerate() {
            let masks = |place: usize| {
                let index = number * self.part() + place;
                let mut random = Random::new(self.seed, &[MASKS, u64::MAX, index as u64]);
                let mut draw = || masking.draw(self.network.grid(), &mut random);
                (draw(), draw())
            };
            let masks = (0..part.len()).map(masks).unzip();
            let clips = part.iter().map(|clip| clip.frames.as_slice());
            let measured = self.measure_losses(clips, masks)?;
            sums.iter_mut().zip(measured.others).for_each(|(sum, x)| *sum += x);
        }
        Ok(sums.map(|sum| sum / data.clips.len().max(1) as f64))
    }

    fn measure_losses<'a>(
        &self,
        clips: impl Iterator<Item = &'a [f32]>,
        (discriminative, generative): (Vec<Vec<u32>>, Vec<Vec<u32>>),
    ) -> Result<Measured> {
        let front_end = &self.network.recipe().front_end;
        let fbanks: Vec<f32> = clips.flat_map(|frames| augment::plain(frames, front_end)).collect();
        let shape = (discriminative.len(), front_end.n_frames, front_end.n_mels);
        let fbank = Tensor::from_vec(fbanks, shape, &Device::Cpu)?;
        let Losses { nce, mse, accuracy } =
            self.network.pretraining_losses(&fbank, &discriminative, &generative)?;
        let number = |tensor: &Tensor| -> Result<f64> {
            Ok(f64::from(tensor.to_scalar::<f32>().context("a scalar")?))
        };
        let others = [accuracy, number(&nce)?, number(&mse)?];
        Ok(Measured { loss: (nce + (mse * GENERATIVE)?)?, others })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_never_reach_the_first_patch_and_are_cut_from_above() {
        for seed in 0..20 {
            let mut random = Random::new(seed, &[]);
            let chosen = Masking::published(300).draw((8, 64), &mut random);
            assert_eq!(chosen.len(), 300);
            assert!(chosen.is_sorted() && chosen[0] > 0 && chosen[299] < 512);
            let alone = chosen.windows(3).filter(|w| w[0] + 1 < w[1] && w[1] + 1 < w[2]).count();
            assert!(alone < 20, "{alone} patches of 300 without a neighbour");
        }
    }

    #[test]
    fn patches_of_full_height_are_drawn_one_by_one() {
        let masking = Masking::published(10);
        let draws: Vec<_> =
            (0..50).map(|seed| masking.draw((1, 24), &mut Random::new(seed, &[]))).collect();
        assert!(draws.iter().all(|draw| draw.len() == 10 && draw.is_sorted()));
        assert!(draws.iter().any(|draw| draw[0] == 0));
    }
}
