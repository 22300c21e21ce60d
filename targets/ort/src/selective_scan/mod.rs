//! The operator `ssamba::SelectiveScan` for ONNX Runtime: what all of its kernels share. Each
//! provider has its kernel in a file of its own.
//!
//! ONNX Runtime calls into here through C, which a panic must not cross: the functions called
//! return errors, and [`guarded`] turns a panic into one.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
pub(crate) use cuda::element_type;

#[cfg(feature = "cuda")]
use std::sync::Arc;
use std::{
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
};

use half::f16;
use ort::{
    operator::{
        FromKernelContext, FromOpAttr, KernelContext, OperatorDomain, OperatorInput,
        OperatorOutput, ShapeInferenceContext,
    },
    value::{Shape, SymbolicDimensions, TensorElementType, ValueType},
};
use ssamba_contract::op::{
    Attributes, DOMAIN, OPERANDS, OpError, PARAMETERS, REQUIRED_OPERANDS, RawAttributes,
    SELECTIVE_SCAN, attribute,
};
#[cfg(feature = "cuda")]
use ssamba_scan::cuda::Element;

#[cfg(feature = "cuda")]
use crate::cuda::Device;

/// Adds the kernels of the CPU, one for each type of values.
pub(crate) fn on_cpu(domain: OperatorDomain) -> ort::Result<OperatorDomain> {
    domain.add(cpu::SelectiveScan(PhantomData::<f32>))?.add(cpu::SelectiveScan(PhantomData::<f16>))
}

/// Adds the kernels of a GPU, one for each type of values.
#[cfg(feature = "cuda")]
pub(crate) fn on_cuda(domain: OperatorDomain, device: &Arc<Device>) -> ort::Result<OperatorDomain> {
    [Element::F32, Element::F16].into_iter().try_fold(domain, |domain, element| {
        domain.add(cuda::SelectiveScan { device: device.clone(), element })
    })
}

/// Operands with sequences of element type `ty`, the optional ones last.
fn inputs(ty: TensorElementType) -> impl Iterator<Item = OperatorInput> {
    (0..OPERANDS.len()).map(move |index| {
        let ty = if PARAMETERS[index] { TensorElementType::Float32 } else { ty };
        if index < REQUIRED_OPERANDS {
            OperatorInput::required(ty)
        } else {
            OperatorInput::optional(ty)
        }
    })
}

/// The one output, of element type `ty`.
fn outputs(ty: TensorElementType) -> [OperatorOutput; 1] {
    [OperatorOutput::required(ty)]
}

/// Runs `body`, whose panic becomes an error.
pub(crate) fn guarded<T>(body: impl FnOnce() -> ort::Result<T>) -> ort::Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let reason = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no reason given");
        // A message that crosses to C ends at its first NUL, and `ort` takes none.
        Err(ort::Error::new(format!("{DOMAIN}: panicked: {}", reason.replace('\0', " "))))
    })
}

/// An attribute of the node that a kernel is created for; `None` where it is absent.
pub(crate) fn read<'a, T: FromKernelContext<'a>>(
    context: &KernelContext<'a>,
    operator: &'static str,
    name: &'static str,
    expected: &'static str,
) -> Result<Option<T>, OpError> {
    match context.get::<T>(name) {
        Some(value) => Ok(Some(value)),
        // A list is read from an attribute of any type, as an empty one: it tells absence from
        // another type.
        None if context.get::<Vec<i64>>(name).is_some() => {
            Err(OpError::Attribute { operator, name, got: "of another type".into(), expected })
        }
        None => Ok(None),
    }
}

/// Attributes of the node that a kernel is created for.
fn attributes(context: &KernelContext<'_>) -> ort::Result<Attributes> {
    let checked = || {
        Attributes::from_raw(RawAttributes {
            groups: read(context, SELECTIVE_SCAN, attribute::GROUPS, "an int")?,
            reverse: read(context, SELECTIVE_SCAN, attribute::REVERSE, "ints")?,
            delta_softplus: read(context, SELECTIVE_SCAN, attribute::DELTA_SOFTPLUS, "an int")?,
            combine: read(context, SELECTIVE_SCAN, attribute::COMBINE, "a string")?,
            scale: read(context, SELECTIVE_SCAN, attribute::SCALE, "a float")?,
            gate: read(context, SELECTIVE_SCAN, attribute::GATE, "a string")?,
        })
    };
    checked().map_err(|error| of_node(context, error))
}

/// An error with the node's name: ONNX Runtime names the node that fails to run, but not the one
/// that has no kernel.
pub(crate) fn of_node(context: &KernelContext<'_>, error: OpError) -> ort::Error {
    match context.node_name() {
        Ok(name) => ort::Error::new(format!("node `{name}`: {error}")),
        Err(_) => ort::Error::wrap(error),
    }
}

