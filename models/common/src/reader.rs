//! Tensors by name, and an account of every name that is missing, unexpected or mis-shaped.

use std::{collections::BTreeMap, fmt};

use anyhow::{Result, bail};
use candle_core::{DType, Tensor};

use crate::layers::{HeadWeights, NormKind, NormWeights};

/// Everything wrong with a checkpoint's names and shapes.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Mismatch {
    /// Names that the network needs and the file lacks.
    pub missing: Vec<String>,
    /// Names in the file that mean nothing here.
    pub unexpected: Vec<String>,
    /// Names with the shape found and the shape expected.
    pub misshaped: Vec<String>,
}

impl Mismatch {
    /// Whether everything fits.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.misshaped.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (what, names) in [
            ("missing", &self.missing),
            ("unexpected", &self.unexpected),
            ("wrong shape", &self.misshaped),
        ] {
            if !names.is_empty() {
                write!(f, "{separator}{} {what}: {}", names.len(), names.join(", "))?;
                separator = "; ";
            }
        }
        Ok(())
    }
}

/// Names that are there and do not matter, with the reason.
pub type Unused = Vec<(String, &'static str)>;

/// Names of pretraining that inference never uses, with the reason.
const PRETRAINING: [(&str, &[&str]); 3] = [
    ("the size of the pretraining input", &["p_input_fdim", "p_input_tdim"]),
    ("the mask token of pretraining", &["mask_embed"]),
    (
        "a prediction head of pretraining",
        &[
            "cpredlayer.0.weight",
            "cpredlayer.0.bias",
            "cpredlayer.2.weight",
            "cpredlayer.2.bias",
            "gpredlayer.0.weight",
            "gpredlayer.0.bias",
            "gpredlayer.2.weight",
            "gpredlayer.2.bias",
        ],
    ),
];

/// Mel bins and frames of the pretraining input, in pretraining files.
///
/// # Errors
/// When one of the two is missing or no number of this kind.
pub fn pretraining_input(tensors: &BTreeMap<String, Tensor>) -> Result<Option<(usize, usize)>> {
    let scalar = |name: &str| -> Result<Option<usize>> {
        let Some(tensor) = tensors.get(name) else { return Ok(None) };
        let values = tensor.to_dtype(DType::I64)?.flatten_all()?.to_vec1::<i64>()?;
        match values.as_slice() {
            [value] if (1..=1_000_000).contains(value) => Ok(Some(*value as usize)),
            _ => bail!("`{name}` is {values:?}, expected one number from 1 to 1000000"),
        }
    };
    match (scalar("p_input_fdim")?, scalar("p_input_tdim")?) {
        (Some(n_mels), Some(n_frames)) => Ok(Some((n_mels, n_frames))),
        (None, None) => Ok(None),
        _ => bail!("one of `p_input_fdim` and `p_input_tdim` is missing"),
    }
}

/// Takes tensors by name and notes everything that does not fit.
///
/// What it hands out is `None` where a tensor did not fit; [`Self::finish`] says what it was.
pub struct Reader<'a> {
    tensors: &'a BTreeMap<String, Tensor>,
    mismatch: Mismatch,
    /// Every name asked for, with the shape it is stored in.
    layout: BTreeMap<String, Vec<usize>>,
}

impl<'a> Reader<'a> {
    /// A reader that has not taken anything yet.
    pub fn new(tensors: &'a BTreeMap<String, Tensor>) -> Self {
        Self { tensors, mismatch: Mismatch::default(), layout: BTreeMap::new() }
    }

    /// The tensor in `f32`, reshaped to `shape`, if its own shape is `stored`.
    pub fn get(&mut self, name: &str, stored: &[usize], shape: &[usize]) -> Option<Tensor> {
        self.layout.insert(name.to_owned(), stored.to_vec());
        let Some(tensor) = self.tensors.get(name) else {
            self.mismatch.missing.push(name.to_owned());
            return None;
        };
        let floating = matches!(tensor.dtype(), DType::F32 | DType::F64 | DType::F16 | DType::BF16);
        if tensor.dims() != stored || !floating {
            let got = match floating {
                true => format!("{:?}", tensor.dims()),
                false => format!("{:?} of {:?}", tensor.dims(), tensor.dtype()),
            };
            self.mismatch.misshaped.push(format!("{name} {got} (expected {stored:?})"));
            return None;
        }
        tensor.to_dtype(DType::F32).and_then(|tensor| tensor.reshape(shape)).ok()
    }

    /// The tensor in `f32` if its shape is `shape`.
    pub fn same(&mut self, name: &str, shape: &[usize]) -> Option<Tensor> {
        self.get(name, shape, shape)
    }

    /// The norm whose names start with `prefix`.
    pub fn norm(&mut self, prefix: &str, width: usize, kind: NormKind) -> Option<NormWeights> {
        let weight = self.same(&format!("{prefix}.weight"), &[width]);
        let bias = match kind {
            NormKind::Layer => Some(self.same(&format!("{prefix}.bias"), &[width])),
            NormKind::Rms => None,
        };
        Some(NormWeights {
            weight: weight?,
            bias: match bias {
                Some(bias) => Some(bias?),
                None => None,
            },
        })
    }

    /// The classifier, if the network has one: `Some(None)` where there is rightly none.
    pub fn head(
        &mut self,
        n_classes: Option<usize>,
        d_model: usize,
    ) -> Option<Option<HeadWeights>> {
        let Some(classes) = n_classes else {
            // Part of a head is a damaged head, not its absence.
            if self.tensors.keys().any(|name| name.starts_with("mlp_head.")) {
                self.mismatch.missing.push("mlp_head.1.weight".into());
                return None;
            }
            return Some(None);
        };
        let norm = self.norm("mlp_head.0", d_model, NormKind::Layer);
        let weight = self.same("mlp_head.1.weight", &[classes, d_model]);
        let bias = self.same("mlp_head.1.bias", &[classes]);
        Some(Some(HeadWeights { norm: norm?, weight: weight?, bias: bias? }))
    }

    /// Names and stored shapes of everything asked for.
    pub fn into_layout(self) -> BTreeMap<String, Vec<usize>> {
        self.layout
    }

    /// What the file holds beyond what was asked for: names of pretraining and those of
    /// `never_called` do not matter, all others are unexpected.
    pub fn finish(self, never_called: (&'static str, &[&str])) -> (Unused, Mismatch) {
        let Self { tensors, mut mismatch, layout } = self;
        let mut unused = Unused::new();
        for name in tensors.keys().filter(|name| !layout.contains_key(*name)) {
            let known = PRETRAINING.into_iter().chain([never_called]);
            match known.into_iter().find(|(_, names)| names.contains(&name.as_str())) {
                Some((why, _)) => unused.push((name.clone(), why)),
                None => mismatch.unexpected.push(name.clone()),
            }
        }
        (unused, mismatch)
    }
}
