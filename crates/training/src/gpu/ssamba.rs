//! The layers of SSAMBA on a GPU: from tokens with positions to tokens after the second final norm, and
//! back.
//!
//! All layers of a step, two of a pair, run side by side, and in each product of matrices all their
//! streams. The residual is the folded one: a step adds what its layers put out.

use anyhow::Result;
use candle_core::Tensor;
use ssamba_cuda::Matrix;
use ssamba_model::{NORM_EPS, Weights, weights::LayerWeights};
use ssamba_scan::{
    Activation, Combine, Layout,
    cuda::{
        ConvAddresses, ConvBackwardAddresses, ConvBackwardPlan, ConvCall, ConvPlan, Decay, Element,
        Norm, ScanAddresses, ScanBackwardAddresses, ScanBackwardPlan, ScanCall, ScanPlan, SumPlan,
    },
};

use super::{
    Devices,
    run::{Layers, Run},
    ssamba_layout::{Kept, Parameters, Parts, Places, Sizes},
};

/// Directions of the streams of a step: of a layer, and of a pair, whose second layer sees the tokens
/// from the last to the first.
const REVERSE: [bool; 4] = [false, true, true, false];

/// All parameters of the layers in the order of [`Parameters`], then those of the final norm.
pub(super) fn parameters(weights: &Weights, together: usize) -> Vec<&Tensor> {
    let mut tensors = Vec::new();
    for layers in weights.layers.chunks_exact(together) {
        let streams =
            || layers.iter().flat_map(|layer| [&layer.mixer.forward, &layer.mixer.reverse]);
        let of = |take: fn(&LayerWeights) -> &Tensor| layers.iter().map(take);
        tensors.extend(of(|layer| &layer.norm.weight));
        tensors.extend(layers.iter().filter_map(|layer| layer.norm.bias.as_ref()));
        tensors.extend(of(|layer| &layer.mixer.in_proj));
        tensors.extend(streams().map(|stream| &stream.conv_weight));
        tensors.extend(streams().map(|stream| &stream.conv_bias));
        tensors.extend(streams().map(|stream| &stream.x_proj));
        tensors.extend(streams().map(|stream| &stream.dt_proj));
        tensors.extend(streams().map(|stream| &stream.dt_bias));
        tensors.extend(streams().map(|stream| &stream.a_log));
        tensors.extend(streams().map(|stream| &stream.d_skip));
        tensors.extend(of(|layer| &layer.mixer.out_proj));
    }
    tensors.push(&weights.norm_f.weight);
    tensors.extend(&weights.norm_f.bias);
    tensors
}

/// The calls of one size of input.
pub(super) struct Encoder {
    sizes: Sizes,
    places: Places,
    conv: ConvPlan,
    scan: ScanPlan,
    back: Back,
}

struct Back {
    conv: ConvBackwardPlan,
    scan: ScanBackwardPlan,
    parts: Parts,
}

impl Back {
    fn new(
        conv: &ConvCall<'_>,
        scan: &ScanCall<'_>,
        sizes: &Sizes,
        devices: &Devices,
    ) -> Result<Self> {
        let conv = ConvBackwardPlan::new(conv)?;
        let scan = ScanBackwardPlan::new(scan, devices.training.limits())?;
        let parts = Parts {
            scan: scan.parts(),
            states: scan.states(),
            conv: conv.parts(),
            norm: Norm::parts(sizes.rows()),
        };
        Ok(Self { conv, scan, parts })
    }
}

