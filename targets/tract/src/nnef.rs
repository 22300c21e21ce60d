//! A model in tract's own format, NNEF in a tar archive: for a program that has no room for a reader
//! of ONNX.

use std::sync::Arc;

use anyhow::Result;
use ssamba_contract::op::{
    self, Attributes, Layout, RawAttributes, SELECTIVE_SCAN, attribute,
    short_conv::{self as conv, SHORT_CONV},
};
use tract_nnef::{ast::Literal, framework::Nnef, internal::*, tract_core::ops::nn::GeluExact};

#[cfg(feature = "onnx")]
use crate::kept::Kept;
use crate::{
    operator::{Definition, Node},
    quantize::{self, Quantize},
    selective_scan::SelectiveScan,
    short_conv::ShortConv,
};

/// Wired operands, and for each its number among all.
const INPUTS: &str = "inputs";
const OPERANDS: &str = "operands";

/// The operand of [`Quantize`].
const INPUT: &str = "input";

fn framework() -> Nnef {
    tract_nnef::nnef().with_registry(ours())
}

/// Our operators, under the name of their version.
fn ours() -> Registry {
    let mut registry = Registry::new(format!("{}_{}", op::DOMAIN, op::VERSION));
    let integer = || TypeName::Integer.spec();
    let wired = || {
        [TypeName::Scalar.tensor().array().named(INPUTS), integer().array().named(OPERANDS)]
            .into_iter()
    };
    let streams = || {
        [integer().named(attribute::GROUPS), integer().array().named(attribute::REVERSE)]
            .into_iter()
    };
    // Absent in archives that were written before the operators had it.
    let layout = || TypeName::String.named(attribute::LAYOUT).default(Layout::default().as_str());
    let output = [("output", TypeName::Scalar.tensor())];
    let scan: Vec<_> = wired()
        .chain(streams())
        .chain([
            integer().named(attribute::DELTA_SOFTPLUS),
            TypeName::String.named(attribute::COMBINE),
            TypeName::Scalar.named(attribute::SCALE),
            layout(),
            integer().array().named(attribute::COLUMNS).default(Literal::Array(Vec::new())),
        ])
        .collect();
    registry.register_primitive(SELECTIVE_SCAN, &scan, &output, read_scan);
    registry.register_dumper(write_scan);
    let short: Vec<_> = wired()
        .chain(streams())
        .chain([TypeName::String.named(attribute::ACTIVATION), layout()])
        .collect();
    registry.register_primitive(SHORT_CONV, &short, &output, read_short_conv);
    registry.register_dumper(write_short_conv);
    let input = [TypeName::Scalar.tensor().named(INPUT)];
    let quantized =
        ["quantized", "scale", "zero_point"].map(|output| (output, TypeName::Scalar.tensor()));
    registry.register_primitive(quantize::NAME, &input, &quantized, read_quantize);
    registry.register_dumper(write_quantize);
    #[cfg(feature = "onnx")]
    registry.register_dumper(Kept::write);
    // tract has this operator, of SSAST, but no place for it in NNEF.
    registry.register_unit_element_wise("GeluExact", &GeluExact {});
    registry
}

/// The wired inputs of a node, and which operands they are.
fn wired(ast: &IntoAst<'_>, node: &TypedNode, inputs: &[Option<usize>]) -> [RValue; 2] {
    let (operands, wires): (Vec<RValue>, Vec<RValue>) = inputs
        .iter()
        .enumerate()
        .filter_map(|(operand, input)| {
            Some((numeric(operand), ast.mapping[node.inputs.get((*input)?)?].as_ref().clone()))
        })
        .unzip();
    [array(wires), array(operands)]
}

fn flags(reverse: &[bool]) -> RValue {
    array(reverse.iter().map(|&flag| numeric(i64::from(flag))).collect::<Vec<_>>())
}

fn array(values: Vec<RValue>) -> RValue {
    RValue::Array(values)
}

fn write_scan(
    ast: &mut IntoAst<'_>,
    node: &TypedNode,
    scan: &Node<SelectiveScan>,
) -> TractResult<Option<Arc<RValue>>> {
    let [inputs, operands] = wired(ast, node, &scan.inputs);
    let attributes = &scan.attributes;
    // None are no columns.
    let columns = attributes.columns().into_iter().flatten().map(numeric).collect();
    Ok(Some(invocation(
        SELECTIVE_SCAN,
        &[],
        &[
            (INPUTS, inputs),
            (OPERANDS, operands),
            (attribute::GROUPS, numeric(attributes.groups())),
            (attribute::REVERSE, flags(attributes.reverse())),
            (attribute::DELTA_SOFTPLUS, numeric(i64::from(attributes.delta_softplus()))),
            (attribute::COMBINE, string(attributes.combine().as_str())),
            (attribute::SCALE, numeric(attributes.scale())),
            (attribute::LAYOUT, string(attributes.layout().as_str())),
            (attribute::COLUMNS, array(columns)),
        ],
    )))
}

