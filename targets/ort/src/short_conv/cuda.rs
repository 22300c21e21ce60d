//! The kernel of the CUDA provider, as that of the scan.

use std::sync::Arc;

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
    ShapeInferenceContext,
};
use ssamba_contract::op::short_conv::{Activation, Attributes, SHORT_CONV, Sizes};
use ssamba_scan::cuda::{ConvAddresses, ConvCall, ConvPlan, Element};

use crate::{
    cuda::{Device, Operands, output, stream},
    selective_scan::{element_type, guarded},
};

pub(super) struct ShortConv {
    pub(super) device: Arc<Device>,
    pub(super) element: Element,
}

impl Operator for ShortConv {
    type Kernel<'a> = ShortConvKernel;

    fn name(&self) -> &str {
        SHORT_CONV
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
        guarded(|| {
            Ok(ShortConvKernel {
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

pub(super) struct ShortConvKernel {
    attributes: Attributes,
    device: Arc<Device>,
    element: Element,
}

impl Kernel for ShortConvKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        guarded(|| self.launch(context))
    }
}

impl ShortConvKernel {
    fn launch(&self, context: &ComputeContext) -> ort::Result<()> {
        let operands = Operands::of(context)?;
        let attributes = &self.attributes;
        let sizes = Sizes::infer(attributes, &operands.shapes()).map_err(ort::Error::wrap)?;
        let call = ConvCall {
            element: self.element,
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
        };
        let plan = ConvPlan::new(&call, self.device.limits()).map_err(ort::Error::wrap)?;
        let u = output(context, sizes.output_shape(attributes))?;
        let Some(launch) = plan.launch() else { return Ok(()) };
        let [x, weight, bias] = operands.addresses();
        let arguments = plan.arguments(ConvAddresses { x, weight, bias, u });
        // SAFETY: as for the scan.
        #[expect(unsafe_code, reason = "kernels follow addresses")]
        let launched = unsafe { self.device.launch(launch, arguments, stream(context)?) };
        launched.map_err(|error| ort::Error::new(format!("CUDA: {error:#}")))
    }
}
