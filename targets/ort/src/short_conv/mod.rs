//! The operator `ssamba::ShortConv` for ONNX Runtime, as the scan beside it.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use ort::{
    operator::{KernelContext, ShapeInferenceContext},
    value::{Shape, SymbolicDimensions, ValueType},
};
use ssamba_contract::op::{
    Layout, OpError, attribute,
    short_conv::{Attributes, PARAMETERS, REQUIRED_OPERANDS, RawAttributes, SHORT_CONV},
};

use crate::operator::{Definition, known, read};

pub(crate) struct ShortConv;

impl Definition for ShortConv {
    const NAME: &'static str = SHORT_CONV;
    const PARAMETERS: &'static [bool] = &PARAMETERS;
    const REQUIRED_OPERANDS: usize = REQUIRED_OPERANDS;
    const IN_PLACE: &'static [(u32, u32)] = &[];
    type Attributes = Attributes;

    fn attributes(context: &KernelContext<'_>) -> Result<Attributes, OpError> {
        Attributes::from_raw(RawAttributes {
            groups: read(context, SHORT_CONV, attribute::GROUPS, "an int")?,
            reverse: read(context, SHORT_CONV, attribute::REVERSE, "ints")?,
            activation: read(context, SHORT_CONV, attribute::ACTIVATION, "a string")?,
            layout: read(context, SHORT_CONV, attribute::LAYOUT, "a string")?,
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
        layout: known(context, attribute::LAYOUT)?,
        ..RawAttributes::default()
    };
    Attributes::from_raw(raw).ok()
}

/// The type of the output, unless the sizes of `x` are not known.
fn output_type(attributes: &Attributes, operands: &[ValueType]) -> Option<ValueType> {
    let ValueType::Tensor { ty, shape, dimension_symbols } = operands.first()? else { return None };
    let &[batch, tokens, width] = &shape[..] else { return None };
    let symbols = [dimension_symbols.first()?.clone(), dimension_symbols.get(1)?.clone()];
    let named = |size, symbol: &String| size >= 0 || !symbol.is_empty();
    let [streams, groups, directions] =
        [attributes.streams(), attributes.groups(), attributes.directions()].map(|n| n as i64);
    if width < 0 || !named(batch, &symbols[0]) || !named(tokens, &symbols[1]) {
        return None;
    }
    let (sizes, symbols) = match attributes.layout() {
        Layout::Channels => {
            let [batch_name, tokens_name] = symbols;
            let channels = width.checked_mul(directions)?;
            ([batch, tokens, channels], [batch_name, tokens_name, String::new()])
        }
        Layout::Streams => {
            let (rows, name) = rows([batch, tokens], &symbols)?;
            ([streams, rows, width / groups], [String::new(), name, String::new()])
        }
    };
    Some(ValueType::Tensor {
        ty: *ty,
        shape: Shape::new(sizes),
        dimension_symbols: SymbolicDimensions::new(symbols),
    })
}

/// Batch and tokens as one axis: its size, or a name that says what it is.
fn rows(sizes: [i64; 2], symbols: &[String; 2]) -> Option<(i64, String)> {
    if sizes.iter().all(|&size| size >= 0) {
        return Some((sizes[0].checked_mul(sizes[1])?, String::new()));
    }
    let name = |index: usize| match sizes[index] {
        size if size >= 0 => size.to_string(),
        _ => symbols[index].clone(),
    };
    Some((-1, format!("{}*{}", name(0), name(1))))
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

    #[test]
    fn the_output_has_the_batch_and_tokens_of_its_input_and_a_block_per_stream() {
        let output = |x| output_type(&Attributes::default(), &[x]);
        let x = tensor(&[-1, 7, 8], &["batch", "", ""]);
        assert_eq!(output(x), Some(tensor(&[-1, 7, 16], &["batch", "", ""])));
        let raw = RawAttributes { layout: Some("streams".into()), ..RawAttributes::default() };
        let by_stream = Attributes::from_raw(raw).unwrap();
        let output_of = |x| output_type(&by_stream, &[x]);
        let x = tensor(&[-1, 7, 8], &["batch", "", ""]);
        assert_eq!(output_of(x), Some(tensor(&[2, -1, 8], &["", "batch*7", ""])));
        let x = tensor(&[3, 7, 8], &["", "", ""]);
        assert_eq!(output_of(x), Some(tensor(&[2, 21, 8], &["", "", ""])));
        for open in [
            tensor(&[-1, 7, 8], &["", "", ""]),
            tensor(&[3, 7, -1], &["", "", "width"]),
            tensor(&[3, 7], &["", ""]),
            tensor(&[], &[]),
        ] {
            assert_eq!(output(open), None);
        }
        assert_eq!(output_type(&Attributes::default(), &[]), None);
    }
}
