//! Norms, residuals, and the order of layers.
//!
//! The residual of the published network doubles at every pair. The graph carries
//! `rho = s / 2^k` instead, which stays bounded: with `F` and `G` the two layers of pair `k`,
//!
//! ```text
//! s'   = 2 * s + F(s) + G(s)
//! rho' = rho + (F(rho) + G(rho)) / 2^(k+1)      where the norms use eps / 4^k
//! ```
//!
//! The factor is a power of two and goes into the out-projection without rounding. Both layers of a
//! pair read the same `rho`, so nothing orders them: by default they are lowered as one step.

use anyhow::Result;
use ssamba_contract::{
    Lowering,
    op::{ADD_LAYER_NORM, DOMAIN, add_layer_norm::RESULTS, attribute},
};
use ssamba_model::{
    Config, Model, NORM_EPS, NormKind,
    weights::{LayerWeights, NormWeights},
};

use super::{
    matrix::vector,
    mixer::{InProjection, NormParameters, Oriented, mixers},
    patch_embed::Placed,
};
use crate::{
    Precision,
    conv_function::ConvConfiguration,
    function::ScanConfiguration,
    graph::{Attribute, GraphBuilder, Value},
};

/// Encoder under construction: its parameters, and how far the residual is scaled down.
pub(crate) struct Encoder<'a> {
    pub(crate) model: &'a Model,
    pub(crate) conv: &'a ConvConfiguration,
    pub(crate) scan: &'a ScanConfiguration,
    pub(crate) precision: Precision,
    pub(crate) lowering: Lowering,
    /// Whether the file is for a GPU.
    pub(crate) gpu: bool,
}

