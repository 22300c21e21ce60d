//! One direction of a mixer between its in- and out-projection: convolution, SiLU, x- and
//! dt-projection, selective scan with softplus and skip, gate. One node of the graph, so that nothing
//! between them is copied, and states are not kept at all.
//!
//! candle's operations take three operands at most: the parameters come packed, one after the other.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, D, Device, Error, Layout, Result, Shape, Tensor, bail};
use ssamba_model::weights::StreamWeights;
use ssamba_scan::{
    Activation, Combine, Inline, Scan, ShortConv, selective_scan, selective_scan_backward,
    short_conv, short_conv_backward,
};

use super::{values, with_values};

/// How a direction runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Direction {
    /// From the last token to the first.
    pub(crate) reverse: bool,
    /// Factor on the result.
    pub(crate) scale: f32,
}

/// `x` and `z` `[batch, seq_len, d_inner]` to the gated result of one direction, of the same shape.
pub(crate) fn direction(
    x: &Tensor,
    z: &Tensor,
    weights: &StreamWeights,
    how: Direction,
) -> Result<Tensor> {
    let (batch, seq_len, d_inner) = x.dims3()?;
    let sizes = Sizes {
        batch,
        seq_len,
        d_inner,
        d_state: weights.a_log.dim(1)?,
        dt_rank: weights.dt_proj.dim(1)?,
        taps: weights.conv_weight.dim(1)?,
    };
    let parts = [
        &weights.conv_weight,
        &weights.conv_bias,
        &weights.x_proj,
        &weights.dt_proj,
        &weights.dt_bias,
        &weights.a_log,
        &weights.d_skip,
    ];
    let parts = parts.into_iter().map(Tensor::flatten_all).collect::<Result<Vec<_>>>()?;
    let packed = Tensor::cat(&parts, 0)?;
    let saved = Mutex::new(None);
    x.apply_op3(z, &packed, Node { sizes, how, reverse: [how.reverse], saved })
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    seq_len: usize,
    d_inner: usize,
    d_state: usize,
    dt_rank: usize,
    taps: usize,
}

/// Parameters, or their gradients, in the order in which they are packed.
struct Packed<T> {
    conv_weight: T,
    conv_bias: T,
    x_proj: T,
    dt_proj: T,
    dt_bias: T,
    a_log: T,
    d_skip: T,
}

impl Sizes {
    fn rows(&self) -> usize {
        self.batch * self.seq_len
    }

    /// Columns of the x-projection.
    fn columns(&self) -> usize {
        self.dt_rank + 2 * self.d_state
    }

    fn unpack<'a>(&self, packed: &'a [f32]) -> Result<Packed<&'a [f32]>> {
        let d = self.d_inner;
        let mut rest = packed;
        let mut take = |len: usize| match rest.split_at_checked(len) {
            Some((part, others)) => {
                rest = others;
                Ok(part)
            }
            None => bail!("the parameters of a direction are cut off"),
        };
        Ok(Packed {
            conv_weight: take(d * self.taps)?,
            conv_bias: take(d)?,
            x_proj: take(self.columns() * d)?,
            dt_proj: take(d * self.dt_rank)?,
            dt_bias: take(d)?,
            a_log: take(d * self.d_state)?,
            d_skip: take(d)?,
        })
    }
}

impl Packed<Vec<f32>> {
    fn pack(self) -> Vec<f32> {
        let parts = [
            self.conv_weight,
            self.conv_bias,
            self.x_proj,
            self.dt_proj,
            self.dt_bias,
            self.a_log,
            self.d_skip,
        ];
        parts.concat()
    }
}

/// What the backward pass reads of the forward pass.
struct Saved {
    /// `[rows, d_inner]`
    u: Tensor,
    /// `[rows, dt_rank + 2 * d_state]`
    projected: Tensor,
    /// `[rows, d_inner]`
    delta: Tensor,
    /// `[rows, d_state]`
    b: Vec<f32>,
    /// `[rows, d_state]`
    c: Vec<f32>,
    /// `[d_inner, d_state]`
    a: Vec<f32>,
}

struct Node {
    sizes: Sizes,
    how: Direction,
    reverse: [bool; 1],
    saved: Mutex<Option<Saved>>,
}

impl Node {
    fn conv<'a>(&'a self, x: &'a [f32], weights: &Packed<&'a [f32]>) -> ShortConv<'a> {
        let Sizes { batch, seq_len, d_inner, taps, .. } = self.sizes;
        ShortConv {
            batch,
            seq_len,
            d_inner,
            taps,
            groups: 1,
            reverse: &self.reverse,
            activation: Activation::Silu,
            layout: ssamba_scan::Layout::Channels,
            x,
            weight: weights.conv_weight,
            bias: Some(weights.conv_bias),
        }
    }

    fn scan<'a>(
        &'a self,
        [u, delta, z]: [&'a [f32]; 3],
        [a, b, c]: [&'a [f32]; 3],
        weights: &Packed<&'a [f32]>,
    ) -> Scan<'a> {
        let Sizes { batch, seq_len, d_inner, d_state, .. } = self.sizes;
        Scan {
            batch,
            seq_len,
            d_inner,
            d_state,
            groups: 1,
            reverse: &self.reverse,
            delta_softplus: true,
            combine: Combine::Sum,
            scale: self.how.scale,
            layout: ssamba_scan::Layout::Channels,
            columns: None,
            u,
            delta,
            a,
            b,
            c,
            d_skip: Some(weights.d_skip),
            z: Some(z),
            delta_bias: Some(weights.dt_bias),
        }
    }

    /// The x-projection's columns of `b` and of `c`, each dense.
    fn split(&self, projected: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let Sizes { d_state, dt_rank, .. } = self.sizes;
        let rows = projected.chunks_exact(self.sizes.columns());
        let column = |first: usize| {
            rows.clone().flat_map(|row| &row[first..first + d_state]).copied().collect()
        };
        (column(dt_rank), column(dt_rank + d_state))
    }
}

