//! What the kernels of the CPU share: the types of their sequences, their operands, and their threads.
//!
//! `ssamba_scan` computes in `f32`. Sequences of `f16` are converted before it and after it, as ONNX
//! Runtime does for most of its own operators on a CPU: half precision saves space there, not time.

use std::{
    borrow::Cow,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
};

use half::{f16, slice::HalfFloatSliceExt};
use ort::{
    operator::ComputeContext,
    value::{PrimitiveTensorElementType, Shape, TensorElementType, ValueRef},
};
use ssamba_scan::Pool;

use crate::operator::Backend;

/// A type of sequences.
pub(crate) trait Element: PrimitiveTensorElementType + Copy + Send + Sync + 'static {
    /// ONNX Runtime's name of it.
    const TYPE: TensorElementType;

    /// The values in the type that is computed with.
    fn widen(values: &[Self]) -> Cow<'_, [f32]>;

    /// Has `compute` write as many values as `out` holds.
    fn fill<E>(
        out: &mut [Self],
        compute: impl FnOnce(&mut [f32]) -> Result<(), E>,
    ) -> Result<(), E>;
}

impl Element for f32 {
    const TYPE: TensorElementType = TensorElementType::Float32;

    fn widen(values: &[Self]) -> Cow<'_, [f32]> {
        values.into()
    }

    fn fill<E>(
        out: &mut [Self],
        compute: impl FnOnce(&mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        compute(out)
    }
}

impl Element for f16 {
    const TYPE: TensorElementType = TensorElementType::Float16;

    fn widen(values: &[Self]) -> Cow<'_, [f32]> {
        values.to_f32_vec().into()
    }

    fn fill<E>(
        out: &mut [Self],
        compute: impl FnOnce(&mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut wide = vec![0.0; out.len()];
        compute(&mut wide)?;
        out.convert_from_f32_slice(&wide);
        Ok(())
    }
}

/// The provider, for sequences of `T`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cpu<T>(PhantomData<T>);

impl<T: Element> Backend for Cpu<T> {
    const PROVIDER: &'static str = "CPUExecutionProvider";
    const IN_PLACE: bool = false;

    fn sequences(&self) -> TensorElementType {
        T::TYPE
    }
}

/// The operands of a node, each there or not.
pub(crate) struct Inputs<'a, const N: usize>([Option<ValueRef<'a>>; N]);

/// Shapes and values of the operands.
pub(crate) struct Operands<'a, const N: usize> {
    shapes: [Option<Vec<usize>>; N],
    pub(crate) values: [Option<Cow<'a, [f32]>>; N],
}

impl<'a, const N: usize> Inputs<'a, N> {
    pub(crate) fn of(context: &'a ComputeContext) -> ort::Result<Self> {
        let given = context.num_inputs()?;
        let mut inputs = [const { None }; N];
        for (index, input) in inputs.iter_mut().enumerate().take(given) {
            *input = context.input(index)?;
        }
        Ok(Self(inputs))
    }

    /// Reads `parameters` as `f32` and the others as sequences of `T`.
    pub(crate) fn read<T: Element>(&self, parameters: &[bool; N]) -> ort::Result<Operands<'_, N>> {
        let mut operands = Operands { shapes: [const { None }; N], values: [const { None }; N] };
        for (index, input) in self.0.iter().enumerate() {
            let Some(input) = input else { continue };
            let (dims, values) = if parameters[index] {
                let (dims, values) = input.try_extract_tensor::<f32>()?;
                (dims, values.into())
            } else {
                let (dims, values) = input.try_extract_tensor::<T>()?;
                (dims, T::widen(values))
            };
            let dims = dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(0));
            operands.shapes[index] = Some(dims.collect());
            operands.values[index] = Some(values);
        }
        Ok(operands)
    }
}

impl<const N: usize> Operands<'_, N> {
    pub(crate) fn shapes(&self) -> [Option<&[usize]>; N] {
        self.shapes.each_ref().map(Option::as_deref)
    }
}

/// Has `compute` write the node's one output, of that shape.
pub(crate) fn output<T: Element, E: std::error::Error + Send + Sync + 'static>(
    context: &ComputeContext,
    shape: [usize; 3],
    compute: impl FnOnce(&mut [f32]) -> Result<(), E>,
) -> ort::Result<()> {
    let shape = Shape::new(shape.map(|size| size as i64));
    let output = context.output(0, shape)?;
    let mut output = output.ok_or_else(|| ort::Error::new("the output has no value"))?;
    let (_, out) = output.try_extract_tensor_mut::<T>()?;
    T::fill(out, compute).map_err(ort::Error::wrap)
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
