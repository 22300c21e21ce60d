//! The kernel of the CUDA provider, on ONNX Runtime's own stream: a run neither allocates nor waits,
//! so that it can be captured as a graph.

use std::sync::Arc;

use ort::{
    operator::{
        ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
        ShapeInferenceContext,
    },
    value::TensorElementType,
};
use ssamba_contract::op::{Attributes, Combine, SELECTIVE_SCAN, Sizes};
use ssamba_scan::cuda::{Element, ScanAddresses, ScanCall, ScanPlan};

use crate::cuda::{Device, Operands, output, stream};

pub(super) struct SelectiveScan {
    pub(super) device: Arc<Device>,
    pub(super) element: Element,
}

impl Operator for SelectiveScan {
    type Kernel<'a> = SelectiveScanKernel;

    fn name(&self) -> &str {
        SELECTIVE_SCAN
    }

    fn execution_provider_type(&self) -> Option<&str> {
        Some("CUDAExecutionProvider")
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        super::inputs(element_type(self.element))
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        super::outputs(element_type(self.element))
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<Self::Kernel<'a>> {
        super::guarded(|| {
            Ok(SelectiveScanKernel {
                attributes: super::attributes(context)?,
                device: self.device.clone(),
                element: self.element,
            })
        })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        super::infer_shape(context)
    }
}

/// The type of the values that flow through the graph.
pub(crate) fn element_type(element: Element) -> TensorElementType {
    match element {
        Element::F32 => TensorElementType::Float32,
        Element::F16 => TensorElementType::Float16,
    }
}

pub(super) struct SelectiveScanKernel {
    attributes: Attributes,
    device: Arc<Device>,
    element: Element,
}

impl Kernel for SelectiveScanKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        super::guarded(|| self.launch(context))
    }
}

impl SelectiveScanKernel {
    fn launch(&self, context: &ComputeContext) -> ort::Result<()> {
        let operands = Operands::of(context)?;
        let attributes = &self.attributes;
        let sizes = Sizes::infer(attributes, &operands.shapes()).map_err(ort::Error::wrap)?;
        let call = ScanCall {
            element: self.element,
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
        };
        let plan = ScanPlan::new(&call, self.device.limits()).map_err(ort::Error::wrap)?;
        let y = output(context, sizes.output_shape(attributes))?;
        let Some(launch) = plan.launch() else { return Ok(()) };
        let [u, delta, a, b, c, d_skip, z, delta_bias] = operands.addresses();
        let addresses = ScanAddresses { u, delta, a, b, c, d_skip, z, delta_bias, y };
        // SAFETY: the provider puts the operands and the output of its kernels on its device, which
        // is ours, aligned to 256 bytes, and keeps them until its stream is past this node;
        // `Sizes::infer` checked their shapes, and the registration their types.
        #[expect(unsafe_code, reason = "kernels follow addresses")]
        let launched =
            unsafe { self.device.launch(launch, plan.arguments(addresses), stream(context)?) };
        launched.map_err(|error| ort::Error::new(format!("CUDA: {error:#}")))
    }
}