fn matrix(values: &[f32], rows: usize, columns: usize) -> Result<Tensor> {
    Tensor::from_slice(values, (rows, columns), &Device::Cpu)
}

impl CustomOp3 for Node {
    fn name(&self) -> &'static str {
        "mixer-direction"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        z: &CpuStorage,
        z_layout: &Layout,
        packed: &CpuStorage,
        packed_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes;
        let (x, z) = (values(x, x_layout)?, values(z, z_layout)?);
        let weights = sizes.unpack(values(packed, packed_layout)?)?;
        let mut u = vec![0.0; x.len()];
        short_conv(&self.conv(x, &weights), &mut u, &Inline).map_err(Error::wrap)?;
        let u = Tensor::from_vec(u, (sizes.rows(), sizes.d_inner), &Device::Cpu)?;
        let x_proj = matrix(weights.x_proj, sizes.columns(), sizes.d_inner)?;
        let projected = u.matmul(&x_proj.t()?)?;
        let dt_proj = matrix(weights.dt_proj, sizes.d_inner, sizes.dt_rank)?;
        let delta = projected.narrow(1, 0, sizes.dt_rank)?.matmul(&dt_proj.t()?)?;
        let (b, c) = with_values(&projected, |projected| Ok(self.split(projected)))?;
        let a: Vec<f32> = weights.a_log.iter().map(|a| -a.exp()).collect();
        let mut out = vec![0.0; x.len()];
        with_values(&u, |u| {
            with_values(&delta, |delta| {
                let scan = self.scan([u, delta, z], [&a, &b, &c], &weights);
                selective_scan(&scan, &mut out, &Inline).map_err(Error::wrap)
            })
        })?;
        let saved = Saved { u, projected, delta, b, c, a };
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        z: &Tensor,
        packed: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let sizes = self.sizes;
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(saved) = saved else { bail!("a direction of a mixer was differentiated twice") };
        let grad = grad.contiguous()?;
        with_values(packed, |packed| {
            let weights = sizes.unpack(packed)?;
            let of_scan = with_values(z, |z| {
                with_values(&saved.u, |u| {
                    with_values(&saved.delta, |delta| {
                        let states = [&*saved.a, &*saved.b, &*saved.c];
                        let scan = self.scan([u, delta, z], states, &weights);
                        with_values(&grad, |grad| {
                            selective_scan_backward(&scan, grad, &Inline).map_err(Error::wrap)
                        })
                    })
                })
            })?;
            let delta = Tensor::from_vec(of_scan.delta, (sizes.rows(), sizes.d_inner), x.device())?;
            let dt_proj = matrix(weights.dt_proj, sizes.d_inner, sizes.dt_rank)?;
            let step = saved.projected.narrow(1, 0, sizes.dt_rank)?;
            let of_dt_proj = delta.t()?.matmul(&step)?;
            let of_step = delta.matmul(&dt_proj)?;
            let states = |values: Vec<f32>| {
                Tensor::from_vec(values, (sizes.rows(), sizes.d_state), x.device())
            };
            let of_projected =
                Tensor::cat(&[of_step, states(of_scan.b)?, states(of_scan.c)?], D::Minus1)?;
            let of_x_proj = of_projected.t()?.matmul(&saved.u)?;
            let x_proj = matrix(weights.x_proj, sizes.columns(), sizes.d_inner)?;
            let through_projection = of_projected.matmul(&x_proj)?;
            let mut of_u = of_scan.u;
            with_values(&through_projection, |values| {
                of_u.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                Ok(())
            })?;
            let of_conv = with_values(x, |x| {
                short_conv_backward(&self.conv(x, &weights), &of_u, &Inline).map_err(Error::wrap)
            })?;
            let gradients = Packed {
                conv_weight: of_conv.weight,
                conv_bias: of_conv.bias.unwrap_or_default(),
                x_proj: of_x_proj.flatten_all()?.to_vec1()?,
                dt_proj: of_dt_proj.flatten_all()?.to_vec1()?,
                dt_bias: of_scan.delta_bias.unwrap_or_default(),
                // a = -exp(a_log)
                a_log: of_scan.a.iter().zip(&saved.a).map(|(grad, a)| grad * a).collect(),
                d_skip: of_scan.d_skip.unwrap_or_default(),
            };
            Ok((
                Some(Tensor::from_vec(of_conv.x, x.shape(), x.device())?),
                Some(Tensor::from_vec(of_scan.z.unwrap_or_default(), z.shape(), x.device())?),
                Some(Tensor::from_vec(gradients.pack(), packed.len(), x.device())?),
            ))
        })
    }
}
