//! The CUDA provider, as that of the scan.

use ort::{
    operator::ComputeContext,
    value::{DynTensorValueType, Shape},
};
use ssamba_contract::op::add_layer_norm::{Attributes, Sizes};
use ssamba_scan::cuda::{NormAddresses, NormCall, NormPlan};

use super::AddLayerNorm;
use crate::{
    cuda::{Gpu, Operands, stream},
    operator::Run,
};

impl Run<AddLayerNorm> for Gpu {
    fn run(&self, attributes: &Attributes, context: &ComputeContext) -> ort::Result<()> {
        let operands = Operands::of(context)?;
        let sizes = Sizes::infer(&operands.shapes()).map_err(ort::Error::wrap)?;
        let call = NormCall {
            element: self.element,
            batch: sizes.batch,
            seq_len: sizes.seq_len,
            d_model: sizes.d_model,
            update_per_clip: sizes.update_per_clip,
            update_per_token: sizes.update_per_token,
            epsilon: attributes.epsilon(),
        };
        let plan = NormPlan::new(&call, self.device.limits()).map_err(ort::Error::wrap)?;
        let shape = Shape::new(sizes.output_shape().map(|size| size as i64));
        let output = |index| -> ort::Result<u64> {
            let output = context.output(index, shape.clone())?;
            let output = output.ok_or_else(|| ort::Error::new("an output has no value"))?;
            Ok(output.downcast::<DynTensorValueType>()?.data_ptr() as u64)
        };
        let (y, sum) = (output(0)?, output(1)?);
        let Some(launch) = plan.launch() else { return Ok(()) };
        let [x, update, weight, bias] = operands.addresses();
        let addresses = NormAddresses { x, update, weight, bias, y, sum };
        // SAFETY: as for the scan, with the shapes that this operator's `Sizes::infer` checked.
        #[expect(unsafe_code, reason = "kernels follow addresses")]
        let launched =
            unsafe { self.device.launch(launch, plan.arguments(addresses), stream(context)?) };
        launched.map_err(|error| ort::Error::new(format!("CUDA: {error:#}")))
    }
}