/// Says the output's shape as far as it follows from the shapes of the operands.
///
/// Whatever is odd here is left to the kernel, which names it: this only helps ONNX Runtime to
/// plan.
fn infer_shape(context: &mut ShapeInferenceContext) -> ort::Result<()> {
    guarded(|| {
        let Some(attributes) = known_attributes(context) else { return Ok(()) };
        match output_type(&attributes, &context.inputs()) {
            Some(output) => context.set_output(0, &output),
            None => Ok(()),
        }
    })
}

/// An attribute while shapes are inferred; `None` where it is there but cannot be read.
pub(crate) fn known<T: FromOpAttr>(
    context: &ShapeInferenceContext,
    name: &str,
) -> Option<Option<T>> {
    match context.attr::<T>(name) {
        Ok(value) => Some(Some(value)),
        // As for kernels, a list tells absence from another type.
        Err(_) if context.attr::<Vec<i64>>(name).is_ok() => None,
        Err(_) => Some(None),
    }
}

/// The attributes that shape the output, unless one is there that cannot be read.
fn known_attributes(context: &ShapeInferenceContext) -> Option<Attributes> {
    let raw = RawAttributes {
        groups: known(context, attribute::GROUPS)?,
        reverse: known(context, attribute::REVERSE)?,
        combine: known(context, attribute::COMBINE)?,
        ..RawAttributes::default()
    };
    Attributes::from_raw(raw).ok()
}

/// The type of the output, unless one of its sizes is neither known nor named.
fn output_type(attributes: &Attributes, operands: &[ValueType]) -> Option<ValueType> {
    // An operand without a shape looks like one without axes.
    let axis = |operand: usize, rank: usize, axis: usize| match operands.get(operand)? {
        ValueType::Tensor { shape, dimension_symbols, .. } if shape.len() == rank => {
            let (size, symbol) = (*shape.get(axis)?, dimension_symbols.get(axis)?.clone());
            (size >= 0 || !symbol.is_empty()).then_some((size, symbol))
        }
        _ => None,
    };
    // The batch and the tokens of `u`, `delta`, `Bm`, `Cm` and `z` are the same; weights know `D`.
    let shared = |index| [0, 1, 3, 4, 6].into_iter().find_map(|operand| axis(operand, 3, index));
    let width = [axis(2, 2, 0), axis(0, 3, 2), axis(1, 3, 2)];
    let width = width.into_iter().flatten().map(|(size, _)| size).find(|&size| size >= 0)?;
    let streams = i64::try_from(attributes.streams()).ok()?;
    let blocks = i64::try_from(attributes.output_blocks()).ok()?;
    let channels = (width % streams == 0).then_some(width / streams * blocks)?;
    let (sizes, symbols): (Vec<i64>, Vec<String>) =
        [shared(0)?, shared(1)?, (channels, String::new())].into_iter().unzip();
    Some(ValueType::Tensor {
        ty: operands.first()?.tensor_type()?,
        shape: Shape::new(sizes),
        dimension_symbols: SymbolicDimensions::new(symbols),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(sizes: &[i64], symbols: &[&str]) -> ValueType {
        ValueType::Tensor {
            ty: TensorElementType::Float32,
            shape: Shape::new(sizes.iter().copied()),
            dimension_symbols: SymbolicDimensions::new(symbols.iter().map(|&symbol| symbol.into())),
        }
    }

    fn output(u: ValueType) -> Option<ValueType> {
        let rows = |width| tensor(&[-1, 7, width], &["", "", ""]);
        let attributes = Attributes::default();
        output_type(&attributes, &[u, rows(8), tensor(&[8, 16], &["", ""]), rows(32), rows(32)])
    }

    #[test]
    fn sizes_and_their_names_pass_from_the_operands_to_the_output() {
        let u = tensor(&[-1, -1, 8], &["batch", "", ""]);
        assert_eq!(output(u), Some(tensor(&[-1, 7, 4], &["batch", "", ""])));
        let u = tensor(&[3, 7, -1], &["", "", ""]);
        assert_eq!(output(u), Some(tensor(&[3, 7, 4], &["", "", ""])));
    }

    #[test]
    fn a_size_without_a_name_leaves_the_shape_open() {
        for u in [tensor(&[-1, 7, 8], &["", "", ""]), tensor(&[], &[]), tensor(&[3, 7], &["", ""])]
        {
            assert_eq!(output(u), None);
        }
        assert_eq!(output_type(&Attributes::default(), &[]), None);
        let odd = [tensor(&[1, 1, 9], &["", "", ""]), tensor(&[1, 1, 9], &["", "", ""])];
        assert_eq!(output_type(&Attributes::default(), &odd), None);
    }
}