impl Encoder {
    /// # Errors
    /// When the sizes are beyond what the kernels or the device take.
    pub(super) fn new(sizes: Sizes, devices: &Devices) -> Result<Self> {
        sizes.check()?;
        let &Sizes { batch, seq_len, d_inner, d_state, taps, together, scale, .. } = &sizes;
        let limits = devices.inference.limits();
        let reverse = &REVERSE[..sizes.streams()];
        let conv = ConvCall {
            element: Element::F32,
            batch,
            seq_len,
            d_inner,
            taps,
            groups: together,
            reverse,
            activation: Activation::Silu,
            layout: Layout::Channels,
        };
        let scan = ScanCall {
            element: Element::F32,
            batch,
            seq_len,
            d_inner,
            d_state,
            layout: Layout::Channels,
            states_width: reverse.len() * d_state,
            columns: [0, 0],
            groups: together,
            reverse,
            delta_softplus: true,
            combine: Combine::Sum,
            scale,
        };
        let back = Back::new(&conv, &scan, &sizes, devices)?;
        let places = Places::new(&sizes, &back.parts);
        let (conv, scan) = (ConvPlan::new(&conv, limits)?, ScanPlan::new(&scan, limits)?);
        Ok(Self { sizes, places, conv, scan, back })
    }

    fn final_norm(&self, run: &Run<'_>, x: usize, eps: f64) -> Result<Norm> {
        let weight = self.places.parameters + self.sizes.norm_f();
        let mut norm = Norm::new(self.sizes.rows(), self.sizes.d_model, 1, eps as f32)?;
        norm.x = run.at(x);
        norm.weight = run.at(weight);
        norm.bias = run.at(weight + self.sizes.d_model);
        Ok(norm)
    }

    /// The norms of a step's layers.
    fn norm(&self, run: &Run<'_>, at: &Parameters, kept: &Kept, eps: f64) -> Result<Norm> {
        let &Sizes { together, d_model, .. } = &self.sizes;
        let parameter = |place: usize| run.at(self.places.parameters + place);
        let mut norm = Norm::new(self.sizes.rows(), d_model, together, eps as f32)?;
        norm.x = run.at(kept.rho);
        norm.weight = parameter(at.norm_weight);
        norm.bias = parameter(at.norm_bias);
        Ok(norm)
    }

    fn step(
        &self,
        run: &mut Run<'_>,
        at: &Parameters,
        kept: &Kept,
        next: usize,
        eps: f64,
    ) -> Result<()> {
        let sizes = &self.sizes;
        let &Sizes { together, d_model, d_inner, d_state, dt_rank, .. } = sizes;
        let (rows, streams) = (sizes.rows(), sizes.streams());
        let parameter = |place: usize| self.places.parameters + place;
        let mut norm = self.norm(run, at, kept, eps)?;
        norm.out = run.at(kept.hidden);
        run.training(norm.forward()?, norm)?;
        for (half, out) in [(0, kept.x), (1, kept.z)] {
            run.multiply(
                [rows, d_inner, d_model, together],
                run.dense(kept.hidden, d_model, rows * d_model),
                self.in_proj(run, at, half).t(),
                run.side_by_side(out, together, d_inner),
                false,
            )?;
        }
        let conv = ConvAddresses {
            x: run.at(kept.x),
            weight: run.at(parameter(at.conv_weight)),
            bias: run.at(parameter(at.conv_bias)),
            u: run.at(kept.u),
        };
        if let Some(launch) = self.conv.launch() {
            run.inference(launch, self.conv.arguments(conv))?;
        }
        for (place, first, width) in self.projected([kept.rank, kept.b, kept.c]) {
            run.multiply(
                [rows, width, d_inner, streams],
                run.side_by_side(kept.u, streams, d_inner),
                self.x_proj(run, at, first).t(),
                run.side_by_side(place, streams, width),
                false,
            )?;
        }
        run.multiply(
            [rows, d_inner, dt_rank, streams],
            run.side_by_side(kept.rank, streams, dt_rank),
            run.dense(parameter(at.dt_proj), dt_rank, d_inner * dt_rank).t(),
            run.side_by_side(kept.delta, streams, d_inner),
            false,
        )?;
        let (decay, launch) =
            Decay::new(run.at(parameter(at.a_log)), run.at(kept.a), streams * d_inner * d_state)?;
        run.training(launch, decay)?;
        let scan = ScanAddresses {
            u: run.at(kept.u),
            delta: run.at(kept.delta),
            a: run.at(kept.a),
            b: run.at(kept.b),
            c: run.at(kept.c),
            d_skip: run.at(parameter(at.d_skip)),
            z: run.at(kept.z),
            delta_bias: run.at(parameter(at.dt_bias)),
            y: run.at(kept.y),
        };
        if let Some(launch) = self.scan.launch() {
            run.inference(launch, self.scan.arguments(scan))?;
        }
        run.memory.copy_within(kept.rho, next, rows * d_model)?;
        for layer in 0..together {
            run.multiply(
                [rows, d_model, d_inner, 1],
                run.side_by_side(kept.y + layer * d_inner, together, d_inner),
                run.dense(parameter(at.out_proj) + layer * d_model * d_inner, d_inner, 0).t(),
                run.dense(next, d_model, 0),
                true,
            )?;
        }
        Ok(())
    }

