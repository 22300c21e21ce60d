//! Gradients of a scan and of a short convolution.
//!
//! With `g` the gradient of a scan's result, walking a stream backwards from `lambda = 0`, and all
//! names as in [`Scan`]:
//!
//! ```text
//! gs      = g * scale * silu(z)
//! lambda  = c * gs + decay[t + 1] * lambda[t + 1]            gradient of h
//! dc, db  = sum over channels of gs * h, of lambda * dt * u
//! du      = d_skip * gs + dt * sum over n of lambda * b
//! ddt     = u * (sum over n of lambda * b) + sum over n of lambda * a * decay * h[t - 1]
//! da      = sum over batch and t of lambda * dt * decay * h[t - 1]
//! ddelta  = ddt * sigmoid(delta + delta_bias)
//! dz      = g * scale * s * silu'(z)                         of all directions
//! ```
//!
//! States are not kept for all tokens: a first walk leaves one in [`SEGMENT`], from which the walk
//! back computes those of a segment again.
//!
//! A task is at most [`CHANNELS`] channels of one mixer in one batch. What is summed over batches, or
//! over the channels of several tasks, is written task by task and added in one order, so that a
//! result depends neither on the pool nor on the number of threads.

mod conv;
mod scan;

#[cfg(test)]
mod tests;

use crate::{
    ScanError, ShortConvError,
    blocks::{Blocks, Unfinished},
    layout::Layout,
    output::Output,
    pool::Pool,
    scan::Scan,
    short_conv::ShortConv,
    tier::{NotRun, Tier, tier},
};

/// Tokens from one kept state to the next.
const SEGMENT: usize = 16;

/// Most channels of a task: a multiple of the lanes of every tier.
const CHANNELS: usize = 128;

/// Gradients of the operands of a [`Scan`], each of its operand's shape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScanGradients {
    /// `[B, L, S * D]`
    pub u: Vec<f32>,
    /// `[B, L, S * D]`
    pub delta: Vec<f32>,
    /// `[S * D, N]`
    pub a: Vec<f32>,
    /// `[B, L, S * N]`
    pub b: Vec<f32>,
    /// `[B, L, S * N]`
    pub c: Vec<f32>,
    /// `[S * D]`; `None` where the scan has none.
    pub d_skip: Option<Vec<f32>>,
    /// `[B, L, G * D]`; `None` where the scan has none.
    pub z: Option<Vec<f32>>,
    /// `[S * D]`; `None` where the scan has none.
    pub delta_bias: Option<Vec<f32>>,
}

/// Gradients of the operands of a [`ShortConv`], each of its operand's shape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConvGradients {
    /// `[B, L, G * D]`
    pub x: Vec<f32>,
    /// `[S * D, K]`
    pub weight: Vec<f32>,
    /// `[S * D]`; `None` where the convolution has none.
    pub bias: Option<Vec<f32>>,
}

/// Gradients of a scan's operands, from the gradient of its output, `[B, L, G * D]` or with
/// [`Combine::None`](crate::Combine::None) `[B, L, S * D]`, on the fastest tier of this CPU.
///
/// # Errors
/// As [`selective_scan`](crate::selective_scan), and [`ScanError::Gradients`]; `out` is the gradient of
/// the output.
pub fn selective_scan_backward(
    scan: &Scan<'_>,
    grad_out: &[f32],
    pool: &dyn Pool,
) -> Result<ScanGradients, ScanError> {
    selective_scan_backward_on(tier(), scan, grad_out, pool)
}

