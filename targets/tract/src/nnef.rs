//! A model as tract's own format, NNEF in a tar archive: what a program reads that has no room for
//! a reader of ONNX.
//!
//! tract's reader of NNEF knows every operator of tract and keeps all their code in the program.
//! The one here knows those that the converter's files come down to, under tract's names; writing
//! is tract's own.

use std::{collections::HashMap, io::Read, num::NonZeroUsize, sync::Arc};

use anyhow::{Context, Result, anyhow, bail};
use ssamba_contract::op::{
    self, Attributes, RawAttributes, SELECTIVE_SCAN, attribute,
    short_conv::{self as conv, SHORT_CONV},
};
use tract_nnef::{
    ast::ProtoModel,
    framework::Nnef,
    internal::*,
    ops::nnef::deser,
    tract_core::ops::{
        einsum::EinSum,
        math,
        nn::{GeluExact, RmsNorm, Sigmoid, Silu},
    },
};

use crate::{selective_scan::SelectiveScan, short_conv::ShortConv};

/// In the archive; the other files are tensors.
const GRAPH: &str = "graph.nnef";
/// Wired operands, and for each its number among all.
const INPUTS: &str = "inputs";
const OPERANDS: &str = "operands";

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
    let output = [("output", TypeName::Scalar.tensor())];
    let scan: Vec<_> = wired()
        .chain(streams())
        .chain([
            integer().named(attribute::DELTA_SOFTPLUS),
            TypeName::String.named(attribute::COMBINE),
            TypeName::Scalar.named(attribute::SCALE),
        ])
        .collect();
    registry.register_primitive(SELECTIVE_SCAN, &scan, &output, read_scan);
    registry.register_dumper(write_scan);
    let short: Vec<_> =
        wired().chain(streams()).chain([TypeName::String.named(attribute::ACTIVATION)]).collect();
    registry.register_primitive(SHORT_CONV, &short, &output, read_short_conv);
    registry.register_dumper(write_short_conv);
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
    scan: &SelectiveScan,
) -> TractResult<Option<Arc<RValue>>> {
    let [inputs, operands] = wired(ast, node, &scan.inputs);
    let attributes = &scan.attributes;
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
        ],
    )))
}

fn write_short_conv(
    ast: &mut IntoAst<'_>,
    node: &TypedNode,
    short: &ShortConv,
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
        ],
    )))
}

/// An invocation of one of our operators: the wires, and for each operand its place among them.
struct Invoked<const N: usize> {
    wires: TVec<OutletId>,
    inputs: [Option<usize>; N],
    groups: Option<i64>,
    reverse: Option<Vec<i64>>,
}

