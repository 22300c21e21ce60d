//! The recurrence as one `Scan` for all streams, over tokens or over blocks of them: standard operators
//! alone, for runtimes that know loops but no functions. See [`walks`](super::walks) for what is around
//! it.
//!
//! The state is `[batch, streams, 1, d_state, d_inner]`: the broadcasts run along `d_inner` contiguous
//! values. A block is unrolled inside the body, so that what surrounds a loop is paid for once a block;
//! what a block computes at once is all that has tokens, channels *and* states.

use onnx_protobuf::GraphProto;

use super::walks::{Operands, Walks};
use crate::graph::{Attribute, Axis, GraphBuilder, Value, float_value};

/// Tokens of a block.
const BLOCK: usize = 16;

/// Axis of the blocks outside the body, of a block's tokens inside.
const BLOCKS: i64 = 2;

/// How a walk is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// Tokens in a block.
    len: usize,
    count: usize,
}

impl Blocks {
    /// `seq_len` is at least 1.
    pub(crate) fn new(seq_len: usize) -> Self {
        Self::of(seq_len, BLOCK.min(seq_len))
    }

    /// One token in each.
    pub(crate) fn of_tokens(seq_len: usize) -> Self {
        Self::of(seq_len, 1)
    }

    pub(crate) fn of(seq_len: usize, len: usize) -> Self {
        Self { len, count: seq_len.div_ceil(len) }
    }

    /// Tokens with the padding.
    pub(crate) fn padded(self) -> usize {
        self.len * self.count
    }

    /// `y` like `u`.
    pub(crate) fn lower(self, g: &mut GraphBuilder, walks: Walks, operands: &Operands) -> Value {
        let Operands { u, dt, b, c, a } = operands;
        let Walks { streams, d_inner, d_state } = walks;
        let [streams, d_inner, d_state] = [streams, d_inner, d_state].map(|size| size as i64);
        let du = g.mul(dt, u);
        let blocks = |g: &mut GraphBuilder, x: &Value, [rows, columns]: [i64; 2]| {
            g.reshape(x, &[0, streams, self.count as i64, self.len as i64, rows, columns])
        };
        let sequences = [
            blocks(g, dt, [1, d_inner]),
            blocks(g, &du, [1, d_inner]),
            blocks(g, b, [d_state, 1]),
            blocks(g, c, [1, d_state]),
        ];
        let h = g.zeros(u, &[], &[streams, 1, d_state, d_inner]);
        let body = self.body(g, a);
        let operands: Vec<&Value> = [&h].into_iter().chain(&sequences).collect();
        let attributes = [
            ("body", Attribute::Graph(body)),
            ("num_scan_inputs", Attribute::Int(sequences.len() as i64)),
            ("scan_input_axes", Attribute::Ints(vec![BLOCKS; sequences.len()])),
            ("scan_output_axes", Attribute::Ints(vec![BLOCKS])),
        ];
        let results = g.node_in("", "Scan", &operands, &attributes, 2);
        g.reshape(&results[1], &[0, streams, self.padded() as i64, d_inner])
    }

    /// One block: the state before it, `dt`, `dt * u`, `B` and `C` to the state after it and `y`,
    /// `[batch, streams, tokens, 1, d_inner]`.
    fn body(self, g: &GraphBuilder, a: &Value) -> GraphProto {
        let mut body = g.nested("block");
        let info = |value: &Value| float_value(value.name(), &[Axis::Unknown; 5]);
        let inputs = ["h", "dt", "du", "b", "c"].map(|leaf| body.named(leaf));
        let [h, dt, du, b, c] = &inputs;
        let exponent = body.mul(dt, a);
        let decays = body.node("Exp", &[&exponent], &[]);
        let news = body.mul(b, du);
        let tokens = vec![1; self.len];
        let decays = body.split(&decays, BLOCKS, &tokens);
        let news = body.split(&news, BLOCKS, &tokens);
        let mut states: Vec<Value> = Vec::new();
        for (decay, new) in decays.iter().zip(&news) {
            let kept = body.mul(decay, states.last().unwrap_or(h));
            states.push(body.add(&kept, new));
        }
        let all = body.concat(&states, BLOCKS);
        let y = body.matmul(c, &all);
        let last = states.last().unwrap_or(h);
        GraphProto {
            name: "block".into(),
            input: inputs.iter().map(info).collect(),
            output: vec![info(last), info(&y)],
            ..body.into_graph()
        }
    }
}
