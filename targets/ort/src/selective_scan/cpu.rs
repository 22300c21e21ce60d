//! The CPU provider: `ssamba_scan` on ONNX Runtime's own threads.

use std::borrow::Cow;

use ort::operator::ComputeContext;
use ssamba_contract::op::{Attributes, Combine, PARAMETERS, Sizes};
use ssamba_scan::{Scan, selective_scan};

use super::SelectiveScan;
use crate::{
    cpu::{Cpu, Element, Inputs, RuntimeThreads, output},
    operator::Run,
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
        let [b, c] = match attributes.columns() {
            None => [b, c].map(Cow::from),
            Some(columns) => {
                let count = attributes.streams() * sizes.d_state;
                let cut = |rows: &[f32], first: usize| {
                    let rows = rows.chunks_exact(sizes.states_width.max(1));
                    rows.flat_map(|row| &row[first..first + count]).copied().collect()
                };
                [Cow::Owned(cut(b, columns[0])), Cow::Owned(cut(c, columns[1]))]
            }
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
            b: &b,
            c: &c,
            d_skip,
            z,
            delta_bias,
        };
        output::<T, _>(context, sizes.output_shape(attributes), |y| {
            selective_scan(&scan, y, &RuntimeThreads(context))
        })
    }
}
