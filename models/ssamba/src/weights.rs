//! A checkpoint's names, and the only place that knows them.
//!
//! Names and shapes: SiavashShams/ssamba@019b276 `src/models/both_models.py` over hustvl/Vim@6143d07
//! `mamba-1p1p1/mamba_ssm/modules/mamba_simple.py:94-165`. Loading is strict: every name that is
//! missing, unexpected or mis-shaped is reported, all at once.

use std::{collections::BTreeMap, fmt};

use anyhow::{Result, anyhow, bail, ensure};
use candle_core::{DType, Tensor};

use crate::{
    checkpoint::Checkpoint,
    config::{Config, NormKind},
};

/// Weight and, for LayerNorm, bias of one norm: `[d_model]`.
#[derive(Clone, Debug)]
pub struct NormWeights {
    /// Scale.
    pub weight: Tensor,
    /// Offset; absent for RMSNorm.
    pub bias: Option<Tensor>,
}

/// One direction of a mixer.
#[derive(Clone, Debug)]
pub struct StreamWeights {
    /// Taps of the depthwise convolution, `[d_inner, d_conv]`; the last tap meets the current token.
    pub conv_weight: Tensor,
    /// `[d_inner]`
    pub conv_bias: Tensor,
    /// `[dt_rank + 2 * d_state, d_inner]`
    pub x_proj: Tensor,
    /// `[d_inner, dt_rank]`
    pub dt_proj: Tensor,
    /// `[d_inner]`
    pub dt_bias: Tensor,
    /// `[d_inner, d_state]`; the scan's `a` is `-exp` of it.
    pub a_log: Tensor,
    /// `[d_inner]`
    pub d_skip: Tensor,
}

/// A bidirectional mixer: Vim's "v2".
#[derive(Clone, Debug)]
pub struct MixerWeights {
    /// [2 * d_inner, d_model]: rows of `x`, then rows of `z`.
    pub in_proj: Tensor,
    /// Names without suffix: left to right in the layer's own frame.
    pub forward: StreamWeights,
    /// Names with the suffix `_b`: right to left in the layer's own frame.
    pub reverse: StreamWeights,
    /// `[d_model, d_inner]`
    pub out_proj: Tensor,
}

/// Norm and mixer of one layer.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// Before the mixer.
    pub norm: NormWeights,
    /// The mixer.
    pub mixer: MixerWeights,
}

/// The classification head: LayerNorm, then a linear map.
#[derive(Clone, Debug)]
pub struct HeadWeights {
    /// Always a LayerNorm.
    pub norm: NormWeights,
    /// `[n_classes, d_model]`
    pub weight: Tensor,
    /// `[n_classes]`
    pub bias: Tensor,
}

/// All parameters that inference uses, in `f32`.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Sizes inferred from the tensors.
    pub config: Config,
    /// Kind of norm that the file holds.
    pub norm: NormKind,
    /// `[d_model]`
    pub cls_token: Tensor,
    /// `[1 + patches, d_model]`; the first row belongs to the class token.
    pub pos_embed: Tensor,
    /// `[d_model, patch_f, patch_t]`; row 0 of a patch is the lowest mel bin.
    pub patch_weight: Tensor,
    /// `[d_model]`
    pub patch_bias: Tensor,
    /// In order.
    pub layers: Vec<LayerWeights>,
    /// The final norm, applied twice.
    pub norm_f: NormWeights,
    /// Absent in pretraining files.
    pub head: Option<HeadWeights>,
    /// Mel bins and frames of the pretraining input, in pretraining files.
    pub pretraining_input: Option<(usize, usize)>,
    /// Names in the file that inference never uses, with the reason.
    pub unused: Vec<(String, &'static str)>,
}

