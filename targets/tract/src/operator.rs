//! Our operators in tract: what they share, reading a node, inferring shapes and evaluating.
//!
//! An operator is a [`Definition`]. [`Node`] is both what the reader of ONNX makes of one and the
//! operator of the optimised model.

use std::{fmt::Debug, marker::PhantomData, num::NonZeroUsize};

#[cfg(feature = "onnx")]
use ssamba_contract::op::DOMAIN;
use ssamba_contract::op::Layout;
use ssamba_scan::Threads;
use tract_nnef::internal::*;
#[cfg(feature = "onnx")]
use tract_onnx::{
    Onnx,
    model::{ParsingContext, optional_inputs},
    pb::NodeProto,
    tract_hir::internal::*,
};

/// How streams lie, as [`ssamba_scan`] has it.
pub(crate) fn layout(layout: Layout) -> ssamba_scan::Layout {
    match layout {
        Layout::Channels => ssamba_scan::Layout::Channels,
        Layout::Streams => ssamba_scan::Layout::Streams,
    }
}

/// Values of the operands in their order, `None` for those that are left out.
pub(crate) type Operands<'a, T> = [Option<&'a [T]>];

/// An operator.
pub(crate) trait Definition: Clone + Debug + PartialEq + Send + Sync + 'static {
    /// Its type.
    const NAME: &'static str;
    /// Names of the operands.
    const OPERANDS: &'static [&'static str];
    /// How many leading operands are required.
    #[cfg(feature = "onnx")]
    const REQUIRED_OPERANDS: usize;
    /// Attributes of a node, checked.
    type Attributes: Clone + Debug + PartialEq + Send + Sync;

    /// Attributes of a node in a file.
    #[cfg(feature = "onnx")]
    fn attributes(node: &NodeProto) -> TractResult<Self::Attributes>;

    /// Shape of the output.
    fn output_shape(
        attributes: &Self::Attributes,
        shapes: &Operands<'_, usize>,
    ) -> TractResult<[usize; 3]>;

    /// Computes a node. How many of the threads are worth their start is for it to say.
    fn run(
        attributes: &Self::Attributes,
        shapes: &Operands<'_, usize>,
        operands: &Operands<'_, f32>,
        output: &mut [f32],
        threads: Threads,
    ) -> TractResult<()>;
}

/// A node of an operator.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node<D: Definition> {
    definition: PhantomData<D>,
    pub(crate) attributes: D::Attributes,
    /// For each operand its place among the node's inputs: those left out are not wired.
    pub(crate) inputs: TVec<Option<usize>>,
    pub(crate) threads: NonZeroUsize,
}

// tract merges operators that are equal; one with an attribute that is not a number is merely never
// merged.
impl<D: Definition> Eq for Node<D> {}

/// Teaches an operator to tract's reader of ONNX files.
#[cfg(feature = "onnx")]
pub(crate) fn register<D: Definition>(onnx: &mut Onnx) {
    onnx.op_register.insert(D::NAME, read::<D>);
}

/// Sets the threads of every node of an operator in a model that has been read: the reader's function
/// carries no state to say it with.
#[cfg(feature = "onnx")]
pub(crate) fn set_threads<D: Definition>(model: &mut InferenceModel, threads: NonZeroUsize) {
    for node in model.nodes_mut() {
        if let Some(op) = node.op_as_mut::<Box<dyn Expansion>>()
            && let Some(op) = op.as_any_mut().downcast_mut::<Node<D>>()
        {
            op.threads = threads;
        }
    }
}

#[cfg(feature = "onnx")]
fn read<D: Definition>(
    _: &ParsingContext<'_>,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    // tract looks nodes up by type alone.
    ensure!(
        node.domain == DOMAIN,
        "node `{}` is a {} of the domain `{}`, expected `{DOMAIN}`",
        node.name,
        node.op_type,
        node.domain
    );
    let attributes = D::attributes(node)?;
    // Without end: those that the node does not name are left out.
    let inputs: TVec<_> = optional_inputs(node).take(D::OPERANDS.len()).collect();
    if let Some(missing) = inputs.iter().take(D::REQUIRED_OPERANDS).position(Option::is_none) {
        bail!("{DOMAIN}::{}: operand `{}` is missing", D::NAME, D::OPERANDS[missing]);
    }
    Ok((expand(Node::<D>::new(attributes, inputs)), vec![]))
}

