//! The blocks of SSAST on a GPU: from tokens with positions to tokens after the final norm, and back.
//! Attention is computed in full, head by head for all clips at once.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use ssamba_cuda::Matrix;
use ssamba_scan::cuda::{Bias, Gelu, Norm, Softmax, SumPlan};
use ssamba_ssast::{HEAD_WIDTH, NORM_EPS, Weights};

use super::run::{Layers, Room, Run};

/// Sizes of the blocks and of what goes through them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sizes {
    /// Clips.
    pub(super) batch: usize,
    /// Tokens of a clip.
    pub(super) seq_len: usize,
    pub(super) depth: usize,
    pub(super) d_model: usize,
    pub(super) d_mlp: usize,
}

/// Where the parameters of a block lie among all of them, in values.
#[derive(Clone, Copy, Debug)]
struct Parameters {
    norm1: usize,
    qkv: usize,
    qkv_bias: usize,
    proj: usize,
    proj_bias: usize,
    norm2: usize,
    fc1: usize,
    fc1_bias: usize,
    fc2: usize,
    fc2_bias: usize,
}

/// What a block keeps for its backward pass.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// `[rows, d_model]`: what the block reads, and what its MLP reads.
    x: usize,
    middle: usize,
    /// `[rows, d_model]`: after each norm.
    hidden1: usize,
    hidden2: usize,
    /// `[rows, 3 * d_model]`
    qkv: usize,
    /// `[heads, batch, seq_len, seq_len]`
    shares: usize,
    /// `[rows, d_model]`, what attention gives.
    mixed: usize,
    /// `[rows, d_mlp]`: before and after the activation.
    inside: usize,
    active: usize,
}

/// The calls of one size of input.
pub(super) struct Blocks {
    sizes: Sizes,
    parameters: usize,
    gradients: usize,
    kept: Vec<Kept>,
    /// `[rows, d_model]`: after the last block, and after the final norm.
    last: usize,
    out: usize,
    /// Gradients of the residual and of what a block keeps.
    grad: usize,
    grad_hidden: usize,
    grad_qkv: usize,
    grad_shares: usize,
    grad_mixed: usize,
    grad_inside: usize,
    statistics: usize,
    /// Sums in parts: of two norms and four biases.
    parts: [usize; 6],
    len: usize,
}

impl Sizes {
    pub(super) fn new(batch: usize, seq_len: usize, weights: &Weights) -> Self {
        let config = &weights.config;
        let (depth, d_model, d_mlp) = (config.depth, config.d_model, config.d_mlp);
        Self { batch, seq_len, depth, d_model, d_mlp }
    }

    fn rows(&self) -> usize {
        self.batch * self.seq_len
    }

    fn heads(&self) -> usize {
        self.d_model / HEAD_WIDTH
    }

    /// Lengths of the parameters of a block, in the order in which they are packed.
    fn lengths(&self) -> [usize; 10] {
        let &Self { d_model, d_mlp, .. } = self;
        [
            2 * d_model,
            3 * d_model * d_model,
            3 * d_model,
            d_model * d_model,
            d_model,
            2 * d_model,
            d_mlp * d_model,
            d_mlp,
            d_model * d_mlp,
            d_model,
        ]
    }

    /// Values of all packed parameters, those of the final norm at the end.
    pub(super) fn parameters(&self) -> usize {
        self.depth * self.lengths().iter().sum::<usize>() + 2 * self.d_model
    }

    fn block(&self, block: usize) -> Parameters {
        let lengths = self.lengths();
        let mut next = block * lengths.iter().sum::<usize>();
        let [norm1, qkv, qkv_bias, proj, proj_bias, norm2, fc1, fc1_bias, fc2, fc2_bias] = lengths
            .map(|len| {
                let place = next;
                next += len;
                place
            });
        Parameters { norm1, qkv, qkv_bias, proj, proj_bias, norm2, fc1, fc1_bias, fc2, fc2_bias }
    }
}

/// All parameters of the blocks in the order of [`Parameters`], then those of the final norm.
pub(super) fn parameters(weights: &Weights) -> Vec<&Tensor> {
    let mut tensors = Vec::new();
    for block in &weights.blocks {
        let (attention, mlp) = (&block.attention, &block.mlp);
        tensors.push(&block.norm1.weight);
        tensors.extend(&block.norm1.bias);
        tensors.extend([&attention.qkv, &attention.qkv_bias]);
        tensors.extend([&attention.proj, &attention.proj_bias]);
        tensors.push(&block.norm2.weight);
        tensors.extend(&block.norm2.bias);
        tensors.extend([&mlp.fc1, &mlp.fc1_bias, &mlp.fc2, &mlp.fc2_bias]);
    }
    tensors.push(&weights.norm.weight);
    tensors.extend(&weights.norm.bias);
    tensors
}

