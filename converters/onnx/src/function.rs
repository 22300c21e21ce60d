//! The operator's body in standard operators, so that a runtime without our library runs the same
//! file.
//!
//! ONNX functions cannot branch on attributes: a body is made for one configuration, and every node
//! of a model has the same one. Streams that walk the same way share one state, [batch, streams,
//! d_state, d_inner] or [streams, batch, d_state, d_inner] as the operands lie: the broadcasts run along
//! `d_inner` contiguous values, and one `Scan` holds both directions, each stored at its own token. No
//! tensor spans tokens, channels *and* states.

use anyhow::{Result, ensure};
use onnx_protobuf::{FunctionProto, GraphProto, ModelProto, OperatorSetIdProto};
use protobuf::{Message, MessageField};
use ssamba_contract::op::{
    Combine, DOMAIN, Layout, OPERANDS, PARAMETERS, SELECTIVE_SCAN, VERSION, attribute, contrib,
};

use crate::{
    Precision,
    graph::{Attribute, Axis, Constants, GraphBuilder, Value, float_value},
};

/// Standard operator set that graph and function are written in.
pub const OPSET: i64 = 20;
/// Version of the file format: the newest that onnx-protobuf 0.2 writes.
pub const IR_VERSION: i64 = 10;

/// The one configuration of `SelectiveScan` in a model: softplus on, all optional operands present.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ScanConfiguration {
    pub(crate) groups: usize,
    /// Per stream; stream `g * directions + k`.
    pub(crate) reverse: Vec<bool>,
    pub(crate) combine: Combine,
    pub(crate) scale: f32,
    pub(crate) d_inner: usize,
    pub(crate) d_state: usize,
    /// How the streams of `u`, `delta`, `Bm` and `Cm` lie.
    pub(crate) layout: Layout,
    /// Where `Bm` and `Cm` begin in rows that hold more.
    pub(crate) columns: Option<[usize; 2]>,
    /// Of the sequences; parameters and the body's arithmetic are `f32`.
    pub(crate) precision: Precision,
}

