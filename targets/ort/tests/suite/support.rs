//! Small models for the tests of every target: one node with its answer in `f64`, and a micro model
//! from filter banks to logits. Files are written here, so that no test needs Python.

use std::{fs, path::PathBuf};

use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};
use protobuf::MessageField;
use ssamba_contract::{
    Card, FrontEnd, Input, Lowering, Order, Precision, Scores, Tensor,
    io::{EMBEDDING, FBANK, LOGITS},
    op::{DOMAIN, Layout, OPERANDS, SELECTIVE_SCAN, VERSION, attribute},
};
use tempfile::TempDir;

/// Absolute and relative error of an `f32` scan of up to 65 tokens against `f64`.
pub const TOLERANCE: f64 = 1e-5;

/// ONNX's number for `float`.
const FLOAT: i32 = 1;

/// One `SelectiveScan` node whose `u` is the graph's input, and whose other operands are constants.
#[derive(Clone, Debug)]
pub struct Problem {
    pub batch: usize,
    pub seq_len: usize,
    pub d_inner: usize,
    pub d_state: usize,
    pub groups: usize,
    pub reverse: Vec<i64>,
    pub delta_softplus: bool,
    pub sum: bool,
    pub scale: f32,
    /// Whether `Dskip`, `z` and `delta_bias` are there.
    pub optional: [bool; 3],
    /// The width of the rows of `Bm` and `Cm`, and where their first stream begins in either.
    pub columns: Option<(usize, [usize; 2])>,
    /// How streams lie.
    pub layout: Layout,
}