fn write_short_conv(
    ast: &mut IntoAst<'_>,
    node: &TypedNode,
    short: &Node<ShortConv>,
) -> TractResult<Option<Arc<RValue>>> {
    let [inputs, operands] = wired(ast, node, &short.inputs);
    let attributes = &short.attributes;
    let activation = match attributes.activation() {
        conv::Activation::Silu => "silu",
        conv::Activation::None => "none",
    };
    Ok(Some(invocation(
        SHORT_CONV,
        &[],
        &[
            (INPUTS, inputs),
            (OPERANDS, operands),
            (attribute::GROUPS, numeric(attributes.groups())),
            (attribute::REVERSE, flags(attributes.reverse())),
            (attribute::ACTIVATION, string(activation)),
            (attribute::LAYOUT, string(attributes.layout().as_str())),
        ],
    )))
}

/// An invocation of one of our operators: the wires, and for each operand its place among them.
struct Invoked {
    wires: TVec<OutletId>,
    inputs: TVec<Option<usize>>,
    groups: Option<i64>,
    reverse: Option<Vec<i64>>,
}

impl Invoked {
    fn read<D: Definition>(
        builder: &mut ModelBuilder<'_>,
        call: &ResolvedInvocation<'_>,
    ) -> TractResult<Self> {
        let wires: TVec<OutletId> = call.named_arg_as(builder, INPUTS)?;
        let operands: TVec<usize> = call.named_arg_as(builder, OPERANDS)?;
        let count = D::OPERANDS.len();
        let mut inputs: TVec<Option<usize>> = tvec![None; count];
        for (wire, operand) in operands.into_iter().enumerate() {
            match inputs.get_mut(operand) {
                Some(slot) if slot.is_none() && wire < wires.len() => *slot = Some(wire),
                _ => bail!("operand {operand} of {count} is wired twice, or to nothing"),
            }
        }
        let reverse: TVec<i64> = call.named_arg_as(builder, attribute::REVERSE)?;
        Ok(Self {
            wires,
            inputs,
            groups: Some(call.named_arg_as(builder, attribute::GROUPS)?),
            reverse: Some(reverse.into_vec()),
        })
    }
}

fn read_scan(builder: &mut ModelBuilder<'_>, call: &ResolvedInvocation<'_>) -> TractResult<Value> {
    let Invoked { wires, inputs, groups, reverse } = Invoked::read::<SelectiveScan>(builder, call)?;
    let columns: TVec<i64> = call.named_arg_as(builder, attribute::COLUMNS)?;
    let attributes = Attributes::from_raw(RawAttributes {
        groups,
        reverse,
        delta_softplus: Some(call.named_arg_as(builder, attribute::DELTA_SOFTPLUS)?),
        combine: Some(call.named_arg_as(builder, attribute::COMBINE)?),
        scale: Some(call.named_arg_as(builder, attribute::SCALE)?),
        gate: None,
        layout: Some(call.named_arg_as(builder, attribute::LAYOUT)?),
        columns: Some(columns.into_vec()).filter(|columns| !columns.is_empty()),
    })?;
    builder.wire(Node::<SelectiveScan>::new(attributes, inputs), &wires)
}

fn read_short_conv(
    builder: &mut ModelBuilder<'_>,
    call: &ResolvedInvocation<'_>,
) -> TractResult<Value> {
    let Invoked { wires, inputs, groups, reverse } = Invoked::read::<ShortConv>(builder, call)?;
    let attributes = conv::Attributes::from_raw(conv::RawAttributes {
        groups,
        reverse,
        activation: Some(call.named_arg_as(builder, attribute::ACTIVATION)?),
        layout: Some(call.named_arg_as(builder, attribute::LAYOUT)?),
    })?;
    builder.wire(Node::<ShortConv>::new(attributes, inputs), &wires)
}

fn write_quantize(
    ast: &mut IntoAst<'_>,
    node: &TypedNode,
    _: &Quantize,
) -> TractResult<Option<Arc<RValue>>> {
    Ok(Some(invocation(quantize::NAME, &[ast.mapping[&node.inputs[0]].clone()], &[])))
}

fn read_quantize(
    builder: &mut ModelBuilder<'_>,
    call: &ResolvedInvocation<'_>,
) -> TractResult<Value> {
    let input: OutletId = call.named_arg_as(builder, INPUT)?;
    builder.wire(Quantize, &[input])
}

/// The archive of a model whose shapes are fixed: the same bytes every time. What could not be read
/// here again is not written.
#[cfg(feature = "onnx")]
pub(crate) fn write(model: &TypedModel) -> Result<Vec<u8>> {
    let bytes = framework().write_to_tar_with_config(model, Vec::new(), false, true)?;
    read(&bytes).context("it could not be read again")?;
    Ok(bytes)
}

/// The model of an archive.
pub(crate) fn read(mut bytes: &[u8]) -> Result<TypedModel> {
    framework().model_for_read(&mut bytes)
}
