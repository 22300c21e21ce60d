//! The kernel of the CPU provider: `ssamba_scan` on ONNX Runtime's own threads.

use std::marker::PhantomData;

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
    ShapeInferenceContext,
};
use ssamba_contract::op::{Attributes, Combine, PARAMETERS, SELECTIVE_SCAN, Sizes};
use ssamba_scan::{Scan, selective_scan};

use crate::cpu::{Element, Inputs, RuntimeThreads, output};

/// For sequences of `T`.
pub(super) struct SelectiveScan<T>(pub(super) PhantomData<T>);

impl<T: Element> Operator for SelectiveScan<T> {
    type Kernel<'a> = SelectiveScanKernel<T>;

    fn name(&self) -> &str {
        SELECTIVE_SCAN
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
        super::guarded(|| {
            Ok(SelectiveScanKernel { attributes: super::attributes(context)?, element: self.0 })
        })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        super::infer_shape(context)
    }
}

pub(super) struct SelectiveScanKernel<T> {
    attributes: Attributes,
    element: PhantomData<T>,
}

impl<T: Element> Kernel for SelectiveScanKernel<T> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let Self { attributes, element: PhantomData::<T> } = self;
        super::guarded(|| compute::<T>(attributes, context))
    }
}

fn compute<T: Element>(attributes: &Attributes, context: &ComputeContext) -> ort::Result<()> {
    let inputs = Inputs::of(context)?;
    let operands = inputs.read::<T>(&PARAMETERS)?;
    let sizes = Sizes::infer(attributes, &operands.shapes()).map_err(ort::Error::wrap)?;
    // Present, or `Sizes::infer` would have named what is missing.
    let [Some(u), Some(delta), Some(a), Some(b), Some(c), d_skip, z, delta_bias] =
        operands.values.each_ref().map(Option::as_deref)
    else {
        return Err(ort::Error::new("an operand is missing"));
    };
    let scan = Scan {
        batch: sizes.batch,
        seq_len: sizes.seq_len,
        d_inner: sizes.d_inner,
        d_state: sizes.d_state,
        groups: attributes.groups(),
        reverse: attributes.reverse(),
        delta_softplus: attributes.delta_softplus(),
        combine: match attributes.combine() {
            Combine::Sum => ssamba_scan::Combine::Sum,
            Combine::None => ssamba_scan::Combine::None,
        },
        scale: attributes.scale(),
        u,
        delta,
        a,
        b,
        c,
        d_skip,
        z,
        delta_bias,
    };
    output::<T, _>(context, sizes.output_shape(attributes), |y| {
        selective_scan(&scan, y, &RuntimeThreads(context))
    })
}
