//! Training on an NVIDIA GPU: the encoder, and the projection of patches, as nodes of candle's graph.
//!
//! The graph, the head, the loss and the optimiser stay on the CPU, and what they exchange with the GPU
//! is small: a batch, its tokens, the parameters, and their gradients. candle's own CUDA support would
//! need NVIDIA's compiler to build this crate; here all of CUDA is loaded when a GPU is asked for.

mod node;
mod patches;
mod run;
mod ssamba;
mod ssamba_layout;
mod ssast;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Result, ensure};
use candle_core::Tensor;
use ssamba_cuda::{Blas, Device, Memory};
use ssamba_model_common::{PatchEmbed, PatchWeights, Recipe};
use ssamba_scan::cuda::{INFERENCE, PatchSizes, TRAINING};

use run::{Layers, Run};

use crate::architecture::Weights;

/// A GPU that networks are trained on.
pub struct Gpu {
    devices: Devices,
    state: Mutex<State>,
}

/// One device, with the kernels of either image.
struct Devices {
    inference: Arc<Device>,
    training: Arc<Device>,
}

struct State {
    blas: Blas,
    /// Memory that no pass uses now.
    free: Vec<Memory>,
}

/// Values that a part of a batch may keep for its backward pass: 4 GiB. The network alone decides, so
/// that sums are the same on any GPU of a kind.
const PART_VALUES: usize = 1 << 30;

impl Gpu {
    /// The GPU of that number.
    ///
    /// # Errors
    /// Names the library of CUDA's that is missing, or says what the driver says.
    pub fn open(number: u32) -> Result<Arc<Self>> {
        let inference = Device::open(number, &INFERENCE)?;
        let training = Device::open(number, &TRAINING)?;
        let blas = Blas::new(&training)?;
        let state = Mutex::new(State { blas, free: Vec::new() });
        Ok(Arc::new(Self { devices: Devices { inference, training }, state }))
    }

    /// What the driver calls it.
    ///
    /// # Errors
    /// What the driver says.
    pub fn name(&self) -> Result<String> {
        self.devices.training.name()
    }

    /// Clips that a part of a batch may have when the layers keep so many values of each.
    pub(crate) fn part(values: usize) -> usize {
        (PART_VALUES / values.max(1)).max(1)
    }

    /// Tokens with positions `[batch, seq_len, d_model]` to those after the last norm.
    ///
    /// # Errors
    /// When the sizes are beyond what the kernels take, or what the device says.
    pub(crate) fn encode(
        self: &Arc<Self>,
        tokens: &Tensor,
        weights: &Weights,
        recipe: &Recipe,
    ) -> Result<Tensor> {
        let (batch, seq_len, _) = tokens.dims3()?;
        let (layers, packed): (Box<dyn Layers>, Tensor) = match weights {
            Weights::Ssamba(weights) => {
                let sizes = ssamba_layout::Sizes::new(batch, seq_len, weights, recipe);
                let packed =
                    packed(&ssamba::parameters(weights, sizes.together), sizes.parameters())?;
                (Box::new(ssamba::Encoder::new(sizes, &self.devices)?), packed)
            }
            Weights::Ssast(weights) => {
                let sizes = ssast::Sizes::new(batch, seq_len, weights);
                let packed = packed(&ssast::parameters(weights), sizes.parameters())?;
                (Box::new(ssast::Blocks::new(sizes)?), packed)
            }
        };
        Ok(tokens.contiguous()?.apply_op2(&packed, node::Encode::new(self, layers))?)
    }

    /// `fbank` `[batch, n_frames, n_mels]` to patch tokens `[batch, patches, d_model]`. It has no gradient
    /// for `fbank`.
    ///
    /// # Errors
    /// What the device says.
    pub(crate) fn project(self: &Arc<Self>, fbank: &Tensor, embed: &PatchEmbed) -> Result<Tensor> {
        let (batch, n_frames, n_mels) = fbank.dims3()?;
        let PatchWeights { weight, bias, .. } = embed.weights();
        let (_, patch_f, patch_t) = weight.dims3()?;
        let sizes = PatchSizes {
            batch,
            input: (n_frames, n_mels),
            grid: embed.grid(),
            patch: (patch_f, patch_t),
            stride: embed.stride(),
        };
        let project = patches::Project::new(self, sizes);
        Ok(fbank.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, project)?)
    }

    /// Memory for at least so many values.
    fn memory(&self, len: usize) -> Result<Memory> {
        let free = &mut self.state().free;
        let fitting = free.iter().enumerate().filter(|(_, memory)| memory.len() >= len);
        if let Some((index, _)) = fitting.min_by_key(|(_, memory)| memory.len()) {
            return Ok(free.swap_remove(index));
        }
        Memory::new(&self.devices.training, len).or_else(|_| {
            // What is free is too small, and in the way.
            free.clear();
            Memory::new(&self.devices.training, len)
        })
    }

    /// Takes memory back.
    fn put_back(&self, memory: Memory) {
        self.state().free.push(memory);
    }

    /// Works on the device; nothing else does meanwhile.
    fn run<T>(
        &self,
        memory: &mut Memory,
        work: impl FnOnce(&mut Run<'_>) -> Result<T>,
    ) -> Result<T> {
        let blas = &mut self.state().blas;
        work(&mut Run { devices: &self.devices, blas, memory })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu").field("device", &self.devices.training).finish_non_exhaustive()
    }
}

/// Tensors one after the other, so many values in all.
fn packed(tensors: &[&Tensor], values: usize) -> Result<Tensor> {
    let flat = tensors.iter().map(|tensor| tensor.flatten_all());
    let packed = Tensor::cat(&flat.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
    let got = packed.elem_count();
    ensure!(got == values, "{got} parameters for layers of {values}");
    Ok(packed)
}
