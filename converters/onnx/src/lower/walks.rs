//! Mixers in plain operators: every stream walks forward on an axis of its own.
//!
//! First those that walk from the first token to the last, then those that walk back, whose tokens are
//! turned round once before the convolution and once after the recurrence (`Slice` with step -1); all
//! streams are computed by the same nodes. A walk may be padded at its end. Everything between the two
//! turns is causal, so what is computed there reaches no token; it is cut off.
//!
//! The recurrence itself is written in the form that the lowering asks for.

use anyhow::{Result, ensure};
use onnx_protobuf::GraphProto;
use protobuf::Message;
use ssamba_contract::Lowering;
use ssamba_model::{Config, weights::StreamWeights};

use super::{
    block::Encoder,
    chunk::Chunks,
    linear_attention::Segments,
    matrix::{Matrix, vector},
    mixer::Oriented,
    scan::Blocks,
};
use crate::{
    function::model_proto,
    graph::{Attribute, Axis, Constants, GraphBuilder, Value, float_value},
};

/// Sizes of the walks of a mixer or a pair of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walks {
    pub(crate) streams: usize,
    pub(crate) d_inner: usize,
    pub(crate) d_state: usize,
}

/// Operands of the recurrence along the walks, `h = exp(dt * A) * h + dt * u * B`, `y = C . h`.
pub(crate) struct Operands {
    /// `[batch, streams, padded, d_inner]`
    pub(crate) u: Value,
    /// Likewise: the step itself, not negative.
    pub(crate) dt: Value,
    /// `[batch, streams, padded, d_state]`
    pub(crate) b: Value,
    /// Likewise.
    pub(crate) c: Value,
    /// `[streams, 1, d_state, d_inner]`, negative.
    pub(crate) a: Value,
}

/// How the recurrence is written.
enum Form {
    Chunks(Chunks),
    Blocks(Blocks),
    Segments(Segments),
}

impl Form {
    fn new(lowering: Lowering, walks: Walks, seq_len: usize) -> Self {
        match lowering {
            // Nodes of our operators do not come here.
            Lowering::Function | Lowering::Chunk => Self::Chunks(Chunks::new(seq_len)),
            Lowering::Scan => Self::Blocks(Blocks::of_tokens(seq_len)),
            Lowering::ScanBlock => Self::Blocks(Blocks::new(seq_len)),
            Lowering::LinearAttention => Self::Segments(Segments::new(walks, seq_len)),
        }
    }

    /// Tokens of a walk with its padding.
    fn padded(&self) -> usize {
        match self {
            Self::Chunks(chunks) => chunks.padded(),
            Self::Blocks(blocks) => blocks.padded(),
            Self::Segments(segments) => segments.seq_len(),
        }
    }

    /// `y` `[batch, streams, padded, d_inner]`
    fn lower(&self, g: &mut GraphBuilder, walks: Walks, operands: &Operands) -> Value {
        match self {
            Self::Chunks(chunks) => chunks.lower(g, walks, operands),
            Self::Blocks(blocks) => blocks.lower(g, walks, operands),
            Self::Segments(segments) => segments.lower(g, walks, operands),
        }
    }
}

