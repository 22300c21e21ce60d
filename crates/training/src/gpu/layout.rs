//! Where everything of an encoder lies: parameters, what is kept for the backward pass, and room for it.
//! Places are counted in values.

use std::ops::Range;

use anyhow::{Result, ensure};

/// Sizes of an encoder and of what goes through it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sizes {
    /// Clips.
    pub(crate) batch: usize,
    /// Tokens of a clip.
    pub(crate) seq_len: usize,
    /// Layers that read one residual: a pair, or one.
    pub(crate) together: usize,
    /// Times that so many layers follow each other.
    pub(crate) steps: usize,
    pub(crate) d_model: usize,
    pub(crate) d_inner: usize,
    pub(crate) d_state: usize,
    pub(crate) dt_rank: usize,
    pub(crate) taps: usize,
    /// Factor on the sum of two directions.
    pub(crate) scale: f32,
    /// Of the first norm, and by what it is divided after every step.
    pub(crate) eps: (f64, f64),
}

impl Sizes {
    /// # Errors
    /// When the kernels cannot take them.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, size) in [("d_model", self.d_model), ("d_inner", self.d_inner)] {
            ensure!(
                size.is_multiple_of(4),
                "training on a GPU takes sizes that 4 divides, and `{name}` is {size}; use --device cpu"
            );
        }
        Ok(())
    }

    pub(crate) fn rows(&self) -> usize {
        self.batch * self.seq_len
    }

    pub(crate) fn streams(&self) -> usize {
        2 * self.together
    }

    /// Rows of a stream's x-projection.
    pub(crate) fn columns(&self) -> usize {
        self.dt_rank + 2 * self.d_state
    }

    /// Lengths of the parameters of a step, in the order in which they are packed. All layers of a step
    /// lie side by side, and their streams.
    fn lengths(&self) -> [usize; 11] {
        let &Self { together, d_model, d_inner, d_state, dt_rank, taps, .. } = self;
        let channels = self.streams() * d_inner;
        [
            together * d_model,
            together * d_model,
            together * 2 * d_inner * d_model,
            channels * taps,
            channels,
            channels * self.columns(),
            channels * dt_rank,
            channels,
            channels * d_state,
            channels,
            together * d_model * d_inner,
        ]
    }

    /// Values of all packed parameters, those of the final norm at the end.
    pub(crate) fn parameters(&self) -> usize {
        self.steps * self.lengths().iter().sum::<usize>() + 2 * self.d_model
    }

    /// Where the parameters of a step lie.
    pub(crate) fn step(&self, step: usize) -> Parameters {
        let lengths = self.lengths();
        let mut next = step * lengths.iter().sum::<usize>();
        let [
            norm_weight,
            norm_bias,
            in_proj,
            conv_weight,
            conv_bias,
            x_proj,
            dt_proj,
            dt_bias,
            a_log,
            d_skip,
            out_proj,
        ] = lengths.map(|len| {
            let place = next;
            next += len;
            place
        });
        Parameters {
            norm_weight,
            norm_bias,
            in_proj,
            conv_weight,
            conv_bias,
            x_proj,
            dt_proj,
            dt_bias,
            a_log,
            d_skip,
            out_proj,
        }
    }

    /// Where the final norm's weight lies, and its bias after it.
    pub(crate) fn norm_f(&self) -> usize {
        self.parameters() - 2 * self.d_model
    }
}

/// Places of the parameters of a step among all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameters {
    /// `[together, d_model]`, and right after it `norm_bias`.
    pub(crate) norm_weight: usize,
    pub(crate) norm_bias: usize,
    /// `[together, 2 * d_inner, d_model]`
    pub(crate) in_proj: usize,
    /// `[streams * d_inner, taps]`
    pub(crate) conv_weight: usize,
    pub(crate) conv_bias: usize,
    /// `[streams, dt_rank + 2 * d_state, d_inner]`
    pub(crate) x_proj: usize,
    /// `[streams, d_inner, dt_rank]`
    pub(crate) dt_proj: usize,
    pub(crate) dt_bias: usize,
    /// `[streams * d_inner, d_state]`
    pub(crate) a_log: usize,
    pub(crate) d_skip: usize,
    /// `[together, d_model, d_inner]`
    pub(crate) out_proj: usize,
}

