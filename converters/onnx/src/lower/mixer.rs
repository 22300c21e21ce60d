//! Mixers as nodes: projections, one `ShortConv` and one `SelectiveScan` for all streams; see
//! [`walks`] for the lowerings without them.
//!
//! Nothing is ever flipped. A layer that upstream feeds reversed tokens is the same mixer on the
//! tokens as they are, with the roles of its two parameter sets swapped; a stream that walks from
//! the last token to the first is marked in `reverse`. Streams
//! are ordered forward, reverse within every mixer, so one configuration serves the whole model.

use anyhow::Result;
use candle_core::Tensor;
use ssamba_contract::{
    Lowering,
    op::{self, Combine},
};
use ssamba_model::{
    Config,
    weights::{MixerWeights, StreamWeights},
};

use super::{
    block::Encoder,
    matrix::{Matrix, vector},
    walks,
};
use crate::{
    Precision,
    conv_function::ConvConfiguration,
    graph::{GraphBuilder, Value},
};

/// A mixer and the order of tokens that upstream feeds it.
#[derive(Clone, Copy)]
pub(crate) struct Oriented<'a> {
    pub(crate) mixer: &'a MixerWeights,
    pub(crate) reversed: bool,
}

impl<'a> Oriented<'a> {
    /// The parameters that walk left to right, then those that walk right to left.
    pub(crate) fn streams(self) -> [&'a StreamWeights; 2] {
        match self.reversed {
            false => [&self.mixer.forward, &self.mixer.reverse],
            true => [&self.mixer.reverse, &self.mixer.forward],
        }
    }
}

/// In-projections of all mixers side by side, `[d_model, mixers * d_inner]`, with the norm's weight
/// and bias folded in.
///
/// The weight scales rows. The bias would be added after the product, to what is many times as wide
/// as the norm's result; instead it goes into the product too. A layer norm's result `n` has mean
/// zero, so all rows of a matrix may be shifted by the same row and `n` times it stays the same, and
/// `n + 1` times it is that plus the sum of its rows: they are shifted until this sum is the offset.
pub(crate) struct InProjection {
    x: Matrix,
    z: Matrix,
    /// Whether it is to be given `n + 1`.
    pub(crate) lifted: bool,
}

/// Parameters of a norm, to be folded.
pub(crate) struct NormParameters {
    pub(crate) weight: Vec<f64>,
    /// Of a layer norm alone.
    pub(crate) bias: Option<Vec<f64>>,
}

