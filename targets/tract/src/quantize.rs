//! `DynamicQuantizeLinear`, several values at a time.
//!
//! tract 0.23.9's rounds each value by a call, which took a fifth of tiny's time on a file in eight bits,
//! and has no place in its own format. This is the arithmetic of ONNX Runtime.

use tract_nnef::internal::*;
#[cfg(feature = "onnx")]
use tract_onnx::{
    Onnx,
    model::ParsingContext,
    pb::NodeProto,
    tract_hir::internal::{
        Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, check_input_arity,
        check_output_arity, expand,
    },
};

/// The operator, in a file and in a pack.
pub(crate) const NAME: &str = "DynamicQuantizeLinear";

/// Puts this in the place of tract's own.
#[cfg(feature = "onnx")]
pub(crate) fn register(onnx: &mut Onnx) {
    onnx.op_register.insert(NAME, read);
}

#[cfg(feature = "onnx")]
fn read(_: &ParsingContext<'_>, _: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(Quantize), Vec::new()))
}

/// A tensor in eight bits, its scale and its zero point.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Quantize;

#[cfg(feature = "onnx")]
impl Expansion for Quantize {
    fn name(&self) -> StaticName {
        NAME.into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(3)
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 3)?;
        solver.equals(&inputs[0].datum_type, f32::datum_type())?;
        solver.equals(&inputs[0].shape, &outputs[0].shape)?;
        for (output, kind) in
            outputs.iter().zip([u8::datum_type(), f32::datum_type(), u8::datum_type()])
        {
            solver.equals(&output.datum_type, kind)?;
        }
        solver.equals(&outputs[1].rank, 0)?;
        solver.equals(&outputs[2].rank, 0)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for Quantize {
    fn name(&self) -> StaticName {
        NAME.into()
    }

    op_as_typed_op!();
}

impl TypedOp for Quantize {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let scalar: [usize; 0] = [];
        Ok(tvec!(u8::fact(inputs[0].shape.clone()), f32::fact(scalar), u8::fact(scalar)))
    }
}

impl EvalOp for Quantize {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let values = inputs[0].try_as_plain_ram()?;
        let mut quantized = Tensor::zero::<u8>(inputs[0].shape())?;
        let (scale, zero_point) = quantize(
            values.as_slice::<f32>()?,
            quantized.try_as_plain_ram_mut()?.as_slice_mut::<u8>()?,
        );
        Ok(tvec!(quantized.into(), tensor0(scale).into(), tensor0(zero_point).into()))
    }
}

/// Values whose least and greatest are sought side by side.
const LANES: usize = 16;

/// Added and subtracted, rounds what is below 2^22 to a whole number, ties to even: 1.5 * 2^23.
const ROUND: f32 = 12_582_912.0;

/// Added to a whole number from 0 to 255, has its bits in the low ones.
const WHOLE: f32 = 8_388_608.0;

/// `out = values / scale + zero_point`, rounded, where the range of 0 to 255 is that of the values and
/// holds zero; and the scale and the zero point.
fn quantize(values: &[f32], out: &mut [u8]) -> (f32, u8) {
    let (mut low, mut high) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    // The short rest of the values is a chunk too.
    for chunk in values.chunks(LANES) {
        for ((low, high), &value) in low.iter_mut().zip(&mut high).zip(chunk) {
            *low = if value < *low { value } else { *low };
            *high = if value > *high { value } else { *high };
        }
    }
    let low = low.into_iter().fold(0.0, f32::min);
    let high = high.into_iter().fold(0.0, f32::max);
    let scale = if low == high { 1.0 } else { (high - low) / 255.0 };
    let zero_point = (-low / scale).clamp(0.0, 255.0).round_ties_even();
    for (out, value) in out.iter_mut().zip(values) {
        // Rounded before the zero point is added: their sum may be one in single precision, and a tie.
        let whole = (value / scale + ROUND - ROUND) + zero_point;
        let whole = if whole > 0.0 { whole } else { 0.0 };
        let whole = if whole < 255.0 { whole } else { 255.0 };
        *out = (whole + WHOLE).to_bits() as u8;
    }
    (scale, zero_point as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ONNX words it, number by number.
    fn plain(values: &[f32]) -> (Vec<u8>, f32, u8) {
        let low = values.iter().copied().fold(0.0, f32::min);
        let high = values.iter().copied().fold(0.0, f32::max);
        let scale = if low == high { 1.0 } else { (high - low) / 255.0 };
        let zero_point = (0.0 - low / scale).clamp(0.0, 255.0).round_ties_even() as u8;
        let quantize = |value: &f32| {
            let whole = (value / scale).round_ties_even() as i32 + i32::from(zero_point);
            whole.clamp(0, 255) as u8
        };
        (values.iter().map(quantize).collect(), scale, zero_point)
    }

    #[test]
    fn values_are_those_of_the_definition() {
        let wave = |count: usize, shift: f32| -> Vec<f32> {
            (0..count).map(|i| (i as f32 * 0.37).sin() * 3.0 + shift).collect()
        };
        // Half steps: a scale of one, and every tie.
        let ties: Vec<f32> = (-255..=255).map(|i| i as f32 / 2.0).collect();
        let cases = [
            vec![],
            vec![0.0; 5],
            vec![-1.5],
            vec![2.5; 40],
            wave(1, 0.0),
            wave(1000, 0.0),
            wave(1001, 5.0),
            wave(15, -5.0),
            ties,
        ];
        for values in cases {
            let mut got = vec![7; values.len()];
            let (scale, zero_point) = quantize(&values, &mut got);
            assert_eq!((got, scale, zero_point), plain(&values), "{values:?}");
        }
    }

    #[test]
    fn ties_of_the_published_example_go_to_even() {
        // https://github.com/onnx/onnx/blob/main/docs/Operators.md#DynamicQuantizeLinear
        let mut out = [0; 6];
        let got = quantize(&[0.0, 2.0, -3.0, -2.5, 1.34, 0.5], &mut out);
        assert_eq!((out, got), ([153, 255, 0, 26, 221, 179], (0.019_607_844, 153)));
    }
}