impl Encoder<'_> {
    pub(crate) fn config(&self) -> &Config {
        &self.model.weights().config
    }

    /// Whether a norm is one operator with the addition before it, which for a GPU is one reading and
    /// one launch less. The operator knows one kind of norm, and tract does not know the operator.
    pub(crate) fn adds_in_norms(&self) -> bool {
        self.gpu && self.precision == Precision::F16 && self.model.norm() == NormKind::Layer
    }

    /// All layers: tokens to `rho`, and the number of pairs `k` with `s = rho * 2^k`.
    pub(crate) fn layers(
        &self,
        g: &mut GraphBuilder,
        placed: Placed,
        fuse: bool,
    ) -> Result<(Value, i32)> {
        let layers = &self.model.weights().layers;
        // Mean instead of sum of the directions.
        let halve = if self.model.recipe().halve { 0.5 } else { 1.0 };
        let mut residual = match self.adds_in_norms() {
            true => Residual { rho: placed.tokens, update: Some(placed.positions) },
            false => Residual { rho: placed.sum(g), update: None },
        };
        if !self.model.recipe().pairwise {
            for (index, layer) in layers.iter().enumerate() {
                g.scope(format!("layer{index}"), |g| {
                    let update = self.layer(g, layer, false, 0, halve, &mut residual)?;
                    self.update(g, &mut residual, update);
                    anyhow::Ok(())
                })?;
            }
            return Ok((g.scope("norm_f", |g| residual.sum(g)), 0));
        }
        let mut k = 0;
        for pair in layers.chunks_exact(2) {
            let scale = halve * f64::from(-(k + 1)).exp2();
            g.scope(format!("pair{k}"), |g| {
                let update = match fuse {
                    true => self.pair(g, pair, k, scale, &mut residual)?,
                    false => {
                        let first = g.scope("first", |g| {
                            self.layer(g, &pair[0], false, k, scale, &mut residual)
                        })?;
                        let second = g.scope("second", |g| {
                            self.layer(g, &pair[1], true, k, scale, &mut residual)
                        })?;
                        g.add(&first, &second)
                    }
                };
                self.update(g, &mut residual, update);
                anyhow::Ok(())
            })?;
            k += 1;
        }
        Ok((g.scope("norm_f", |g| residual.sum(g)), k))
    }

    /// Adds an update, or leaves that to the norm that reads the sum.
    fn update(&self, g: &mut GraphBuilder, residual: &mut Residual, update: Value) {
        residual.update = Some(update);
        if !self.adds_in_norms() {
            residual.sum(g);
        }
    }

    /// One layer, norm to out-projection.
    fn layer(
        &self,
        g: &mut GraphBuilder,
        layer: &LayerWeights,
        reversed: bool,
        k: i32,
        out_scale: f64,
        residual: &mut Residual,
    ) -> Result<Value> {
        let oriented = [Oriented { mixer: &layer.mixer, reversed }];
        let normalised = self.layer_norm(g, Affine::Weights(&layer.norm), k, residual)?;
        let in_projection = InProjection::new(&oriented, None)?;
        mixers(g, self, &oriented, &in_projection, out_scale, &normalised)
    }

    /// Both layers of a pair as one step: one norm without parameters, whose two sets go into one
    /// in-projection.
    fn pair(
        &self,
        g: &mut GraphBuilder,
        pair: &[LayerWeights],
        k: i32,
        out_scale: f64,
        residual: &mut Residual,
    ) -> Result<Value> {
        let oriented = [
            Oriented { mixer: &pair[0].mixer, reversed: false },
            Oriented { mixer: &pair[1].mixer, reversed: true },
        ];
        let norms = pair
            .iter()
            .map(|layer| {
                let bias = match self.model.norm() {
                    NormKind::Layer => layer.norm.bias.as_ref().map(vector).transpose()?,
                    NormKind::Rms => None,
                };
                Ok(NormParameters { weight: vector(&layer.norm.weight)?, bias })
            })
            .collect::<Result<Vec<_>>>()?;
        let in_projection = InProjection::new(&oriented, Some(&norms))?;
        let affine = if in_projection.lifted { Affine::Lift } else { Affine::None };
        let normalised = self.layer_norm(g, affine, k, residual)?;
        mixers(g, self, &oriented, &in_projection, out_scale, &normalised)
    }

    /// The norm of a layer, in the precision of the layers.
    fn layer_norm(
        &self,
        g: &mut GraphBuilder,
        affine: Affine<'_>,
        k: i32,
        residual: &mut Residual,
    ) -> Result<Value> {
        if let Some(update) = residual.update.take_if(|_| self.adds_in_norms()) {
            let [normalised, sum] = self.add_norm(g, "norm", affine, k, &residual.rho, &update)?;
            residual.rho = sum;
            return Ok(normalised);
        }
        let rho = &residual.sum(g);
        // `LayerNormalization` computes in `f32` whatever it is given; the nodes of the other norm
        // would not.
        if self.precision == Precision::F32 || self.model.norm() == NormKind::Layer {
            return self.norm_in(g, "norm", self.precision, affine, k, rho);
        }
        let wide = g.scope("norm", |g| g.cast(rho, Precision::F32));
        let normalised = self.norm(g, "norm", affine, k, &wide)?;
        Ok(g.scope("norm", |g| g.cast(&normalised, self.precision)))
    }

    /// A norm of the network's kind with epsilon scaled for `rho = s / 2^k`, in `f32`.
    pub(crate) fn norm(
        &self,
        g: &mut GraphBuilder,
        name: &str,
        affine: Affine<'_>,
        k: i32,
        x: &Value,
    ) -> Result<Value> {
        if self.adds_in_norms() {
            // Our kernel is worth the sum with nothing.
            let d_model = self.config().d_model;
            let nothing =
                g.scope(name, |g| g.floats("nothing", &[1, 1, d_model], &vec![0.0; d_model]));
            let [normalised, _] = self.add_norm(g, name, affine, k, x, &nothing)?;
            return Ok(normalised);
        }
        self.norm_in(g, name, Precision::F32, affine, k, x)
    }

    fn norm_in(
        &self,
        g: &mut GraphBuilder,
        name: &str,
        precision: Precision,
        affine: Affine<'_>,
        k: i32,
        x: &Value,
    ) -> Result<Value> {
        let (kind, d_model) = (self.model.norm(), self.config().d_model);
        norm(g, name, kind, precision, d_model, affine, epsilon(k), x)
    }

    /// The layer norm of `x + update`, and the sum itself.
    fn add_norm(
        &self,
        g: &mut GraphBuilder,
        name: &str,
        affine: Affine<'_>,
        k: i32,
        x: &Value,
        update: &Value,
    ) -> Result<[Value; 2]> {
        let d_model = self.config().d_model;
        let [weight, bias] = affine.parameters(NormKind::Layer, d_model)?;
        Ok(g.scope(name, |g| {
            let weight = weight.unwrap_or_else(|| vec![1.0; d_model]);
            let bias = bias.unwrap_or_else(|| vec![0.0; d_model]);
            let weight = g.floats("weight", &[d_model], &weight);
            let bias = g.floats("bias", &[d_model], &bias);
            let attributes = [(attribute::EPSILON, Attribute::Float(epsilon(k) as f32))];
            let inputs = [x, update, &weight, &bias];
            let results = g.node_in(DOMAIN, ADD_LAYER_NORM, &inputs, &attributes, RESULTS.len());
            [0, 1].map(|result| results[result].clone())
        }))
    }
}

