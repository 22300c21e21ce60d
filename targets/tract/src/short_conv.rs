//! The operator `ssamba::ShortConv` for tract, in the form of the scan: one type is both the node
//! that the ONNX reader makes and the operator of the optimised model.

use std::num::NonZeroUsize;

use ssamba_contract::op::{
    DOMAIN,
    short_conv::{Activation, Attributes, OPERANDS, SHORT_CONV, Sizes},
};
#[cfg(feature = "onnx")]
use ssamba_contract::op::{
    attribute,
    short_conv::{REQUIRED_OPERANDS, RawAttributes},
};
use ssamba_scan::{Threads, short_conv};
use tract_nnef::internal::*;
#[cfg(feature = "onnx")]
use tract_onnx::{
    Onnx,
    model::{ParsingContext, optional_inputs},
    pb::NodeProto,
    tract_hir::internal::*,
};

#[cfg(feature = "onnx")]
use crate::selective_scan::check_domain;
use crate::selective_scan::fixed;

/// Teaches the operator to tract's reader of ONNX files.
#[cfg(feature = "onnx")]
pub(crate) fn register(onnx: &mut Onnx) {
    onnx.op_register.insert(SHORT_CONV, read);
}

/// Sets the threads of every convolution in a model that has been read.
#[cfg(feature = "onnx")]
pub(crate) fn set_threads(model: &mut InferenceModel, threads: NonZeroUsize) {
    for node in model.nodes_mut() {
        if let Some(op) = node.op_as_mut::<Box<dyn Expansion>>()
            && let Some(op) = op.as_any_mut().downcast_mut::<ShortConv>()
        {
            op.threads = threads;
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShortConv {
    pub(crate) attributes: Attributes,
    /// For each operand its place among the node's inputs: those left out are not wired.
    pub(crate) inputs: [Option<usize>; OPERANDS.len()],
    pub(crate) threads: NonZeroUsize,
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
        activation: node.get_attr_opt(attribute::ACTIVATION)?,
    })?;
    let mut inputs = [None; OPERANDS.len()];
    for (operand, input) in inputs.iter_mut().zip(optional_inputs(node)) {
        *operand = input;
    }
    if let Some(missing) = inputs.iter().take(REQUIRED_OPERANDS).position(Option::is_none) {
        bail!("{DOMAIN}::{SHORT_CONV}: operand `{}` is missing", OPERANDS[missing]);
    }
    Ok((expand(ShortConv { attributes, inputs, threads: NonZeroUsize::MIN }), vec![]))
}

impl ShortConv {
    /// The wired inputs as operands.
    fn operands<T: Copy>(&self, wired: &[T]) -> [Option<T>; OPERANDS.len()] {
        self.inputs.map(|input| wired.get(input?).copied())
    }

    fn sizes(&self, wired: &[&[usize]]) -> TractResult<Sizes> {
        Ok(Sizes::infer(&self.attributes, &self.operands(wired))?)
    }

    /// The shape of the output, from shapes that may not be symbolic.
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
impl Expansion for ShortConv {
    fn name(&self) -> StaticName {
        SHORT_CONV.into()
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

impl Op for ShortConv {
    fn name(&self) -> StaticName {
        SHORT_CONV.into()
    }

    op_as_typed_op!();
}

impl TypedOp for ShortConv {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = self.output_shape(inputs.iter().map(|input| &*input.shape))?;
        Ok(tvec!(f32::fact(shape)))
    }
}

impl EvalOp for ShortConv {
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
        let [Some(x), Some(weight), bias] = self.operands(&slices) else {
            bail!("{DOMAIN}::{SHORT_CONV}: an operand is missing");
        };
        let attributes = &self.attributes;
        let conv = ssamba_scan::ShortConv {
            batch: sizes.batch,
            seq_len: sizes.seq_len,
            d_inner: sizes.d_inner,
            taps: sizes.taps,
            groups: attributes.groups(),
            reverse: attributes.reverse(),
            activation: match attributes.activation() {
                Activation::Silu => ssamba_scan::Activation::Silu,
                Activation::None => ssamba_scan::Activation::None,
            },
            x,
            weight,
            bias,
        };
        let mut u = Tensor::zero::<f32>(&sizes.output_shape(attributes))?;
        let mut view = u.try_as_plain_ram_mut()?;
        let out = view.as_slice_mut::<f32>()?;
        let threads = Threads(self.threads).worth(out.len() * sizes.taps);
        short_conv(&conv, out, &threads)?;
        Ok(tvec!(u.into_tvalue()))
    }
}
