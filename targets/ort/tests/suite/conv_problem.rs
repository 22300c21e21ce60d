//! One node of `ssamba::ShortConv` with its answer in `f64`, for the tests of every target.

use onnx_protobuf::{GraphProto, ModelProto, NodeProto};
use ssamba_contract::{
    Tensor,
    io::{FBANK, LOGITS},
    op::{
        DOMAIN, Layout, attribute,
        short_conv::{OPERANDS, SHORT_CONV},
    },
};

use crate::support::{
    Dim, Random, TOLERANCE, card, initializer, int, ints, layout, model, string, value_info,
};

/// One `ShortConv` node whose `x` is the graph's input, and whose other operands are constants.
#[derive(Clone, Debug)]
pub struct ConvProblem {
    pub batch: usize,
    pub seq_len: usize,
    pub d_inner: usize,
    pub taps: usize,
    pub groups: usize,
    pub reverse: Vec<i64>,
    pub silu: bool,
    pub bias: bool,
    /// How the streams of the output lie.
    pub layout: Layout,
}

impl ConvProblem {
    /// Two directions in each of `reverse.len() / 2` mixers, with all operands.
    pub fn new(batch: usize, seq_len: usize, reverse: &[i64]) -> Self {
        Self {
            batch,
            seq_len,
            d_inner: 5,
            taps: 4,
            groups: reverse.len() / 2,
            reverse: reverse.into(),
            silu: true,
            bias: true,
            layout: Layout::Channels,
        }
    }

    /// Every length, batch and order of directions, and every option once.
    pub fn all() -> Vec<Self> {
        let mut problems = Vec::new();
        for seq_len in [1, 2, 17, 65] {
            for batch in [1, 3] {
                for reverse in [&[0, 1][..], &[0, 1, 0, 1], &[0, 1, 1, 0]] {
                    problems.push(Self::new(batch, seq_len, reverse));
                }
            }
        }
        let base = Self::new(2, 9, &[0, 1, 1, 0]);
        problems.push(Self { bias: false, ..base.clone() });
        problems.push(Self { silu: false, ..base.clone() });
        problems.push(Self { taps: 1, d_inner: 33, ..base.clone() });
        problems.push(Self { taps: 7, ..base.clone() });
        problems.push(Self { groups: 2, reverse: vec![1, 0], ..base.clone() });
        problems.push(Self { groups: 1, reverse: vec![1], ..base });
        let by_stream = |problem: &Self| Self { layout: Layout::Streams, ..problem.clone() };
        let by_stream: Vec<Self> = problems.iter().map(by_stream).collect();
        [problems, by_stream].concat()
    }

    fn channels(&self) -> usize {
        self.reverse.len() * self.d_inner
    }

    /// Operands in the order of `OPERANDS`.
    fn operands(&self) -> [Tensor; OPERANDS.len()] {
        let mut random = Random::new((self.seq_len * 31 + self.batch) as u64);
        let shapes = [
            vec![self.batch, self.seq_len, self.groups * self.d_inner],
            vec![self.channels(), self.taps],
            vec![self.channels()],
        ];
        shapes.map(|shape| {
            let data = random.take(shape.iter().product(), -1.0, 1.0);
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
            name: "conv".into(),
            op_type: SHORT_CONV.into(),
            domain: DOMAIN.into(),
            input: vec![FBANK.into(), OPERANDS[1].into(), OPERANDS[2].into()],
            output: vec![LOGITS.into()],
            attribute: [
                int(attribute::GROUPS, self.groups as i64),
                ints(attribute::REVERSE, &self.reverse),
                string(attribute::ACTIVATION, if self.silu { "silu" } else { "none" }),
            ]
            .into_iter()
            .chain(layout(self.layout))
            .collect(),
            ..Default::default()
        };
        node.input.truncate(if self.bias { 3 } else { 2 });
        adapt(&mut node);
        let dims = |shape: &[usize]| shape.iter().map(Dim::from).collect::<Vec<_>>();
        let output = match self.layout {
            Layout::Channels => [self.batch, self.seq_len, self.channels()],
            Layout::Streams => [self.reverse.len(), self.batch * self.seq_len, self.d_inner],
        };
        let weights = OPERANDS.iter().zip(&operands).skip(1);
        let graph = GraphProto {
            name: "problem".into(),
            initializer: weights.map(|(name, tensor)| initializer(name, tensor)).collect(),
            input: vec![value_info(FBANK, &dims(operands[0].shape()))],
            output: vec![value_info(LOGITS, &dims(&output))],
            node: vec![node],
            ..Default::default()
        };
        model(graph, &card(self.seq_len, self.groups * self.d_inner))
    }

    /// Panics where `got` is not the operator's definition, transcribed into `f64`.
    pub fn assert_answered_by(&self, got: &[f32]) {
        let [x, weight, bias] = self.operands();
        let directions = self.reverse.len() / self.groups;
        assert_eq!(got.len(), self.batch * self.seq_len * self.channels(), "{self:?}");
        for (index, &got) in got.iter().enumerate() {
            let (row, channel) = match self.layout {
                Layout::Channels => (index / self.channels(), index % self.channels()),
                Layout::Streams => {
                    let (row, d) = (index / self.d_inner, index % self.d_inner);
                    let rows = self.batch * self.seq_len;
                    (row % rows, row / rows * self.d_inner + d)
                }
            };
            let (clip, token) = (row / self.seq_len, row % self.seq_len);
            let (stream, d) = (channel / self.d_inner, channel % self.d_inner);
            let mut sum = if self.bias { f64::from(bias.data()[channel]) } else { 0.0 };
            for k in 0..self.taps {
                let back = self.taps - 1 - k;
                let met = match self.reverse[stream] {
                    1 => Some(token + back).filter(|&met| met < self.seq_len),
                    _ => token.checked_sub(back),
                };
                let Some(met) = met else { continue };
                let block = (clip * self.seq_len + met) * self.groups + stream / directions;
                sum += f64::from(weight.data()[channel * self.taps + k])
                    * f64::from(x.data()[block * self.d_inner + d]);
            }
            let expected = if self.silu { sum / (1.0 + (-sum).exp()) } else { sum };
            let error = (f64::from(got) - expected).abs();
            assert!(error <= TOLERANCE, "{self:?}: value {index} is {got}, expected {expected}");
        }
    }
}
