//! The operator `ssamba::ShortConv` for ONNX Runtime: what all of its kernels share. What it shares with
//! the scan, and what rules calls from C, is said there.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use std::marker::PhantomData;
#[cfg(feature = "cuda")]
use std::sync::Arc;

use half::f16;
use ort::{
    operator::{
        KernelContext, OperatorDomain, OperatorInput, OperatorOutput, ShapeInferenceContext,
    },
    value::{Shape, SymbolicDimensions, TensorElementType, ValueType},
};
use ssamba_contract::op::{
    OpError, attribute,
    short_conv::{Attributes, OPERANDS, PARAMETERS, REQUIRED_OPERANDS, RawAttributes, SHORT_CONV},
};
#[cfg(feature = "cuda")]
use ssamba_scan::cuda::Element;

#[cfg(feature = "cuda")]
use crate::cuda::Device;
use crate::selective_scan::{guarded, known, of_node, read};

/// Adds the kernels of the CPU, one for each type of values.
pub(crate) fn on_cpu(domain: OperatorDomain) -> ort::Result<OperatorDomain> {
    domain.add(cpu::ShortConv(PhantomData::<f32>))?.add(cpu::ShortConv(PhantomData::<f16>))
}

/// Adds the kernels of a GPU, one for each type of values.
#[cfg(feature = "cuda")]
pub(crate) fn on_cuda(domain: OperatorDomain, device: &Arc<Device>) -> ort::Result<OperatorDomain> {
    [Element::F32, Element::F16].into_iter().try_fold(domain, |domain, element| {
        domain.add(cuda::ShortConv { device: device.clone(), element })
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

/// Says the output's shape. Whatever is odd here is left to the kernel, which names it: this only helps
/// ONNX Runtime to plan.
fn infer_shape(context: &mut ShapeInferenceContext) -> ort::Result<()> {
    guarded(|| {
        let Some(attributes) = known_attributes(context) else { return Ok(()) };
        match output_type(&attributes, &context.inputs()) {
            Some(output) => context.set_output(0, &output),
            None => Ok(()),
        }
    })
}

/// Attributes of the node that a kernel is created for.
fn attributes(context: &KernelContext<'_>) -> ort::Result<Attributes> {
    let checked = || -> Result<Attributes, OpError> {
        Attributes::from_raw(RawAttributes {
            groups: read(context, SHORT_CONV, attribute::GROUPS, "an int")?,
            reverse: read(context, SHORT_CONV, attribute::REVERSE, "ints")?,
            activation: read(context, SHORT_CONV, attribute::ACTIVATION, "a string")?,
        })
    };
    checked().map_err(|error| of_node(context, error))
}

fn known_attributes(context: &ShapeInferenceContext) -> Option<Attributes> {
    let raw = RawAttributes {
        groups: known(context, attribute::GROUPS)?,
        reverse: known(context, attribute::REVERSE)?,
        ..RawAttributes::default()
    };
    Attributes::from_raw(raw).ok()
}

/// The type of the output, unless the sizes of `x` are not known.
fn output_type(attributes: &Attributes, operands: &[ValueType]) -> Option<ValueType> {
    let ValueType::Tensor { ty, shape, dimension_symbols } = operands.first()? else { return None };
    let &[batch, tokens, width] = &shape[..] else { return None };
    let symbols: Vec<String> =
        (0..2).map(|axis| dimension_symbols.get(axis).cloned()).collect::<Option<_>>()?;
    let named = |size, symbol: &String| size >= 0 || !symbol.is_empty();
    let directions = i64::try_from(attributes.directions()).ok()?;
    let channels = width.checked_mul(directions).filter(|&channels| channels >= 0)?;
    if !named(batch, &symbols[0]) || !named(tokens, &symbols[1]) {
        return None;
    }
    Some(ValueType::Tensor {
        ty: *ty,
        shape: Shape::new([batch, tokens, channels]),
        dimension_symbols: SymbolicDimensions::new(symbols.into_iter().chain([String::new()])),
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

    #[test]
    fn the_output_has_the_batch_and_tokens_of_its_input_and_a_block_per_stream() {
        let output = |x| output_type(&Attributes::default(), &[x]);
        let x = tensor(&[-1, 7, 8], &["batch", "", ""]);
        assert_eq!(output(x), Some(tensor(&[-1, 7, 16], &["batch", "", ""])));
        for open in [
            tensor(&[-1, 7, 8], &["", "", ""]),
            tensor(&[3, 7, -1], &["", "", "width"]),
            tensor(&[3, 7], &["", ""]),
            tensor(&[], &[]),
        ] {
            assert_eq!(output(open), None);
        }
        assert_eq!(output_type(&Attributes::default(), &[]), None);
    }
}