impl Problem {
    /// Two directions in each of `reverse.len() / 2` mixers, with all operands.
    pub fn new(batch: usize, seq_len: usize, reverse: &[i64]) -> Self {
        Self {
            batch,
            seq_len,
            d_inner: 5,
            d_state: 16,
            groups: reverse.len() / 2,
            reverse: reverse.into(),
            delta_softplus: true,
            sum: true,
            scale: 0.5,
            optional: [true; 3],
            columns: None,
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
        for optional in [[false; 3], [false, true, true], [true, false, true], [true, true, false]]
        {
            problems.push(Self { optional, ..base.clone() });
        }
        problems.push(Self { sum: false, scale: 1.0, ..base.clone() });
        problems.push(Self { delta_softplus: false, ..base.clone() });
        problems.push(Self { d_state: 1, d_inner: 33, ..base.clone() });
        problems.push(Self { groups: 2, reverse: vec![1, 0], ..base.clone() });
        problems.push(Self { groups: 1, reverse: vec![1], ..base });
        problems
    }

    /// The problems of streams one after the other, in rows that hold nothing else and in wider ones.
    pub fn by_stream() -> Vec<Self> {
        let mut problems = Vec::new();
        for columns in [None, Some((44, [12, 28])), Some((37, [21, 1]))] {
            let columns = |problem: &Self| columns.filter(|_| problem.d_state == 16);
            problems.extend(Self::all().into_iter().filter(|problem| problem.optional[1]).map(
                |problem| Self {
                    layout: Layout::Streams,
                    columns: columns(&problem),
                    d_inner: if problem.batch == 3 { 6 } else { problem.d_inner },
                    // A step that a bias made negative grows its state, and with it every rounding.
                    optional: if problem.delta_softplus {
                        problem.optional
                    } else {
                        [true, true, false]
                    },
                    ..problem
                },
            ));
        }
        problems
    }

    fn streams(&self) -> usize {
        self.reverse.len()
    }

    /// Shapes of all operands, in the order of `OPERANDS`.
    fn shapes(&self) -> [Vec<usize>; OPERANDS.len()] {
        let &Self { batch, seq_len, d_inner, d_state, groups, .. } = self;
        let width = self.streams() * d_inner;
        let (u, dense) = match self.layout {
            Layout::Channels => ([batch, seq_len, width], self.streams() * d_state),
            Layout::Streams => ([self.streams(), batch * seq_len, d_inner], d_state),
        };
        let states = self.columns.map_or(dense, |(width, _)| width);
        let states = [u[0], u[1], states];
        [
            u.to_vec(),
            u.to_vec(),
            vec![width, d_state],
            states.to_vec(),
            states.to_vec(),
            vec![width],
            vec![batch, seq_len, groups * d_inner],
            vec![width],
        ]
    }

    /// Operands in the order of `OPERANDS`; what is left out is `None`.
    pub fn operands(&self) -> Vec<Option<Tensor>> {
        let mut random = Random::new((self.seq_len * 31 + self.batch) as u64);
        let ranges = [
            (-1.0, 1.0),
            if self.delta_softplus { (-3.0, 1.0) } else { (0.0, 0.5) },
            (-4.0, -0.1),
            (-1.0, 1.0),
            (-1.0, 1.0),
            (-1.0, 1.0),
            (-2.0, 2.0),
            (-1.0, 0.0),
        ];
        let shapes = self.shapes();
        let present = [true; 5].into_iter().chain(self.optional);
        let tensors = shapes.into_iter().zip(ranges).zip(present);
        tensors
            .map(|((shape, (low, high)), present)| {
                let data = random.take(shape.iter().product(), low, high);
                present.then(|| Tensor::new(shape, data).unwrap())
            })
            .collect()
    }

    /// The graph's input.
    pub fn fbank(&self) -> Tensor {
        self.operands().swap_remove(0).unwrap()
    }

    /// The model; `adapt` may spoil its node first.
    pub fn model(&self, adapt: impl FnOnce(&mut NodeProto)) -> ModelProto {
        let operands = self.operands();
        let mut inputs: Vec<String> = OPERANDS
            .iter()
            .zip(&operands)
            .map(|(name, operand)| operand.as_ref().map_or("", |_| *name).into())
            .collect();
        inputs[0] = FBANK.into();
        while inputs.last().is_some_and(String::is_empty) {
            inputs.pop();
        }
        let mut node = selective_scan_node(self, inputs, LOGITS);
        adapt(&mut node);
        let initializers = OPERANDS.iter().zip(operands).skip(1);
        let blocks = if self.sum { self.groups } else { self.streams() };
        let graph = GraphProto {
            name: "problem".into(),
            initializer: initializers
                .filter_map(|(name, operand)| operand.map(|operand| initializer(name, &operand)))
                .collect(),
            input: vec![value_info(
                FBANK,
                &self.shapes()[0].iter().map(Dim::from).collect::<Vec<_>>(),
            )],
            output: vec![value_info(
                LOGITS,
                &[self.batch, self.seq_len, blocks * self.d_inner].each_ref().map(Dim::from),
            )],
            node: vec![node],
            ..Default::default()
        };
        let [_, n_frames, n_mels] = self.shapes()[0][..] else { panic!("three axes") };
        model(graph, &card(n_frames, n_mels))
    }

    /// The operator's definition, transcribed into `f64`.
    pub fn answer(&self) -> Vec<f64> {
        let &Self { batch, seq_len, d_inner, d_state, groups, .. } = self;
        let operands = self.operands();
        let at = |operand: usize, index: usize| {
            operands[operand].as_ref().map(|operand| f64::from(operand.data()[index]))
        };
        let streams = self.streams();
        let directions = streams / groups;
        let blocks = if self.sum { groups } else { streams };
        // How many streams a row has, and which of them a stream is.
        let in_row = if self.layout == Layout::Streams { 1 } else { streams };
        let (states_width, columns) = self.columns.unwrap_or((in_row * d_state, [0, 0]));
        let mut y = vec![0.0; batch * seq_len * blocks * d_inner];
        for b in 0..batch {
            for stream in 0..streams {
                for d in 0..d_inner {
                    let channel = stream * d_inner + d;
                    let mut h = vec![0.0; d_state];
                    for step in 0..seq_len {
                        let t = if self.reverse[stream] == 1 { seq_len - 1 - step } else { step };
                        let row = b * seq_len + t;
                        let (before, place) = match self.layout {
                            Layout::Channels => (0, stream),
                            Layout::Streams => (stream * batch * seq_len, 0),
                        };
                        let wide = ((before + row) * in_row + place) * d_inner + d;
                        let u = at(0, wide).unwrap();
                        let mut dt = at(1, wide).unwrap() + at(7, channel).unwrap_or(0.0);
                        if self.delta_softplus {
                            dt = dt.exp().ln_1p();
                        }
                        let mut s = at(5, channel).unwrap_or(0.0) * u;
                        for (n, h) in h.iter_mut().enumerate() {
                            let state = (before + row) * states_width + place * d_state + n;
                            let a = at(2, channel * d_state + n).unwrap();
                            *h = (dt * a).exp() * *h + dt * at(3, state + columns[0]).unwrap() * u;
                            s += at(4, state + columns[1]).unwrap() * *h;
                        }
                        let mixer = stream / directions;
                        let gate = at(6, (row * groups + mixer) * d_inner + d)
                            .map_or(1.0, |z| z / (1.0 + (-z).exp()));
                        let block = if self.sum { mixer } else { stream };
                        y[(row * blocks + block) * d_inner + d] += f64::from(self.scale) * s * gate;
                    }
                }
            }
        }
        y
    }

    /// Panics where `got` is not the answer.
    pub fn assert_answered_by(&self, got: &[f32]) {
        let expected = self.answer();
        assert_eq!(got.len(), expected.len(), "{self:?}");
        for (index, (&got, expected)) in got.iter().zip(expected).enumerate() {
            let error = (f64::from(got) - expected).abs();
            let bound = TOLERANCE * (1.0 + expected.abs());
            assert!(error <= bound, "{self:?}: value {index} is {got}, expected {expected}");
        }
    }
}

/// Frames and mel bins that [`micro_model`] takes.
pub const MICRO: (usize, usize) = (6, 8);

/// A whole model in small: projections, one scan of two directions, mean over frames, and a head of
/// three classes. Its batch is free.
pub fn micro_model() -> ModelProto {
    let (n_frames, n_mels) = MICRO;
    let problem = Problem { d_inner: n_mels / 2, ..Problem::new(1, n_frames, &[0, 1]) };
    let (d_inner, states) = (problem.d_inner, 2 * problem.d_state);
    let mut random = Random(7);
    let mut weight = |name: &str, shape: &[usize], low, high| {
        let data = random.take(shape.iter().product(), low, high);
        initializer(name, &Tensor::new(shape, data).unwrap())
    };
    let initializer = vec![
        weight("delta_weight", &[n_mels, n_mels], -1.0, 1.0),
        weight("A", &[n_mels, problem.d_state], -4.0, -0.1),
        weight("Bm_weight", &[n_mels, states], -1.0, 1.0),
        weight("Cm_weight", &[n_mels, states], -1.0, 1.0),
        weight("Dskip", &[n_mels], -1.0, 1.0),
        weight("z_weight", &[n_mels, d_inner], -1.0, 1.0),
        weight("delta_bias", &[n_mels], -1.0, 0.0),
        weight("head_weight", &[d_inner, 3], -1.0, 1.0),
    ];
    let project = |from: &str, weight: &str, to: &str| node("MatMul", &[from, weight], to);
    let scan_inputs = [FBANK, "delta", "A", "Bm", "Cm", "Dskip", "z", "delta_bias"];
    let mut mean = node("ReduceMean", &["mixed"], EMBEDDING);
    mean.attribute = vec![ints("axes", &[1]), int("keepdims", 0)];
    let graph = GraphProto {
        name: "micro".into(),
        node: vec![
            project(FBANK, "delta_weight", "delta"),
            project(FBANK, "Bm_weight", "Bm"),
            project(FBANK, "Cm_weight", "Cm"),
            project(FBANK, "z_weight", "z"),
            selective_scan_node(&problem, scan_inputs.map(String::from).into(), "mixed"),
            mean,
            project(EMBEDDING, "head_weight", LOGITS),
        ],
        initializer,
        input: vec![value_info(
            FBANK,
            &[Dim::Free("batch"), Dim::Fixed(n_frames), Dim::Fixed(n_mels)],
        )],
        output: vec![
            value_info(LOGITS, &[Dim::Free("batch"), Dim::Fixed(3)]),
            value_info(EMBEDDING, &[Dim::Free("batch"), Dim::Fixed(d_inner)]),
        ],
        ..Default::default()
    };
    model(graph, &card(n_frames, n_mels))
}

/// An input for [`micro_model`].
pub fn micro_fbank(batch: usize) -> Tensor {
    let (n_frames, n_mels) = MICRO;
    Tensor::new([batch, n_frames, n_mels], Random(11).take(batch * n_frames * n_mels, -1.0, 1.0))
        .unwrap()
}

/// A function body for the operator that is wrong on purpose: `y = -u`.
pub fn negating_body() -> FunctionProto {
    FunctionProto {
        name: SELECTIVE_SCAN.into(),
        domain: DOMAIN.into(),
        input: OPERANDS.map(String::from).into(),
        output: vec!["y".into()],
        attribute: [attribute::GROUPS, attribute::REVERSE, attribute::COMBINE, attribute::SCALE]
            .into_iter()
            .chain([attribute::DELTA_SOFTPLUS])
            .map(String::from)
            .collect(),
        node: vec![node("Neg", &[OPERANDS[0]], "y")],
        opset_import: opsets(),
        ..Default::default()
    }
}

/// A card of a model that takes `n_frames` by `n_mels`.
pub fn card(n_frames: usize, n_mels: usize) -> Card {
    Card {
        name: "micro".into(),
        labels: vec!["a".into(), "b".into(), "c".into()],
        scores: Scores::Softmax,
        recipe: "test".into(),
        front_end: FrontEnd {
            sample_rate: 16_000,
            n_mels,
            n_frames,
            mean: -4.0,
            std: 4.5,
            order: Order::PadThenNormalise,
            subtract_clip_mean: true,
        },
        checkpoint_sha256: "00".into(),
        converter: "test".into(),
        network: String::new(),
        precision: Precision::F32,
        lowering: Lowering::Function,
        batch: None,
        self_test: None,
        input: Input::Fbank,
    }
}

/// A folder for files that are gone after the test.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn model(&self, model: &ModelProto) -> PathBuf {
        self.bytes("model.onnx", &model.write_to_bytes().unwrap())
    }

    pub fn bytes(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// Files that are not models, by name.
pub fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let whole = micro_model().write_to_bytes().unwrap();
    let noise = Random(3).take(4096, 0.0, 256.0).into_iter().map(|x| x as u8).collect();
    let mut spoiled = whole.clone();
    for byte in spoiled.iter_mut().skip(16).step_by(97) {
        *byte ^= 0xff;
    }
    vec![
        ("empty.onnx", Vec::new()),
        ("text.onnx", b"This is a text file.\nIt has two lines.\n".to_vec()),
        ("noise.onnx", noise),
        ("cut.onnx", whole[..whole.len() / 2].to_vec()),
        ("spoiled.onnx", spoiled),
    ]
}