/// What a step keeps for its backward pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    /// `[rows, d_model]`, what the step reads.
    pub(crate) rho: usize,
    /// `[together, rows, d_model]`
    pub(crate) hidden: usize,
    /// `[rows, together * d_inner]`
    pub(crate) x: usize,
    pub(crate) z: usize,
    /// `[rows, streams * d_inner]`
    pub(crate) u: usize,
    pub(crate) delta: usize,
    /// `[rows, streams * dt_rank]`
    pub(crate) rank: usize,
    /// `[rows, streams * d_state]`
    pub(crate) b: usize,
    pub(crate) c: usize,
    /// `[streams * d_inner, d_state]`
    pub(crate) a: usize,
    /// `[rows, together * d_inner]`
    pub(crate) y: usize,
}

/// How much room the backward pass needs for what its kernels leave in parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    /// Of channels, in a scan.
    pub(crate) scan: usize,
    /// Values of the states of a scan.
    pub(crate) states: usize,
    /// Of tokens, in a convolution.
    pub(crate) conv: usize,
    /// Of rows, in a norm.
    pub(crate) norm: usize,
}

/// Places in the memory that one pass forward and back needs.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) parameters: usize,
    pub(crate) gradients: usize,
    pub(crate) kept: Vec<Kept>,
    /// `[rows, d_model]`: after the last step, and after each of the final norms.
    pub(crate) rho: usize,
    pub(crate) once: usize,
    pub(crate) twice: usize,
    /// Gradients of the residual, of what comes out of each final norm, of what a step keeps.
    pub(crate) grad_rho: usize,
    pub(crate) grad_once: usize,
    pub(crate) grad_twice: usize,
    pub(crate) grad_hidden: usize,
    pub(crate) grad_x: usize,
    pub(crate) grad_z: usize,
    pub(crate) grad_u: usize,
    pub(crate) grad_delta: usize,
    pub(crate) grad_rank: usize,
    pub(crate) grad_b: usize,
    pub(crate) grad_c: usize,
    pub(crate) grad_y: usize,
    /// Sums in parts.
    pub(crate) parts_of_z: usize,
    pub(crate) parts_of_a: usize,
    pub(crate) parts_of_b: usize,
    pub(crate) parts_of_c: usize,
    pub(crate) parts_of_d_skip: usize,
    pub(crate) parts_of_dt_bias: usize,
    pub(crate) parts_of_conv_weight: usize,
    pub(crate) parts_of_conv_bias: usize,
    pub(crate) parts_of_norm: usize,
    pub(crate) statistics: usize,
    pub(crate) states: usize,
    /// All values.
    pub(crate) len: usize,
}

/// Hands out places, each at a multiple of 256 bytes.
struct Room {
    len: usize,
}

impl Room {
    fn take(&mut self, len: usize) -> usize {
        let place = self.len;
        self.len += len.next_multiple_of(64);
        place
    }
}

