//! The kernel of the CPU provider: `float` operands, `ssamba_scan` on ONNX Runtime's own threads.

use ort::{
    operator::{
        ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
        ShapeInferenceContext,
    },
    value::{Shape, TensorElementType, ValueRef},
};
use ssamba_contract::op::short_conv::{Activation, Attributes, OPERANDS, SHORT_CONV, Sizes};

use crate::selective_scan::{RuntimeThreads, guarded};

const ELEMENT: TensorElementType = TensorElementType::Float32;

pub(super) struct ShortConv;

impl Operator for ShortConv {
    type Kernel<'a> = ShortConvKernel;

    fn name(&self) -> &str {
        SHORT_CONV
    }

    fn execution_provider_type(&self) -> Option<&str> {
        Some("CPUExecutionProvider")
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        super::inputs(ELEMENT)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        super::outputs(ELEMENT)
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<Self::Kernel<'a>> {
        guarded(|| Ok(ShortConvKernel { attributes: super::attributes(context)? }))
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        super::infer_shape(context)
    }
}

pub(super) struct ShortConvKernel {
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