/// The whole chain of an error that has to be one.
pub fn message<T>(result: anyhow::Result<T>) -> String {
    format!("{:#}", result.err().expect("an error"))
}

pub enum Dim {
    Fixed(usize),
    Free(&'static str),
}

impl From<&usize> for Dim {
    fn from(&size: &usize) -> Self {
        Self::Fixed(size)
    }
}

pub fn model(graph: GraphProto, card: &Card) -> ModelProto {
    ModelProto {
        ir_version: 8,
        opset_import: opsets(),
        graph: MessageField::some(graph),
        metadata_props: card
            .to_metadata()
            .into_iter()
            .map(|(key, value)| StringStringEntryProto { key, value, ..Default::default() })
            .collect(),
        ..Default::default()
    }
}

fn opsets() -> Vec<OperatorSetIdProto> {
    let opset = |domain: &str, version| OperatorSetIdProto {
        domain: domain.into(),
        version,
        ..Default::default()
    };
    vec![opset("", 17), opset(DOMAIN, VERSION)]
}

fn selective_scan_node(problem: &Problem, inputs: Vec<String>, output: &str) -> NodeProto {
    NodeProto {
        name: "scan".into(),
        op_type: SELECTIVE_SCAN.into(),
        domain: DOMAIN.into(),
        input: inputs,
        output: vec![output.into()],
        attribute: vec![
            int(attribute::GROUPS, problem.groups as i64),
            ints(attribute::REVERSE, &problem.reverse),
            int(attribute::DELTA_SOFTPLUS, problem.delta_softplus.into()),
            string(attribute::COMBINE, if problem.sum { "sum" } else { "none" }),
            float(attribute::SCALE, problem.scale),
        ]
        .into_iter()
        .chain(layout(problem.layout))
        .chain(
            problem
                .columns
                .map(|(_, columns)| ints(attribute::COLUMNS, &columns.map(|column| column as i64))),
        )
        .collect(),
        ..Default::default()
    }
}

/// The attribute that says how streams lie; absent where that is the default.
pub fn layout(layout: Layout) -> Option<AttributeProto> {
    (layout != Layout::Channels).then(|| string(attribute::LAYOUT, layout.as_str()))
}

fn node(op_type: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        name: format!("{output}_node"),
        op_type: op_type.into(),
        input: inputs.iter().map(|&input| input.into()).collect(),
        output: vec![output.into()],
        ..Default::default()
    }
}