impl Blocks {
    /// # Errors
    /// When the kernels cannot take the sizes.
    pub(super) fn new(sizes: Sizes) -> Result<Self> {
        ensure!(
            sizes.d_model.is_multiple_of(HEAD_WIDTH) && sizes.d_mlp.is_multiple_of(4),
            "training on a GPU takes widths that fit heads of {HEAD_WIDTH}, and an MLP whose width 4 \
             divides; use --device cpu"
        );
        let Sizes { batch, seq_len, d_model, d_mlp, .. } = sizes;
        let rows = sizes.rows();
        let (tokens, inside) = (rows * d_model, rows * d_mlp);
        let shares = sizes.heads() * batch * seq_len * seq_len;
        let mut room = Room::default();
        let parameters = room.take(sizes.parameters());
        let kept = (0..sizes.depth)
            .map(|_| Kept {
                x: room.take(tokens),
                middle: room.take(tokens),
                hidden1: room.take(tokens),
                hidden2: room.take(tokens),
                qkv: room.take(3 * tokens),
                shares: room.take(shares),
                mixed: room.take(tokens),
                inside: room.take(inside),
                active: room.take(inside),
            })
            .collect();
        let norms = Norm::parts(rows) * 2 * d_model;
        let biases = |width: usize| Bias::parts(rows) * width;
        let mut blocks = Self {
            sizes,
            parameters,
            kept,
            gradients: room.take(sizes.parameters()),
            last: room.take(tokens),
            out: room.take(tokens),
            grad: room.take(tokens),
            grad_hidden: room.take(tokens),
            grad_qkv: room.take(3 * tokens),
            grad_shares: room.take(shares),
            grad_mixed: room.take(tokens),
            grad_inside: room.take(inside),
            statistics: room.take(2 * rows),
            parts: [
                norms,
                norms,
                biases(3 * d_model),
                biases(d_model),
                biases(d_mlp),
                biases(d_model),
            ]
            .map(|len| room.take(len)),
            len: 0,
        };
        blocks.len = room.len;
        Ok(blocks)
    }

    fn norm(&self, run: &Run<'_>, x: usize, weight: usize) -> Result<Norm> {
        let d_model = self.sizes.d_model;
        let mut norm = Norm::new(self.sizes.rows(), d_model, 1, NORM_EPS as f32)?;
        norm.x = run.at(x);
        norm.weight = run.at(self.parameters + weight);
        norm.bias = run.at(self.parameters + weight + d_model);
        Ok(norm)
    }

    /// `out = x * weight^T + bias`, or added to `out`.
    fn linear(
        &self,
        run: &mut Run<'_>,
        (x, inner): (usize, usize),
        (weight, bias): (usize, usize),
        (out, columns): (usize, usize),
        add: bool,
    ) -> Result<()> {
        let rows = self.sizes.rows();
        run.multiply(
            [rows, columns, inner, 1],
            run.dense(x, inner, 0),
            run.dense(self.parameters + weight, inner, 0).t(),
            run.dense(out, columns, 0),
            add,
        )?;
        run.add_bias(out, self.parameters + bias, rows, columns)
    }

    /// The backward pass of [`linear`](Self::linear), without the bias: the gradient of the weight, and
    /// in `grad_x` that of `x`.
    fn linear_back(
        &self,
        run: &mut Run<'_>,
        (grad, columns): (usize, usize),
        weight: usize,
        (x, inner): (usize, usize),
        grad_x: usize,
    ) -> Result<()> {
        let rows = self.sizes.rows();
        run.multiply(
            [columns, inner, rows, 1],
            run.dense(grad, columns, 0).t(),
            run.dense(x, inner, 0),
            run.dense(self.gradients + weight, inner, 0),
            false,
        )?;
        run.multiply(
            [rows, inner, columns, 1],
            run.dense(grad, columns, 0),
            run.dense(self.parameters + weight, inner, 0),
            run.dense(grad_x, inner, 0),
            false,
        )
    }

    /// Queries, keys and values of a head, of every clip, in `qkv` or its gradient.
    fn head(&self, run: &Run<'_>, qkv: usize, head: usize) -> [Matrix; 3] {
        let Sizes { seq_len, d_model, .. } = self.sizes;
        [0, 1, 2].map(|which| {
            let place = qkv + which * d_model + head * HEAD_WIDTH;
            run.dense(place, 3 * d_model, seq_len * 3 * d_model)
        })
    }

