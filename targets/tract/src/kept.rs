//! Weights that a pack keeps as small as the file has them.
//!
//! tract folds what is computed of constants alone, and so would write a matrix of eight-bit integers as
//! the one in single precision that they stand for, four times as large. Until a pack is written they
//! are no constants; whoever opens it folds them then.

use std::sync::Arc;

use anyhow::{Result, ensure};
use tract_nnef::{internal::*, tract_core::ops::konst::Const};
use tract_onnx::{
    prelude::{DatumType, InferenceFact, InferenceModel},
    tract_hir::ops::source::Source,
};

/// A constant that tract takes for something else for now.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kept(Arc<Tensor>);

/// Makes inputs of the constants of a model whose type is narrower than single precision.
pub(crate) fn hide(model: &mut InferenceModel) -> Vec<(String, Kept)> {
    let mut hidden = Vec::new();
    for id in 0..model.nodes.len() {
        let node = model.node_mut(id);
        let Some(value) = node.op_as::<Const>().map(|constant| constant.val().clone()) else {
            continue;
        };
        let kind = value.datum_type();
        if matches!(kind, DatumType::I8 | DatumType::F16) {
            node.op = Box::new(Source::new());
            node.outputs[0].fact = InferenceFact::dt_shape(kind, value.shape());
            hidden.push((node.name.clone(), Kept(value)));
            model.inputs.push(OutletId::new(id, 0));
        }
    }
    hidden
}

/// Puts them where their inputs are.
pub(crate) fn put_back(model: &mut TypedModel, hidden: Vec<(String, Kept)>) -> Result<()> {
    for (name, kept) in hidden {
        let id = model.node_by_name(&name)?.id;
        let node = model.node_mut(id);
        let fact = kept.fact();
        let place = &node.outputs[0].fact;
        ensure!(place.shape == fact.shape, "tract made {place:?} of the weight `{name}`, {fact:?}");
        node.outputs[0].fact = fact;
        node.op = Box::new(kept);
        model.inputs.retain(|input| input.node != id);
    }
    Ok(())
}

impl Kept {
    /// Of a value that is not known.
    fn fact(&self) -> TypedFact {
        self.0.datum_type().fact(self.0.shape())
    }

    /// The value as a variable of the pack.
    pub(crate) fn write(
        ast: &mut IntoAst<'_>,
        node: &TypedNode,
        kept: &Self,
    ) -> TractResult<Option<Arc<RValue>>> {
        Ok(Some(ast.konst_variable(&node.name, &kept.0)?))
    }
}

impl Op for Kept {
    fn name(&self) -> StaticName {
        "Kept".into()
    }

    op_as_typed_op!();
}

impl TypedOp for Kept {
    as_op!();

    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.fact()))
    }
}

impl EvalOp for Kept {
    // Or it would be folded.
    not_out_of_plan!();

    fn eval(&self, _: &EvalContext<'_>, _: TVec<TValue>) -> TractResult<TVec<TValue>> {
        Ok(tvec!(self.0.clone().into_tvalue()))
    }
}