/// Names that are there and do not matter, with the reason.
const UNUSED: [(&str, &[&str]); 4] = [
    ("a 1000-class head that the network never calls", &["v.head.weight", "v.head.bias"]),
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

/// What a checkpoint's names and shapes tell, whether they fit or not.
#[derive(Clone, Debug)]
pub struct Audit {
    /// Sizes inferred from the tensors.
    pub config: Config,
    /// Kind of norm that the file holds.
    pub norm: NormKind,
    /// Names in the file that inference never uses, with the reason.
    pub unused: Vec<(String, &'static str)>,
    /// What does not fit.
    pub mismatch: Mismatch,
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

impl Weights {
    /// Takes the parameters out of a checkpoint.
    ///
    /// # Errors
    /// One message that lists every missing, unexpected and mis-shaped name.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self> {
        Self::take(&checkpoint.tensors)
            .map_err(|error| anyhow!("{}: {error:#}", checkpoint.path.display()))
    }

    fn take(tensors: &BTreeMap<String, Tensor>) -> Result<Self> {
        match audit(tensors)? {
            (Audit { unused, mismatch, .. }, Some(weights)) if mismatch.is_empty() => {
                Ok(Self { pretraining_input: pretraining_input(tensors)?, unused, ..weights })
            }
            (Audit { mismatch, .. }, _) => bail!("the checkpoint does not fit SSAMBA: {mismatch}"),
        }
    }

    /// Compares a checkpoint with the network without insisting that it fits.
    ///
    /// # Errors
    /// When not even the sizes can be inferred.
    pub fn audit(checkpoint: &Checkpoint) -> Result<Audit> {
        audit(&checkpoint.tensors)
            .map(|(audit, _)| audit)
            .map_err(|error| anyhow!("{}: {error:#}", checkpoint.path.display()))
    }

    /// Parameters that inference uses.
    pub fn parameters(&self) -> usize {
        let norm = |norm: &NormWeights| count(&norm.weight) + norm.bias.as_ref().map_or(0, count);
        let stream = |s: &StreamWeights| {
            [&s.conv_weight, &s.conv_bias, &s.x_proj, &s.dt_proj, &s.dt_bias, &s.a_log, &s.d_skip]
                .into_iter()
                .map(count)
                .sum::<usize>()
        };
        let layer = |layer: &LayerWeights| {
            let mixer = &layer.mixer;
            norm(&layer.norm)
                + count(&mixer.in_proj)
                + stream(&mixer.forward)
                + stream(&mixer.reverse)
                + count(&mixer.out_proj)
        };
        let head = |head: &HeadWeights| norm(&head.norm) + count(&head.weight) + count(&head.bias);
        [&self.cls_token, &self.pos_embed, &self.patch_weight, &self.patch_bias]
            .into_iter()
            .map(count)
            .sum::<usize>()
            + self.layers.iter().map(layer).sum::<usize>()
            + norm(&self.norm_f)
            + self.head.as_ref().map_or(0, head)
    }
}

fn audit(tensors: &BTreeMap<String, Tensor>) -> Result<(Audit, Option<Weights>)> {
    let config = infer(tensors)?;
    let is_norm_bias = |name: &String| {
        name == "v.norm_f.bias" || name.starts_with("v.") && name.ends_with(".norm.bias")
    };
    let norm = match tensors.keys().any(is_norm_bias) {
        true => NormKind::Layer,
        false => NormKind::Rms,
    };
    let unused: Vec<(String, &'static str)> = tensors
        .keys()
        .filter_map(|name| {
            let (why, _) = UNUSED.iter().find(|(_, names)| names.contains(&name.as_str()))?;
            Some((name.clone(), *why))
        })
        .collect();
    let rows = tensors
        .get("v.pos_embed")
        .and_then(|tensor| tensor.dims().get(1).copied())
        .unwrap_or_default();
    let mut reader = Reader::new(tensors);
    let weights = reader.weights(&config, norm, rows);
    let mut mismatch = reader.mismatch;
    mismatch.unexpected = tensors
        .keys()
        .filter(|name| {
            !reader.layout.contains_key(*name) && !unused.iter().any(|(other, _)| other == *name)
        })
        .cloned()
        .collect();
    Ok((Audit { config, norm, unused, mismatch }, weights))
}

/// Names and stored shapes of all parameters that inference uses, for a network of these sizes
/// with a position table of `seq_len` rows.
pub fn layout(config: &Config, norm: NormKind, seq_len: usize) -> BTreeMap<String, Vec<usize>> {
    let nothing = BTreeMap::new();
    let mut reader = Reader::new(&nothing);
    reader.weights(config, norm, seq_len);
    reader.layout
}

fn count(tensor: &Tensor) -> usize {
    tensor.elem_count()
}

fn pretraining_input(tensors: &BTreeMap<String, Tensor>) -> Result<Option<(usize, usize)>> {
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

/// Infers all sizes; each from the first tensor that tells it.
fn infer(tensors: &BTreeMap<String, Tensor>) -> Result<Config> {
    let dims = |name: &str| tensors.get(name).map(Tensor::dims);
    let layer_index =
        |name: &str| name.strip_prefix("v.layers.")?.split('.').next()?.parse::<u32>().ok();
    let depth = tensors.keys().filter_map(|name| layer_index(name)).max();
    let depth = depth.map(|last| last as usize + 1);
    // Any layer will do, so that one missing tensor does not hide the sizes.
    let of_mixer = |leaf: &str, axis: usize| {
        (0..depth.unwrap_or(0))
            .find_map(|layer| dims(&format!("v.layers.{layer}.mixer.{leaf}"))?.get(axis).copied())
    };
    let patch = dims("v.patch_embed.proj.weight");
    let needed = [
        (
            "v.layers.*.mixer.in_proj.weight or v.cls_token",
            of_mixer("in_proj.weight", 1).or_else(|| dims("v.cls_token")?.last().copied()),
        ),
        ("v.layers.*", depth),
        ("v.layers.*.mixer.A_log or D", of_mixer("A_log", 0).or_else(|| of_mixer("D", 0))),
        (
            "v.layers.*.mixer.A_log or A_b_log",
            of_mixer("A_log", 1).or_else(|| of_mixer("A_b_log", 1)),
        ),
        (
            "v.layers.*.mixer.conv1d.weight or conv1d_b.weight",
            of_mixer("conv1d.weight", 2).or_else(|| of_mixer("conv1d_b.weight", 2)),
        ),
        (
            "v.layers.*.mixer.dt_proj.weight or dt_proj_b.weight",
            of_mixer("dt_proj.weight", 1).or_else(|| of_mixer("dt_proj_b.weight", 1)),
        ),
        ("v.patch_embed.proj.weight", patch.and_then(|dims| dims.get(2).copied())),
        ("v.patch_embed.proj.weight", patch.and_then(|dims| dims.get(3).copied())),
    ];
    let mut missing: Vec<&str> =
        needed.iter().filter(|(_, size)| size.is_none()).map(|(name, _)| *name).collect();
    missing.dedup();
    let sizes = needed.map(|(_, size)| size.unwrap_or_default());
    let [d_model, depth, d_inner, d_state, d_conv, dt_rank, patch_f, patch_t] = sizes;
    ensure!(
        missing.is_empty(),
        "not an SSAMBA checkpoint, or not a whole one: among its {} names there is no {}",
        tensors.len(),
        missing.join(", no ")
    );
    let n_classes = dims("mlp_head.1.weight")
        .or_else(|| dims("mlp_head.1.bias"))
        .and_then(|dims| dims.first().copied());
    let config =
        Config { d_model, depth, d_inner, d_state, d_conv, dt_rank, patch_f, patch_t, n_classes };
    match config.problem() {
        Some(problem) => bail!("not an SSAMBA checkpoint: {problem}"),
        None => Ok(config),
    }
}

/// Takes tensors by name and notes everything that does not fit.
struct Reader<'a> {
    tensors: &'a BTreeMap<String, Tensor>,
    mismatch: Mismatch,
    /// Every name asked for, with the shape it is stored in.
    layout: BTreeMap<String, Vec<usize>>,
}

impl<'a> Reader<'a> {
    fn new(tensors: &'a BTreeMap<String, Tensor>) -> Self {
        Self { tensors, mismatch: Mismatch::default(), layout: BTreeMap::new() }
    }

    /// The tensor in `f32`, reshaped to `shape`, if its own shape is `stored`.
    fn get(&mut self, name: &str, stored: &[usize], shape: &[usize]) -> Option<Tensor> {
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

    fn same(&mut self, name: &str, shape: &[usize]) -> Option<Tensor> {
        self.get(name, shape, shape)
    }

    fn norm(&mut self, prefix: &str, width: usize, kind: NormKind) -> Option<NormWeights> {
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

    /// `b` is empty for the unsuffixed set and `_b` for the other.
    fn stream(&mut self, prefix: &str, b: &str, config: &Config) -> Option<StreamWeights> {
        let &Config { d_inner, d_state, d_conv, dt_rank, .. } = config;
        let conv_weight = self.get(
            &format!("{prefix}.conv1d{b}.weight"),
            &[d_inner, 1, d_conv],
            &[d_inner, d_conv],
        );
        let conv_bias = self.same(&format!("{prefix}.conv1d{b}.bias"), &[d_inner]);
        let x_proj =
            self.same(&format!("{prefix}.x_proj{b}.weight"), &[config.x_proj_width(), d_inner]);
        let dt_proj = self.same(&format!("{prefix}.dt_proj{b}.weight"), &[d_inner, dt_rank]);
        let dt_bias = self.same(&format!("{prefix}.dt_proj{b}.bias"), &[d_inner]);
        let a_log = self.same(&format!("{prefix}.A{b}_log"), &[d_inner, d_state]);
        let d_skip = self.same(&format!("{prefix}.D{b}"), &[d_inner]);
        Some(StreamWeights {
            conv_weight: conv_weight?,
            conv_bias: conv_bias?,
            x_proj: x_proj?,
            dt_proj: dt_proj?,
            dt_bias: dt_bias?,
            a_log: a_log?,
            d_skip: d_skip?,
        })
    }

    fn layer(&mut self, index: usize, config: &Config, norm: NormKind) -> Option<LayerWeights> {
        let &Config { d_model, d_inner, .. } = config;
        let prefix = format!("v.layers.{index}.mixer");
        let forward = self.stream(&prefix, "", config);
        let reverse = self.stream(&prefix, "_b", config);
        let in_proj = self.same(&format!("{prefix}.in_proj.weight"), &[2 * d_inner, d_model]);
        let out_proj = self.same(&format!("{prefix}.out_proj.weight"), &[d_model, d_inner]);
        let norm = self.norm(&format!("v.layers.{index}.norm"), d_model, norm);
        Some(LayerWeights {
            norm: norm?,
            mixer: MixerWeights {
                in_proj: in_proj?,
                forward: forward?,
                reverse: reverse?,
                out_proj: out_proj?,
            },
        })
    }

    fn head(&mut self, classes: usize, d_model: usize) -> Option<HeadWeights> {
        let norm = self.norm("mlp_head.0", d_model, NormKind::Layer);
        let weight = self.same("mlp_head.1.weight", &[classes, d_model]);
        let bias = self.same("mlp_head.1.bias", &[classes]);
        Some(HeadWeights { norm: norm?, weight: weight?, bias: bias? })
    }

    /// `None` when anything did not fit; what it was is in `mismatch`.
    fn weights(&mut self, config: &Config, kind: NormKind, rows: usize) -> Option<Weights> {
        let &Config { d_model, patch_f, patch_t, .. } = config;
        let cls_token = self.get("v.cls_token", &[1, 1, d_model], &[d_model]);
        let pos_embed = self.get("v.pos_embed", &[1, rows, d_model], &[rows, d_model]);
        let patch_weight = self.get(
            "v.patch_embed.proj.weight",
            &[d_model, 1, patch_f, patch_t],
            &[d_model, patch_f, patch_t],
        );
        let patch_bias = self.same("v.patch_embed.proj.bias", &[d_model]);
        let layers: Vec<_> =
            (0..config.depth).map(|index| self.layer(index, config, kind)).collect();
        let norm_f = self.norm("v.norm_f", d_model, kind);
        let head = match config.n_classes {
            Some(classes) => Some(self.head(classes, d_model)),
            None => {
                // Part of a head is a damaged head, not its absence.
                if self.tensors.keys().any(|name| name.starts_with("mlp_head.")) {
                    self.mismatch.missing.push("mlp_head.1.weight".into());
                    return None;
                }
                None
            }
        };
        Some(Weights {
            config: *config,
            norm: kind,
            cls_token: cls_token?,
            pos_embed: pos_embed?,
            patch_weight: patch_weight?,
            patch_bias: patch_bias?,
            layers: layers.into_iter().collect::<Option<_>>()?,
            norm_f: norm_f?,
            head: match head {
                Some(head) => Some(head?),
                None => None,
            },
            pretraining_input: None,
            unused: Vec::new(),
        })
    }
}
