//! Our operators in ONNX Runtime: what they share, whatever they compute and wherever they run.
//!
//! An operator is a [`Definition`], a provider a [`Backend`] that can [`Run`] it; [`add`] registers
//! the operators for one of them.
//!
//! ONNX Runtime calls into here through C, which a panic must not cross: the functions called return
//! errors, and a panic becomes one.

use std::{
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
};

use ort::{
    operator::{
        ComputeContext, FromKernelContext, FromOpAttr, Kernel, KernelContext, Operator,
        OperatorDomain, OperatorInput, OperatorOutput, ShapeInferenceContext,
    },
    value::{TensorElementType, ValueType},
};
use ssamba_contract::op::{DOMAIN, OpError};

use crate::{add_layer_norm::AddLayerNorm, selective_scan::SelectiveScan, short_conv::ShortConv};

/// An operator.
pub(crate) trait Definition: Send + Sync + 'static {
    /// Its type.
    const NAME: &'static str;
    /// For each operand whether it is a parameter, `float` whatever the sequences are.
    const PARAMETERS: &'static [bool];
    /// How many leading operands are required.
    const REQUIRED_OPERANDS: usize;
    /// How many outputs it has, all of the same type.
    const OUTPUTS: usize = 1;
    /// Operands, and outputs that may take their place where both have the same size: a value of one
    /// is read before that of the other is written, and not again.
    const IN_PLACE: &'static [(u32, u32)];
    /// Attributes of a node, checked.
    type Attributes: Send + 'static;

    /// Attributes of the node that a kernel is created for.
    fn attributes(context: &KernelContext<'_>) -> Result<Self::Attributes, OpError>;

    /// The type of an output as far as it follows from those of the operands.
    ///
    /// Whatever is odd here is left to the kernel, which names it: this only helps ONNX Runtime to
    /// plan.
    fn output_type(context: &ShapeInferenceContext) -> Option<ValueType>;
}

/// A provider, for sequences of one type.
pub(crate) trait Backend: Clone + Send + Sync + 'static {
    /// ONNX Runtime's name of the provider.
    const PROVIDER: &'static str;
    /// Whether an output may be where an operand is.
    const IN_PLACE: bool;

    /// The type of the sequences.
    fn sequences(&self) -> TensorElementType;
}

/// A provider that runs an operator.
pub(crate) trait Run<D: Definition>: Backend {
    /// Computes a node.
    fn run(&self, attributes: &D::Attributes, context: &ComputeContext) -> ort::Result<()>;
}

/// Adds the operators on a provider.
pub(crate) fn add<B: Run<SelectiveScan> + Run<ShortConv> + Run<AddLayerNorm>>(
    domain: OperatorDomain,
    backend: &B,
) -> ort::Result<OperatorDomain> {
    domain
        .add(On::<SelectiveScan, B>::new(backend))?
        .add(On::<ShortConv, B>::new(backend))?
        .add(On::<AddLayerNorm, B>::new(backend))
}

/// An operator on a provider.
struct On<D, B> {
    definition: PhantomData<D>,
    backend: B,
}

impl<D, B: Backend> On<D, B> {
    fn new(backend: &B) -> Self {
        Self { definition: PhantomData, backend: backend.clone() }
    }
}

impl<D: Definition, B: Run<D>> Operator for On<D, B> {
    type Kernel<'a> = NodeKernel<D, B>;

    const INPLACES: &'static [(u32, u32)] = if B::IN_PLACE { D::IN_PLACE } else { &[] };

    fn name(&self) -> &str {
        D::NAME
    }

    fn execution_provider_type(&self) -> Option<&str> {
        Some(B::PROVIDER)
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        D::PARAMETERS.iter().enumerate().map(|(index, &parameter)| {
            let ty = if parameter { TensorElementType::Float32 } else { self.backend.sequences() };
            if index < D::REQUIRED_OPERANDS {
                OperatorInput::required(ty)
            } else {
                OperatorInput::optional(ty)
            }
        })
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        (0..D::OUTPUTS).map(|_| OperatorOutput::required(self.backend.sequences()))
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<Self::Kernel<'a>> {
        guarded(|| {
            let attributes = D::attributes(context).map_err(|error| of_node(context, error))?;
            Ok(NodeKernel { attributes, backend: self.backend.clone() })
        })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        guarded(|| match D::output_type(context) {
            Some(output) => {
                (0..D::OUTPUTS).try_for_each(|index| context.set_output(index, &output))
            }
            None => Ok(()),
        })
    }
}

/// A node on a provider.
struct NodeKernel<D: Definition, B> {
    attributes: D::Attributes,
    backend: B,
}

impl<D: Definition, B: Run<D>> Kernel for NodeKernel<D, B> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        guarded(|| self.backend.run(&self.attributes, context))
    }
}

/// Runs `body`, whose panic becomes an error.
fn guarded<T>(body: impl FnOnce() -> ort::Result<T>) -> ort::Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let reason = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no reason given");
        // A message that crosses to C ends at its first NUL, and `ort` takes none.
        Err(ort::Error::new(format!("{DOMAIN}: panicked: {}", reason.replace('\0', " "))))
    })
}

/// An error with the node's name: ONNX Runtime names the node that fails to run, but not the one
/// that has no kernel.
fn of_node(context: &KernelContext<'_>, error: OpError) -> ort::Error {
    match context.node_name() {
        Ok(name) => ort::Error::new(format!("node `{name}`: {error}")),
        Err(_) => ort::Error::wrap(error),
    }
}

/// An attribute of the node that a kernel is created for; `None` where it is absent.
pub(crate) fn read<'a, T: FromKernelContext<'a>>(
    context: &KernelContext<'a>,
    operator: &'static str,
    name: &'static str,
    expected: &'static str,
) -> Result<Option<T>, OpError> {
    match context.get::<T>(name) {
        Some(value) => Ok(Some(value)),
        // A list is read from an attribute of any type, as an empty one: it tells absence from
        // another type.
        None if context.get::<Vec<i64>>(name).is_some() => {
            Err(OpError::Attribute { operator, name, got: "of another type".into(), expected })
        }
        None => Ok(None),
    }
}

/// An attribute while shapes are inferred; `None` where it is there but cannot be read.
pub(crate) fn known<T: FromOpAttr>(
    context: &ShapeInferenceContext,
    name: &str,
) -> Option<Option<T>> {
    match context.attr::<T>(name) {
        Ok(value) => Some(Some(value)),
        // As for kernels, a list tells absence from another type.
        Err(_) if context.attr::<Vec<i64>>(name).is_ok() => None,
        Err(_) => Some(None),
    }
}
