//! The one trait that every runtime implements.

use std::{num::NonZeroUsize, thread};

use crate::{Card, Tensor};

/// Named outputs of one run, in the order of the graph.
#[derive(Clone, Debug, Default)]
pub struct Outputs(Vec<(String, Tensor)>);

impl Outputs {
    /// Collects outputs in the order of the graph.
    pub fn new(outputs: Vec<(String, Tensor)>) -> Self {
        Self(outputs)
    }

    /// The output of that name, if the graph has it; names are in [`crate::io`].
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, tensor)| tensor)
    }

    /// Names and tensors in the order of the graph.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }
}

/// Threads that a session computes with unless it is told: as many as there are cores, of those that
/// this process may use. Two threads of one core share the units that multiply.
pub fn default_threads() -> NonZeroUsize {
    let granted = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    NonZeroUsize::new(num_cpus::get_physical()).map_or(granted, |cores| cores.min(granted))
}

/// An exported model, loaded and ready.
pub trait Session {
    /// Who computes: `tract`, `candle`, or with ONNX Runtime `cpu`, `cuda`, `tensorrt`.
    fn provider(&self) -> &str;

    /// What the model says of itself.
    fn card(&self) -> &Card;

    /// Runs on `fbank`, `[batch, n_frames, n_mels]`, normalised as the card says.
    ///
    /// # Errors
    /// When the shape is not the model's, or the runtime fails; the message names the provider.
    fn run(&mut self, fbank: &Tensor) -> anyhow::Result<Outputs>;
}
