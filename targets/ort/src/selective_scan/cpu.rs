//! The kernel of the CPU provider: `float` operands, `ssamba_scan` on ONNX Runtime's own threads.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ort::{
    operator::{
        ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
        ShapeInferenceContext,
    },
    value::{Shape, TensorElementType, ValueRef},
};
use ssamba_contract::op::{Attributes, Combine, OPERANDS, SELECTIVE_SCAN, Sizes};
use ssamba_scan::{Pool, Scan, selective_scan};

const ELEMENT: TensorElementType = TensorElementType::Float32;

pub(super) struct SelectiveScan;

impl Operator for SelectiveScan {
    type Kernel<'a> = SelectiveScanKernel;

    fn name(&self) -> &str {
        SELECTIVE_SCAN
    }

    fn execution_provider_type(&self) -> Option<&str> {
        Some("CPUExecutionProvider")
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        super::inputs(ELEMENT)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        super::outputs(ELEMENT)
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<Self::Kernel<'a>> {
        super::guarded(|| Ok(SelectiveScanKernel { attributes: super::attributes(context)? }))
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        super::infer_shape(context)
    }
}

pub(super) struct SelectiveScanKernel {
    attributes: Attributes,
}

impl Kernel for SelectiveScanKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        super::guarded(|| compute(&self.attributes, context))
    }
}

fn compute(attributes: &Attributes, context: &ComputeContext) -> ort::Result<()> {
    let given = context.num_inputs()?;
    let mut values: [Option<ValueRef<'_>>; OPERANDS.len()] = Default::default();
    for (index, value) in values.iter_mut().enumerate().take(given) {
        *value = context.input(index)?;
    }
    let mut shapes: [Option<Vec<usize>>; OPERANDS.len()] = Default::default();
    let mut operands: [Option<&[f32]>; OPERANDS.len()] = Default::default();
    for ((value, shape), operand) in values.iter().zip(&mut shapes).zip(&mut operands) {
        if let Some(value) = value {
            let (dims, data) = value.try_extract_tensor::<f32>()?;
            *shape = Some(dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect());
            *operand = Some(data);
        }
    }
    let sizes = Sizes::infer(attributes, &shapes.each_ref().map(Option::as_deref))
        .map_err(ort::Error::wrap)?;
    // Present, or `Sizes::infer` would have named what is missing.
    let [Some(u), Some(delta), Some(a), Some(b), Some(c), d_skip, z, delta_bias] = operands else {
        return Err(ort::Error::new("an operand is missing"));
    };
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
    let shape = Shape::new(sizes.output_shape(attributes).map(|size| size as i64));
    let mut y =
        context.output(0, shape)?.ok_or_else(|| ort::Error::new("the output has no value"))?;
    let (_, y) = y.try_extract_tensor_mut::<f32>()?;
    selective_scan(&scan, y, &RuntimeThreads(context)).map_err(ort::Error::wrap)
}

/// The threads that ONNX Runtime runs this node on.
pub(crate) struct RuntimeThreads<'a>(pub(crate) &'a ComputeContext);

impl Pool for RuntimeThreads<'_> {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        // A task that panics, or a refusal of the pool, leaves tasks undone, which is
        // reported by whom they belong to.
        let _ = self.0.par_for(tasks, 0, |index| {
            let _ = catch_unwind(AssertUnwindSafe(|| task(index)));
        });
    }
}
