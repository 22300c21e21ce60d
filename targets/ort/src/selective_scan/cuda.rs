//! The CUDA provider, on ONNX Runtime's own stream: a run neither allocates nor waits, so that it can be
//! captured as a graph.

use ort::operator::ComputeContext;
use ssamba_contract::op::{Attributes, Sizes};
use ssamba_scan::cuda::{ScanAddresses, ScanCall, ScanPlan};

use super::SelectiveScan;
use crate::{
    cuda::{Gpu, Operands, output, stream},
    operator::Run,
    settings,
};

impl Run<SelectiveScan> for Gpu {
    fn run(&self, attributes: &Attributes, context: &ComputeContext) -> ort::Result<()> {
        let operands = Operands::of(context)?;
        let sizes = Sizes::infer(attributes, &operands.shapes()).map_err(ort::Error::wrap)?;
        let call = ScanCall {
            element: self.element,
            batch: sizes.batch,
            seq_len: sizes.seq_len,
            d_inner: sizes.d_inner,
            d_state: sizes.d_state,
            layout: settings::layout(attributes.layout()),
            states_width: sizes.states_width,
            columns: attributes.columns().unwrap_or_default(),
            groups: attributes.groups(),
            reverse: attributes.reverse(),
            delta_softplus: attributes.delta_softplus(),
            combine: settings::combine(attributes.combine()),
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
