//! The kernel of the CPU provider, as that of the scan.

use std::marker::PhantomData;

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
    ShapeInferenceContext,
};
use ssamba_contract::op::short_conv::{Activation, Attributes, PARAMETERS, SHORT_CONV, Sizes};

use crate::{
    cpu::{Element, Inputs, RuntimeThreads, output},
    selective_scan::guarded,
};

/// For sequences of `T`.
pub(super) struct ShortConv<T>(pub(super) PhantomData<T>);

impl<T: Element> Operator for ShortConv<T> {
    type Kernel<'a> = ShortConvKernel<T>;

    fn name(&self) -> &str {
        SHORT_CONV
    }

    fn execution_provider_type(&self) -> Option<&str> {
        Some("CPUExecutionProvider")
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        super::inputs(T::TYPE)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        super::outputs(T::TYPE)
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<Self::Kernel<'a>> {
        guarded(|| Ok(ShortConvKernel { attributes: super::attributes(context)?, element: self.0 }))
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        super::infer_shape(context)
    }
}

pub(super) struct ShortConvKernel<T> {
    attributes: Attributes,
    element: PhantomData<T>,
}

impl<T: Element> Kernel for ShortConvKernel<T> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let Self { attributes, element: PhantomData::<T> } = self;
        guarded(|| compute::<T>(attributes, context))
    }
}

fn compute<T: Element>(attributes: &Attributes, context: &ComputeContext) -> ort::Result<()> {
    let inputs = Inputs::of(context)?;
    let operands = inputs.read::<T>(&PARAMETERS)?;
    let sizes = Sizes::infer(attributes, &operands.shapes()).map_err(ort::Error::wrap)?;
    // Present, or `Sizes::infer` would have named what is missing.
    let [Some(x), Some(weight), bias] = operands.values.each_ref().map(Option::as_deref) else {
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
    output::<T, _>(context, sizes.output_shape(attributes), |u| {
        ssamba_scan::short_conv(&conv, u, &RuntimeThreads(context))
    })
}