/// Epsilon of the norms, scaled for `rho = s / 2^k`.
fn epsilon(k: i32) -> f64 {
    NORM_EPS * f64::from(-2 * k).exp2()
}

/// The residual that layers read.
struct Residual {
    rho: Value,
    /// What is still to be added to `rho`.
    update: Option<Value>,
}

impl Residual {
    /// Adds what is to be added.
    fn sum(&mut self, g: &mut GraphBuilder) -> Value {
        if let Some(update) = self.update.take() {
            self.rho = g.add(&self.rho, &update);
        }
        self.rho.clone()
    }
}

/// What a norm's result is multiplied by, and what is added.
#[derive(Clone, Copy)]
pub(crate) enum Affine<'a> {
    /// Nothing.
    None,
    /// One is added, to the result of a layer norm: see [`InProjection`].
    Lift,
    /// The network's parameters.
    Weights(&'a NormWeights),
}

impl Affine<'_> {
    /// Weight and bias; `None` where they change nothing.
    fn parameters(self, kind: NormKind, d_model: usize) -> Result<[Option<Vec<f64>>; 2]> {
        Ok(match self {
            Affine::None => [None, None],
            Affine::Lift => [None, Some(vec![1.0; d_model])],
            Affine::Weights(weights) => [
                Some(vector(&weights.weight)?),
                match &weights.bias {
                    Some(bias) if kind == NormKind::Layer => Some(vector(bias)?),
                    _ => None,
                },
            ],
        })
    }
}

/// A norm over the last axis of `x`, which is of that precision.
#[expect(clippy::too_many_arguments, reason = "one caller for each of two kinds of norm")]
pub(crate) fn norm(
    g: &mut GraphBuilder,
    name: &str,
    kind: NormKind,
    precision: Precision,
    d_model: usize,
    affine: Affine<'_>,
    eps: f64,
    x: &Value,
) -> Result<Value> {
    let [weight, bias] = affine.parameters(kind, d_model)?;
    Ok(g.scope(name, |g| match kind {
        NormKind::Layer => {
            let weight = weight.unwrap_or_else(|| vec![1.0; d_model]);
            let weight = g.numbers("weight", &[d_model], &weight, precision);
            let bias = bias.map(|bias| g.numbers("bias", &[d_model], &bias, precision));
            let inputs: Vec<&Value> = [x, &weight].into_iter().chain(&bias).collect();
            let attributes =
                [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(eps as f32))];
            g.node("LayerNormalization", &inputs, &attributes)
        }
        NormKind::Rms => {
            let square = g.mul(x, x);
            let axes = g.integers(&[-1]);
            let mean = g.node("ReduceMean", &[&square, &axes], &[]);
            let eps = g.floats("eps", &[], &[eps]);
            let shifted = g.add(&mean, &eps);
            let root = g.node("Sqrt", &[&shifted], &[]);
            let normalised = g.node("Div", &[x, &root], &[]);
            match weight {
                Some(weight) => {
                    let weight = g.floats("weight", &[d_model], &weight);
                    g.mul(&normalised, &weight)
                }
                None => normalised,
            }
        }
    }))
}
