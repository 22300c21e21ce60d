//! The operator `ssamba::SelectiveScan` for tract: reading a node, inferring shapes, evaluating.
//!
//! One type is both the node that the ONNX reader makes and the operator of the optimised model.

use std::num::NonZeroUsize;

use ssamba_contract::op::{Attributes, Combine, DOMAIN, OPERANDS, SELECTIVE_SCAN, Sizes};
#[cfg(feature = "onnx")]
use ssamba_contract::op::{REQUIRED_OPERANDS, RawAttributes, attribute};
use ssamba_scan::{Scan, Threads, selective_scan};
use tract_nnef::internal::*;
#[cfg(feature = "onnx")]
use tract_onnx::{
    Onnx,
    model::{ParsingContext, optional_inputs},
    pb::NodeProto,
    tract_hir::internal::*,
};

/// Teaches the operator to tract's reader of ONNX files.
#[cfg(feature = "onnx")]
pub(crate) fn register(onnx: &mut Onnx) {
    onnx.op_register.insert(SELECTIVE_SCAN, read);
}

/// Sets the threads of every scan in a model that has been read: the reader's function carries no
/// state to say it with.
#[cfg(feature = "onnx")]
pub(crate) fn set_threads(model: &mut InferenceModel, threads: NonZeroUsize) {
    for node in model.nodes_mut() {
        if let Some(op) = node.op_as_mut::<Box<dyn Expansion>>()
            && let Some(op) = op.as_any_mut().downcast_mut::<SelectiveScan>()
        {
            op.threads = threads;
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SelectiveScan {
    pub(crate) attributes: Attributes,
    /// For each operand its place among the node's inputs: those left out are not wired.
    pub(crate) inputs: [Option<usize>; OPERANDS.len()],
    pub(crate) threads: NonZeroUsize,
}

// tract merges operators that are equal; one whose scale is not a number is merely never merged.
impl Eq for SelectiveScan {}

/// tract looks nodes up by type alone.
#[cfg(feature = "onnx")]
pub(crate) fn check_domain(node: &NodeProto) -> TractResult<()> {
    ensure!(
        node.domain == DOMAIN,
        "node `{}` is a {} of the domain `{}`, expected `{DOMAIN}`",
        node.name,
        node.op_type,
        node.domain
    );
    Ok(())
}

/// Shapes that may not be symbolic.
pub(crate) fn fixed<'a>(
    shapes: impl IntoIterator<Item = &'a [TDim]>,
) -> TractResult<Vec<Vec<usize>>> {
    let fixed = |shape: &[TDim]| shape.iter().map(|size| Ok(size.to_usize()?)).collect();
    shapes.into_iter().map(fixed).collect::<TractResult<_>>().context("a shape is not fixed")
}

#[cfg(feature = "onnx")]
fn read(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    check_domain(node)?;
    let attributes = Attributes::from_raw(RawAttributes {
        groups: node.get_attr_opt(attribute::GROUPS)?,
        reverse: node.get_attr_opt_slice(attribute::REVERSE)?.map(<[i64]>::to_vec),
        delta_softplus: node.get_attr_opt(attribute::DELTA_SOFTPLUS)?,
        combine: node.get_attr_opt(attribute::COMBINE)?,
        scale: node.get_attr_opt(attribute::SCALE)?,
        gate: node.get_attr_opt(attribute::GATE)?,
    })?;
    let mut inputs = [None; OPERANDS.len()];
    for (operand, input) in inputs.iter_mut().zip(optional_inputs(node)) {
        *operand = input;
    }
    if let Some(missing) = inputs.iter().take(REQUIRED_OPERANDS).position(Option::is_none) {
        bail!("{DOMAIN}::{SELECTIVE_SCAN}: operand `{}` is missing", OPERANDS[missing]);
    }
    Ok((expand(SelectiveScan { attributes, inputs, threads: NonZeroUsize::MIN }), vec![]))
}

impl SelectiveScan {
    /// The wired inputs as operands.
    fn operands<T: Copy>(&self, wired: &[T]) -> [Option<T>; OPERANDS.len()] {
        self.inputs.map(|input| wired.get(input?).copied())
    }

    fn sizes(&self, wired: &[&[usize]]) -> TractResult<Sizes> {
        Ok(Sizes::infer(&self.attributes, &self.operands(wired))?)
    }

    /// The sizes and the shape of the output, from shapes that may not be symbolic.
    fn output_shape<'a>(
        &self,
        shapes: impl IntoIterator<Item = &'a [TDim]>,
    ) -> TractResult<[usize; 3]> {
        let shapes = fixed(shapes)?;
        let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        Ok(self.sizes(&shapes)?.output_shape(&self.attributes))
    }
}

#[cfg(feature = "onnx")]
impl Expansion for SelectiveScan {
    fn name(&self) -> StaticName {
        SELECTIVE_SCAN.into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, self.inputs.iter().flatten().count())?;
        check_output_arity(outputs, 1)?;
        for tensor in inputs.iter().chain(outputs) {
            solver.equals(&tensor.datum_type, f32::datum_type())?;
        }
        solver.given_all(inputs.iter().map(|input| &input.shape), move |solver, shapes| {
            let shape = self.output_shape(shapes.iter().map(|shape| &**shape))?;
            solver.equals(&outputs[0].shape, shape.map(TDim::from).into_iter().collect::<TVec<_>>())
        })
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

impl Op for SelectiveScan {
    fn name(&self) -> StaticName {
        SELECTIVE_SCAN.into()
    }

    op_as_typed_op!();
}

impl TypedOp for SelectiveScan {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = self.output_shape(inputs.iter().map(|input| &*input.shape))?;
        Ok(tvec!(f32::fact(shape)))
    }
}

impl EvalOp for SelectiveScan {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let shapes: TVec<&[usize]> = inputs.iter().map(|input| input.shape()).collect();
        let sizes = self.sizes(&shapes)?;
        let views = inputs
            .iter()
            .map(|input| input.try_as_plain_ram())
            .collect::<TractResult<TVec<_>>>()?;
        let slices =
            views.iter().map(|view| view.as_slice::<f32>()).collect::<TractResult<TVec<_>>>()?;
        // Present, or `sizes` would have named what is missing.
        let [Some(u), Some(delta), Some(a), Some(b), Some(c), d_skip, z, delta_bias] =
            self.operands(&slices)
        else {
            bail!("{DOMAIN}::{SELECTIVE_SCAN}: an operand is missing");
        };
        let attributes = &self.attributes;
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
            b,
            c,
            d_skip,
            z,
            delta_bias,
        };
        let mut y = Tensor::zero::<f32>(&sizes.output_shape(attributes))?;
        let mut view = y.try_as_plain_ram_mut()?;
        let threads = Threads(self.threads).worth(u.len() * sizes.d_state);
        selective_scan(&scan, view.as_slice_mut::<f32>()?, &threads)?;
        Ok(tvec!(y.into_tvalue()))
    }
}

#[cfg(all(test, feature = "onnx"))]
mod tests {
    use super::*;

    #[test]
    fn every_scan_of_a_model_gets_the_threads() {
        let scan = SelectiveScan {
            attributes: Attributes::default(),
            inputs: [None; OPERANDS.len()],
            threads: NonZeroUsize::MIN,
        };
        let mut model = InferenceModel::default();
        for name in ["first", "second"] {
            model.add_node(name, expand(scan.clone()), tvec!(InferenceFact::default())).unwrap();
        }
        let threads = NonZeroUsize::new(3).unwrap();
        set_threads(&mut model, threads);
        for node in model.nodes() {
            let op = node.op_as::<Box<dyn Expansion>>().unwrap();
            assert_eq!(op.as_any().downcast_ref::<SelectiveScan>().unwrap().threads, threads);
        }
    }
}
