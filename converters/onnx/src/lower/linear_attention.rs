//! The recurrence as ONNX Runtime's `LinearAttention`, for its providers that have no loops: one head a
//! channel, keys as wide as the state, values of one number, a decay for every key. See
//! [`walks`](super::walks) for what is around it.
//!
//! The node wants the logarithm of every decay, `[batch, tokens, d_inner * d_state]`. WebGPU binds at most
//! 128 MiB to a shader, so long walks are cut into segments that hand the state on.

use ssamba_contract::op::contrib;

use super::walks::{Operands, Walks};
use crate::graph::{Attribute, Axis, GraphBuilder, Value};

/// Tokens of a segment at most.
const LONGEST: usize = 4_096;

/// Bytes that WebGPU binds unless it is asked for more (`maxStorageBufferBindingSize`).
pub(crate) const BINDING: usize = 128 << 20;

/// How a walk is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segments(Vec<usize>);

impl Segments {
    /// As few and as even as the limits of one clip allow.
    pub(crate) fn new(walks: Walks, seq_len: usize) -> Self {
        let Walks { streams, d_inner, d_state } = walks;
        let token = streams * d_inner * d_state * size_of::<f32>();
        let longest = (BINDING / token).clamp(1, LONGEST);
        let count = seq_len.div_ceil(longest);
        let lengths = (0..count).map(|index| (seq_len + index) / count);
        Self(lengths.collect())
    }

    pub(crate) fn seq_len(&self) -> usize {
        self.0.iter().sum()
    }

    /// `y` like `u`.
    pub(crate) fn lower(&self, g: &mut GraphBuilder, walks: Walks, operands: &Operands) -> Value {
        let Walks { streams, d_inner, d_state } = walks;
        let du = g.mul(&operands.dt, &operands.u);
        // Streams are clips of their own here.
        let [streams, wide, narrow] = [streams, d_inner, d_state].map(|size| size as i64);
        let a = g.transpose(&operands.a, &[0, 1, 3, 2]);
        let cut = |g: &mut GraphBuilder, x: &Value| g.split(x, 2, &self.0);
        let [dt, du, b, c] = [&operands.dt, &du, &operands.b, &operands.c].map(|x| cut(g, x));
        let mut state = Value::named("");
        let mut ys = Vec::new();
        for (index, &len) in self.0.iter().enumerate() {
            let len = len as i64;
            let steps = g.reshape(&dt[index], &[0, streams, len, wide, 1]);
            let decays = g.mul(&steps, &a);
            let decays = g.reshape(&decays, &[-1, len, wide * narrow]);
            let value = g.reshape(&du[index], &[-1, len, wide]);
            let key = g.reshape(&b[index], &[-1, len, narrow]);
            let query = g.reshape(&c[index], &[-1, len, narrow]);
            let attributes = [
                ("q_num_heads", Attribute::Int(1)),
                ("kv_num_heads", Attribute::Int(wide)),
                ("update_rule", Attribute::Text("gated")),
                ("scale", Attribute::Float(1.0)),
            ];
            let (domain, op) = (contrib::DOMAIN, contrib::LINEAR_ATTENTION);
            let inputs = [&query, &key, &value, &state, &decays];
            let outputs = g.node_in(domain, op, &inputs, &attributes, 2);
            // Nobody but ONNX Runtime could infer them.
            g.declare(
                &outputs[0],
                &[Axis::Unknown, Axis::Fixed(len as usize), Axis::Fixed(d_inner)],
            );
            let sizes = [d_inner, d_state, 1].map(Axis::Fixed);
            g.declare(&outputs[1], &[&[Axis::Unknown], &sizes[..]].concat());
            ys.push(g.reshape(&outputs[0], &[-1, streams, len, wide]));
            state = outputs[1].clone();
        }
        g.concat(&ys, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_hold_every_token_and_keep_to_both_limits() {
        for (streams, d_inner) in [(4, 384), (2, 384), (4, 1536), (4, 8)] {
            let walks = Walks { streams, d_inner, d_state: 16 };
            for seq_len in [1, 145, 1_213, 4_096, 4_097, 73_728] {
                let Segments(lengths) = Segments::new(walks, seq_len);
                assert_eq!(lengths.iter().sum::<usize>(), seq_len);
                for len in lengths {
                    assert!(len > 0 && len <= LONGEST);
                    assert!(4 * streams * len * d_inner * 16 <= BINDING);
                }
            }
        }
        let tiny = Walks { streams: 4, d_inner: 384, d_state: 16 };
        assert_eq!(Segments::new(tiny, 1_213), Segments(vec![1_213]));
        assert_eq!(Segments::new(tiny, 2_048), Segments(vec![1_024, 1_024]));
    }
}
