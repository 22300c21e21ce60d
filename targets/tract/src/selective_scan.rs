//! The operator `ssamba::SelectiveScan` for tract.

use ssamba_contract::op::{Attributes, Combine, DOMAIN, OPERANDS, SELECTIVE_SCAN, Sizes};
#[cfg(feature = "onnx")]
use ssamba_contract::op::{REQUIRED_OPERANDS, RawAttributes, attribute};
use ssamba_scan::{Columns, Scan, Threads, selective_scan};
use tract_nnef::internal::*;
#[cfg(feature = "onnx")]
use tract_onnx::pb::NodeProto;

use crate::operator::{Definition, Operands, layout};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SelectiveScan;

fn sizes(attributes: &Attributes, shapes: &Operands<'_, usize>) -> TractResult<Sizes> {
    let shapes = shapes.try_into().with_context(|| format!("{} operands", shapes.len()))?;
    Ok(Sizes::infer(attributes, shapes)?)
}

impl Definition for SelectiveScan {
    const NAME: &'static str = SELECTIVE_SCAN;
    const OPERANDS: &'static [&'static str] = &OPERANDS;
    #[cfg(feature = "onnx")]
    const REQUIRED_OPERANDS: usize = REQUIRED_OPERANDS;
    type Attributes = Attributes;

    #[cfg(feature = "onnx")]
    fn attributes(node: &NodeProto) -> TractResult<Attributes> {
        Ok(Attributes::from_raw(RawAttributes {
            groups: node.get_attr_opt(attribute::GROUPS)?,
            reverse: node.get_attr_opt_slice(attribute::REVERSE)?.map(<[i64]>::to_vec),
            delta_softplus: node.get_attr_opt(attribute::DELTA_SOFTPLUS)?,
            combine: node.get_attr_opt(attribute::COMBINE)?,
            scale: node.get_attr_opt(attribute::SCALE)?,
            gate: node.get_attr_opt(attribute::GATE)?,
            layout: node.get_attr_opt(attribute::LAYOUT)?,
            columns: node.get_attr_opt_slice(attribute::COLUMNS)?.map(<[i64]>::to_vec),
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
        let &[Some(u), Some(delta), Some(a), Some(b), Some(c), d_skip, z, delta_bias] = operands
        else {
            bail!("{DOMAIN}::{SELECTIVE_SCAN}: an operand is missing");
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
            layout: layout(attributes.layout()),
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
        Ok(selective_scan(&scan, output, &threads.worth(u.len() * sizes.d_state))?)
    }
}
