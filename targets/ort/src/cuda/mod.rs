//! ONNX Runtime on NVIDIA devices: our kernels as a provider's, and what a session keeps there.

mod arena;
mod bound;
mod operands;

use std::{ffi::c_void, ptr, sync::Arc};

use anyhow::Result;
use ort::{
    operator::ComputeContext,
    value::{DynTensorValueType, Shape, TensorElementType},
};
use ssamba_cuda::Device;
use ssamba_scan::cuda::{Element, INFERENCE};

pub use arena::ArenaUse;
pub(crate) use arena::OfferedArena;
pub(crate) use bound::{Bound, allocator};
pub(crate) use operands::Operands;

use crate::operator::Backend;

/// The device of that number, with the kernels of our operators.
///
/// # Errors
/// Names the library that is missing, or says what the driver or the compiler says.
pub(crate) fn open(number: u32) -> Result<Arc<Device>> {
    Device::open(number, &INFERENCE)
}

/// The provider, for sequences of one type.
#[derive(Clone)]
pub(crate) struct Gpu {
    pub(crate) device: Arc<Device>,
    pub(crate) element: Element,
}

impl Backend for Gpu {
    const PROVIDER: &'static str = "CUDAExecutionProvider";
    const IN_PLACE: bool = true;

    fn sequences(&self) -> TensorElementType {
        match self.element {
            Element::F32 => TensorElementType::Float32,
            Element::F16 => TensorElementType::Float16,
        }
    }
}

/// The stream that the nodes of a session run on.
pub(crate) fn stream(context: &ComputeContext) -> ort::Result<*mut c_void> {
    Ok(context.stream()?.map_or(ptr::null_mut(), |stream| stream.as_ptr()))
}

/// The address of a node's one output, of that shape.
pub(crate) fn output(context: &ComputeContext, shape: [usize; 3]) -> ort::Result<u64> {
    let shape = Shape::new(shape.map(|size| size as i64));
    let output = context.output(0, shape)?;
    let output = output.ok_or_else(|| ort::Error::new("the output has no value"))?;
    Ok(output.downcast::<DynTensorValueType>()?.data_ptr() as u64)
}
