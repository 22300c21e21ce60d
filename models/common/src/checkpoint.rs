//! Checkpoint files: names and tensors, nothing of the network yet.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};

use crate::pickle;

/// A checkpoint file, read whole.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Where it was read from; for messages.
    pub path: PathBuf,
    /// Tensors by name, without the `module.` that `DataParallel` puts in front.
    pub tensors: BTreeMap<String, Tensor>,
}

impl Checkpoint {
    /// Reads an official `.pth` file (zip pickle) or a safetensors file; the content decides, not
    /// the extension.
    ///
    /// # Errors
    /// When the file is missing, of neither format, damaged, or names Python objects other than
    /// tensors.
    pub fn read(path: &Path) -> Result<Self> {
        let at = || path.display().to_string();
        let mut head = [0; 9];
        let read = {
            let mut file = File::open(path).with_context(at)?;
            ensure!(!path.is_dir(), "{}: is a folder, expected a checkpoint file", path.display());
            file.read(&mut head).with_context(at)?
        };
        let tensors = match &head[..read] {
            [b'P', b'K', 3, 4, ..] => pickle::read(path).with_context(at)?,
            [_, _, _, _, _, _, _, _, b'{'] => candle_core::safetensors::load(path, &Device::Cpu)
                .with_context(|| format!("{}: not a whole safetensors file", path.display()))?
                .into_iter()
                .collect(),
            [0x80, ..] => bail!(
                "{}: a checkpoint of PyTorch before 1.6; convert it by torch.save(torch.load(old), new)",
                path.display()
            ),
            _ => bail!(
                "{}: not a checkpoint, expected a .pth of torch.save or a safetensors file",
                path.display()
            ),
        };
        let count = tensors.len();
        let checkpoint = Self::from_tensors(path, tensors);
        ensure!(
            checkpoint.tensors.len() == count,
            "{}: some names are there twice, with and without `module.` in front",
            path.display()
        );
        Ok(checkpoint)
    }

    /// Wraps tensors that are in memory already; `path` is only for messages.
    pub fn from_tensors(
        path: impl Into<PathBuf>,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
    ) -> Self {
        let tensors = tensors
            .into_iter()
            .map(|(name, tensor)| match name.strip_prefix("module.") {
                Some(bare) => (bare.to_owned(), tensor),
                None => (name, tensor),
            })
            .collect();
        Self { path: path.into(), tensors }
    }

    /// Whether the file holds a pretraining model: it carries the size of its own input.
    pub fn is_pretraining(&self) -> bool {
        self.tensors.contains_key("p_input_tdim")
    }
}