impl InProjection {
    /// `norms` belong to the mixers, one each; `None` leaves the norm to the graph.
    pub(crate) fn new(mixers: &[Oriented<'_>], norms: Option<&[NormParameters]>) -> Result<Self> {
        let lifted = norms.is_some_and(|norms| norms.iter().any(|norm| norm.bias.is_some()));
        let (mut xs, mut zs) = (Vec::new(), Vec::new());
        for (index, oriented) in mixers.iter().enumerate() {
            let mut weight = Matrix::transposed(&oriented.mixer.in_proj)?;
            let d_inner = weight.columns / 2;
            if let Some(norm) = norms.map(|norms| &norms[index]) {
                let offset = norm.bias.as_ref().map(|bias| weight.apply(bias));
                weight = weight.scale_rows(&norm.weight);
                if lifted {
                    let offset = offset.unwrap_or_else(|| vec![0.0; weight.columns]);
                    weight = weight.shift_rows_to_sum(&offset);
                }
            }
            xs.push(weight.columns(0, d_inner));
            zs.push(weight.columns(d_inner, d_inner));
        }
        Ok(Self { x: Matrix::beside(&xs), z: Matrix::beside(&zs), lifted })
    }
}

/// Everything of the mixers but the norm: `hidden` `[batch, seq_len, d_model]` to the same shape.
/// `out_scale` is folded into the out-projection.
pub(crate) fn mixers(
    g: &mut GraphBuilder,
    encoder: &Encoder<'_>,
    mixers: &[Oriented<'_>],
    in_projection: &InProjection,
    out_scale: f64,
    hidden: &Value,
) -> Result<Value> {
    let precision = encoder.precision;
    let project = |g: &mut GraphBuilder, weight: &Matrix| {
        let weight = g.numbers("weight", &weight.shape(), &weight.data, precision);
        g.matmul(hidden, &weight)
    };
    let x = g.scope("in_proj_x", |g| project(g, &in_projection.x));
    let z = g.scope("in_proj_z", |g| project(g, &in_projection.z));

    let y = match (encoder.lowering, precision) {
        (Lowering::Function, _) => {
            let u = short_conv(g, encoder.conv, mixers, &x)?;
            selective_scan(g, encoder, mixers, &u, &z)?
        }
        (_, Precision::F16) => {
            let [x, z] = [x, z].map(|value| g.cast(&value, Precision::F32));
            let y = walks::mixers(g, encoder, mixers, &x, &z)?;
            g.cast(&y, precision)
        }
        _ => walks::mixers(g, encoder, mixers, &x, &z)?,
    };

    let kept_apart =
        encoder.lowering == Lowering::Function && encoder.scan.combine == Combine::None;
    let mut out = Vec::new();
    for oriented in mixers {
        let weight = Matrix::transposed(&oriented.mixer.out_proj)?.scale(out_scale);
        let directions = if kept_apart { oriented.streams().len() } else { 1 };
        out.extend(vec![weight; directions]);
    }
    let out = Matrix::below(&out);
    let weight = g.numbers("out_proj.weight", &out.shape(), &out.data, precision);
    Ok(g.scope("out_proj", |g| g.matmul(&y, &weight)))
}

/// Short convolutions and SiLU: `x` `[batch, seq_len, mixers * d_inner]` to `u`
/// `[batch, seq_len, streams * d_inner]` or, for a CPU, `[streams, batch * seq_len, d_inner]`.
fn short_conv(
    g: &mut GraphBuilder,
    conv: &ConvConfiguration,
    mixers: &[Oriented<'_>],
    x: &Value,
) -> Result<Value> {
    let (mut taps, mut bias) = (Vec::new(), Vec::new());
    for stream in mixers.iter().flat_map(|mixer| mixer.streams()) {
        taps.extend(vector(&stream.conv_weight)?);
        bias.extend(vector(&stream.conv_bias)?);
    }
    let taps = g.floats("conv1d.weight", &[bias.len(), conv.d_conv], &taps);
    let bias = g.floats("conv1d.bias", &[bias.len()], &bias);
    let mut u = g.node_in(op::DOMAIN, op::SHORT_CONV, &[x, &taps, &bias], &conv.attributes(), 1);
    Ok(u.remove(0))
}

/// The projections of every stream and the scan of all: `[batch, seq_len, mixers * d_inner]`, or as
/// many blocks as streams where their sums are kept apart.
fn selective_scan(
    g: &mut GraphBuilder,
    encoder: &Encoder<'_>,
    mixers: &[Oriented<'_>],
    u: &Value,
    z: &Value,
) -> Result<Value> {
    let &Config { d_inner, d_state, .. } = encoder.config();
    let streams: Vec<&StreamWeights> = mixers.iter().flat_map(|mixer| mixer.streams()).collect();
    let (mut a, mut d_skip, mut delta_bias) = (Vec::new(), Vec::new(), Vec::new());
    for stream in &streams {
        a.extend(vector(&stream.a_log)?.into_iter().map(|a_log| -a_log.exp()));
        d_skip.extend(vector(&stream.d_skip)?);
        delta_bias.extend(vector(&stream.dt_bias)?);
    }
    let [delta, b, c] = match encoder.gpu {
        false => project_each(g, encoder, &streams, u)?,
        true => project_all(g, encoder, &streams, u)?,
    };
    let width = streams.len() * d_inner;
    let a = g.floats("A", &[width, d_state], &a);
    let d_skip = g.floats("D", &[width], &d_skip);
    let delta_bias = g.floats("dt_proj.bias", &[width], &delta_bias);
    let operands = [u, &delta, &a, &b, &c, &d_skip, z, &delta_bias];
    let attributes = encoder.scan.attributes();
    let mut y = g.node_in(op::DOMAIN, op::SELECTIVE_SCAN, &operands, &attributes, 1);
    Ok(y.remove(0))
}

/// `delta` `[streams, batch * seq_len, d_inner]` and the rows that hold `B` and `C`, a product for each
/// stream: the fewest operations, for a CPU. The streams lie one after the other, as [`short_conv`] puts
/// them and the scan takes them, so nothing is cut but `dt`, and nothing is put together.
fn project_each(
    g: &mut GraphBuilder,
    encoder: &Encoder<'_>,
    streams: &[&StreamWeights],
    u: &Value,
) -> Result<[Value; 3]> {
    let dt_rank = encoder.config().dt_rank;
    let mut stack = |name: &str, weights: Vec<&Tensor>| {
        let matrices: Vec<Matrix> =
            weights.into_iter().map(Matrix::transposed).collect::<Result<_>>()?;
        let Matrix { rows, columns, data } = Matrix::below(&matrices);
        let shape = [matrices.len(), rows / matrices.len(), columns];
        anyhow::Ok(g.floats(name, &shape, &data))
    };
    let x_proj = stack("x_proj.weight", streams.iter().map(|stream| &stream.x_proj).collect())?;
    let dt_proj = stack("dt_proj.weight", streams.iter().map(|stream| &stream.dt_proj).collect())?;
    let projected = g.scope("x_proj", |g| g.matmul(u, &x_proj));
    let delta = g.scope("dt_proj", |g| {
        let dt = g.slice(&projected, 2, 0, dt_rank);
        g.matmul(&dt, &dt_proj)
    });
    Ok([delta, projected.clone(), projected])
}

/// The same with one product for all streams, whose matrix is mostly zeros: the fewest bytes, for a
/// GPU, which multiplies by them in less time than it takes to cut `u` into streams.
fn project_all(
    g: &mut GraphBuilder,
    encoder: &Encoder<'_>,
    streams: &[&StreamWeights],
    u: &Value,
) -> Result<[Value; 3]> {
    let &Config { d_state, dt_rank, .. } = encoder.config();
    let x_proj = streams
        .iter()
        .map(|stream| Matrix::transposed(&stream.x_proj))
        .collect::<Result<Vec<_>>>()?;
    let dt_proj = streams
        .iter()
        .map(|stream| Matrix::transposed(&stream.dt_proj))
        .collect::<Result<Vec<_>>>()?;
    let part = |start, count| {
        let parts: Vec<Matrix> = x_proj.iter().map(|matrix| matrix.columns(start, count)).collect();
        Matrix::diagonal(&parts)
    };
    let all = Matrix::beside(&[
        part(0, dt_rank),
        part(dt_rank, d_state),
        part(dt_rank + d_state, d_state),
    ]);
    let (ranks, states) = (streams.len() * dt_rank, streams.len() * d_state);
    let mut dt_proj = Matrix::diagonal(&dt_proj);
    let cut = encoder.scan.columns.is_none();
    if !cut {
        // Rows of zeros for what is not `dt`: it is multiplied where it is, in tensor cores.
        let nothing = Matrix::zeros(2 * states, dt_proj.columns);
        dt_proj = Matrix::below(&[dt_proj, nothing]);
    }
    let x_proj = g.numbers("x_proj.weight", &all.shape(), &all.data, encoder.precision);
    let dt_proj = g.numbers("dt_proj.weight", &dt_proj.shape(), &dt_proj.data, encoder.precision);
    let projected = g.scope("x_proj", |g| g.matmul(u, &x_proj));
    let dt = if cut { g.slice(&projected, 2, 0, ranks) } else { projected.clone() };
    let delta = g.scope("dt_proj", |g| g.matmul(&dt, &dt_proj));
    if !cut {
        return Ok([delta, projected.clone(), projected]);
    }
    let b = g.slice(&projected, 2, ranks, ranks + states);
    let c = g.slice(&projected, 2, ranks + states, ranks + 2 * states);
    Ok([delta, b, c])
}
