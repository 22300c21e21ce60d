//! A checkpoint's names, and the only place that knows them.
//!
//! Names and shapes: SiavashShams/ssamba@019b276 `src/models/both_models.py` over hustvl/Vim@6143d07
//! `mamba-1p1p1/mamba_ssm/modules/mamba_simple.py:94-165`. Loading is strict: every name that is
//! missing, unexpected or mis-shaped is reported, all at once.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};
use candle_core::Tensor;
use ssamba_model_common::{
    Checkpoint, NormKind, Unused,
    reader::{Reader, pretraining_input},
    sizes,
};
pub use ssamba_model_common::{HeadWeights, Mismatch, NormWeights};

use crate::config::Config;

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
    pub unused: Unused,
}

/// Names that no forward pass reads.
const NEVER_CALLED: (&str, &[&str]) =
    ("a 1000-class head that the network never calls", &["v.head.weight", "v.head.bias"]);

/// What a checkpoint's names and shapes tell, whether they fit or not.
#[derive(Clone, Debug)]
pub struct Audit {
    /// Sizes inferred from the tensors.
    pub config: Config,
    /// Kind of norm that the file holds.
    pub norm: NormKind,
    /// Names in the file that inference never uses, with the reason.
    pub unused: Unused,
    /// What does not fit.
    pub mismatch: Mismatch,
}

impl Weights {
    /// Takes the parameters out of a checkpoint.
    ///
    /// # Errors
    /// One message that lists every missing, unexpected and mis-shaped name.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self> {
        Self::fit(&checkpoint.tensors)
            .map_err(|error| anyhow!("{}: {error:#}", checkpoint.path.display()))
    }

    fn fit(tensors: &BTreeMap<String, Tensor>) -> Result<Self> {
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
        let stream = |s: &StreamWeights| {
            [&s.conv_weight, &s.conv_bias, &s.x_proj, &s.dt_proj, &s.dt_bias, &s.a_log, &s.d_skip]
                .into_iter()
                .map(count)
                .sum::<usize>()
        };
        let layer = |layer: &LayerWeights| {
            let mixer = &layer.mixer;
            layer.norm.parameters()
                + count(&mixer.in_proj)
                + stream(&mixer.forward)
                + stream(&mixer.reverse)
                + count(&mixer.out_proj)
        };
        [&self.cls_token, &self.pos_embed, &self.patch_weight, &self.patch_bias]
            .into_iter()
            .map(count)
            .sum::<usize>()
            + self.layers.iter().map(layer).sum::<usize>()
            + self.norm_f.parameters()
            + self.head.as_ref().map_or(0, HeadWeights::parameters)
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
    let rows = tensors
        .get("v.pos_embed")
        .and_then(|tensor| tensor.dims().get(1).copied())
        .unwrap_or_default();
    let mut reader = Reader::new(tensors);
    let weights = take(&mut reader, &config, norm, rows);
    let (unused, mismatch) = reader.finish(NEVER_CALLED);
    Ok((Audit { config, norm, unused, mismatch }, weights))
}

/// Names and stored shapes of all parameters that inference uses, for a network of these sizes
/// with a position table of `seq_len` rows.
pub fn layout(config: &Config, norm: NormKind, seq_len: usize) -> BTreeMap<String, Vec<usize>> {
    let nothing = BTreeMap::new();
    let mut reader = Reader::new(&nothing);
    take(&mut reader, config, norm, seq_len);
    reader.into_layout()
}

fn count(tensor: &Tensor) -> usize {
    tensor.elem_count()
}

/// Infers all sizes; each from the first tensor that tells it.
fn infer(tensors: &BTreeMap<String, Tensor>) -> Result<Config> {
    let dims = |name: &str| tensors.get(name).map(Tensor::dims);
    let depth = sizes::depth(tensors, "v.layers.");
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
    let [d_model, depth, d_inner, d_state, d_conv, dt_rank, patch_f, patch_t] =
        sizes::demand("SSAMBA", tensors, needed)?;
    let n_classes = sizes::n_classes(tensors);
    let config =
        Config { d_model, depth, d_inner, d_state, d_conv, dt_rank, patch_f, patch_t, n_classes };
    match config.problem() {
        Some(problem) => bail!("not an SSAMBA checkpoint: {problem}"),
        None => Ok(config),
    }
}

/// `b` is empty for the unsuffixed set and `_b` for the other.
fn stream(
    reader: &mut Reader<'_>,
    prefix: &str,
    b: &str,
    config: &Config,
) -> Option<StreamWeights> {
    let &Config { d_inner, d_state, d_conv, dt_rank, .. } = config;
    let conv_weight = reader.get(
        &format!("{prefix}.conv1d{b}.weight"),
        &[d_inner, 1, d_conv],
        &[d_inner, d_conv],
    );
    let conv_bias = reader.same(&format!("{prefix}.conv1d{b}.bias"), &[d_inner]);
    let x_proj =
        reader.same(&format!("{prefix}.x_proj{b}.weight"), &[config.x_proj_width(), d_inner]);
    let dt_proj = reader.same(&format!("{prefix}.dt_proj{b}.weight"), &[d_inner, dt_rank]);
    let dt_bias = reader.same(&format!("{prefix}.dt_proj{b}.bias"), &[d_inner]);
    let a_log = reader.same(&format!("{prefix}.A{b}_log"), &[d_inner, d_state]);
    let d_skip = reader.same(&format!("{prefix}.D{b}"), &[d_inner]);
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

fn layer(
    reader: &mut Reader<'_>,
    index: usize,
    config: &Config,
    norm: NormKind,
) -> Option<LayerWeights> {
    let &Config { d_model, d_inner, .. } = config;
    let prefix = format!("v.layers.{index}.mixer");
    let forward = stream(reader, &prefix, "", config);
    let reverse = stream(reader, &prefix, "_b", config);
    let in_proj = reader.same(&format!("{prefix}.in_proj.weight"), &[2 * d_inner, d_model]);
    let out_proj = reader.same(&format!("{prefix}.out_proj.weight"), &[d_model, d_inner]);
    let norm = reader.norm(&format!("v.layers.{index}.norm"), d_model, norm);
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

/// `None` when anything did not fit; the reader knows what it was.
fn take(reader: &mut Reader<'_>, config: &Config, kind: NormKind, rows: usize) -> Option<Weights> {
    let &Config { d_model, patch_f, patch_t, .. } = config;
    let cls_token = reader.get("v.cls_token", &[1, 1, d_model], &[d_model]);
    let pos_embed = reader.get("v.pos_embed", &[1, rows, d_model], &[rows, d_model]);
    let patch_weight = reader.get(
        "v.patch_embed.proj.weight",
        &[d_model, 1, patch_f, patch_t],
        &[d_model, patch_f, patch_t],
    );
    let patch_bias = reader.same("v.patch_embed.proj.bias", &[d_model]);
    let layers: Vec<_> =
        (0..config.depth).map(|index| layer(reader, index, config, kind)).collect();
    let norm_f = reader.norm("v.norm_f", d_model, kind);
    let head = reader.head(config.n_classes, d_model);
    Some(Weights {
        config: *config,
        norm: kind,
        cls_token: cls_token?,
        pos_embed: pos_embed?,
        patch_weight: patch_weight?,
        patch_bias: patch_bias?,
        layers: layers.into_iter().collect::<Option<_>>()?,
        norm_f: norm_f?,
        head: head?,
        pretraining_input: None,
        unused: Vec::new(),
    })
}
