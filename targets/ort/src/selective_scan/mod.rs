//! The operator `ssamba::SelectiveScan` for ONNX Runtime; each provider runs it in a file of its own.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use ort::{
    operator::{KernelContext, ShapeInferenceContext},
    value::{Shape, SymbolicDimensions, ValueType},
};
use ssamba_contract::op::{
    Attributes, Layout, OpError, PARAMETERS, REQUIRED_OPERANDS, RawAttributes, SELECTIVE_SCAN,
    attribute,
};

use crate::operator::{Definition, known, read};

pub(crate) struct SelectiveScan;

impl Definition for SelectiveScan {
    const NAME: &'static str = SELECTIVE_SCAN;
    const PARAMETERS: &'static [bool] = &PARAMETERS;
    const REQUIRED_OPERANDS: usize = REQUIRED_OPERANDS;
    // `y` where `u` is, of the same shape where the directions of a mixer are kept apart and streams
    // lie side by side: ONNX Runtime asks for the same axes, not for as many values.
    const IN_PLACE: &'static [(u32, u32)] = &[(0, 0)];
    type Attributes = Attributes;

    fn attributes(context: &KernelContext<'_>) -> Result<Attributes, OpError> {
        Attributes::from_raw(RawAttributes {
            groups: read(context, SELECTIVE_SCAN, attribute::GROUPS, "an int")?,
            reverse: read(context, SELECTIVE_SCAN, attribute::REVERSE, "ints")?,
            delta_softplus: read(context, SELECTIVE_SCAN, attribute::DELTA_SOFTPLUS, "an int")?,
            combine: read(context, SELECTIVE_SCAN, attribute::COMBINE, "a string")?,
            scale: read(context, SELECTIVE_SCAN, attribute::SCALE, "a float")?,
            gate: read(context, SELECTIVE_SCAN, attribute::GATE, "a string")?,
            layout: read(context, SELECTIVE_SCAN, attribute::LAYOUT, "a string")?,
            columns: read(context, SELECTIVE_SCAN, attribute::COLUMNS, "ints")?,
        })
    }

    fn output_type(context: &ShapeInferenceContext) -> Option<ValueType> {
        output_type(&known_attributes(context)?, &context.inputs())
    }
}

/// The attributes that shape the output, unless one is there that cannot be read.
fn known_attributes(context: &ShapeInferenceContext) -> Option<Attributes> {
    let raw = RawAttributes {
        groups: known(context, attribute::GROUPS)?,
        reverse: known(context, attribute::REVERSE)?,
        combine: known(context, attribute::COMBINE)?,
        layout: known(context, attribute::LAYOUT)?,
        ..RawAttributes::default()
    };
    Attributes::from_raw(raw).ok()
}

/// The type of the output, unless one of its sizes is neither known nor named.
fn output_type(attributes: &Attributes, operands: &[ValueType]) -> Option<ValueType> {
    // An operand without a shape looks like one without axes.
    let axis = |operand: usize, rank: usize, axis: usize| match operands.get(operand)? {
        ValueType::Tensor { shape, dimension_symbols, .. } if shape.len() == rank => {
            let (size, symbol) = (*shape.get(axis)?, dimension_symbols.get(axis)?.clone());
            (size >= 0 || !symbol.is_empty()).then_some((size, symbol))
        }
        _ => None,
    };
    // The batch and the tokens of `u`, `delta`, `Bm`, `Cm` and `z` are the same, or `z` alone has them;
    // weights know `D`.
    let rows: &[usize] = match attributes.layout() {
        Layout::Channels => &[0, 1, 3, 4, 6],
        Layout::Streams => &[6],
    };
    let shared = |index| rows.iter().find_map(|&operand| axis(operand, 3, index));
    let streams = i64::try_from(attributes.streams()).ok()?;
    let blocks = i64::try_from(attributes.output_blocks()).ok()?;
    let size = |place: Option<(i64, String)>| place.map(|(size, _)| size).filter(|&size| size >= 0);
    let of_streams = |size: i64| match attributes.layout() {
        Layout::Channels => Some(size),
        Layout::Streams => size.checked_mul(streams),
    };
    let width = [0, 1].into_iter().find_map(|operand| of_streams(size(axis(operand, 3, 2))?));
    let width = size(axis(2, 2, 0)).or(width)?;
    let channels = (width % streams == 0).then_some(width / streams * blocks)?;
    let (sizes, symbols): (Vec<i64>, Vec<String>) =
        [shared(0)?, shared(1)?, (channels, String::new())].into_iter().unzip();
    Some(ValueType::Tensor {
        ty: operands.first()?.tensor_type()?,
        shape: Shape::new(sizes),
        dimension_symbols: SymbolicDimensions::new(symbols),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ort::value::TensorElementType;

    fn tensor(sizes: &[i64], symbols: &[&str]) -> ValueType {
        ValueType::Tensor {
            ty: TensorElementType::Float32,
            shape: Shape::new(sizes.iter().copied()),
            dimension_symbols: SymbolicDimensions::new(symbols.iter().map(|&symbol| symbol.into())),
        }
    }

    fn output(u: ValueType) -> Option<ValueType> {
        let rows = |width| tensor(&[-1, 7, width], &["", "", ""]);
        let attributes = Attributes::default();
        output_type(&attributes, &[u, rows(8), tensor(&[8, 16], &["", ""]), rows(32), rows(32)])
    }

    #[test]
    fn sizes_and_their_names_pass_from_the_operands_to_the_output() {
        let u = tensor(&[-1, -1, 8], &["batch", "", ""]);
        assert_eq!(output(u), Some(tensor(&[-1, 7, 4], &["batch", "", ""])));
        let u = tensor(&[3, 7, -1], &["", "", ""]);
        assert_eq!(output(u), Some(tensor(&[3, 7, 4], &["", "", ""])));
    }

    #[test]
    fn the_gate_alone_has_the_batch_and_the_tokens_of_streams_one_after_the_other() {
        let raw = RawAttributes { layout: Some("streams".into()), ..RawAttributes::default() };
        let attributes = Attributes::from_raw(raw).unwrap();
        let open = || tensor(&[], &[]);
        let u = tensor(&[2, -1, 4], &["", "", ""]);
        let z = tensor(&[-1, 7, 4], &["batch", "", ""]);
        let y = Some(tensor(&[-1, 7, 4], &["batch", "", ""]));
        let of = |a, z| {
            let operands = [u.clone(), u.clone(), a, open(), open(), open(), z];
            output_type(&attributes, &operands)
        };
        assert_eq!(of(open(), z.clone()), y);
        assert_eq!(of(tensor(&[8, 16], &["", ""]), z), y);
        assert_eq!(of(open(), open()), None);
    }

    #[test]
    fn a_size_without_a_name_leaves_the_shape_open() {
        for u in [tensor(&[-1, 7, 8], &["", "", ""]), tensor(&[], &[]), tensor(&[3, 7], &["", ""])]
        {
            assert_eq!(output(u), None);
        }
        assert_eq!(output_type(&Attributes::default(), &[]), None);
        let odd = [tensor(&[1, 1, 9], &["", "", ""]), tensor(&[1, 1, 9], &["", "", ""])];
        assert_eq!(output_type(&Attributes::default(), &odd), None);
    }
}