impl Places {
    /// Of a forward pass, and of the backward pass after it unless `parts` is absent.
    pub(crate) fn new(sizes: &Sizes, parts: Option<&Parts>) -> Self {
        let &Sizes { batch, together, d_model, d_inner, d_state, dt_rank, taps, .. } = sizes;
        let (rows, streams) = (sizes.rows(), sizes.streams());
        let channels = streams * d_inner;
        let mut room = Room { len: 0 };
        let parameters = room.take(sizes.parameters());
        // Without a backward pass every step may write over what the one before kept, but the residual,
        // which two places hold in turns.
        let residuals = [room.take(rows * d_model), room.take(rows * d_model)];
        let kept = |room: &mut Room, rho: usize| Kept {
            rho,
            hidden: room.take(together * rows * d_model),
            x: room.take(rows * together * d_inner),
            z: room.take(rows * together * d_inner),
            u: room.take(rows * channels),
            delta: room.take(rows * channels),
            rank: room.take(rows * streams * dt_rank),
            b: room.take(rows * streams * d_state),
            c: room.take(rows * streams * d_state),
            a: room.take(channels * d_state),
            y: room.take(rows * together * d_inner),
        };
        let kept: Vec<Kept> = if parts.is_some() {
            let mut steps = Vec::with_capacity(sizes.steps);
            for step in 0..sizes.steps {
                let rho = if step == 0 { residuals[0] } else { room.take(rows * d_model) };
                steps.push(kept(&mut room, rho));
            }
            steps
        } else {
            let shared = kept(&mut room, residuals[0]);
            (0..sizes.steps).map(|step| Kept { rho: residuals[step % 2], ..shared }).collect()
        };
        let rho = if parts.is_some() { residuals[1] } else { residuals[sizes.steps % 2] };
        let once = room.take(rows * d_model);
        let twice = room.take(rows * d_model);
        let none = Parts { scan: 0, states: 0, conv: 0, norm: 0 };
        let back = parts.is_some();
        let parts = parts.unwrap_or(&none);
        let mut take = |len: usize| if back { room.take(len) } else { 0 };
        let mut places = Self {
            parameters,
            kept,
            rho,
            once,
            twice,
            gradients: take(sizes.parameters()),
            grad_rho: take(rows * d_model),
            grad_once: take(rows * d_model),
            grad_twice: take(rows * d_model),
            grad_hidden: take(together * rows * d_model),
            grad_x: take(rows * together * d_inner),
            grad_z: take(rows * together * d_inner),
            grad_u: take(rows * channels),
            grad_delta: take(rows * channels),
            grad_rank: take(rows * streams * dt_rank),
            grad_b: take(rows * streams * d_state),
            grad_c: take(rows * streams * d_state),
            grad_y: take(rows * together * d_inner),
            parts_of_z: take(rows * channels),
            parts_of_a: take(batch * channels * d_state),
            parts_of_b: take(parts.scan * rows * streams * d_state),
            parts_of_c: take(parts.scan * rows * streams * d_state),
            parts_of_d_skip: take(batch * channels),
            parts_of_dt_bias: take(batch * channels),
            parts_of_conv_weight: take(parts.conv * channels * taps),
            parts_of_conv_bias: take(parts.conv * channels),
            // Those of both final norms lie side by side.
            parts_of_norm: take(2 * parts.norm * 2 * together * d_model),
            statistics: take(2 * rows),
            states: take(parts.states),
            len: 0,
        };
        places.len = room.len;
        places
    }

    /// The packed gradients.
    pub(crate) fn gradients(&self, sizes: &Sizes) -> Range<usize> {
        self.gradients..self.gradients + sizes.parameters()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes {
        batch: 2,
        seq_len: 3,
        together: 2,
        steps: 3,
        d_model: 8,
        d_inner: 16,
        d_state: 4,
        dt_rank: 1,
        taps: 4,
        scale: 0.5,
        eps: (1e-5, 4.0),
    };
    const PARTS: Parts = Parts { scan: 1, states: 10, conv: 2, norm: 1 };

    #[test]
    fn steps_follow_each_other_and_the_final_norm_comes_last() {
        let step = SIZES.step(1);
        assert_eq!(step.norm_bias, step.norm_weight + 16);
        assert_eq!(SIZES.step(3).norm_weight, SIZES.norm_f());
        assert_eq!(SIZES.step(2).norm_weight, step.out_proj + 2 * 8 * 16);
        assert_eq!(SIZES.parameters(), SIZES.norm_f() + 16);
    }

    #[test]
    fn the_forward_pass_alone_needs_little() {
        let (alone, both) = (Places::new(&SIZES, None), Places::new(&SIZES, Some(&PARTS)));
        assert!(alone.len < both.len / 2, "{} of {}", alone.len, both.len);
        let residual =
            |places: &Places| places.kept.iter().map(|kept| kept.rho).collect::<Vec<_>>();
        let of = residual(&alone);
        assert_eq!((of[0], of[1]), (of[2], alone.rho), "the two places take turns");
        let mut of = residual(&both);
        of.push(both.rho);
        of.sort_unstable();
        of.dedup();
        assert_eq!(of.len(), 4, "no residual is written over");
    }

    #[test]
    fn odd_sizes_are_refused() {
        let error = Sizes { d_model: 6, ..SIZES }.check().unwrap_err().to_string();
        assert!(error.contains("`d_model` is 6"), "{error}");
    }
}