/// [`selective_scan_backward`] on the tier named, for tests and measurements.
///
/// # Errors
/// As [`selective_scan_on`](crate::selective_scan_on).
pub fn selective_scan_backward_on(
    tier: Tier,
    scan: &Scan<'_>,
    grad_out: &[f32],
    pool: &dyn Pool,
) -> Result<ScanGradients, ScanError> {
    scan.check(grad_out)?;
    if scan.layout != Layout::Channels || scan.columns.is_some() {
        return Err(ScanError::Gradients);
    }
    let Scan { batch, d_inner, d_state, groups, .. } = *scan;
    let channels = scan.reverse.len() * d_inner;
    let chunks = d_inner.div_ceil(CHANNELS);
    let zeros = |len: usize| vec![0.0_f32; len];
    let mut u = zeros(scan.u.len());
    let mut delta = zeros(scan.u.len());
    let mut z = zeros(scan.z.map_or(0, <[f32]>::len));
    let mut a = zeros(batch * channels * d_state);
    let (mut b, mut c) = (zeros(chunks * scan.b.len()), zeros(chunks * scan.b.len()));
    let (mut d_skip, mut delta_bias) = (zeros(batch * channels), zeros(batch * channels));
    let kernel = scan::Backward {
        scan,
        grad_out,
        delta: Output::new(&mut delta),
        z: Output::new(&mut z),
        a: Output::new(&mut a),
        b: Output::new(&mut b),
        c: Output::new(&mut c),
        d_skip: Output::new(&mut d_skip),
        delta_bias: Output::new(&mut delta_bias),
    };
    let blocks = Blocks { batch, groups, d_inner };
    tier.run(&kernel, &blocks, &mut u, pool).map_err(|error| match error {
        NotRun::Unavailable(tier) => ScanError::Unavailable(tier),
        NotRun::Unfinished(Unfinished { finished, tasks }) => {
            ScanError::Unfinished { finished, tasks }
        }
    })?;
    Ok(ScanGradients {
        u,
        delta,
        a: fold(a, channels * d_state),
        b: fold(b, scan.b.len()),
        c: fold(c, scan.c.len()),
        d_skip: scan.d_skip.map(|_| fold(d_skip, channels)),
        z: scan.z.map(|_| z),
        delta_bias: scan.delta_bias.map(|_| fold(delta_bias, channels)),
    })
}

/// Gradients of a short convolution's operands, from the gradient of its output, `[B, L, S * D]`, on
/// the fastest tier of this CPU.
///
/// # Errors
/// As [`short_conv`](crate::short_conv), and [`ShortConvError::Gradients`]; `out` is the gradient of the
/// output.
pub fn short_conv_backward(
    conv: &ShortConv<'_>,
    grad_out: &[f32],
    pool: &dyn Pool,
) -> Result<ConvGradients, ShortConvError> {
    short_conv_backward_on(tier(), conv, grad_out, pool)
}

/// [`short_conv_backward`] on the tier named, for tests and measurements.
///
/// # Errors
/// As [`short_conv_on`](crate::short_conv_on).
pub fn short_conv_backward_on(
    tier: Tier,
    conv: &ShortConv<'_>,
    grad_out: &[f32],
    pool: &dyn Pool,
) -> Result<ConvGradients, ShortConvError> {
    conv.check(grad_out)?;
    if conv.layout != Layout::Channels {
        return Err(ShortConvError::Gradients);
    }
    let ShortConv { batch, d_inner, groups, taps, .. } = *conv;
    let channels = conv.reverse.len() * d_inner;
    let mut x = vec![0.0; conv.x.len()];
    let mut weight = vec![0.0; batch * channels * taps];
    let mut bias = vec![0.0; batch * channels];
    let kernel = conv::Backward {
        conv,
        grad_out,
        weight: Output::new(&mut weight),
        bias: Output::new(&mut bias),
    };
    let blocks = Blocks { batch, groups, d_inner };
    tier.run(&kernel, &blocks, &mut x, pool).map_err(|error| match error {
        NotRun::Unavailable(tier) => ShortConvError::Unavailable(tier),
        NotRun::Unfinished(Unfinished { finished, tasks }) => {
            ShortConvError::Unfinished { finished, tasks }
        }
    })?;
    Ok(ConvGradients {
        x,
        weight: fold(weight, channels * taps),
        bias: conv.bias.map(|_| fold(bias, channels)),
    })
}

/// The sum of consecutive parts of `len` values, in their order.
fn fold(mut parts: Vec<f32>, len: usize) -> Vec<f32> {
    if parts.len() > len {
        let (sum, rest) = parts.split_at_mut(len);
        for part in rest.chunks_exact(len.max(1)) {
            for (sum, value) in sum.iter_mut().zip(part) {
                *sum += value;
            }
        }
    }
    // Of an empty batch there is no part at all.
    parts.resize(len, 0.0);
    parts
}