impl ScanConfiguration {
    /// Attributes of the node, each spelled out.
    pub(crate) fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let reverse = self.reverse.iter().map(|&reverse| i64::from(reverse)).collect();
        let columns = self.columns.map(|columns| columns.map(|column| column as i64).to_vec());
        [
            (attribute::GROUPS, Attribute::Int(self.groups as i64)),
            (attribute::REVERSE, Attribute::Ints(reverse)),
            (attribute::DELTA_SOFTPLUS, Attribute::Int(1)),
            (attribute::COMBINE, Attribute::Text(self.combine.as_str())),
            (attribute::SCALE, Attribute::Float(self.scale)),
            (attribute::GATE, Attribute::Text("silu")),
        ]
        .into_iter()
        .chain(layout_attribute(self.layout))
        .chain(columns.map(|columns| (attribute::COLUMNS, Attribute::Ints(columns))))
        .collect()
    }

    /// The model-local function.
    pub(crate) fn function(&self) -> FunctionProto {
        let mut body = GraphBuilder::new(Constants::Nodes);
        let y = self.body(&mut body);
        body.output(&y, "y");
        let node = body.into_graph().node;
        let defaults = self.attributes().into_iter().map(|(name, value)| value.named(name));
        FunctionProto {
            domain: DOMAIN.into(),
            name: SELECTIVE_SCAN.into(),
            doc_string: "The recurrence h = exp(dt * A) * h + dt * Bm * u, y = Cm . h + Dskip * u of a Mamba mixer, \
                         for several streams at once; the body serves the attribute values given as defaults."
                .into(),
            input: OPERANDS.map(Into::into).to_vec(),
            output: vec!["y".into()],
            attribute_proto: defaults.collect(),
            node,
            opset_import: vec![OperatorSetIdProto { version: OPSET, ..Default::default() }],
            ..Default::default()
        }
    }

    fn body(&self, g: &mut GraphBuilder) -> Value {
        let mut operands = OPERANDS.map(Value::named);
        if let Some(columns) = self.columns {
            let count = match self.layout {
                Layout::Channels => self.reverse.len() * self.d_state,
                Layout::Streams => self.d_state,
            };
            for (operand, first) in operands[3..5].iter_mut().zip(columns) {
                *operand = g.slice(operand, 2, first, first + count);
            }
        }
        let mut index = 0;
        let [u, delta, a, b, c, d_skip, z, delta_bias] = operands.map(|operand| {
            index += 1;
            match self.precision == Precision::F32 || PARAMETERS[index - 1] {
                true => operand,
                false => g.cast(&operand, Precision::F32),
            }
        });
        let (streams, d_inner, d_state) =
            (self.reverse.len() as i64, self.d_inner as i64, self.d_state as i64);
        let [delta_bias, d_skip] = [delta_bias, d_skip].map(|vector| match self.layout {
            Layout::Channels => vector,
            Layout::Streams => g.reshape(&vector, &[streams, 1, d_inner]),
        });
        let biased = g.add(&delta, &delta_bias);
        let dt = g.node("Softplus", &[&biased], &[]);
        let du = g.mul(&dt, &u);
        let per_stream = match self.layout {
            Layout::Channels => [
                g.reshape(&dt, &[0, 0, streams, d_inner]),
                g.reshape(&du, &[0, 0, streams, d_inner]),
                g.reshape(&b, &[0, 0, streams, d_state]),
                g.reshape(&c, &[0, 0, streams, d_state]),
            ],
            Layout::Streams => {
                let tokens = axes_of(g, &z, 2);
                let first = g.integers(&[streams]);
                let [wide, narrow] = [d_inner, d_state].map(|width| {
                    let width = g.integers(&[width]);
                    g.concat(&[first.clone(), tokens.clone(), width], 0)
                });
                [(&dt, &wide), (&du, &wide), (&b, &narrow), (&c, &narrow)]
                    .map(|(value, shape)| g.node("Reshape", &[value, shape], &[]))
            }
        };
        let a = g.reshape(&a, &[streams, d_inner, d_state]);

        let mut walks = Vec::new();
        for reverse in [false, true] {
            let members: Vec<i64> =
                (0..streams).filter(|&stream| self.reverse[stream as usize] == reverse).collect();
            if !members.is_empty() {
                walks.push(self.walk(g, reverse, members, &per_stream, &a));
            }
        }
        let ys = scan(g, &walks, self.token_axis());

        // Back to the order of the streams.
        let order: Vec<i64> = walks.iter().flat_map(|walk| walk.members.iter().copied()).collect();
        let back: Vec<i64> = (0..streams).filter_map(|stream| position(&order, stream)).collect();
        let axis = self.stream_axis();
        let mut y = g.concat(&ys, axis);
        if back.iter().enumerate().any(|(index, &from)| index as i64 != from) {
            let back = g.integers(&back);
            y = g.node("Gather", &[&y, &back], &[("axis", Attribute::Int(axis))]);
        }
        let y = match self.layout {
            Layout::Channels => g.reshape(&y, &[0, 0, streams * d_inner]),
            Layout::Streams => g.reshape(&y, &[streams, -1, d_inner]),
        };
        let skip = g.mul(&u, &d_skip);
        let mut y = g.add(&y, &skip);

        let groups = self.groups as i64;
        let directions = streams / groups;
        if self.layout == Layout::Streams {
            y = self.side_by_side(g, &y, &z);
        } else if directions > 1 && self.combine == Combine::Sum {
            let split = g.reshape(&y, &[0, 0, groups, directions, d_inner]);
            let axes = g.integers(&[3]);
            y = g.node("ReduceSum", &[&split, &axes], &[("keepdims", Attribute::Int(0))]);
            y = g.reshape(&y, &[0, 0, groups * d_inner]);
        }
        if self.scale != 1.0 {
            let scale = g.floats("scale", &[], &[f64::from(self.scale)]);
            y = g.mul(&y, &scale);
        }
        let mut gate = g.silu(&z);
        if directions > 1 && self.combine == Combine::None {
            gate = g.reshape(&gate, &[0, 0, groups, 1, d_inner]);
            let split = g.reshape(&y, &[0, 0, groups, directions, d_inner]);
            let gated = g.mul(&split, &gate);
            y = g.reshape(&gated, &[0, 0, streams * d_inner]);
        } else {
            y = g.mul(&y, &gate);
        }
        match self.precision {
            Precision::F32 => y,
            half => g.cast(&y, half),
        }
    }

    /// The axis of streams, where they have one.
    fn stream_axis(&self) -> i64 {
        match self.layout {
            Layout::Channels => 2,
            Layout::Streams => 0,
        }
    }

    /// The axis of tokens of what the loop walks.
    fn token_axis(&self) -> i64 {
        match self.layout {
            Layout::Channels => 1,
            Layout::Streams => 2,
        }
    }

    /// `[streams, batch * tokens, d_inner]` with the streams combined to `[batch, tokens, blocks * d_inner]`.
    fn side_by_side(&self, g: &mut GraphBuilder, y: &Value, z: &Value) -> Value {
        let (streams, groups, d_inner) =
            (self.reverse.len() as i64, self.groups as i64, self.d_inner as i64);
        let mut y = y.clone();
        let mut blocks = streams;
        if streams > groups && self.combine == Combine::Sum {
            let split = g.reshape(&y, &[groups, streams / groups, -1, d_inner]);
            let axes = g.integers(&[1]);
            y = g.node("ReduceSum", &[&split, &axes], &[("keepdims", Attribute::Int(0))]);
            blocks = groups;
        }
        if blocks > 1 {
            y = g.transpose(&y, &[1, 0, 2]);
        }
        let tokens = axes_of(g, z, 2);
        let width = g.integers(&[blocks * d_inner]);
        let shape = g.concat(&[tokens, width], 0);
        g.node("Reshape", &[&y, &shape], &[])
    }

    /// The streams `members` of every operand, shaped for the loop.
    fn walk(
        &self,
        g: &mut GraphBuilder,
        reverse: bool,
        members: Vec<i64>,
        per_stream: &[Value; 4],
        a: &Value,
    ) -> Walk {
        let (count, d_inner, d_state) =
            (members.len() as i64, self.d_inner as i64, self.d_state as i64);
        let all = members.len() == self.reverse.len();
        let indices = g.integers(&members);
        let pick = |g: &mut GraphBuilder, value: &Value, axis| match all {
            true => value.clone(),
            false => g.node("Gather", &[value, &indices], &[("axis", Attribute::Int(axis))]),
        };
        let shapes: [[i64; 2]; 4] = [[1, d_inner], [1, d_inner], [d_state, 1], [1, d_state]];
        let sequences = per_stream
            .iter()
            .zip(shapes)
            .map(|(value, shape)| {
                let picked = pick(g, value, self.stream_axis());
                g.reshape(&picked, &[0, 0, 0, shape[0], shape[1]])
            })
            .collect();
        let a = pick(g, a, 0);
        let mut a = g.transpose(&a, &[0, 2, 1]);

        let h = match self.layout {
            Layout::Channels => {
                g.zeros(&Value::named(OPERANDS[1]), &[], &[count, d_state, d_inner])
            }
            Layout::Streams => {
                a = g.reshape(&a, &[count, 1, d_state, d_inner]);
                g.zeros(&Value::named(OPERANDS[6]), &[count], &[d_state, d_inner])
            }
        };
        Walk { reverse, members, h, a, sequences }
    }
}

