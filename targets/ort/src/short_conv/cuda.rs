//! The CUDA provider, as for the scan.

use ort::operator::ComputeContext;
use ssamba_contract::op::short_conv::{Attributes, Sizes};
use ssamba_scan::cuda::{ConvAddresses, ConvCall, ConvPlan};

use super::ShortConv;
use crate::{
    cuda::{Gpu, Operands, output, stream},
    operator::Run,
    settings,
};

impl Run<ShortConv> for Gpu {
    fn run(&self, attributes: &Attributes, context: &ComputeContext) -> ort::Result<()> {
        let operands = Operands::of(context)?;
        let sizes = Sizes::infer(attributes, &operands.shapes()).map_err(ort::Error::wrap)?;
        let call = ConvCall {
            element: self.element,
            batch: sizes.batch,
            seq_len: sizes.seq_len,
            d_inner: sizes.d_inner,
            taps: sizes.taps,
            groups: attributes.groups(),
            reverse: attributes.reverse(),
            activation: settings::activation(attributes.activation()),
            layout: settings::layout(attributes.layout()),
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