impl<D: Definition> Node<D> {
    pub(crate) fn new(attributes: D::Attributes, inputs: TVec<Option<usize>>) -> Self {
        Self { definition: PhantomData, attributes, inputs, threads: NonZeroUsize::MIN }
    }

    /// The wired inputs as operands.
    fn operands<'a, T>(&self, wired: &[&'a [T]]) -> TVec<Option<&'a [T]>> {
        self.inputs.iter().map(|input| wired.get((*input)?).copied()).collect()
    }

    /// The shape of the output, from shapes that may not be symbolic.
    fn output_shape<'a>(
        &self,
        shapes: impl IntoIterator<Item = &'a [TDim]>,
    ) -> TractResult<[usize; 3]> {
        let fixed = |shape: &[TDim]| shape.iter().map(|size| Ok(size.to_usize()?)).collect();
        let shapes: Vec<Vec<usize>> = shapes
            .into_iter()
            .map(fixed)
            .collect::<TractResult<_>>()
            .context("a shape is not fixed")?;
        let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        D::output_shape(&self.attributes, &self.operands(&shapes))
    }
}

#[cfg(feature = "onnx")]
impl<D: Definition> Expansion for Node<D> {
    fn name(&self) -> StaticName {
        D::NAME.into()
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

impl<D: Definition> Op for Node<D> {
    fn name(&self) -> StaticName {
        D::NAME.into()
    }

    op_as_typed_op!();
}

impl<D: Definition> TypedOp for Node<D> {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = self.output_shape(inputs.iter().map(|input| &*input.shape))?;
        Ok(tvec!(f32::fact(shape)))
    }
}

impl<D: Definition> EvalOp for Node<D> {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext<'_>, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let shapes: TVec<&[usize]> = inputs.iter().map(|input| input.shape()).collect();
        let shapes = self.operands(&shapes);
        let views = inputs
            .iter()
            .map(|input| input.try_as_plain_ram())
            .collect::<TractResult<TVec<_>>>()?;
        let slices =
            views.iter().map(|view| view.as_slice::<f32>()).collect::<TractResult<TVec<_>>>()?;
        let operands = self.operands(&slices);
        let mut output = Tensor::zero::<f32>(&D::output_shape(&self.attributes, &shapes)?)?;
        let mut view = output.try_as_plain_ram_mut()?;
        let out = view.as_slice_mut::<f32>()?;
        D::run(&self.attributes, &shapes, &operands, out, Threads(self.threads))?;
        Ok(tvec!(output.into_tvalue()))
    }
}

#[cfg(all(test, feature = "onnx"))]
mod tests {
    use super::*;
    use crate::{selective_scan::SelectiveScan, short_conv::ShortConv};

    #[test]
    fn every_scan_of_a_model_gets_the_threads() {
        let scan = Node::<SelectiveScan>::new(Default::default(), tvec![]);
        let mut model = InferenceModel::default();
        for name in ["first", "second"] {
            model.add_node(name, expand(scan.clone()), tvec!(InferenceFact::default())).unwrap();
        }
        let threads = NonZeroUsize::new(3).unwrap();
        let threads_of = |model: &InferenceModel| -> Vec<NonZeroUsize> {
            let ops = model.nodes().iter().map(|node| node.op_as::<Box<dyn Expansion>>().unwrap());
            ops.map(|op| op.as_any().downcast_ref::<Node<SelectiveScan>>().unwrap().threads)
                .collect()
        };
        set_threads::<ShortConv>(&mut model, threads);
        assert_eq!(threads_of(&model), [NonZeroUsize::MIN; 2]);
        set_threads::<SelectiveScan>(&mut model, threads);
        assert_eq!(threads_of(&model), [threads; 2]);
    }
}