/// Convolutions, projections, scan and gate of all mixers: `x` and `z`
/// `[batch, seq_len, mixers * d_inner]` to the same shape.
pub(crate) fn mixers(
    g: &mut GraphBuilder,
    encoder: &Encoder<'_>,
    mixers: &[Oriented<'_>],
    x: &Value,
    z: &Value,
) -> Result<Value> {
    let config = encoder.config();
    let there = mixers.iter().map(|mixer| mixer.streams()[0]);
    let back = mixers.iter().map(|mixer| mixer.streams()[1]);
    let streams: Vec<&StreamWeights> = there.chain(back).collect();
    let walks = Walks { streams: streams.len(), d_inner: config.d_inner, d_state: config.d_state };
    let seq_len = encoder.model.seq_len();
    let form = Form::new(encoder.lowering, walks, seq_len);
    let lengths = Lengths { seq_len, padded: form.padded() };

    let u = g.scope("conv1d", |g| short_conv(g, config, &streams, lengths, x))?;
    let y = g.scope("scan", |g| selective_scan(g, config, &streams, &form, walks, &u))?;
    Ok(g.scope("combine", |g| combine(g, config, mixers.len(), lengths, &y, z)))
}

/// Of a walk, without and with its padding.
#[derive(Clone, Copy)]
struct Lengths {
    seq_len: usize,
    padded: usize,
}

/// Depthwise convolutions and SiLU in walking order: `[batch, streams, padded, d_inner]`.
fn short_conv(
    g: &mut GraphBuilder,
    config: &Config,
    streams: &[&StreamWeights],
    lengths: Lengths,
    x: &Value,
) -> Result<Value> {
    let (mut taps, mut bias) = (Vec::new(), Vec::new());
    for stream in streams {
        taps.extend(vector(&stream.conv_weight)?);
        bias.extend(vector(&stream.conv_bias)?);
    }
    let channels = bias.len();
    let taps = g.floats("weight", &[channels, 1, config.d_conv], &taps);
    let bias = g.floats("bias", &[channels], &bias);

    let turned = turn(g, x, 1, lengths.seq_len, lengths.seq_len);
    let walks = g.concat(&[x.clone(), turned], 2);
    let before = config.d_conv as i64 - 1;
    let pads = g.integers(&[0, before, 0, 0, (lengths.padded - lengths.seq_len) as i64, 0]);
    let walks = g.node("Pad", &[&walks, &pads], &[]);
    let walks = g.transpose(&walks, &[0, 2, 1]);
    let attributes = [
        ("group", Attribute::Int(channels as i64)),
        ("kernel_shape", Attribute::Ints(vec![config.d_conv as i64])),
    ];
    let u = g.node("Conv", &[&walks, &taps, &bias], &attributes);
    let u = g.silu(&u);
    let shape = [0, streams.len() as i64, config.d_inner as i64, lengths.padded as i64];
    let u = g.reshape(&u, &shape);
    Ok(g.transpose(&u, &[0, 1, 3, 2]))
}

/// The projections and the scan of every stream: `[batch, streams, padded, d_inner]` to the same.
fn selective_scan(
    g: &mut GraphBuilder,
    config: &Config,
    streams: &[&StreamWeights],
    form: &Form,
    walks: Walks,
    u: &Value,
) -> Result<Value> {
    let &Config { d_inner, d_state, dt_rank, .. } = config;
    let (mut x_proj, mut dt_proj, mut dt_bias) = (Vec::new(), Vec::new(), Vec::new());
    let (mut a, mut d_skip) = (Vec::new(), Vec::new());
    for stream in streams {
        x_proj.extend(Matrix::transposed(&stream.x_proj)?.data);
        dt_proj.extend(Matrix::transposed(&stream.dt_proj)?.data);
        dt_bias.extend(vector(&stream.dt_bias)?);
        let a_log = Matrix::transposed(&stream.a_log)?.data;
        a.extend(a_log.into_iter().map(|a_log| -a_log.exp()));
        d_skip.extend(vector(&stream.d_skip)?);
    }
    let (count, width) = (streams.len(), dt_rank + 2 * d_state);
    let x_proj = g.floats("x_proj.weight", &[count, d_inner, width], &x_proj);
    let dt_proj = g.floats("dt_proj.weight", &[count, dt_rank, d_inner], &dt_proj);
    let dt_bias = g.floats("dt_proj.bias", &[count, 1, d_inner], &dt_bias);
    let a = g.floats("A", &[count, 1, d_state, d_inner], &a);
    let d_skip = g.floats("D", &[count, 1, d_inner], &d_skip);

    let projected = g.scope("x_proj", |g| g.matmul(u, &x_proj));
    let parts = g.split(&projected, 3, &[dt_rank, d_state, d_state]);
    let delta = g.scope("dt_proj", |g| g.matmul(&parts[0], &dt_proj));
    let biased = g.add(&delta, &dt_bias);
    let dt = g.node("Softplus", &[&biased], &[]);
    let operands =
        Operands { u: u.clone(), dt, b: parts[1].clone(), c: parts[2].clone(), a: a.clone() };
    let y = form.lower(g, walks, &operands);
    let skip = g.mul(u, &d_skip);
    Ok(g.add(&y, &skip))
}

/// Both directions of every mixer back in the order of tokens and added, then the gate.
fn combine(
    g: &mut GraphBuilder,
    config: &Config,
    mixers: usize,
    lengths: Lengths,
    y: &Value,
    z: &Value,
) -> Value {
    let walks = g.split(y, 1, &[mixers, mixers]);
    let there = match lengths.padded == lengths.seq_len {
        true => walks[0].clone(),
        false => g.slice(&walks[0], 2, 0, lengths.seq_len),
    };
    let back = turn(g, &walks[1], 2, lengths.seq_len, lengths.padded);
    let y = g.add(&there, &back);
    let y = g.transpose(&y, &[0, 2, 1, 3]);
    let y = g.reshape(&y, &[0, lengths.seq_len as i64, (mixers * config.d_inner) as i64]);
    let gate = g.silu(z);
    g.mul(&y, &gate)
}

/// The first `kept` entries of an axis of `size`, the last of them first.
fn turn(g: &mut GraphBuilder, x: &Value, axis: usize, kept: usize, size: usize) -> Value {
    // One before the first entry: a negative end counts from the end of the axis.
    let before_first = -1 - size as i64;
    let [start, end, axis, step] =
        [kept as i64 - 1, before_first, axis as i64, -1].map(|value| g.integers(&[value]));
    g.node("Slice", &[x, &start, &end, &axis, &step], &[])
}

/// A model of the recurrence by itself in a lowering without our operators, for tests and for measuring a runtime: inputs `u` and `dt`
/// `[batch, streams, seq_len, d_inner]`, `Bm` and `Cm` `[batch, streams, seq_len, d_state]`, `A`
/// `[streams, 1, d_state, d_inner]`, output `y` like `u`. All streams walk forward; `dt` is the step
/// itself, not negative.
///
/// # Errors
/// When a size is zero.
pub fn recurrence_model(
    lowering: Lowering,
    streams: usize,
    seq_len: usize,
    d_inner: usize,
    d_state: usize,
) -> Result<Vec<u8>> {
    ensure!(
        streams.min(seq_len).min(d_inner).min(d_state) > 0,
        "{streams} streams, {seq_len} tokens, {d_inner} channels, {d_state} states: expected at \
         least one of each"
    );
    let walks = Walks { streams, d_inner, d_state };
    let form = Form::new(lowering, walks, seq_len);
    let sequence = |width| {
        let sizes = [streams, seq_len, width].map(Axis::Fixed);
        [&[Axis::Named("batch")][..], &sizes].concat()
    };
    let mut g = GraphBuilder::new(Constants::Initializers);
    let pads = g.integers(&[0, 0, 0, 0, 0, 0, (form.padded() - seq_len) as i64, 0]);
    let [u, dt, b, c] =
        ["u", "dt", "Bm", "Cm"].map(|name| g.node("Pad", &[&Value::named(name), &pads], &[]));
    let operands = Operands { u, dt, b, c, a: Value::named("A") };
    let y = form.lower(&mut g, walks, &operands);
    let y = g.slice(&y, 2, 0, seq_len);
    g.output(&y, "y");
    let a = [streams, 1, d_state, d_inner].map(Axis::Fixed);
    let graph = GraphProto {
        name: "recurrence".into(),
        input: vec![
            float_value("u", &sequence(d_inner)),
            float_value("dt", &sequence(d_inner)),
            float_value("Bm", &sequence(d_state)),
            float_value("Cm", &sequence(d_state)),
            float_value("A", &a),
        ],
        output: vec![float_value("y", &sequence(d_inner))],
        ..g.into_graph()
    };
    Ok(model_proto(graph, Vec::new()).write_to_bytes()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_of_zero_is_refused() {
        let error = recurrence_model(Lowering::Chunk, 4, 0, 8, 16).unwrap_err().to_string();
        assert!(error.contains("4 streams, 0 tokens"), "{error}");
    }
}
