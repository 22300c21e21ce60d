//! Operations with gradients that candle does not have, or has too slow: each is one node of its
//! graph, on the CPU, in `f32`.

mod direction;
mod norm;

pub(crate) use direction::{Direction, direction};
pub(crate) use norm::layer_norm;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};

/// The values of an operand of an operation, which has to be dense.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("an operand of an operation of training is not dense"),
    }
}

/// Hands the values of a dense tensor on the CPU to `use_them`.
pub(crate) fn with_values<T>(
    tensor: &Tensor,
    use_them: impl FnOnce(&[f32]) -> Result<T>,
) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => use_them(values(storage, layout)?),
        _ => bail!("an operand of an operation of training is not on the CPU"),
    }
}