    /// What a head gives, of every clip, in `mixed` or its gradient.
    fn of_head(&self, run: &Run<'_>, mixed: usize, head: usize) -> Matrix {
        let Sizes { seq_len, d_model, .. } = self.sizes;
        run.dense(mixed + head * HEAD_WIDTH, d_model, seq_len * d_model)
    }

    fn shares(&self, run: &Run<'_>, shares: usize, head: usize) -> Matrix {
        let Sizes { batch, seq_len, .. } = self.sizes;
        let one = seq_len * seq_len;
        run.dense(shares + head * batch * one, seq_len, one)
    }

    /// Softmax over the rows of all shares, or the way back in `grad`.
    fn softmax(&self, run: &Run<'_>, shares: usize, grad: Option<usize>) -> Result<()> {
        let Sizes { batch, seq_len, .. } = self.sizes;
        let scale = (HEAD_WIDTH as f32).powf(-0.5);
        let grad = grad.map_or(0, |place| run.at(place));
        let rows = self.sizes.heads() * batch * seq_len;
        let (softmax, launch) = Softmax::new(run.at(shares), grad, rows, seq_len, scale)?;
        run.training(launch, softmax)
    }

    fn block(&self, run: &mut Run<'_>, at: &Parameters, kept: &Kept, next: usize) -> Result<()> {
        let Sizes { batch, seq_len, d_model, d_mlp, .. } = self.sizes;
        let rows = self.sizes.rows();
        let mut norm = self.norm(run, kept.x, at.norm1)?;
        norm.out = run.at(kept.hidden1);
        run.training(norm.forward()?, norm)?;
        let qkv = (kept.qkv, 3 * d_model);
        self.linear(run, (kept.hidden1, d_model), (at.qkv, at.qkv_bias), qkv, false)?;
        for head in 0..self.sizes.heads() {
            let [q, k, _] = self.head(run, kept.qkv, head);
            let shares = self.shares(run, kept.shares, head);
            run.multiply([seq_len, seq_len, HEAD_WIDTH, batch], q, k.t(), shares, false)?;
        }
        self.softmax(run, kept.shares, None)?;
        for head in 0..self.sizes.heads() {
            let [_, _, v] = self.head(run, kept.qkv, head);
            let shares = self.shares(run, kept.shares, head);
            let mixed = self.of_head(run, kept.mixed, head);
            run.multiply([seq_len, HEAD_WIDTH, seq_len, batch], shares, v, mixed, false)?;
        }
        run.memory.copy_within(kept.x, kept.middle, rows * d_model)?;
        let middle = (kept.middle, d_model);
        self.linear(run, (kept.mixed, d_model), (at.proj, at.proj_bias), middle, true)?;
        let mut norm = self.norm(run, kept.middle, at.norm2)?;
        norm.out = run.at(kept.hidden2);
        run.training(norm.forward()?, norm)?;
        let inside = (kept.inside, d_mlp);
        self.linear(run, (kept.hidden2, d_model), (at.fc1, at.fc1_bias), inside, false)?;
        let (gelu, launch) = Gelu::forward(run.at(kept.inside), run.at(kept.active), rows * d_mlp)?;
        run.training(launch, gelu)?;
        run.memory.copy_within(kept.middle, next, rows * d_model)?;
        self.linear(run, (kept.active, d_mlp), (at.fc2, at.fc2_bias), (next, d_model), true)
    }

