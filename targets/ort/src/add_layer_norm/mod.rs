//! The operator `ssamba::AddLayerNorm` for ONNX Runtime, as the scan beside it.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use ort::{
    operator::{KernelContext, ShapeInferenceContext},
    value::ValueType,
};
use ssamba_contract::op::{
    OpError,
    add_layer_norm::{
        ADD_LAYER_NORM, Attributes, PARAMETERS, REQUIRED_OPERANDS, RESULTS, RawAttributes,
    },
    attribute,
};

use crate::operator::{Definition, read};

pub(crate) struct AddLayerNorm;

impl Definition for AddLayerNorm {
    const NAME: &'static str = ADD_LAYER_NORM;
    const PARAMETERS: &'static [bool] = &PARAMETERS;
    const REQUIRED_OPERANDS: usize = REQUIRED_OPERANDS;
    const OUTPUTS: usize = RESULTS.len();
    const IN_PLACE: &'static [(u32, u32)] = &[];
    type Attributes = Attributes;

    fn attributes(context: &KernelContext<'_>) -> Result<Attributes, OpError> {
        Attributes::from_raw(RawAttributes {
            epsilon: read(context, ADD_LAYER_NORM, attribute::EPSILON, "a float")?,
        })
    }

    fn output_type(context: &ShapeInferenceContext) -> Option<ValueType> {
        output_type(&context.inputs())
    }
}

/// The type of the outputs, that of `x`, unless its sizes are not known.
fn output_type(operands: &[ValueType]) -> Option<ValueType> {
    let x = operands.first()?;
    let ValueType::Tensor { shape, dimension_symbols, .. } = x else { return None };
    let known = |axis: usize| {
        let symbol = dimension_symbols.get(axis);
        shape[axis] >= 0 || symbol.is_some_and(|symbol| !symbol.is_empty())
    };
    (shape.len() == 3 && (0..3).all(known)).then(|| x.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ort::value::{Shape, SymbolicDimensions, TensorElementType};

    fn tensor(sizes: &[i64], symbols: &[&str]) -> ValueType {
        ValueType::Tensor {
            ty: TensorElementType::Float16,
            shape: Shape::new(sizes.iter().copied()),
            dimension_symbols: SymbolicDimensions::new(symbols.iter().map(|&symbol| symbol.into())),
        }
    }

    #[test]
    fn the_outputs_are_as_the_residual_where_its_sizes_are_known_or_named() {
        let x = tensor(&[-1, 7, 8], &["batch", "", ""]);
        assert_eq!(output_type(std::slice::from_ref(&x)), Some(x));
        for open in
            [tensor(&[-1, 7, 8], &["", "", ""]), tensor(&[3, 7], &["", ""]), tensor(&[], &[])]
        {
            assert_eq!(output_type(&[open]), None);
        }
        assert_eq!(output_type(&[]), None);
    }
}
