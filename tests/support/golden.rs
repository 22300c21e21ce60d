//! The stored expectations in `tests/goldens`, made by `golden.py` beside them.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use candle_core::{Device, Tensor};
use ssamba_model::Checkpoint;

/// One golden file.
pub struct Golden {
    name: String,
    tensors: HashMap<String, Tensor>,
}

/// Path of a golden.
pub fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "goldens", &format!("{name}.safetensors")].iter().collect()
}

impl Golden {
    /// Reads a golden.
    ///
    /// # Panics
    /// When it is not there.
    pub fn read(name: &str) -> Self {
        let tensors = candle_core::safetensors::load(path(name), &Device::Cpu)
            .unwrap_or_else(|error| panic!("golden `{name}`: {error}"));
        Self { name: name.into(), tensors }
    }

    /// A tensor of the golden.
    ///
    /// # Panics
    /// When it is not there.
    pub fn tensor(&self, key: &str) -> &Tensor {
        self.tensors.get(key).unwrap_or_else(|| panic!("golden `{}` has no `{key}`", self.name))
    }

    /// The weights that the golden carries under `w.`, by their names in a checkpoint.
    pub fn weights(&self) -> BTreeMap<String, Tensor> {
        let stored = |(name, tensor): (&String, &Tensor)| {
            Some((name.strip_prefix("w.")?.to_owned(), tensor.clone()))
        };
        self.tensors.iter().filter_map(stored).collect()
    }

    /// The same as a checkpoint.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint::from_tensors(path(&self.name), self.weights())
    }
}
