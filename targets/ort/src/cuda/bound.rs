//! Input and outputs of a session that stay on the device, at addresses that never change.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ort::{
    memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType},
    session::{IoBinding, Session as Graph},
    value::{Tensor as Value, ValueType},
};
use ssamba_contract::{Outputs, Tensor};
use ssamba_cuda::Device;

use crate::message::readable;

/// What a session takes memory of its device from.
pub(crate) fn allocator(graph: &Graph, number: u32) -> Result<Allocator> {
    Allocator::new(graph, device_memory(number)?).map_err(readable)
}

/// The memory of the device of that number.
pub(crate) fn device_memory(number: u32) -> Result<MemoryInfo<'static>> {
    let kind = (AllocatorType::Device, MemoryType::Default);
    MemoryInfo::new(AllocationDevice::CUDA, i32::try_from(number)?, kind.0, kind.1)
        .map_err(readable)
}

/// A session's input and outputs for one batch.
#[derive(Debug)]
pub(crate) struct Bound {
    device: Arc<Device>,
    binding: IoBinding,
    shape: Vec<usize>,
    /// Address of the input.
    input: u64,
    /// Name, shape and address of each output.
    outputs: Vec<(String, Vec<usize>, u64)>,
}

impl Bound {
    /// Room for the input of that name and shape, and for its outputs.
    ///
    /// # Errors
    /// When the device's memory is too small.
    pub(crate) fn new(
        graph: &Graph,
        device: &Arc<Device>,
        number: u32,
        name: &str,
        shape: &[usize],
    ) -> Result<Self> {
        let allocator = allocator(graph, number)?;
        let room = |shape: &[usize]| Value::<f32>::new(&allocator, shape).map_err(readable);
        let mut binding = graph.create_binding().map_err(readable)?;
        let value = room(shape)?;
        binding.bind_input(name, &value).map_err(readable)?;
        let input = value.data_ptr() as u64;
        let batch = shape.first().copied().unwrap_or_default();
        let mut outputs = Vec::new();
        for output in graph.outputs() {
            let ValueType::Tensor { shape, .. } = output.dtype() else {
                bail!("output `{}` is no tensor", output.name());
            };
            let shape: Vec<usize> =
                shape.iter().map(|&size| usize::try_from(size).unwrap_or(batch)).collect();
            let value = room(&shape)?;
            outputs.push((output.name().to_owned(), shape, value.data_ptr() as u64));
            binding.bind_output(output.name(), value).map_err(readable)?;
        }
        Ok(Self { device: device.clone(), binding, shape: shape.to_vec(), input, outputs })
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Copies an input of the shape bound to the device.
    pub(crate) fn write(&mut self, fbank: &Tensor) -> Result<()> {
        debug_assert_eq!(fbank.shape(), self.shape);
        // SAFETY: the binding keeps a value of this shape at this address.
        #[expect(unsafe_code, reason = "the device is addressed")]
        unsafe {
            self.device.write(self.input, fbank.data())
        }
    }

    /// Runs the graph on what was written, and waits for it.
    pub(crate) fn run(&self, graph: &mut Graph) -> Result<()> {
        graph.run_binding(&self.binding).map_err(readable).map(drop)
    }

    /// Copies the outputs of the last run from the device.
    pub(crate) fn read(&self) -> Result<Outputs> {
        let outputs = self.outputs.iter().map(|(name, shape, address)| {
            let mut data = vec![0.0; shape.iter().product()];
            // SAFETY: the binding keeps a value of this shape at this address.
            #[expect(unsafe_code, reason = "the device is addressed")]
            unsafe { self.device.read(*address, &mut data) }
                .with_context(|| format!("output `{name}`"))?;
            Ok((name.clone(), Tensor::new(shape.clone(), data)?))
        });
        Ok(Outputs::new(outputs.collect::<Result<_>>()?))
    }
}
