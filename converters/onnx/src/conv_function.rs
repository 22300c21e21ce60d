//! The body of `ShortConv` in standard operators, for one configuration, as for the scan.
//!
//! Every stream has a convolution of its own. Its taps are in walking order: those of a stream that
//! walks from the last token to the first are turned round, and padding goes to the other end.

use anyhow::Result;
use onnx_protobuf::{FunctionProto, GraphProto, OperatorSetIdProto};
use protobuf::Message;
use ssamba_contract::op::{
    DOMAIN, Layout, attribute,
    short_conv::{OPERANDS, SHORT_CONV},
};

use crate::{
    Precision,
    function::{OPSET, check_streams, layout_attribute, model_proto},
    graph::{Attribute, Axis, Constants, GraphBuilder, Value, float_value},
};

/// The one configuration of `ShortConv` in a model: SiLU on, with a bias.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ConvConfiguration {
    pub(crate) groups: usize,
    /// Per stream; stream `g * directions + k`.
    pub(crate) reverse: Vec<bool>,
    pub(crate) d_inner: usize,
    pub(crate) d_conv: usize,
    /// How the streams of `u` lie.
    pub(crate) layout: Layout,
    /// Of `x` and `u`; parameters and the body's arithmetic are `f32`.
    pub(crate) precision: Precision,
}

impl ConvConfiguration {
    /// Attributes of the node, each spelled out.
    pub(crate) fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let reverse = self.reverse.iter().map(|&reverse| i64::from(reverse)).collect();
        [
            (attribute::GROUPS, Attribute::Int(self.groups as i64)),
            (attribute::REVERSE, Attribute::Ints(reverse)),
            (attribute::ACTIVATION, Attribute::Text("silu")),
        ]
        .into_iter()
        .chain(layout_attribute(self.layout))
        .collect()
    }

    /// The model-local function.
    pub(crate) fn function(&self) -> FunctionProto {
        let mut body = GraphBuilder::new(Constants::Nodes);
        let u = self.body(&mut body);
        body.output(&u, "u");
        let defaults = self.attributes().into_iter().map(|(name, value)| value.named(name));
        FunctionProto {
            domain: DOMAIN.into(),
            name: SHORT_CONV.into(),
            doc_string: "The depthwise convolution along the tokens and SiLU of a Mamba mixer, for several streams at once; \
                         the body serves the attribute values given as defaults."
                .into(),
            input: OPERANDS.map(Into::into).to_vec(),
            output: vec!["u".into()],
            attribute_proto: defaults.collect(),
            node: body.into_graph().node,
            opset_import: vec![OperatorSetIdProto { version: OPSET, ..Default::default() }],
            ..Default::default()
        }
    }

    fn body(&self, g: &mut GraphBuilder) -> Value {
        let [mut x, weight, bias] = OPERANDS.map(Value::named);
        if self.precision != Precision::F32 {
            x = g.cast(&x, Precision::F32);
        }
        let streams = self.reverse.len();
        let per_stream = vec![self.d_inner; streams];
        let x = g.transpose(&x, &[0, 2, 1]);
        let x = g.split(&x, 1, &vec![self.d_inner; self.groups]);
        let weight = g.reshape(&weight, &[0, 1, self.d_conv as i64]);
        let weight = g.split(&weight, 0, &per_stream);
        let bias = g.split(&bias, 0, &per_stream);
        let mut convolved = Vec::new();
        for (stream, &reverse) in self.reverse.iter().enumerate() {
            let mut taps = weight[stream].clone();
            if reverse {
                let [last, before_first, axis] =
                    [&[-1], &[i64::MIN], &[2]].map(|values| g.integers(values));
                taps = g.node("Slice", &[&taps, &last, &before_first, &axis, &last], &[]);
            }
            let padding = self.d_conv as i64 - 1;
            let pads = if reverse { [0, padding] } else { [padding, 0] };
            let attributes = [
                ("group", Attribute::Int(self.d_inner as i64)),
                ("kernel_shape", Attribute::Ints(vec![self.d_conv as i64])),
                ("pads", Attribute::Ints(pads.to_vec())),
            ];
            let x = &x[stream / (streams / self.groups)];
            convolved.push(g.node("Conv", &[x, &taps, &bias[stream]], &attributes));
        }
        // Beside each other in the channels, or clips of one stream after those of another.
        let axis = match self.layout {
            Layout::Channels => 1,
            Layout::Streams => 0,
        };
        let u = g.concat(&convolved, axis);
        let u = g.silu(&u);
        let mut u = g.transpose(&u, &[0, 2, 1]);
        if self.layout == Layout::Streams {
            u = g.reshape(&u, &[streams as i64, -1, self.d_inner as i64]);
        }
        match self.precision {
            Precision::F32 => u,
            half => g.cast(&u, half),
        }
    }
}

/// A model of one node with all three operands as inputs and the output `u`: the operator by itself,
/// for tests and for measuring a runtime.
///
/// # Errors
/// When `reverse` does not hold one or two streams for each of `groups` mixers.
pub fn conv_model(
    groups: usize,
    reverse: &[bool],
    d_inner: usize,
    d_conv: usize,
    layout: Layout,
) -> Result<Vec<u8>> {
    check_streams(groups, reverse)?;
    let conv = ConvConfiguration {
        groups,
        reverse: reverse.to_vec(),
        d_inner,
        d_conv,
        layout,
        precision: Precision::F32,
    };
    let channels = reverse.len() * d_inner;
    let sequence = |width| vec![Axis::Named("batch"), Axis::Named("tokens"), Axis::Fixed(width)];
    let axes = [
        sequence(groups * d_inner),
        vec![Axis::Fixed(channels), Axis::Fixed(d_conv)],
        vec![Axis::Fixed(channels)],
    ];
    let output = match layout {
        Layout::Channels => sequence(channels),
        Layout::Streams => {
            vec![Axis::Fixed(reverse.len()), Axis::Named("rows"), Axis::Fixed(d_inner)]
        }
    };
    let mut g = GraphBuilder::new(Constants::Initializers);
    let operands = OPERANDS.map(Value::named);
    let operands: Vec<&Value> = operands.iter().collect();
    for u in g.node_in(DOMAIN, SHORT_CONV, &operands, &conv.attributes(), 1) {
        g.output(&u, "u");
    }
    let graph = GraphProto {
        name: "conv".into(),
        input: OPERANDS.iter().zip(&axes).map(|(name, axes)| float_value(name, axes)).collect(),
        output: vec![float_value("u", &output)],
        ..g.into_graph()
    };
    Ok(model_proto(graph, vec![conv.function()]).write_to_bytes()?)
}
