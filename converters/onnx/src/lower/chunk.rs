//! The recurrence in plain operators, without control flow: for a runtime that has neither our operators
//! nor loops, as TensorRT without a plug-in. See [`walks`](super::walks) for what is around it.
//!
//! The number of tokens is fixed, and walks are padded to whole chunks. Inside a chunk the recurrence is
//! unrolled, for all chunks at once, from a zero state; the states at the ends of chunks are combined in
//! log2(chunks) steps; and a carried-in state `h` adds
//!
//! ```text
//! y_j += C_j . (exp(A * (dt_0 + .. + dt_j)) * h)
//! ```
//!
//! at position `j` of its chunk. `A` is negative and `dt` is not: no exponent is ever positive, and
//! nothing is divided by a decay. No tensor spans tokens, channels *and* states: the states are
//! `[batch, streams, chunks, d_state, d_inner]`.

use super::walks::{Operands, Walks};
use crate::graph::{GraphBuilder, Value};

/// Axes of states, and of what is split into the positions of a chunk.
const CHUNKS: usize = 2;
const POSITIONS: i64 = 3;

/// How a walk is cut: about as many chunks as there are positions in one, which keeps both the
/// nodes (by position) and the states (by chunk) few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunks {
    seq_len: usize,
    /// Positions in a chunk.
    len: usize,
    count: usize,
}

impl Chunks {
    /// `seq_len` is at least 1.
    pub(crate) fn new(seq_len: usize) -> Self {
        let count = seq_len.div_ceil(seq_len.isqrt().max(1));
        Self { seq_len, len: seq_len.div_ceil(count), count }
    }

    /// Tokens with the padding.
    pub(crate) fn padded(self) -> usize {
        self.len * self.count
    }

    /// `y` like `u`.
    pub(crate) fn lower(self, g: &mut GraphBuilder, walks: Walks, operands: &Operands) -> Value {
        Recurrence { chunks: self, walks }.lower(g, operands)
    }
}

/// `h = exp(dt * A) * h + dt * u * B`, `y = C . h` along the walks of all streams.
struct Recurrence {
    chunks: Chunks,
    walks: Walks,
}

impl Recurrence {
    fn lower(&self, g: &mut GraphBuilder, operands: &Operands) -> Value {
        let Operands { u, dt, b, c, a } = operands;
        let Walks { streams, d_inner, d_state } = self.walks;
        let (d_inner, width) = (d_inner as i64, d_state);
        let d_state = d_state as i64;
        let len = self.chunks.len as i64;
        let du = g.mul(dt, u);
        let dt = self.positions(g, dt, [len, d_inner], 1);
        let du = self.positions(g, &du, [len, d_inner], 1);
        let b = self.positions(g, b, [len * d_state, 1], width);
        let c = self.positions(g, c, [len, d_state], 1);

        // Every chunk from a zero state.
        let mut h = g.mul(&b[0], &du[0]);
        let mut ys = vec![g.matmul(&c[0], &h)];
        for j in 1..self.chunks.len {
            let decay = decay(g, &dt[j], a);
            let kept = g.mul(&decay, &h);
            let new = g.mul(&b[j], &du[j]);
            h = g.add(&kept, &new);
            ys.push(g.matmul(&c[j], &h));
        }
        let mut y = g.concat(&ys, POSITIONS);
        if self.chunks.count > 1 {
            let carried = g.scope("carry", |g| self.carried(g, &dt, &c, a, &h));
            y = g.add(&y, &carried);
        }
        let padded = self.chunks.padded() as i64;
        g.reshape(&y, &[0, streams as i64, padded, d_inner])
    }

    /// The positions of a chunk, each for all chunks: `[batch, streams, chunks, width, ..]`.
    fn positions(
        &self,
        g: &mut GraphBuilder,
        x: &Value,
        chunk: [i64; 2],
        width: usize,
    ) -> Vec<Value> {
        let [rows, columns] = chunk;
        let shape = [0, self.walks.streams as i64, self.chunks.count as i64, rows, columns];
        let x = g.reshape(x, &shape);
        g.split(&x, POSITIONS, &vec![width; self.chunks.len])
    }

    /// What the states carried into the chunks add to `y`; `end` holds the state that each chunk
    /// leaves when it starts from zero.
    fn carried(
        &self,
        g: &mut GraphBuilder,
        dt: &[Value],
        c: &[Value],
        a: &Value,
        end: &Value,
    ) -> Value {
        // Time since the start of the chunk.
        let mut elapsed = vec![dt[0].clone()];
        for dt in &dt[1..] {
            let sum = g.add(&elapsed[elapsed.len() - 1], dt);
            elapsed.push(sum);
        }
        let last = self.chunks.len - 1;
        let whole = decay(g, &elapsed[last], a);
        let h = self.entering(g, &whole, end);
        let mut ys = Vec::new();
        for (j, elapsed) in elapsed.iter().enumerate() {
            let decay = if j == last { whole.clone() } else { decay(g, elapsed, a) };
            let left = g.mul(&decay, &h);
            ys.push(g.matmul(&c[j], &left));
        }
        g.concat(&ys, POSITIONS)
    }

    /// The state that enters each chunk, from what each chunk keeps of a state and what it adds:
    /// an inclusive scan over all chunks but the last in steps of 1, 2, 4, .., then one chunk later.
    fn entering(&self, g: &mut GraphBuilder, keeps: &Value, adds: &Value) -> Value {
        let known = self.chunks.count - 1;
        let mut keeps = g.slice(keeps, CHUNKS, 0, known);
        let mut state = g.slice(adds, CHUNKS, 0, known);
        let mut step = 1;
        while step < known {
            let earlier = g.slice(&state, CHUNKS, 0, known - step);
            let earlier = delay(g, &earlier, step);
            let kept = g.mul(&keeps, &earlier);
            state = g.add(&state, &kept);
            if 2 * step < known {
                // The zeros that come in here only ever multiply zeros.
                let earlier = g.slice(&keeps, CHUNKS, 0, known - step);
                let earlier = delay(g, &earlier, step);
                keeps = g.mul(&keeps, &earlier);
            }
            step *= 2;
        }
        delay(g, &state, 1)
    }
}

/// `exp(dt * A)`
fn decay(g: &mut GraphBuilder, dt: &Value, a: &Value) -> Value {
    let exponent = g.mul(dt, a);
    g.node("Exp", &[&exponent], &[])
}

/// Zero states in front of the chunks.
fn delay(g: &mut GraphBuilder, states: &Value, chunks: usize) -> Value {
    let mut pads = [0; 10];
    pads[CHUNKS] = chunks as i64;
    let pads = g.integers(&pads);
    g.node("Pad", &[states, &pads], &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_every_token_and_are_about_as_many_as_their_positions() {
        for seq_len in 1..3_000 {
            let chunks = Chunks::new(seq_len);
            assert!(
                chunks.padded() >= seq_len && chunks.padded() - seq_len < chunks.count,
                "{chunks:?}"
            );
            assert!(chunks.count.abs_diff(chunks.len) <= 2, "{chunks:?}");
        }
        assert_eq!(Chunks::new(145), Chunks { seq_len: 145, len: 12, count: 13 });
    }
}
