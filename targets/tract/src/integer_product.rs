//! `MatMulInteger`, computed in single precision.
//!
//! tract 0.23.9's kernel of eight-bit integers for AVX2 has an instruction of SSE in its inner loop, for
//! which Zen 3 waits at every step: tiny took 35 times as long as in `f32`. Its kernel for AVX-512 VNNI was
//! not compared. In `f32` the sums are the same integers, exactly, up to 2^24, which products over up to
//! 518 values cannot reach; beyond, they are rounded like any sum in `f32`.

use tract_onnx::{
    Onnx,
    model::{ParsingContext, optional_inputs},
    pb::NodeProto,
    tract_core::ops::{cast::cast, math::sub},
    tract_hir::{
        internal::*,
        ops::{
            binary::wire_rank_broadcast,
            matmul::{MatMulInference, compute_shapes},
        },
    },
};

/// Puts this in the place of tract's own.
pub(crate) fn register(onnx: &mut Onnx) {
    onnx.op_register.insert("MatMulInteger", read);
}

fn read(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let mut zero_points = optional_inputs(node).skip(2);
    let mut next = || zero_points.next().flatten();
    Ok((expand(IntegerProduct { zero_points: [next(), next()] }), Vec::new()))
}

/// A product of two matrices of eight-bit integers, less their zero points.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct IntegerProduct {
    /// Inputs with a zero point of the first and of the second matrix.
    zero_points: [Option<usize>; 2],
}

impl Expansion for IntegerProduct {
    fn name(&self) -> StaticName {
        "IntegerProduct".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 2 + self.zero_points.iter().flatten().count())?;
        check_output_arity(outputs, 1)?;
        solver.equals(&outputs[0].datum_type, i32::datum_type())?;
        for (matrix, zero_point) in self.zero_points.iter().enumerate() {
            if let Some(zero_point) = *zero_point {
                solver.equals(&inputs[zero_point].datum_type, &inputs[matrix].datum_type)?;
            }
        }
        solver.given_2(&inputs[0].shape, &inputs[1].shape, move |solver, a, b| {
            let (_, _, shape, _) = compute_shapes(a, b, false, false, false)?;
            solver.equals(&outputs[0].shape, shape)
        })
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let mut matrices = tvec![];
        for (matrix, zero_point) in self.zero_points.iter().enumerate() {
            let name = format!("{prefix}.{}", ["a", "b"][matrix]);
            let float = |model: &mut TypedModel, what: &str, input| -> TractResult<OutletId> {
                let op = cast(f32::datum_type());
                Ok(model.wire_node(format!("{name}.{what}"), op, &[input])?[0])
            };
            let mut values = float(model, "f32", inputs[matrix])?;
            if let Some(zero_point) = *zero_point {
                // One for all, or of the second matrix one for each column.
                let rank = model.outlet_fact(inputs[zero_point])?.rank();
                ensure!(rank <= matrix, "{prefix}: a zero point of rank {rank}");
                let zero = float(model, "zero", inputs[zero_point])?;
                let both = wire_rank_broadcast(&name, model, &[values, zero])?;
                values = model.wire_node(format!("{name}.centred"), sub(), &both)?[0];
            }
            matrices.push(values);
        }
        let product = MatMulInference::default().wire(prefix, model, &matrices)?;
        model.wire_node(format!("{prefix}.i32"), cast(i32::datum_type()), &product)
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::{Framework as _, InferenceModelExt};

    use super::*;

    const ROWS: usize = 3;
    const DEPTH: usize = 450;
    const COLUMNS: usize = 5;

    /// What a model of one product says of matrices of extreme values, and what it should say.
    fn product(of_a: Option<u8>, of_b: Option<[i8; COLUMNS]>) -> (Vec<i32>, Vec<i32>) {
        let a: Vec<u8> =
            (0..ROWS * DEPTH).map(|i| if i.is_multiple_of(7) { 3 } else { 255 }).collect();
        let b: Vec<i8> =
            (0..DEPTH * COLUMNS).map(|i| if i.is_multiple_of(11) { 127 } else { -128 }).collect();
        let want = (0..ROWS * COLUMNS).map(|place| {
            let (row, column) = (place / COLUMNS, place % COLUMNS);
            let term = |k: usize| {
                let a = i32::from(a[row * DEPTH + k]) - i32::from(of_a.unwrap_or(0));
                let zero = of_b.map_or(0, |zero| i32::from(zero[column]));
                a * (i32::from(b[k * COLUMNS + column]) - zero)
            };
            (0..DEPTH).map(term).sum()
        });
        let mut operands = vec![
            Tensor::from_shape(&[ROWS, DEPTH], &a).unwrap(),
            Tensor::from_shape(&[DEPTH, COLUMNS], &b).unwrap(),
        ];
        let mut place = |zero: Option<Tensor>| {
            operands.push(zero?);
            Some(operands.len() - 1)
        };
        let zero_points = [place(of_a.map(tensor0)), place(of_b.map(|zero| tensor1(&zero)))];
        let mut model = InferenceModel::default();
        let inputs: Vec<OutletId> = (0..operands.len())
            .map(|index| {
                let (shape, kind) = (operands[index].shape(), operands[index].datum_type());
                let fact = InferenceFact::dt_shape(kind, shape);
                model.add_source(format!("input{index}"), fact).unwrap()
            })
            .collect();
        model.wire_node("product", expand(IntegerProduct { zero_points }), &inputs).unwrap();
        model.auto_outputs().unwrap();
        let plan = model.into_optimized().unwrap().into_runnable().unwrap();
        let outputs = plan.run(operands.into_iter().map(Into::into).collect()).unwrap();
        let got = outputs[0].try_as_plain_ram().unwrap().as_slice::<i32>().unwrap().to_vec();
        (got, want.collect())
    }

    #[test]
    fn sums_are_the_same_integers() {
        for of_a in [None, Some(0), Some(131)] {
            for of_b in [None, Some([0, 5, -5, 1, -1])] {
                let (got, want) = product(of_a, of_b);
                assert_eq!(got, want, "{of_a:?} {of_b:?}");
            }
        }
    }

    #[test]
    fn it_goes_before_the_one_of_tract() {
        let mut onnx = tract_onnx::onnx();
        register(&mut onnx);
        let node = NodeProto { op_type: "MatMulInteger".into(), ..NodeProto::default() };
        let graph = tract_onnx::pb::GraphProto { node: vec![node], ..Default::default() };
        let proto = tract_onnx::pb::ModelProto { graph: Some(graph), ..Default::default() };
        let model = onnx.model_for_proto_model(&proto);
        assert!(format!("{model:?}").contains("IntegerProduct"), "{model:?}");
    }
}
