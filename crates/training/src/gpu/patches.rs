//! The projection of patches as a node of candle's graph.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use ssamba_scan::cuda::{Bias, PatchSizes, Patches, SumPlan};

use super::{
    Gpu,
    node::{Kept, wrapped},
    run::{Room, Run},
};
use crate::ops::{values, with_values};

pub(super) struct Project {
    sizes: PatchSizes,
    kept: Kept,
}

/// Places in the memory of a pass.
struct Places {
    /// `[batch * patches, patch_f * patch_t]`
    patches: usize,
    fbank: usize,
    /// `[d_model, patch_f * patch_t]`, of the parameter or its gradient.
    weight: usize,
    /// `[d_model]`, likewise.
    bias: usize,
    /// `[batch * patches, d_model]`, of the result or its gradient.
    out: usize,
    partial: usize,
    len: usize,
}

impl Project {
    pub(super) fn new(gpu: &Arc<Gpu>, sizes: PatchSizes) -> Self {
        Self { sizes, kept: Kept::new(gpu) }
    }

    /// Patches of a batch, and values of a patch.
    fn rows_and_size(&self) -> (usize, usize) {
        let PatchSizes { batch, grid, patch, .. } = self.sizes;
        (batch * grid.0 * grid.1, patch.0 * patch.1)
    }

    fn places(&self, d_model: usize) -> Places {
        let (rows, size) = self.rows_and_size();
        let PatchSizes { batch, input, .. } = self.sizes;
        let mut room = Room::default();
        let mut take = |values: usize| room.take(values);
        let places = Places {
            patches: take(rows * size),
            fbank: take(batch * input.0 * input.1),
            weight: take(d_model * size),
            bias: take(d_model),
            out: take(rows * d_model),
            partial: take(Bias::parts(rows) * d_model),
            len: 0,
        };
        Places { len: room.len, ..places }
    }

    fn forward(
        &self,
        run: &mut Run<'_>,
        places: &Places,
        [fbank, weight, bias]: [&[f32]; 3],
    ) -> anyhow::Result<Vec<f32>> {
        let ((rows, size), d_model) = (self.rows_and_size(), bias.len());
        for (place, values) in [(places.fbank, fbank), (places.weight, weight), (places.bias, bias)]
        {
            run.memory.write(place, values)?;
        }
        let (cut, launch) =
            Patches::new(run.at(places.fbank), run.at(places.patches), &self.sizes)?;
        run.training(launch, cut)?;
        run.multiply(
            [rows, d_model, size, 1],
            run.dense(places.patches, size, 0),
            run.dense(places.weight, size, 0).t(),
            run.dense(places.out, d_model, 0),
            false,
        )?;
        run.add_bias(places.out, places.bias, rows, d_model)?;
        let mut out = vec![0.0; rows * d_model];
        run.memory.read(places.out, &mut out)?;
        Ok(out)
    }

    /// Gradients of weight and bias.
    fn backward(
        &self,
        run: &mut Run<'_>,
        places: &Places,
        grad: &[f32],
        d_model: usize,
    ) -> anyhow::Result<(Vec<f32>, Vec<f32>)> {
        let (rows, size) = self.rows_and_size();
        run.memory.write(places.out, grad)?;
        run.multiply(
            [d_model, size, rows, 1],
            run.dense(places.out, d_model, 0).t(),
            run.dense(places.patches, size, 0),
            run.dense(places.weight, size, 0),
            false,
        )?;
        let size_of_bias = (rows, d_model);
        let sums = SumPlan::default();
        let sums = run.columns(sums, places.out, places.partial, places.bias, size_of_bias)?;
        run.training(sums.launch(), sums)?;
        let (mut weight, mut bias) = (vec![0.0; d_model * size], vec![0.0; d_model]);
        run.memory.read(places.weight, &mut weight)?;
        run.memory.read(places.bias, &mut bias)?;
        Ok((weight, bias))
    }
}

impl CustomOp3 for Project {
    fn name(&self) -> &'static str {
        "patches-on-gpu"
    }

    fn cpu_fwd(
        &self,
        fbank: &CpuStorage,
        fbank_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let operands = [
            values(fbank, fbank_layout)?,
            values(weight, weight_layout)?,
            values(bias, bias_layout)?,
        ];
        let d_model = operands[2].len();
        let places = self.places(d_model);
        let work = |run: &mut Run<'_>| self.forward(run, &places, operands);
        let out = self.kept.forward(places.len, work).map_err(wrapped)?;
        let PatchSizes { batch, grid, .. } = self.sizes;
        Ok((CpuStorage::F32(out), (batch, grid.0 * grid.1, d_model).into()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let d_model = bias.elem_count();
        let places = self.places(d_model);
        let (of_weight, of_bias) = with_values(&grad.contiguous()?, |grad| {
            let work = |run: &mut Run<'_>| self.backward(run, &places, grad, d_model);
            self.kept.backward(work).map_err(wrapped)
        })?;
        Ok((
            None,
            Some(Tensor::from_vec(of_weight, weight.shape(), weight.device())?),
            Some(Tensor::from_vec(of_bias, bias.shape(), bias.device())?),
        ))
    }
}
