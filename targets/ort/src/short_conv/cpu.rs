//! The CPU provider, as that of the scan.

use ort::operator::ComputeContext;
use ssamba_contract::op::short_conv::{Attributes, PARAMETERS, Sizes};

use super::ShortConv;
use crate::{
    cpu::{Cpu, Element, Inputs, RuntimeThreads, output},
    operator::Run,
    settings,
};

impl<T: Element> Run<ShortConv> for Cpu<T> {
    fn run(&self, attributes: &Attributes, context: &ComputeContext) -> ort::Result<()> {
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
            activation: settings::activation(attributes.activation()),
            layout: settings::layout(attributes.layout()),
            x,
            weight,
            bias,
        };
        output::<T, _>(context, sizes.output_shape(attributes), |u| {
            ssamba_scan::short_conv(&conv, u, &RuntimeThreads(context))
        })
    }
}
