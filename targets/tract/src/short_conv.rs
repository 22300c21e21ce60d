//! The operator `ssamba::ShortConv` for tract.

use ssamba_contract::op::{
    DOMAIN,
    short_conv::{Activation, Attributes, OPERANDS, SHORT_CONV, Sizes},
};
#[cfg(feature = "onnx")]
use ssamba_contract::op::{
    attribute,
    short_conv::{REQUIRED_OPERANDS, RawAttributes},
};
use ssamba_scan::{Threads, short_conv};
use tract_nnef::internal::*;
#[cfg(feature = "onnx")]
use tract_onnx::pb::NodeProto;

use crate::operator::{Definition, Operands, layout};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ShortConv;

fn sizes(attributes: &Attributes, shapes: &Operands<'_, usize>) -> TractResult<Sizes> {
    let shapes = shapes.try_into().with_context(|| format!("{} operands", shapes.len()))?;
    Ok(Sizes::infer(attributes, shapes)?)
}

impl Definition for ShortConv {
    const NAME: &'static str = SHORT_CONV;
    const OPERANDS: &'static [&'static str] = &OPERANDS;
    #[cfg(feature = "onnx")]
    const REQUIRED_OPERANDS: usize = REQUIRED_OPERANDS;
    type Attributes = Attributes;

    #[cfg(feature = "onnx")]
    fn attributes(node: &NodeProto) -> TractResult<Attributes> {
        Ok(Attributes::from_raw(RawAttributes {
            groups: node.get_attr_opt(attribute::GROUPS)?,
            reverse: node.get_attr_opt_slice(attribute::REVERSE)?.map(<[i64]>::to_vec),
            activation: node.get_attr_opt(attribute::ACTIVATION)?,
            layout: node.get_attr_opt(attribute::LAYOUT)?,
        })?)
    }

    fn output_shape(
        attributes: &Attributes,
        shapes: &Operands<'_, usize>,
    ) -> TractResult<[usize; 3]> {
        Ok(sizes(attributes, shapes)?.output_shape(attributes))
    }

    fn run(
        attributes: &Attributes,
        shapes: &Operands<'_, usize>,
        operands: &Operands<'_, f32>,
        output: &mut [f32],
        threads: Threads,
    ) -> TractResult<()> {
        let sizes = sizes(attributes, shapes)?;
        // Present, or `sizes` would have named what is missing.
        let &[Some(x), Some(weight), bias] = operands else {
            bail!("{DOMAIN}::{SHORT_CONV}: an operand is missing");
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
            layout: layout(attributes.layout()),
            x,
            weight,
            bias,
        };
        let threads = threads.worth(output.len() * sizes.taps);
        Ok(short_conv(&conv, output, &threads)?)
    }
}
