//! One node of `ssamba::AddLayerNorm` with its answer in `f64`.

use half::f16;
use onnx_protobuf::{GraphProto, ModelProto, NodeProto};
use ssamba_contract::{
    Outputs, Tensor,
    io::{EMBEDDING, FBANK, LOGITS},
    op::{
        ADD_LAYER_NORM, DOMAIN,
        add_layer_norm::{OPERANDS, PARAMETERS},
        attribute,
    },
};

use crate::{
    half::{FLOAT, FLOAT16, cast},
    support::{Dim, Random, TOLERANCE, card, float, initializer, model, value_info},
};

/// One `AddLayerNorm` node whose `x` is the graph's input, and whose other operands are constants; the
/// graph puts out `y` as `logits` and `sum` as `embedding`.
#[derive(Clone, Debug)]
pub struct NormProblem {
    pub batch: usize,
    pub seq_len: usize,
    pub d_model: usize,
    /// Clips and tokens that the update has.
    pub updates: (usize, usize),
    pub epsilon: f32,
    /// Whether the sequences are in half precision.
    pub half: bool,
}

impl NormProblem {
    pub fn new(batch: usize, seq_len: usize, d_model: usize, half: bool) -> Self {
        Self { batch, seq_len, d_model, updates: (batch, seq_len), epsilon: 1e-5, half }
    }

    /// Every kind of width and update, in both precisions.
    pub fn all() -> Vec<Self> {
        let mut problems = Vec::new();
        for half in [false, true] {
            for d_model in [1, 2, 32, 33, 64, 66, 192, 194, 384, 768, 770] {
                problems.push(Self::new(2, 3, d_model, half));
            }
            for updates in [(1, 5), (3, 1), (1, 1)] {
                problems.push(Self { updates, ..Self::new(3, 5, 48, half) });
            }
            problems.push(Self { epsilon: 2.0, ..Self::new(1, 4, 24, half) });
            problems.push(Self::new(1, 700, 192, half));
        }
        problems
    }

    /// Operands in the order of `OPERANDS`, rounded where they are in half precision.
    fn operands(&self) -> [Tensor; OPERANDS.len()] {
        let mut random = Random::new((self.seq_len * 31 + self.d_model) as u64);
        let &Self { batch, seq_len, d_model, updates: (clips, tokens), .. } = self;
        let shapes = [
            vec![batch, seq_len, d_model],
            vec![clips, tokens, d_model],
            vec![d_model],
            vec![d_model],
        ];
        let mut index = 0;
        shapes.map(|shape| {
            let mut data = random.take(shape.iter().product(), -1.0, 2.0);
            if self.half && !PARAMETERS[index] {
                data.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32());
            }
            index += 1;
            Tensor::new(shape, data).unwrap()
        })
    }

    /// The graph's input.
    pub fn fbank(&self) -> Tensor {
        let [x, ..] = self.operands();
        x
    }

    /// The model; `adapt` may spoil its node first.
    pub fn model(&self, adapt: impl FnOnce(&mut NodeProto)) -> ModelProto {
        let operands = self.operands();
        let mut node = NodeProto {
            name: "norm".into(),
            op_type: ADD_LAYER_NORM.into(),
            domain: DOMAIN.into(),
            input: [FBANK]
                .into_iter()
                .chain(OPERANDS.into_iter().skip(1))
                .map(Into::into)
                .collect(),
            output: vec![LOGITS.into(), EMBEDDING.into()],
            attribute: vec![float(attribute::EPSILON, self.epsilon)],
            ..Default::default()
        };
        adapt(&mut node);
        let mut nodes = Vec::new();
        if self.half {
            for name in &mut node.input[..2] {
                let narrow = format!("{name}_half");
                nodes.push(cast(name, &narrow, FLOAT16));
                *name = narrow;
            }
            let outputs = std::mem::take(&mut node.output);
            node.output = outputs.iter().map(|name| format!("{name}_half")).collect();
            nodes.push(node);
            nodes.extend(outputs.iter().map(|name| cast(&format!("{name}_half"), name, FLOAT)));
        } else {
            nodes.push(node);
        }
        let shape = [self.batch, self.seq_len, self.d_model];
        let value = |name| value_info(name, &shape.each_ref().map(Dim::from));
        let weights = OPERANDS.iter().zip(&operands).skip(1);
        let graph = GraphProto {
            name: "problem".into(),
            initializer: weights.map(|(name, tensor)| initializer(name, tensor)).collect(),
            input: vec![value(FBANK)],
            output: vec![value(LOGITS), value(EMBEDDING)],
            node: nodes,
            ..Default::default()
        };
        model(graph, &card(self.seq_len, self.d_model))
    }

    /// Panics where the outputs are not the operator's definition, transcribed into `f64`.
    pub fn assert_answered_by(&self, outputs: &Outputs) {
        let [x, update, weight, bias] = self.operands();
        let &Self { seq_len, d_model, updates: (clips, tokens), .. } = self;
        let [y, sum] = [LOGITS, EMBEDDING].map(|name| outputs.get(name).unwrap().data());
        assert_eq!([y.len(), sum.len()], [x.data().len(); 2], "{self:?}");
        for (row, x) in x.data().chunks_exact(d_model).enumerate() {
            let (clip, token) = (row / seq_len % clips, row % seq_len % tokens);
            let update = &update.data()[(clip * tokens + token) * d_model..];
            let added: Vec<f32> = x
                .iter()
                .zip(update)
                .map(|(x, update)| match self.half {
                    false => x + update,
                    true => f16::from_f32(x + update).to_f32(),
                })
                .collect();
            assert_eq!(added, sum[row * d_model..][..d_model], "{self:?}: row {row} of the sum");
            let wide: Vec<f64> = added.into_iter().map(f64::from).collect();
            let mean = wide.iter().sum::<f64>() / d_model as f64;
            let variance =
                wide.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / d_model as f64;
            let scale = (variance + f64::from(self.epsilon)).sqrt().recip();
            // Half of the last place of a number in half precision, and what `f32` makes of it.
            let tolerance = if self.half { TOLERANCE + 0.5_f64.powi(11) } else { TOLERANCE };
            for (i, value) in wide.iter().enumerate() {
                let expected = (value - mean) * scale * f64::from(weight.data()[i])
                    + f64::from(bias.data()[i]);
                let got = f64::from(y[row * d_model + i]);
                let error = (got - expected).abs();
                assert!(
                    error <= tolerance * (1.0 + expected.abs()),
                    "{self:?}: value {i} of row {row} is {got}, expected {expected}"
                );
            }
        }
    }
}
