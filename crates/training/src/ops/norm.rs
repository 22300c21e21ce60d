//! LayerNorm over the last axis, forward and backward in one pass each.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::{values, with_values};

/// Lanes of a sum, which fixes its order.
const LANES: usize = 8;

/// `(x - mean) / sqrt(variance + eps) * weight + bias`; `x` `[.., width]`, the others `[width]`.
pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    x.contiguous()?.apply_op3(weight, bias, LayerNorm { eps: eps as f32 })
}

struct LayerNorm {
    eps: f32,
}

/// The sum of `term` over indices up to `len`, eight partial sums side by side.
fn sum(len: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let whole = len - len % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    let tail: f32 = (whole..len).map(term).sum();
    lanes.iter().sum::<f32>() + tail
}

impl LayerNorm {
    /// Mean and reciprocal deviation of a row.
    fn statistics(&self, row: &[f32]) -> (f32, f32) {
        let width = row.len() as f32;
        let mean = sum(row.len(), |i| row[i]) / width;
        let variance = sum(row.len(), |i| (row[i] - mean) * (row[i] - mean)) / width;
        (mean, 1.0 / (variance + self.eps).sqrt())
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = values(x, x_layout)?;
        let (weight, bias) = (values(weight, weight_layout)?, values(bias, bias_layout)?);
        let mut out = vec![0.0; x.len()];
        for (row, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
            let (mean, scale) = self.statistics(row);
            for i in 0..out.len() {
                out[i] = (row[i] - mean) * scale * weight[i] + bias[i];
            }
        }
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let width = weight.elem_count();
        let mut of_x = vec![0.0; x.elem_count()];
        let (mut of_weight, mut of_bias) = (vec![0.0_f32; width], vec![0.0_f32; width]);
        with_values(x, |x| {
            with_values(weight, |weight| {
                with_values(&grad, |grad| {
                    let rows = x.chunks_exact(width).zip(grad.chunks_exact(width));
                    for ((row, grad), of_x) in rows.zip(of_x.chunks_exact_mut(width)) {
                        let (mean, scale) = self.statistics(row);
                        let normal = |i: usize| (row[i] - mean) * scale;
                        let inner = |i: usize| grad[i] * weight[i];
                        let mean_inner = sum(width, inner) / width as f32;
                        let mean_both = sum(width, |i| inner(i) * normal(i)) / width as f32;
                        for i in 0..width {
                            of_x[i] = scale * (inner(i) - mean_inner - normal(i) * mean_both);
                            of_weight[i] += grad[i] * normal(i);
                            of_bias[i] += grad[i];
                        }
                    }
                    Ok(())
                })
            })
        })?;
        let device = x.device();
        Ok((
            Some(Tensor::from_vec(of_x, x.shape(), device)?),
            Some(Tensor::from_vec(of_weight, width, device)?),
            Some(Tensor::from_vec(of_bias, width, device)?),
        ))
    }
}