/// A model of one node with all eight operands as inputs and the output `y`: the operator by itself,
/// for tests and for measuring a runtime. `columns` are the width of the rows of `Bm` and `Cm`, and where
/// in them those of a row's first stream begin.
///
/// # Errors
/// When `reverse` does not hold one or two streams for each of `groups` mixers.
#[expect(clippy::too_many_arguments, reason = "the attributes of a node, and its sizes")]
pub fn scan_model(
    groups: usize,
    reverse: &[bool],
    combine: Combine,
    scale: f32,
    d_inner: usize,
    d_state: usize,
    layout: Layout,
    columns: Option<(usize, [usize; 2])>,
) -> Result<Vec<u8>> {
    check_streams(groups, reverse)?;
    let scan = ScanConfiguration {
        groups,
        reverse: reverse.to_vec(),
        combine,
        scale,
        d_inner,
        d_state,
        layout,
        columns: columns.map(|(_, columns)| columns),
        precision: Precision::F32,
    };
    let (free, streams) = (|name| Axis::Named(name), reverse.len());
    let blocks = if combine == Combine::Sum { groups } else { streams };
    let sequence = |width| vec![free("batch"), free("tokens"), Axis::Fixed(width)];
    let of_streams = |width: usize| match layout {
        Layout::Channels => sequence(streams * width),
        Layout::Streams => vec![Axis::Fixed(streams), free("rows"), Axis::Fixed(width)],
    };
    let states = || match columns {
        Some((width, _)) if layout == Layout::Channels => sequence(width),
        Some((width, _)) => of_streams(width),
        None => of_streams(d_state),
    };
    let axes = [
        of_streams(d_inner),
        of_streams(d_inner),
        vec![Axis::Fixed(streams * d_inner), Axis::Fixed(d_state)],
        states(),
        states(),
        vec![Axis::Fixed(streams * d_inner)],
        sequence(groups * d_inner),
        vec![Axis::Fixed(streams * d_inner)],
    ];
    let mut g = GraphBuilder::new(Constants::Initializers);
    let operands = OPERANDS.map(Value::named);
    let operands: Vec<&Value> = operands.iter().collect();
    for y in g.node_in(DOMAIN, SELECTIVE_SCAN, &operands, &scan.attributes(), 1) {
        g.output(&y, "y");
    }
    let graph = GraphProto {
        name: "scan".into(),
        input: OPERANDS.iter().zip(&axes).map(|(name, axes)| float_value(name, axes)).collect(),
        output: vec![float_value("y", &sequence(blocks * d_inner))],
        ..g.into_graph()
    };
    Ok(model_proto(graph, vec![scan.function()]).write_to_bytes()?)
}

