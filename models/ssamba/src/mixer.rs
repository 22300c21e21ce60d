//! The bidirectional Mamba mixer, Vim's "v2": one projection in, two scans, one projection out.
//!
//! hustvl/Vim@6143d07 `mamba-1p1p1/mamba_ssm/modules/mamba_simple.py:168-247` and
//! `ops/selective_scan_interface.py:157-224`, written down in plain tensor operations: this is what
//! faster code is judged by, so it shares none with it.

use candle_core::{D, Result, Tensor};
use ssamba_model_common::layers::linear;

use crate::weights::{MixerWeights, StreamWeights};

/// Above this, softplus is the identity, upstream and here.
const SOFTPLUS_THRESHOLD: f64 = 20.0;
/// Tokens whose decays are held at once, `[tokens, batch, d_inner, d_state]`.
const SCAN_CHUNK: usize = 128;

impl MixerWeights {
    /// `hidden` `[batch, seq_len, d_model]` to the same shape. `halve` takes the mean of the two
    /// directions instead of their sum.
    pub fn forward(&self, hidden: &Tensor, halve: bool) -> Result<Tensor> {
        let xz = linear(hidden, &self.in_proj)?;
        let xz = xz.chunk(2, D::Minus1)?;
        let (x, z) = (xz[0].contiguous()?, xz[1].contiguous()?);
        let forward = self.forward.run(&x, &z)?;
        let reverse = self.reverse.run(&x.flip(&[1])?, &z.flip(&[1])?)?.flip(&[1])?;
        let sum = (forward + reverse)?;
        let mixed = if halve { (sum / 2.0)? } else { sum };
        linear(&mixed, &self.out_proj)
    }
}

impl StreamWeights {
    /// One direction, left to right, gated: `x` and `z` `[batch, seq_len, d_inner]`.
    fn run(&self, x: &Tensor, z: &Tensor) -> Result<Tensor> {
        let (d_inner, dt_rank) = self.dt_proj.dims2()?;
        let d_state = self.a_log.dim(1)?;
        let u = silu(&self.convolve(x)?)?;
        let projected = linear(&u, &self.x_proj)?;
        let dt = projected.narrow(D::Minus1, 0, dt_rank)?;
        let b = projected.narrow(D::Minus1, dt_rank, d_state)?;
        let c = projected.narrow(D::Minus1, dt_rank + d_state, d_state)?;
        let dt = softplus(&linear(&dt, &self.dt_proj)?.broadcast_add(&self.dt_bias)?)?;
        let a = self.a_log.exp()?.neg()?;
        let y = selective_scan(&u, &dt, &a, &b, &c)?;
        let skip = u.broadcast_mul(&self.d_skip.reshape((1, 1, d_inner))?)?;
        (y + skip)? * silu(z)?
    }

    /// Causal depthwise convolution: the last tap meets the current token.
    fn convolve(&self, x: &Tensor) -> Result<Tensor> {
        let (_, seq_len, d_inner) = x.dims3()?;
        let d_conv = self.conv_weight.dim(1)?;
        let padded = x.pad_with_zeros(1, d_conv - 1, 0)?;
        let mut sum = x.zeros_like()?.broadcast_add(&self.conv_bias)?;
        for tap in 0..d_conv {
            let weight = self.conv_weight.narrow(1, tap, 1)?.reshape((1, 1, d_inner))?;
            sum = (sum + padded.narrow(1, tap, seq_len)?.broadcast_mul(&weight)?)?;
        }
        Ok(sum)
    }
}

/// The recurrence: for every channel and state,
/// `h = exp(dt * a) * h + dt * b * u`, `y = sum over states of c * h`.
///
/// `u`, `dt` `[batch, seq_len, d_inner]`, `a` `[d_inner, d_state]`, `b`, `c` `[batch, seq_len, d_state]`.
pub fn selective_scan(
    u: &Tensor,
    dt: &Tensor,
    a: &Tensor,
    b: &Tensor,
    c: &Tensor,
) -> Result<Tensor> {
    let (batch, seq_len, d_inner) = u.dims3()?;
    let d_state = a.dim(1)?;
    let time_major = |tensor: &Tensor| tensor.transpose(0, 1)?.contiguous();
    let (du, dt) = (time_major(&(dt * u)?)?.unsqueeze(3)?, time_major(dt)?.unsqueeze(3)?);
    let (b, c) = (time_major(b)?.unsqueeze(2)?, time_major(c)?.unsqueeze(2)?);

    let mut h = Tensor::zeros((batch, d_inner, d_state), u.dtype(), u.device())?;
    let mut ys = Vec::with_capacity(seq_len);
    for start in (0..seq_len).step_by(SCAN_CHUNK) {
        let len = SCAN_CHUNK.min(seq_len - start);
        let decay = dt.narrow(0, start, len)?.broadcast_mul(a)?.exp()?;
        let input = du.narrow(0, start, len)?.broadcast_mul(&b.narrow(0, start, len)?)?;
        for t in 0..len {
            h = ((decay.get(t)? * &h)? + input.get(t)?)?;
            ys.push(h.broadcast_mul(&c.get(start + t)?)?.sum(D::Minus1)?);
        }
    }
    Tensor::stack(&ys, 1)
}

fn silu(x: &Tensor) -> Result<Tensor> {
    x / (x.neg()?.exp()? + 1.0)?
}

fn softplus(x: &Tensor) -> Result<Tensor> {
    // max(x, 0) + log(1 + exp(-|x|)) neither overflows nor cancels.
    let smooth = (x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
    x.gt(SOFTPLUS_THRESHOLD)?.where_cond(x, &smooth)
}
