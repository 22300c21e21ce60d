//! The encoder as a node of candle's graph.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape, Tensor, bail};
use ssamba_cuda::Memory;

use super::{Gpu, encoder::Encoder, layout::Sizes};
use crate::ops::{values, with_values};

pub(super) struct Encode {
    gpu: Arc<Gpu>,
    sizes: Sizes,
    kept: Mutex<Option<Kept>>,
}

/// What the forward pass left for the one back.
struct Kept {
    encoder: Encoder,
    memory: Memory,
}

impl Encode {
    pub(super) fn new(gpu: &Arc<Gpu>, sizes: Sizes) -> Self {
        Self { gpu: gpu.clone(), sizes, kept: Mutex::new(None) }
    }

    fn take(&self) -> Option<Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Encode {
    fn drop(&mut self) {
        if let Some(kept) = self.take() {
            self.gpu.put_back(kept.memory);
        }
    }
}

/// An error of the device as candle's.
pub(super) fn wrapped(error: anyhow::Error) -> Error {
    Error::Msg(format!("on the GPU: {error:#}"))
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
        let encoder = Encoder::new(self.sizes, true, &self.gpu.devices).map_err(wrapped)?;
        let work = |run: &mut super::Run<'_>| encoder.forward(run, packed, tokens);
        let (out, memory) = self.gpu.with(None, encoder.memory(), work).map_err(wrapped)?;
        let kept = Kept { encoder, memory };
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        Ok((CpuStorage::F32(out), tokens_layout.shape().clone()))
    }

    fn bwd(
        &self,
        tokens: &Tensor,
        packed: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(Kept { encoder, memory }) = self.take() else {
            bail!("an encoder on a GPU was differentiated twice")
        };
        let ((of_tokens, of_packed), memory) = with_values(&grad.contiguous()?, |grad| {
            let work = |run: &mut super::Run<'_>| encoder.backward(run, grad);
            self.gpu.with(Some(memory), encoder.memory(), work).map_err(wrapped)
        })?;
        self.gpu.put_back(memory);
        Ok((
            Some(Tensor::from_vec(of_tokens, tokens.shape(), tokens.device())?),
            Some(Tensor::from_vec(of_packed, packed.shape(), packed.device())?),
        ))
    }
}