/// Whether there are one or two streams for each of `groups` mixers.
pub(crate) fn check_streams(groups: usize, reverse: &[bool]) -> Result<()> {
    ensure!(
        groups > 0 && (reverse.len() == groups || reverse.len() == 2 * groups),
        "{groups} mixers have one or two streams each, got {} streams",
        reverse.len()
    );
    Ok(())
}

/// A model around a graph, with the functions that its nodes need and the operator sets that they
/// are of.
pub(crate) fn model_proto(graph: GraphProto, functions: Vec<FunctionProto>) -> ModelProto {
    let used = |domain: &str| graph.node.iter().any(|node| node.domain == domain);
    let opset_import = [("", OPSET), (DOMAIN, VERSION), (contrib::DOMAIN, contrib::VERSION)]
        .into_iter()
        .filter(|(domain, _)| domain.is_empty() || used(domain))
        .map(|(domain, version)| OperatorSetIdProto {
            domain: domain.into(),
            version,
            ..Default::default()
        })
        .collect();
    ModelProto {
        ir_version: IR_VERSION,
        producer_name: "ssamba-edge".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        opset_import,
        functions,
        graph: MessageField::some(graph),
        ..Default::default()
    }
}

/// Streams that walk the same way.
struct Walk {
    reverse: bool,
    members: Vec<i64>,
    /// Zero state, `[batch, streams, d_state, d_inner]` or `[streams, batch, ..]`.
    h: Value,
    /// `[streams, d_state, d_inner]` or `[streams, 1, ..]`
    a: Value,
    /// dt, dt * u, B, C: `[batch, tokens, streams, ..]` or `[streams, batch, tokens, ..]`.
    sequences: Vec<Value>,
}

fn position(order: &[i64], stream: i64) -> Option<i64> {
    order.iter().position(|&member| member == stream).map(|index| index as i64)
}

/// Sizes of the first axes of a value.
fn axes_of(g: &mut GraphBuilder, x: &Value, count: i64) -> Value {
    g.node("Shape", &[x], &[("start", Attribute::Int(0)), ("end", Attribute::Int(count))])
}

/// The attribute of either operator; absent where it says what absence says, as in files from before it
/// was defined.
pub(crate) fn layout_attribute(layout: Layout) -> Option<(&'static str, Attribute)> {
    (layout != Layout::default()).then(|| (attribute::LAYOUT, Attribute::Text(layout.as_str())))
}

/// One `Scan` over the tokens, which are in that axis, for all walks; yields for each what the sequences
/// are, with `[.., 1, d_inner]`.
fn scan(g: &mut GraphBuilder, walks: &[Walk], token_axis: i64) -> Vec<Value> {
    let mut body = GraphBuilder::new(Constants::Initializers);
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    let info = |value: &Value, rank: usize| float_value(value.name(), &vec![Axis::Unknown; rank]);
    let (mut states, mut tokens) = (Vec::new(), Vec::new());
    for (index, walk) in walks.iter().enumerate() {
        // Names inside must differ from every name outside.
        let [h, dt, du, b, c] =
            ["h", "dt", "du", "b", "c"].map(|name| Value::named(format!("step{index}/{name}")));
        body.scope(format!("step{index}"), |body| {
            let exponent = body.mul(&dt, &walk.a);
            let decay = body.node("Exp", &[&exponent], &[]);
            let kept = body.mul(&decay, &h);
            let new = body.mul(&b, &du);
            let next = body.add(&kept, &new);
            let y = body.matmul(&c, &next);
            states.push(info(&next, 4));
            tokens.push(info(&y, 4));
        });
        inputs.push(info(&h, 4));
        outputs.push([dt, du, b, c].map(|value| info(&value, 4)));
    }
    inputs.extend(outputs.into_iter().flatten());
    states.extend(tokens);
    let graph =
        GraphProto { name: "token".into(), input: inputs, output: states, ..body.into_graph() };

    let mut operands: Vec<&Value> = walks.iter().map(|walk| &walk.h).collect();
    operands.extend(walks.iter().flat_map(|walk| &walk.sequences));
    let per_walk = walks.first().map_or(0, |walk| walk.sequences.len());
    let directions = |times: usize| {
        let flags = walks.iter().flat_map(|walk| vec![i64::from(walk.reverse); times]);
        Attribute::Ints(flags.collect())
    };
    let attributes = [
        ("body", Attribute::Graph(graph)),
        ("num_scan_inputs", Attribute::Int((walks.len() * per_walk) as i64)),
        ("scan_input_axes", Attribute::Ints(vec![token_axis; walks.len() * per_walk])),
        ("scan_input_directions", directions(per_walk)),
        ("scan_output_axes", Attribute::Ints(vec![token_axis; walks.len()])),
        ("scan_output_directions", directions(1)),
    ];
    let mut results = g.node_in("", "Scan", &operands, &attributes, 2 * walks.len());
    results.split_off(walks.len())
}