    /// The rows of the in-projections that give `x`, or those that give `z`: `[d_inner, d_model]` a
    /// layer.
    fn in_proj(&self, run: &Run<'_>, at: &Parameters, half: usize) -> Matrix {
        let &Sizes { d_model, d_inner, .. } = &self.sizes;
        let first = self.places.parameters + at.in_proj + half * d_inner * d_model;
        run.dense(first, d_model, 2 * d_inner * d_model)
    }

    /// The x-projections of the streams from a row on, `[.., d_inner]` each.
    fn x_proj(&self, run: &Run<'_>, at: &Parameters, first: usize) -> Matrix {
        let d_inner = self.sizes.d_inner;
        let place = self.places.parameters + at.x_proj + first * d_inner;
        run.dense(place, d_inner, self.sizes.columns() * d_inner)
    }

    /// What the x-projection puts out: where it goes, and the first row and number of rows that give it.
    fn projected(&self, [rank, b, c]: [usize; 3]) -> [(usize, usize, usize); 3] {
        let &Sizes { dt_rank, d_state, .. } = &self.sizes;
        [(rank, 0, dt_rank), (b, dt_rank, d_state), (c, dt_rank + d_state, d_state)]
    }

    fn step_back(&self, run: &mut Run<'_>, at: &Parameters, kept: &Kept, eps: f64) -> Result<()> {
        let (sizes, places, back) = (&self.sizes, &self.places, &self.back);
        let &Sizes { batch, together, d_model, d_inner, d_state, dt_rank, taps, .. } = sizes;
        let (rows, streams) = (sizes.rows(), sizes.streams());
        let channels = streams * d_inner;
        let parameter = |place: usize| places.parameters + place;
        let gradient = |place: usize| places.gradients + place;
        let residual = run.dense(places.grad_rho, d_model, 0);
        // The out-projections.
        let of_layer = d_model * d_inner;
        run.multiply(
            [rows, d_inner, d_model, together],
            residual,
            run.dense(parameter(at.out_proj), d_inner, of_layer),
            run.side_by_side(places.grad_y, together, d_inner),
            false,
        )?;
        run.multiply_over_rows(
            [d_model, d_inner, rows, together],
            residual.t(),
            run.side_by_side(kept.y, together, d_inner),
            run.dense(gradient(at.out_proj), d_inner, of_layer),
        )?;
        // The scans.
        let one = back.parts.scan == 1;
        let scan = ScanBackwardAddresses {
            u: run.at(kept.u),
            delta: run.at(kept.delta),
            a: run.at(kept.a),
            b: run.at(kept.b),
            c: run.at(kept.c),
            d_skip: run.at(parameter(at.d_skip)),
            z: run.at(kept.z),
            delta_bias: run.at(parameter(at.dt_bias)),
            grad_y: run.at(places.grad_y),
            states: run.at(places.states),
            grad_u: run.at(places.grad_u),
            grad_delta: run.at(places.grad_delta),
            grad_z: run.at(places.parts_of_z),
            grad_b: run.at(if one { places.grad_b } else { places.parts_of_b }),
            grad_c: run.at(if one { places.grad_c } else { places.parts_of_c }),
            grad_a: run.at(places.parts_of_a),
            grad_d_skip: run.at(places.parts_of_d_skip),
            grad_delta_bias: run.at(places.parts_of_dt_bias),
        };
        run.training(back.scan.launch(), back.scan.arguments(scan))?;
        let states = channels * d_state;
        let mut sums = SumPlan::default();
        for (parts, factor, out, len) in [
            (places.parts_of_a, Some(kept.a), at.a_log, states),
            (places.parts_of_d_skip, None, at.d_skip, channels),
            (places.parts_of_dt_bias, None, at.dt_bias, channels),
        ] {
            sums = run.sum(sums, parts, factor, gradient(out), (batch, len))?;
        }
        if !one {
            let size = (back.parts.scan, rows * streams * d_state);
            sums = run.sum(sums, places.parts_of_b, None, places.grad_b, size)?;
            sums = run.sum(sums, places.parts_of_c, None, places.grad_c, size)?;
        }
        run.training(sums.launch(), sums)?;
        // The dt-projections.
        let of_stream = d_inner * dt_rank;
        let grad_delta = run.side_by_side(places.grad_delta, streams, d_inner);
        run.multiply_over_rows(
            [d_inner, dt_rank, rows, streams],
            grad_delta.t(),
            run.side_by_side(kept.rank, streams, dt_rank),
            run.dense(gradient(at.dt_proj), dt_rank, of_stream),
        )?;
        run.multiply(
            [rows, dt_rank, d_inner, streams],
            grad_delta,
            run.dense(parameter(at.dt_proj), dt_rank, of_stream),
            run.side_by_side(places.grad_rank, streams, dt_rank),
            false,
        )?;
        // The x-projections.
        let grad_u = run.side_by_side(places.grad_u, streams, d_inner);
        for (place, first, width) in
            self.projected([places.grad_rank, places.grad_b, places.grad_c])
        {
            let grad = run.side_by_side(place, streams, width);
            run.multiply_over_rows(
                [width, d_inner, rows, streams],
                grad.t(),
                run.side_by_side(kept.u, streams, d_inner),
                run.dense(
                    gradient(at.x_proj) + first * d_inner,
                    d_inner,
                    sizes.columns() * d_inner,
                ),
            )?;
            run.multiply(
                [rows, d_inner, width, streams],
                grad,
                self.x_proj(run, at, first),
                grad_u,
                true,
            )?;
        }
        // The convolutions.
        let conv = ConvBackwardAddresses {
            x: run.at(kept.x),
            weight: run.at(parameter(at.conv_weight)),
            bias: run.at(parameter(at.conv_bias)),
            grad_u: run.at(places.grad_u),
            parts_of_z: run.at(places.parts_of_z),
            grad_x: run.at(places.grad_x),
            grad_z: run.at(places.grad_z),
            grad_weight: run.at(places.parts_of_conv_weight),
            grad_bias: run.at(places.parts_of_conv_bias),
        };
        run.training(back.conv.launch(), back.conv.arguments(conv))?;
        // The in-projections.
        for (half, grad) in [(0, places.grad_x), (1, places.grad_z)] {
            let grad = run.side_by_side(grad, together, d_inner);
            run.multiply_over_rows(
                [d_inner, d_model, rows, together],
                grad.t(),
                run.dense(kept.hidden, d_model, rows * d_model),
                run.dense(
                    gradient(at.in_proj) + half * d_inner * d_model,
                    d_model,
                    2 * d_inner * d_model,
                ),
            )?;
            run.multiply(
                [rows, d_model, d_inner, together],
                grad,
                self.in_proj(run, at, half),
                run.dense(places.grad_hidden, d_model, rows * d_model),
                half == 1,
            )?;
        }
        // The norms.
        let mut norm = self.norm(run, at, kept, eps)?;
        norm.grad = run.at(places.grad_hidden);
        norm.grad_x = run.at(places.grad_rho);
        norm.statistics = run.at(places.statistics);
        norm.partial = run.at(places.parts_of_norm);
        run.training(norm.backward()?, norm)?;
        run.training(norm.columns()?, norm)?;
        let mut sums = SumPlan::default();
        for (parts, out, size) in [
            (places.parts_of_conv_weight, at.conv_weight, (back.parts.conv, channels * taps)),
            (places.parts_of_conv_bias, at.conv_bias, (back.parts.conv, channels)),
            (places.parts_of_norm, at.norm_weight, (back.parts.norm, 2 * together * d_model)),
        ] {
            sums = run.sum(sums, parts, None, gradient(out), size)?;
        }
        run.training(sums.launch(), sums)
    }
}

