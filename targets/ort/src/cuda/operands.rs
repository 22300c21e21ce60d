//! The operands of a node on a device.

use ort::{
    operator::ComputeContext,
    value::{DynTensorValueType, ValueRef},
};

/// Where the operands of a node lie, and their shapes.
pub(crate) struct Operands<'a, const N: usize> {
    values: [Option<ValueRef<'a, DynTensorValueType>>; N],
    shapes: [Option<Vec<usize>>; N],
}

impl<'a, const N: usize> Operands<'a, N> {
    pub(crate) fn of(context: &'a ComputeContext) -> ort::Result<Self> {
        let given = context.num_inputs()?;
        let mut operands = Self { values: [const { None }; N], shapes: [const { None }; N] };
        for index in 0..given.min(N) {
            let Some(value) = context.input(index)? else { continue };
            let value = value.downcast::<DynTensorValueType>()?;
            let dims = value.shape().iter();
            operands.shapes[index] =
                Some(dims.map(|&dim| usize::try_from(dim).unwrap_or(0)).collect());
            operands.values[index] = Some(value);
        }
        Ok(operands)
    }

    /// The shapes; `None` where an operand is absent.
    pub(crate) fn shapes(&self) -> [Option<&[usize]>; N] {
        self.shapes.each_ref().map(Option::as_deref)
    }

    /// The addresses; 0 where an operand is absent.
    pub(crate) fn addresses(&self) -> [u64; N] {
        self.values.each_ref().map(|value| value.as_ref().map_or(0, |v| v.data_ptr() as u64))
    }
}