pub fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.into(), type_: AttributeType::INT.into(), i, ..Default::default() }
}

pub fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    let type_ = AttributeType::INTS.into();
    AttributeProto { name: name.into(), type_, ints: ints.into(), ..Default::default() }
}

pub fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        type_: AttributeType::FLOAT.into(),
        f,
        ..Default::default()
    }
}

pub fn string(name: &str, s: &str) -> AttributeProto {
    let type_ = AttributeType::STRING.into();
    AttributeProto { name: name.into(), type_, s: s.into(), ..Default::default() }
}

pub fn initializer(name: &str, tensor: &Tensor) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: tensor.shape().iter().map(|&size| size as i64).collect(),
        data_type: FLOAT,
        raw_data: tensor.data().iter().flat_map(|value| value.to_le_bytes()).collect(),
        ..Default::default()
    }
}

pub fn value_info(name: &str, shape: &[Dim]) -> ValueInfoProto {
    let dim = shape
        .iter()
        .map(|dim| {
            let value = match *dim {
                Dim::Fixed(size) => dimension::Value::DimValue(size as i64),
                Dim::Free(name) => dimension::Value::DimParam(name.into()),
            };
            Dimension { value: Some(value), ..Default::default() }
        })
        .collect();
    let tensor = type_proto::Tensor {
        elem_type: FLOAT,
        shape: MessageField::some(TensorShapeProto { dim, ..Default::default() }),
        ..Default::default()
    };
    let value = Some(type_proto::Value::TensorType(tensor));
    let type_ = MessageField::some(TypeProto { value, ..Default::default() });
    ValueInfoProto { name: name.into(), type_, ..Default::default() }
}

/// Marsaglia's xorshift: the same values on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ seed)
    }

    pub fn take(&mut self, count: usize, low: f32, high: f32) -> Vec<f32> {
        let mut next = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            low + (high - low) * ((self.0 >> 40) as f32 / (1u32 << 24) as f32)
        };
        (0..count).map(|_| next()).collect()
    }
}
