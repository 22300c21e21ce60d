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
use ssamba_model::{Weights, weights::LayerWeights};
use ssamba_scan::cuda::{INFERENCE, PatchSizes, TRAINING};

use run::{Layers, Run};
use ssamba_layout::Sizes;

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

/// Values that parts of a batch may keep for the backward pass; a batch that would keep more is cut.
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

    /// Clips that a part of a batch may have when each keeps so many values of a layer.
    pub(crate) fn part(values: usize) -> usize {
        (PART_VALUES / values.max(1)).max(1)
    }

    /// Tokens with positions `[batch, seq_len, d_model]` to those after the second final norm; `halve`
    /// and `pairwise` are the recipe's.
    ///
    /// # Errors
    /// When the sizes are beyond what the kernels take, or what the device says.
    pub(crate) fn encode(
        self: &Arc<Self>,
        tokens: &Tensor,
        weights: &Weights,
        halve: bool,
        pairwise: bool,
    ) -> Result<Tensor> {
        let config = &weights.config;
        let (batch, seq_len, d_model) = tokens.dims3()?;
        let together = if pairwise { 2 } else { 1 };
        let sizes = Sizes {
            batch,
            seq_len,
            together,
            steps: weights.layers.len() / together,
            d_model,
            d_inner: config.d_inner,
            d_state: config.d_state,
            dt_rank: config.dt_rank,
            taps: config.d_conv,
            scale: if halve { 0.5 } else { 1.0 },
            eps: (ssamba_model::NORM_EPS, if pairwise { 4.0 } else { 1.0 }),
        };
        sizes.check()?;
        let packed = packed(weights, together)?;
        ensure!(
            packed.elem_count() == sizes.parameters(),
            "{} parameters for an encoder of {}",
            packed.elem_count(),
            sizes.parameters()
        );
        Ok(tokens.contiguous()?.apply_op2(&packed, node::Encode::new(self, sizes))?)
    }

    /// `fbank` `[batch, n_frames, n_mels]` to patch tokens `[batch, patches, d_model]`, with `weight`
    /// `[d_model, patch_f, patch_t]` and `bias` `[d_model]`. It has no gradient for `fbank`.
    ///
    /// # Errors
    /// What the device says.
    pub(crate) fn project(
        self: &Arc<Self>,
        fbank: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        grid: (usize, usize),
        stride: (usize, usize),
    ) -> Result<Tensor> {
        let (batch, n_frames, n_mels) = fbank.dims3()?;
        let (_, patch_f, patch_t) = weight.dims3()?;
        let input = (n_frames, n_mels);
        let sizes = PatchSizes { batch, input, grid, patch: (patch_f, patch_t), stride };
        let project = patches::Project::new(self, sizes);
        Ok(fbank.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, project)?)
    }

    /// Memory for at least so many values.
    fn memory(&self, len: usize) -> Result<Memory> {
        let free = &mut self.state().free;
        if let Some(index) = free.iter().position(|memory| memory.len() >= len) {
            return Ok(free.swap_remove(index));
        }
        // What is free is too small, and would be in the way.
        free.clear();
        Memory::new(&self.devices.training, len)
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

/// All parameters of the encoder in the order of [`layout::Parameters`].
fn packed(weights: &Weights, together: usize) -> Result<Tensor> {
    let mut parts: Vec<Tensor> = Vec::new();
    for layers in weights.layers.chunks_exact(together) {
        let streams =
            || layers.iter().flat_map(|layer| [&layer.mixer.forward, &layer.mixer.reverse]);
        let mut add = |tensors: &mut dyn Iterator<Item = &Tensor>| -> Result<()> {
            for tensor in tensors {
                parts.push(tensor.flatten_all()?);
            }
            Ok(())
        };
        let of = |take: fn(&LayerWeights) -> &Tensor| layers.iter().map(take);
        add(&mut of(|layer| &layer.norm.weight))?;
        add(&mut layers.iter().filter_map(|layer| layer.norm.bias.as_ref()))?;
        add(&mut of(|layer| &layer.mixer.in_proj))?;
        add(&mut streams().map(|stream| &stream.conv_weight))?;
        add(&mut streams().map(|stream| &stream.conv_bias))?;
        add(&mut streams().map(|stream| &stream.x_proj))?;
        add(&mut streams().map(|stream| &stream.dt_proj))?;
        add(&mut streams().map(|stream| &stream.dt_bias))?;
        add(&mut streams().map(|stream| &stream.a_log))?;
        add(&mut streams().map(|stream| &stream.d_skip))?;
        add(&mut of(|layer| &layer.mixer.out_proj))?;
    }
    parts.push(weights.norm_f.weight.clone());
    parts.extend(weights.norm_f.bias.clone());
    Ok(Tensor::cat(&parts, 0)?)
}
