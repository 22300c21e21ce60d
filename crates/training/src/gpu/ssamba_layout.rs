//! Where everything of an encoder lies: parameters, what is kept for the backward pass, and room for it.
//! Places are counted in values.

use std::ops::Range;

use anyhow::{Result, ensure};
use ssamba_model::{NORM_EPS, Weights};
use ssamba_model_common::Recipe;

use super::run::Room;

/// Sizes of an encoder and of what goes through it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sizes {
    /// Clips.
    pub(super) batch: usize,
    /// Tokens of a clip.
    pub(super) seq_len: usize,
    /// Layers that read one residual: a pair, or one.
    pub(super) together: usize,
    /// Times that so many layers follow each other.
    pub(super) steps: usize,
    pub(super) d_model: usize,
    pub(super) d_inner: usize,
    pub(super) d_state: usize,
    pub(super) dt_rank: usize,
    pub(super) taps: usize,
    /// Factor on the sum of two directions.
    pub(super) scale: f32,
    /// Of the first norm, and by what it is divided after every step.
    pub(super) eps: (f64, f64),
}

impl Sizes {
    pub(super) fn new(batch: usize, seq_len: usize, weights: &Weights, recipe: &Recipe) -> Self {
        let config = &weights.config;
        let together = if recipe.pairwise { 2 } else { 1 };
        Self {
            batch,
            seq_len,
            together,
            steps: weights.layers.len() / together,
            d_model: config.d_model,
            d_inner: config.d_inner,
            d_state: config.d_state,
            dt_rank: config.dt_rank,
            taps: config.d_conv,
            scale: if recipe.halve { 0.5 } else { 1.0 },
            eps: (NORM_EPS, if recipe.pairwise { 4.0 } else { 1.0 }),
        }
    }

    /// # Errors
    /// When the kernels cannot take them.
    pub(super) fn check(&self) -> Result<()> {
        for (name, size) in [("d_model", self.d_model), ("d_inner", self.d_inner)] {
            ensure!(
                size.is_multiple_of(4),
                "training on a GPU takes sizes that 4 divides, and `{name}` is {size}; use --device cpu"
            );
        }
        Ok(())
    }

    pub(super) fn rows(&self) -> usize {
        self.batch * self.seq_len
    }

    pub(super) fn streams(&self) -> usize {
        2 * self.together
    }

    /// Rows of a stream's x-projection.
    pub(super) fn columns(&self) -> usize {
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
    pub(super) fn parameters(&self) -> usize {
        self.steps * self.lengths().iter().sum::<usize>() + 2 * self.d_model
    }

    /// Where the parameters of a step lie.
    pub(super) fn step(&self, step: usize) -> Parameters {
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
    pub(super) fn norm_f(&self) -> usize {
        self.parameters() - 2 * self.d_model
    }
}

/// Places of the parameters of a step among all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameters {
    /// `[together, d_model]`, and right after it `norm_bias`.
    pub(super) norm_weight: usize,
    pub(super) norm_bias: usize,
    /// `[together, 2 * d_inner, d_model]`
    pub(super) in_proj: usize,
    /// `[streams * d_inner, taps]`
    pub(super) conv_weight: usize,
    pub(super) conv_bias: usize,
    /// `[streams, dt_rank + 2 * d_state, d_inner]`
    pub(super) x_proj: usize,
    /// `[streams, d_inner, dt_rank]`
    pub(super) dt_proj: usize,
    pub(super) dt_bias: usize,
    /// `[streams * d_inner, d_state]`
    pub(super) a_log: usize,
    pub(super) d_skip: usize,
    /// `[together, d_model, d_inner]`
    pub(super) out_proj: usize,
}

/// What a step keeps for its backward pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    /// `[rows, d_model]`, what the step reads.
    pub(super) rho: usize,
    /// `[together, rows, d_model]`
    pub(super) hidden: usize,
    /// `[rows, together * d_inner]`
    pub(super) x: usize,
    pub(super) z: usize,
    /// `[rows, streams * d_inner]`
    pub(super) u: usize,
    pub(super) delta: usize,
    /// `[rows, streams * dt_rank]`
    pub(super) rank: usize,
    /// `[rows, streams * d_state]`
    pub(super) b: usize,
    pub(super) c: usize,
    /// `[streams * d_inner, d_state]`
    pub(super) a: usize,
    /// `[rows, together * d_inner]`
    pub(super) y: usize,
}

