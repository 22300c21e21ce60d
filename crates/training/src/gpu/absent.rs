//! A build that knows no GPUs.

use std::sync::Arc;

use anyhow::{Result, bail};
use candle_core::Tensor;
use ssamba_model_common::{PatchEmbed, Recipe};

use crate::architecture::Weights;

/// A GPU, of which there is none in this build.
#[derive(Debug)]
pub enum Gpu {}

impl Gpu {
    /// # Errors
    /// Always: the crate's feature `cuda` is off.
    pub fn open(_: u32) -> Result<Arc<Self>> {
        bail!(
            "this build does not train on GPUs: build it with the feature `cuda`, or use --device cpu"
        )
    }

    /// # Errors
    /// Never: there is none.
    pub fn name(&self) -> Result<String> {
        match *self {}
    }

    pub(crate) fn part(_: usize) -> usize {
        1
    }

    pub(crate) fn encode(self: &Arc<Self>, _: &Tensor, _: &Weights, _: &Recipe) -> Result<Tensor> {
        match **self {}
    }

    pub(crate) fn project(self: &Arc<Self>, _: &Tensor, _: &PatchEmbed) -> Result<Tensor> {
        match **self {}
    }
}
