//! The CPU provider: `ssamba_scan` on ONNX Runtime's own threads.

use ort::operator::ComputeContext;
use ssamba_contract::op::{Attributes, PARAMETERS, Sizes};
use ssamba_scan::{Columns, Scan, selective_scan};

use super::SelectiveScan;
use crate::{
    cpu::{Cpu, Element, Inputs, RuntimeThreads, output},
    operator::Run,
    settings,
};

impl<T: Element> Run<SelectiveScan> for Cpu<T> {
    fn run(&self, attributes: &Attributes, context: &ComputeContext) -> ort::Result<()> {
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
            combine: settings::combine(attributes.combine()),
            scale: attributes.scale(),
            layout: settings::layout(attributes.layout()),
            columns: attributes.columns().map(|[b, c]| Columns { width: sizes.states_width, b, c }),
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
}
