//! Layers as a node of candle's graph, and the memory that a node keeps from its forward pass for the
//! one back.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor};
use ssamba_cuda::Memory;

use super::{
    Gpu,
    run::{Layers, Run},
};
use crate::ops::{values, with_values};

/// Memory between two passes.
pub(super) struct Kept {
    gpu: Arc<Gpu>,
    memory: Mutex<Option<Memory>>,
}

impl Kept {
    pub(super) fn new(gpu: &Arc<Gpu>) -> Self {
        Self { gpu: gpu.clone(), memory: Mutex::new(None) }
    }

    /// Works in memory for so many values, and keeps it.
    pub(super) fn forward<T>(
        &self,
        len: usize,
        work: impl FnOnce(&mut Run<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut memory = self.gpu.memory(len)?;
        let answer = self.gpu.run(&mut memory, work);
        *self.slot() = Some(memory);
        answer
    }

    /// Works in the memory that was kept, and gives it back.
    pub(super) fn backward<T>(
        &self,
        work: impl FnOnce(&mut Run<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let mut memory = self.slot().take().context("it was differentiated twice")?;
        let answer = self.gpu.run(&mut memory, work);
        self.gpu.put_back(memory);
        answer
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(memory) = self.slot().take() {
            self.gpu.put_back(memory);
        }
    }
}

/// An error of the device as candle's.
pub(super) fn wrapped(error: anyhow::Error) -> Error {
    Error::Msg(format!("on the GPU: {error:#}"))
}

pub(super) struct Encode {
    layers: Box<dyn Layers>,
    kept: Kept,
}

impl Encode {
    pub(super) fn new(gpu: &Arc<Gpu>, layers: Box<dyn Layers>) -> Self {
        Self { layers, kept: Kept::new(gpu) }
    }
}

impl CustomOp2 for Encode {
    fn name(&self) -> &'static str {
        "encoder-on-gpu"
    }

    fn cpu_fwd(
        &self,
        tokens: &CpuStorage,
        tokens_layout: &Layout,
        packed: &CpuStorage,
        packed_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, packed) = (values(tokens, tokens_layout)?, values(packed, packed_layout)?);
        let work = |run: &mut Run<'_>| self.layers.forward(run, packed, tokens);
        let out = self.kept.forward(self.layers.memory(), work).map_err(wrapped)?;
        Ok((CpuStorage::F32(out), tokens_layout.shape().clone()))
    }

    fn bwd(
        &self,
        tokens: &Tensor,
        packed: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (of_tokens, of_packed) = with_values(&grad.contiguous()?, |grad| {
            let work = |run: &mut Run<'_>| self.layers.backward(run, grad);
            self.kept.backward(work).map_err(wrapped)
        })?;
        Ok((
            Some(Tensor::from_vec(of_tokens, tokens.shape(), tokens.device())?),
            Some(Tensor::from_vec(of_packed, packed.shape(), packed.device())?),
        ))
    }
}