impl<const N: usize> Invoked<N> {
    fn read(builder: &mut ModelBuilder<'_>, call: &ResolvedInvocation<'_>) -> TractResult<Self> {
        let wires: TVec<OutletId> = call.named_arg_as(builder, INPUTS)?;
        let operands: TVec<usize> = call.named_arg_as(builder, OPERANDS)?;
        let mut inputs = [None; N];
        for (wire, operand) in operands.into_iter().enumerate() {
            match inputs.get_mut(operand) {
                Some(slot) if slot.is_none() && wire < wires.len() => *slot = Some(wire),
                _ => bail!("operand {operand} of {N} is wired twice, or to nothing"),
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
    let Invoked { wires, inputs, groups, reverse } = Invoked::read(builder, call)?;
    let attributes = Attributes::from_raw(RawAttributes {
        groups,
        reverse,
        delta_softplus: Some(call.named_arg_as(builder, attribute::DELTA_SOFTPLUS)?),
        combine: Some(call.named_arg_as(builder, attribute::COMBINE)?),
        scale: Some(call.named_arg_as(builder, attribute::SCALE)?),
        gate: None,
    })?;
    builder.wire(SelectiveScan { attributes, inputs, threads: NonZeroUsize::MIN }, &wires)
}

fn read_short_conv(
    builder: &mut ModelBuilder<'_>,
    call: &ResolvedInvocation<'_>,
) -> TractResult<Value> {
    let Invoked { wires, inputs, groups, reverse } = Invoked::read(builder, call)?;
    let attributes = conv::Attributes::from_raw(conv::RawAttributes {
        groups,
        reverse,
        activation: Some(call.named_arg_as(builder, attribute::ACTIVATION)?),
    })?;
    builder.wire(ShortConv { attributes, inputs, threads: NonZeroUsize::MIN }, &wires)
}

/// The archive of a model whose shapes are fixed: the same bytes every time. What could not be read
/// here again is not written.
#[cfg(feature = "onnx")]
pub(crate) fn write(model: &TypedModel) -> Result<Vec<u8>> {
    let framework = tract_nnef::nnef().with_registry(ours());
    let bytes = framework.write_to_tar_with_config(model, Vec::new(), false, true)?;
    read(&bytes).context("a pack that could not be read")?;
    Ok(bytes)
}

/// The model of an archive.
pub(crate) fn read(bytes: &[u8]) -> Result<TypedModel> {
    let (mut graph, mut tensors) = (None, HashMap::new());
    for entry in tar::Archive::new(bytes).entries().context("it is no archive")? {
        let mut entry = entry.context("it is no whole archive")?;
        let path = entry.path()?.to_string_lossy().into_owned();
        if path == GRAPH {
            let mut text = String::new();
            entry.read_to_string(&mut text).context("its graph is no text")?;
            graph = Some(text);
        } else if let Some(label) = path.strip_suffix(".dat") {
            let tensor = tract_nnef::tensors::read_tensor(&mut entry)
                .with_context(|| format!("its tensor `{label}` cannot be read"))?;
            tensors.insert(Identifier::from(label.trim_start_matches("./")), tensor.into());
        } else {
            bail!("it holds `{path}`, which this program does not know");
        }
    }
    let text = graph.ok_or_else(|| anyhow!("it holds no {GRAPH}"))?;
    let doc = tract_nnef::ast::parse::parse_document(&text)?;
    let proto = ProtoModel { doc, tensors, quantization: None, resources: HashMap::new() };
    proto.validate()?;
    let framework = Nnef {
        stdlib: Vec::new(),
        registries: vec![khronos(), tract(), ours()],
        resource_loaders: Vec::new(),
        allow_extended_identifier_syntax: false,
        extern_all_constants: false,
    };
    framework.model_for_proto_model(&proto)
}

/// Operators of NNEF itself, declared in tract's copy of its standard.
fn khronos() -> Registry {
    let mut registry = Registry::new("tract_nnef");
    let readers: [(&str, ToTract); 14] = [
        ("external", deser::external),
        ("variable", deser::variable),
        ("reshape", deser::reshape),
        ("transpose", deser::transpose),
        ("concat", deser::concat),
        ("pad", deser::pad),
        ("slice", deser::slice),
        ("squeeze", deser::squeeze),
        ("unsqueeze", deser::unsqueeze),
        ("conv", deser::conv),
        ("matmul", deser::matmul),
        ("softmax", deser::softmax),
        ("sum_reduce", deser::reduce),
        ("copy", deser::copy),
    ];
    for declared in tract_nnef::framework::stdlib() {
        let decl = declared.decl;
        if let Some((id, read)) = readers.iter().find(|(id, _)| *id == decl.id.0) {
            registry.register_primitive(id, &decl.parameters, &decl.results, *read);
        }
    }
    registry.register_binary("add", &math::Add);
    registry.register_binary("sub", &math::Sub);
    registry.register_binary("mul", &math::Mul);
    registry.register_binary("div", &math::Div);
    registry.register_unit_element_wise("exp", &math::Exp {});
    registry.register_unit_element_wise("square", &math::Square {});
    registry.register_unit_element_wise("rsqrt", &math::Rsqrt {});
    registry.register_unit_element_wise("sigmoid", &Sigmoid {});
    registry
}

/// tract's additions to NNEF.
fn tract() -> Registry {
    let mut registry = Registry::new("tract_core");
    let output = [("output", TypeName::Scalar.tensor())];
    registry.register_unit_element_wise("tract_core_silu", &Silu {});
    registry.register_unit_element_wise("tract_core_erf", &math::Erf {});
    registry.register_primitive(
        "tract_core_einsum",
        &[
            TypeName::Scalar.tensor().array().named("inputs"),
            TypeName::String.named("expr"),
            TypeName::String.named("acc"),
            TypeName::String.named("output").default(""),
        ],
        &output,
        |builder, call| {
            let expression = call.named_arg_as::<String>(builder, "expr")?.parse()?;
            let accumulator = call.named_arg_as::<String>(builder, "acc")?.parse()?;
            let inputs: TVec<OutletId> = call.named_arg_as(builder, "inputs")?;
            builder.wire(EinSum::new(expression, accumulator), &inputs)
        },
    );
    registry.register_primitive(
        "tract_core_rms_norm",
        &[
            TypeName::Scalar.tensor().named("input"),
            TypeName::Integer.named("axis"),
            TypeName::Scalar.named("eps"),
        ],
        &output,
        |builder, call| {
            let input = call.named_arg_as(builder, "input")?;
            let axis = call.named_arg_as(builder, "axis")?;
            let eps = call.named_arg_as(builder, "eps")?;
            builder.wire(RmsNorm { axis, eps }, &[input])
        },
    );
    registry
}