    fn block_back(&self, run: &mut Run<'_>, at: &Parameters, kept: &Kept) -> Result<()> {
        let Sizes { batch, seq_len, d_model, d_mlp, .. } = self.sizes;
        let rows = self.sizes.rows();
        let [parts1, parts2, parts_qkv, parts_proj, parts_fc1, parts_fc2] = self.parts;
        let gradient = |place: usize| self.gradients + place;
        let sums = SumPlan::default();
        let sums =
            run.columns(sums, self.grad, parts_fc2, gradient(at.fc2_bias), (rows, d_model))?;
        let inside = self.grad_inside;
        self.linear_back(run, (self.grad, d_model), at.fc2, (kept.active, d_mlp), inside)?;
        let (gelu, launch) = Gelu::backward(run.at(kept.inside), run.at(inside), rows * d_mlp)?;
        run.training(launch, gelu)?;
        let sums = run.columns(sums, inside, parts_fc1, gradient(at.fc1_bias), (rows, d_mlp))?;
        let hidden = self.grad_hidden;
        self.linear_back(run, (inside, d_mlp), at.fc1, (kept.hidden2, d_model), hidden)?;
        let sums = self.norm_back(run, sums, kept.middle, at.norm2, parts2)?;

        let sums =
            run.columns(sums, self.grad, parts_proj, gradient(at.proj_bias), (rows, d_model))?;
        let (mixed, qkv) = (self.grad_mixed, self.grad_qkv);
        self.linear_back(run, (self.grad, d_model), at.proj, (kept.mixed, d_model), mixed)?;
        for head in 0..self.sizes.heads() {
            let [_, _, v] = self.head(run, kept.qkv, head);
            let [_, _, grad_v] = self.head(run, qkv, head);
            let grad = self.of_head(run, mixed, head);
            let shares = self.shares(run, kept.shares, head);
            let grad_shares = self.shares(run, self.grad_shares, head);
            run.multiply([seq_len, HEAD_WIDTH, seq_len, batch], shares.t(), grad, grad_v, false)?;
            run.multiply([seq_len, seq_len, HEAD_WIDTH, batch], grad, v.t(), grad_shares, false)?;
        }
        self.softmax(run, kept.shares, Some(self.grad_shares))?;
        for head in 0..self.sizes.heads() {
            let [q, k, _] = self.head(run, kept.qkv, head);
            let [grad_q, grad_k, _] = self.head(run, qkv, head);
            let grad = self.shares(run, self.grad_shares, head);
            run.multiply([seq_len, HEAD_WIDTH, seq_len, batch], grad, k, grad_q, false)?;
            run.multiply([seq_len, HEAD_WIDTH, seq_len, batch], grad.t(), q, grad_k, false)?;
        }
        let sums = run.columns(sums, qkv, parts_qkv, gradient(at.qkv_bias), (rows, 3 * d_model))?;
        self.linear_back(run, (qkv, 3 * d_model), at.qkv, (kept.hidden1, d_model), hidden)?;
        let sums = self.norm_back(run, sums, kept.x, at.norm1, parts1)?;
        run.training(sums.launch(), sums)
    }

    /// Adds the gradient through a norm to the residual's.
    fn norm_back(
        &self,
        run: &Run<'_>,
        sums: SumPlan,
        x: usize,
        weight: usize,
        parts: usize,
    ) -> Result<SumPlan> {
        let mut norm = self.norm(run, x, weight)?;
        norm.grad = run.at(self.grad_hidden);
        norm.grad_x = run.at(self.grad);
        norm.statistics = run.at(self.statistics);
        norm.partial = run.at(parts);
        run.training(norm.backward()?, norm)?;
        run.training(norm.columns()?, norm)?;
        let size = (Norm::parts(self.sizes.rows()), 2 * self.sizes.d_model);
        run.sum(sums, parts, None, self.gradients + weight, size)
    }
}

impl Layers for Blocks {
    fn memory(&self) -> usize {
        self.len
    }

    fn forward(&self, run: &mut Run<'_>, parameters: &[f32], tokens: &[f32]) -> Result<Vec<f32>> {
        let first = self.kept.first().map_or(self.last, |kept| kept.x);
        run.memory.write(self.parameters, parameters)?;
        run.memory.write(first, tokens)?;
        for (block, kept) in self.kept.iter().enumerate() {
            let next = self.kept.get(block + 1).map_or(self.last, |kept| kept.x);
            self.block(run, &self.sizes.block(block), kept, next)?;
        }
        let weight = self.sizes.parameters() - 2 * self.sizes.d_model;
        let mut norm = self.norm(run, self.last, weight)?;
        norm.out = run.at(self.out);
        run.training(norm.forward()?, norm)?;
        let mut out = vec![0.0; tokens.len()];
        run.memory.read(self.out, &mut out)?;
        Ok(out)
    }

    fn backward(&self, run: &mut Run<'_>, grad: &[f32]) -> Result<(Vec<f32>, Vec<f32>)> {
        run.memory.write(self.grad_hidden, grad)?;
        run.memory.zero(self.grad, grad.len())?;
        let weight = self.sizes.parameters() - 2 * self.sizes.d_model;
        let sums = self.norm_back(run, SumPlan::default(), self.last, weight, self.parts[0])?;
        run.training(sums.launch(), sums)?;
        for (block, kept) in self.kept.iter().enumerate().rev() {
            self.block_back(run, &self.sizes.block(block), kept)?;
        }
        let mut tokens = vec![0.0; grad.len()];
        run.memory.read(self.grad, &mut tokens)?;
        let mut parameters = vec![0.0; self.sizes.parameters()];
        run.memory.read(self.gradients, &mut parameters)?;
        Ok((tokens, parameters))
    }
}
