//! The body of `AddLayerNorm` in standard operators, for values of either precision.

use anyhow::Result;
use onnx_protobuf::{FunctionProto, GraphProto, OperatorSetIdProto};
use protobuf::Message;
use ssamba_contract::op::{
    ADD_LAYER_NORM, DOMAIN,
    add_layer_norm::{Attributes, OPERANDS, RESULTS},
    attribute,
};

use crate::{
    function::{OPSET, model_proto},
    graph::{Attribute, Axis, Constants, GraphBuilder, Value, float_value},
};

/// The model-local function.
pub(crate) fn function() -> FunctionProto {
    let mut body = GraphBuilder::new(Constants::Nodes);
    let g = &mut body;
    let [x, update, weight, bias] = OPERANDS.map(Value::named);
    let sum = g.add(&x, &update);
    // The standard operator takes parameters of the type of its input.
    let [weight, bias] = [weight, bias].map(|value| g.node("CastLike", &[&value, &sum], &[]));
    let attributes = [
        ("axis", Attribute::Int(-1)),
        (attribute::EPSILON, Attribute::FloatOfFunction(attribute::EPSILON)),
    ];
    let y = g.node("LayerNormalization", &[&sum, &weight, &bias], &attributes);
    for (value, name) in [y, sum].iter().zip(RESULTS) {
        g.output(value, name);
    }
    let default = Attribute::Float(Attributes::default().epsilon());
    FunctionProto {
        domain: DOMAIN.into(),
        name: ADD_LAYER_NORM.into(),
        doc_string:
            "An update to the residual and the layer norm of the sum, which is put out beside it."
                .into(),
        input: OPERANDS.map(Into::into).to_vec(),
        output: RESULTS.map(Into::into).to_vec(),
        attribute_proto: vec![default.named(attribute::EPSILON)],
        node: body.into_graph().node,
        opset_import: vec![OperatorSetIdProto { version: OPSET, ..Default::default() }],
        ..Default::default()
    }
}

/// A model of one node with all operands as inputs and both outputs: the operator by itself, for tests
/// and for measuring a runtime. The update may be that of every token of every clip, or of none.
///
/// # Errors
/// When the model cannot be serialised.
pub fn norm_model(d_model: usize, epsilon: f32) -> Result<Vec<u8>> {
    let sequence =
        |batch, tokens| vec![Axis::Named(batch), Axis::Named(tokens), Axis::Fixed(d_model)];
    let axes = [
        sequence("batch", "tokens"),
        sequence("updated_clips", "updated_tokens"),
        vec![Axis::Fixed(d_model)],
        vec![Axis::Fixed(d_model)],
    ];
    let mut g = GraphBuilder::new(Constants::Initializers);
    let operands = OPERANDS.map(Value::named);
    let operands: Vec<&Value> = operands.iter().collect();
    let attributes = [(attribute::EPSILON, Attribute::Float(epsilon))];
    let outputs = g.node_in(DOMAIN, ADD_LAYER_NORM, &operands, &attributes, RESULTS.len());
    for (value, name) in outputs.iter().zip(RESULTS) {
        g.output(value, name);
    }
    let graph = GraphProto {
        name: "norm".into(),
        input: OPERANDS.iter().zip(&axes).map(|(name, axes)| float_value(name, axes)).collect(),
        output: RESULTS.map(|name| float_value(name, &sequence("batch", "tokens"))).to_vec(),
        ..g.into_graph()
    };
    Ok(model_proto(graph, vec![function()]).write_to_bytes()?)
}