impl Layers for Encoder {
    fn memory(&self) -> usize {
        self.places.len
    }

    fn forward(&self, run: &mut Run<'_>, parameters: &[f32], tokens: &[f32]) -> Result<Vec<f32>> {
        let (sizes, places) = (&self.sizes, &self.places);
        let first = places.kept.first().map_or(places.rho, |kept| kept.rho);
        run.memory.write(places.parameters, parameters)?;
        run.memory.write(first, tokens)?;
        let mut eps = sizes.eps.0;
        for (step, kept) in places.kept.iter().enumerate() {
            let next = places.kept.get(step + 1).map_or(places.rho, |kept| kept.rho);
            self.step(run, &sizes.step(step), kept, next, eps)?;
            eps /= sizes.eps.1;
        }
        for (from, to, eps) in
            [(places.rho, places.once, eps), (places.once, places.twice, NORM_EPS)]
        {
            let norm = self.final_norm(run, from, eps)?;
            let mut norm = norm;
            norm.out = run.at(to);
            run.training(norm.forward()?, norm)?;
        }
        let mut out = vec![0.0; tokens.len()];
        run.memory.read(places.twice, &mut out)?;
        Ok(out)
    }

    fn backward(&self, run: &mut Run<'_>, grad: &[f32]) -> Result<(Vec<f32>, Vec<f32>)> {
        let (sizes, places) = (&self.sizes, &self.places);
        let back = &self.back;
        let (rows, d_model) = (sizes.rows(), sizes.d_model);
        run.memory.write(places.grad_twice, grad)?;
        run.memory.zero(places.grad_once, rows * d_model)?;
        run.memory.zero(places.grad_rho, rows * d_model)?;
        let divisions = i32::try_from(sizes.steps)?;
        let last = sizes.eps.0 / sizes.eps.1.powi(divisions);
        let len = 2 * d_model;
        for (number, (x, grad, grad_x, eps)) in [
            (places.once, places.grad_twice, places.grad_once, NORM_EPS),
            (places.rho, places.grad_once, places.grad_rho, last),
        ]
        .into_iter()
        .enumerate()
        {
            let mut norm = self.final_norm(run, x, eps)?;
            norm.grad = run.at(grad);
            norm.grad_x = run.at(grad_x);
            norm.statistics = run.at(places.statistics);
            norm.partial = run.at(places.parts_of_norm + number * back.parts.norm * len);
            run.training(norm.backward()?, norm)?;
            run.training(norm.columns()?, norm)?;
        }
        let sums = run.sum(
            SumPlan::default(),
            places.parts_of_norm,
            None,
            places.gradients + sizes.norm_f(),
            (2 * back.parts.norm, len),
        )?;
        run.training(sums.launch(), sums)?;
        let mut eps = last;
        for (step, kept) in places.kept.iter().enumerate().rev() {
            eps *= sizes.eps.1;
            self.step_back(run, &sizes.step(step), kept, eps)?;
        }
        let mut tokens = vec![0.0; grad.len()];
        run.memory.read(places.grad_rho, &mut tokens)?;
        let gradients = places.gradients(sizes);
        let mut of_parameters = vec![0.0; gradients.len()];
        run.memory.read(gradients.start, &mut of_parameters)?;
        Ok((tokens, of_parameters))
    }
}