/// How much room the backward pass needs for what its kernels leave in parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    /// Of channels, in a scan.
    pub(super) scan: usize,
    /// Values of the states of a scan.
    pub(super) states: usize,
    /// Of tokens, in a convolution.
    pub(super) conv: usize,
    /// Of rows, in a norm.
    pub(super) norm: usize,
}

/// Places in the memory that one pass forward and back needs.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) parameters: usize,
    pub(super) gradients: usize,
    pub(super) kept: Vec<Kept>,
    /// `[rows, d_model]`: after the last step, and after each of the final norms.
    pub(super) rho: usize,
    pub(super) once: usize,
    pub(super) twice: usize,
    /// Gradients of the residual, of what comes out of each final norm, of what a step keeps.
    pub(super) grad_rho: usize,
    pub(super) grad_once: usize,
    pub(super) grad_twice: usize,
    pub(super) grad_hidden: usize,
    pub(super) grad_x: usize,
    pub(super) grad_z: usize,
    pub(super) grad_u: usize,
    pub(super) grad_delta: usize,
    pub(super) grad_rank: usize,
    pub(super) grad_b: usize,
    pub(super) grad_c: usize,
    pub(super) grad_y: usize,
    /// Sums in parts.
    pub(super) parts_of_z: usize,
    pub(super) parts_of_a: usize,
    pub(super) parts_of_b: usize,
    pub(super) parts_of_c: usize,
    pub(super) parts_of_d_skip: usize,
    pub(super) parts_of_dt_bias: usize,
    pub(super) parts_of_conv_weight: usize,
    pub(super) parts_of_conv_bias: usize,
    pub(super) parts_of_norm: usize,
    pub(super) statistics: usize,
    pub(super) states: usize,
    /// All values.
    pub(super) len: usize,
}

impl Places {
    pub(super) fn new(sizes: &Sizes, parts: &Parts) -> Self {
        let &Sizes { batch, together, d_model, d_inner, d_state, dt_rank, taps, .. } = sizes;
        let (rows, streams) = (sizes.rows(), sizes.streams());
        let channels = streams * d_inner;
        let mut room = Room::default();
        let mut take = |len: usize| room.take(len);
        let parameters = take(sizes.parameters());
        let kept = (0..sizes.steps)
            .map(|_| Kept {
                rho: take(rows * d_model),
                hidden: take(together * rows * d_model),
                x: take(rows * together * d_inner),
                z: take(rows * together * d_inner),
                u: take(rows * channels),
                delta: take(rows * channels),
                rank: take(rows * streams * dt_rank),
                b: take(rows * streams * d_state),
                c: take(rows * streams * d_state),
                a: take(channels * d_state),
                y: take(rows * together * d_inner),
            })
            .collect();
        let mut places = Self {
            parameters,
            kept,
            rho: take(rows * d_model),
            once: take(rows * d_model),
            twice: take(rows * d_model),
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
    pub(super) fn gradients(&self, sizes: &Sizes) -> Range<usize> {
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

    #[test]
    fn steps_follow_each_other_and_the_final_norm_comes_last() {
        let step = SIZES.step(1);
        assert_eq!(step.norm_bias, step.norm_weight + 16);
        assert_eq!(SIZES.step(3).norm_weight, SIZES.norm_f());
        assert_eq!(SIZES.step(2).norm_weight, step.out_proj + 2 * 8 * 16);
        assert_eq!(SIZES.parameters(), SIZES.norm_f() + 16);
    }

    #[test]
    fn odd_sizes_are_refused() {
        let error = Sizes { d_model: 6, ..SIZES }.check().unwrap_err().to_string();
        assert!(error.contains("`d_model` is 6"), "{error}");
    }
}
