//! The operator `ssamba::ShortConv` for the CPU provider of ONNX Runtime: `ssamba_scan` on its own
//! threads. What it shares with the scan, and what rules calls from C, is said there.

use ort::{
    operator::{
        ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
        ShapeInferenceContext,
    },
    value::{Shape, SymbolicDimensions, TensorElementType, ValueRef, ValueType},
};
use ssamba_contract::op::{
    OpError, attribute,
    short_conv::{
        Activation, Attributes, OPERANDS, REQUIRED_OPERANDS, RawAttributes, SHORT_CONV, Sizes,
    },
};

use crate::selective_scan::{RuntimeThreads, guarded, known, of_node, read};

const ELEMENT: TensorElementType = TensorElementType::Float32;

pub(crate) struct ShortConv;

impl Operator for ShortConv {
    type Kernel<'a> = ShortConvKernel;

    fn name(&self) -> &str {
        SHORT_CONV
    }

    fn execution_provider_type(&self) -> Option<&str> {
        Some("CPUExecutionProvider")
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        (0..OPERANDS.len()).map(|index| {
            if index < REQUIRED_OPERANDS {
                OperatorInput::required(ELEMENT)
            } else {
                OperatorInput::optional(ELEMENT)
            }
        })
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(ELEMENT)]
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<Self::Kernel<'a>> {
        guarded(|| {
            let attributes = attributes(context).map_err(|error| of_node(context, error))?;
            Ok(ShortConvKernel { attributes })
        })
    }

    /// Whatever is odd here is left to the kernel, which names it: this only helps ONNX Runtime to
    /// plan.
    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        guarded(|| {
            let Some(attributes) = known_attributes(context) else { return Ok(()) };
            match output_type(&attributes, &context.inputs()) {
                Some(output) => context.set_output(0, &output),
                None => Ok(()),
            }
        })
    }
}

fn attributes(context: &KernelContext<'_>) -> Result<Attributes, OpError> {
    Attributes::from_raw(RawAttributes {
        groups: read(context, SHORT_CONV, attribute::GROUPS, "an int")?,
        reverse: read(context, SHORT_CONV, attribute::REVERSE, "ints")?,
        activation: read(context, SHORT_CONV, attribute::ACTIVATION, "a string")?,
    })
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

pub(crate) struct ShortConvKernel {
    attributes: Attributes,
}

impl Kernel for ShortConvKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        guarded(|| compute(&self.attributes, context))
    }
}

fn compute(attributes: &Attributes, context: &ComputeContext) -> ort::Result<()> {
    let given = context.num_inputs()?;
    let mut values: [Option<ValueRef<'_>>; OPERANDS.len()] = Default::default();
    for (index, value) in values.iter_mut().enumerate().take(given) {
        *value = context.input(index)?;
    }
    let mut shapes: [Option<Vec<usize>>; OPERANDS.len()] = Default::default();
    let mut operands: [Option<&[f32]>; OPERANDS.len()] = Default::default();
    for ((value, shape), operand) in values.iter().zip(&mut shapes).zip(&mut operands) {
        if let Some(value) = value {
            let (dims, data) = value.try_extract_tensor::<f32>()?;
            *shape = Some(dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect());
            *operand = Some(data);
        }
    }
    let sizes = Sizes::infer(attributes, &shapes.each_ref().map(Option::as_deref))
        .map_err(ort::Error::wrap)?;
    // Present, or `Sizes::infer` would have named what is missing.
    let [Some(x), Some(weight), bias] = operands else {
        return Err(ort::Error::new("an operand is missing"));
    };
    let conv = ssamba_scan::ShortConv {
        batch: sizes.batch,
        seq_len: sizes.seq_len,
        d_inner: sizes.d_inner,
        taps: sizes.taps,
        groups: attributes.groups(),
        reverse: attributes.reverse(),
        activation: match attributes.activation() {
            Activation::Silu => ssamba_scan::Activation::Silu,
            Activation::None => ssamba_scan::Activation::None,
        },
        x,
        weight,
        bias,
    };
    let shape = Shape::new(sizes.output_shape(attributes).map(|size| size as i64));
    let mut u =
        context.output(0, shape)?.ok_or_else(|| ort::Error::new("the output has no value"))?;
    let (_, u) = u.try_extract_tensor_mut::<f32>()?;
    ssamba_scan::short_conv(&conv, u, &RuntimeThreads(context)).map_err(ort::Error::wrap)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(sizes: &[i64], symbols: &[&str]) -> ValueType {
        ValueType::Tensor {
            ty: ELEMENT,
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
