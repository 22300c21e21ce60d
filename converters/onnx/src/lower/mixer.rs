//! Mixers as nodes: projections, one `ShortConv` and one `SelectiveScan` for all streams; see
//! [`chunk`] for the lowering without them.
//!
//! Nothing is ever flipped. A layer that upstream feeds reversed tokens is the same mixer on the
//! tokens as they are, with the roles of its two parameter sets swapped; a stream that walks from
//! the last token to the first is marked in `reverse`. Streams
//! are ordered forward, reverse within every mixer, so one configuration serves the whole model.

use anyhow::Result;
use ssamba_contract::{Lowering, op};
use ssamba_model::{
    Config,
    weights::{MixerWeights, StreamWeights},
};

use super::{
    block::Encoder,
    chunk,
    matrix::{Matrix, vector},
};
use crate::{
    conv_function::ConvConfiguration,
    function::ScanConfiguration,
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

/// In-projection of all mixers side by side, [d_model, 2 * mixers * d_inner]: every `x`, then every
/// `z`, with the norm's weight folded into the rows and its bias into the returned offset.
pub(crate) struct InProjection {
    pub(crate) weight: Matrix,
    pub(crate) offset: Option<Vec<f64>>,
}

/// Parameters of a norm, to be folded.
pub(crate) struct NormParameters {
    pub(crate) weight: Vec<f64>,
    pub(crate) bias: Option<Vec<f64>>,
}

impl InProjection {
    /// `norms` belong to the mixers, one each; `None` leaves the norm to the graph.
    pub(crate) fn new(mixers: &[Oriented<'_>], norms: Option<&[NormParameters]>) -> Result<Self> {
        let (mut xs, mut zs) = (Vec::new(), Vec::new());
        let mut offsets = Vec::new();
        for (index, oriented) in mixers.iter().enumerate() {
            let mut weight = Matrix::transposed(&oriented.mixer.in_proj)?;
            let d_inner = weight.columns / 2;
            if let Some(norm) = norms.map(|norms| &norms[index]) {
                if let Some(bias) = &norm.bias {
                    offsets.push(weight.apply(bias));
                }
                weight = weight.scale_rows(&norm.weight);
            }
            xs.push(weight.columns(0, d_inner));
            zs.push(weight.columns(d_inner, d_inner));
        }
        let halves =
            |half: fn(&[f64]) -> &[f64]| offsets.iter().flat_map(move |offset| half(offset));
        let offset = (!offsets.is_empty()).then(|| {
            halves(|offset| &offset[..offset.len() / 2])
                .chain(halves(|offset| &offset[offset.len() / 2..]))
                .copied()
                .collect()
        });
        xs.extend(zs);
        Ok(Self { weight: Matrix::beside(&xs), offset })
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
    let config = encoder.config();
    let width = mixers.len() * config.d_inner;
    let weight =
        g.floats("in_proj.weight", &in_projection.weight.shape(), &in_projection.weight.data);
    let mut xz = g.scope("in_proj", |g| g.matmul(hidden, &weight));
    if let Some(offset) = &in_projection.offset {
        let offset = g.floats("in_proj.bias", &[offset.len()], offset);
        xz = g.scope("in_proj", |g| g.add(&xz, &offset));
    }
    let [x, z]: [Value; 2] = g
        .split(&xz, 2, &[width, width])
        .try_into()
        .map_err(|_| anyhow::anyhow!("a split in two has two outputs"))?;

    let y = match encoder.lowering {
        Lowering::Function => {
            let u = short_conv(g, encoder.conv, mixers, &x)?;
            selective_scan(g, config, mixers, encoder.scan, &u, &z)?
        }
        Lowering::Chunk => chunk::mixers(g, config, mixers, encoder.model.seq_len(), &x, &z)?,
    };

    let out = mixers
        .iter()
        .map(|oriented| Matrix::transposed(&oriented.mixer.out_proj))
        .collect::<Result<Vec<_>>>()?;
    let out = Matrix::below(&out).scale(out_scale);
    let weight = g.floats("out_proj.weight", &out.shape(), &out.data);
    Ok(g.scope("out_proj", |g| g.matmul(&y, &weight)))
}

/// Short convolutions and SiLU: `x` `[batch, seq_len, mixers * d_inner]` to
/// `u` `[batch, seq_len, streams * d_inner]`.
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

/// The projections of every stream and the scan of all: `[batch, seq_len, mixers * d_inner]`.
fn selective_scan(
    g: &mut GraphBuilder,
    config: &Config,
    mixers: &[Oriented<'_>],
    scan: &ScanConfiguration,
    u: &Value,
    z: &Value,
) -> Result<Value> {
    let &Config { d_inner, d_state, dt_rank, .. } = config;
    let streams: Vec<&StreamWeights> = mixers.iter().flat_map(|mixer| mixer.streams()).collect();
    let (mut delta, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
    let (mut a, mut d_skip, mut delta_bias) = (Vec::new(), Vec::new(), Vec::new());
    let pieces = g.split(u, 2, &vec![d_inner; streams.len()]);
    for (index, (stream, u)) in streams.iter().zip(&pieces).enumerate() {
        let x_proj = Matrix::transposed(&stream.x_proj)?;
        let dt_proj = Matrix::transposed(&stream.dt_proj)?;
        g.scope(format!("stream{index}"), |g| {
            let x_proj = g.floats("x_proj.weight", &x_proj.shape(), &x_proj.data);
            let dt_proj = g.floats("dt_proj.weight", &dt_proj.shape(), &dt_proj.data);
            let projected = g.scope("x_proj", |g| g.matmul(u, &x_proj));
            let parts = g.split(&projected, 2, &[dt_rank, d_state, d_state]);
            delta.push(g.scope("dt_proj", |g| g.matmul(&parts[0], &dt_proj)));
            b.push(parts[1].clone());
            c.push(parts[2].clone());
        });
        a.extend(vector(&stream.a_log)?.into_iter().map(|a_log| -a_log.exp()));
        d_skip.extend(vector(&stream.d_skip)?);
        delta_bias.extend(vector(&stream.dt_bias)?);
    }
    let width = streams.len() * d_inner;
    let (delta, b, c) = (g.concat(&delta, 2), g.concat(&b, 2), g.concat(&c, 2));
    let a = g.floats("A", &[width, d_state], &a);
    let d_skip = g.floats("D", &[width], &d_skip);
    let delta_bias = g.floats("dt_proj.bias", &[width], &delta_bias);
    let operands = [u, &delta, &a, &b, &c, &d_skip, z, &delta_bias];
    let mut y = g.node_in(op::DOMAIN, op::SELECTIVE_SCAN, &operands, &scan.attributes(), 1);
    Ok(y.remove(0))
}
