//! The operator `ssamba::ShortConv` for ONNX Runtime, as the scan beside it.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use ort::{
    operator::{KernelContext, ShapeInferenceContext},
    value::{Shape, SymbolicDimensions, ValueType},
};
use ssamba_contract::op::{
    OpError, attribute,
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
        ..RawAttributes::default()
    };
    Attributes::from_raw(raw).ok()
}

/// The type of the output, unless the sizes of `x` are not known.
fn output_type(attributes: &Attributes, operands: &[ValueType]) -> Option<ValueType> {
    let ValueType::Tensor { ty, shape, dimension_symbols } = operands.first()? else { return None };
    let &[batch, tokens, width] = &shape[..] else { return None };
    let symbols: Vec<String> =
        (0..2).map(|axis| dimension_symbols.get(axis).cloned()).collect::<Option<_>>()?;
    let named = |size, symbol: &String| size >= 0 || !symbol.is_empty();
    let directions = i64::try_from(attributes.directions()).ok()?;
    let channels = width.checked_mul(directions).filter(|&channels| channels >= 0)?;
    if !named(batch, &symbols[0]) || !named(tokens, &symbols[1]) {
        return None;
    }
    Some(ValueType::Tensor {
        ty: *ty,
        shape: Shape::new([batch, tokens, channels]),
        dimension_symbols: SymbolicDimensions::new(symbols.into_iter().chain([String::new()])),
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

    #[test]
    fn the_output_has_the_batch_and_tokens_of_its_input_and_a_block_per_stream() {
        let output = |x| output_type(&Attributes::default(), &[x]);
        let x = tensor(&[-1, 7, 8], &["batch", "", ""]);
        assert_eq!(output(x), Some(tensor(&[-1, 7, 16], &["batch", "", ""])));
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
