//! A checkpoint's names, and the only place that knows them.
//!
//! Names and shapes: YuanGongND/ssast@a1a3eec `src/models/ast_models.py` over the distilled DeiT of
//! timm 0.4.5. Loading is strict: every name that is missing, unexpected or mis-shaped is reported,
//! all at once.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};
use candle_core::Tensor;
use ssamba_model_common::{
    Checkpoint, HeadWeights, Mismatch, NormKind, NormWeights, Unused,
    reader::{Reader, pretraining_input},
    sizes,
};

use crate::{
    attention::AttentionWeights,
    block::{BlockWeights, MlpWeights},
    config::Config,
};

/// All parameters that inference uses, in `f32`.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Sizes inferred from the tensors.
    pub config: Config,
    /// `[d_model]`
    pub cls_token: Tensor,
    /// `[d_model]`
    pub dist_token: Tensor,
    /// `[2 + patches, d_model]`; the first rows belong to the class and the distillation token.
    pub pos_embed: Tensor,
    /// `[d_model, patch_f, patch_t]`; row 0 of a patch is the lowest mel bin.
    pub patch_weight: Tensor,
    /// `[d_model]`
    pub patch_bias: Tensor,
    /// In order.
    pub blocks: Vec<BlockWeights>,
    /// The final norm.
    pub norm: NormWeights,
    /// Absent in pretraining files.
    pub head: Option<HeadWeights>,
    /// Mel bins and frames of the pretraining input, in pretraining files.
    pub pretraining_input: Option<(usize, usize)>,
    /// Names in the file that inference never uses, with the reason.
    pub unused: Unused,
}

/// Names that no forward pass reads.
const NEVER_CALLED: (&str, &[&str]) = (
    "a 1000-class head that the network never calls",
    &["v.head.weight", "v.head.bias", "v.head_dist.weight", "v.head_dist.bias"],
);

/// What a checkpoint's names and shapes tell, whether they fit or not.
#[derive(Clone, Debug)]
pub struct Audit {
    /// Sizes inferred from the tensors.
    pub config: Config,
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
            (Audit { mismatch, .. }, _) => bail!("the checkpoint does not fit SSAST: {mismatch}"),
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
        let block = |block: &BlockWeights| {
            let BlockWeights { norm1, attention, norm2, mlp } = block;
            let linear = [
                &attention.qkv,
                &attention.qkv_bias,
                &attention.proj,
                &attention.proj_bias,
                &mlp.fc1,
                &mlp.fc1_bias,
                &mlp.fc2,
                &mlp.fc2_bias,
            ];
            norm1.parameters()
                + norm2.parameters()
                + linear.into_iter().map(Tensor::elem_count).sum::<usize>()
        };
        [&self.cls_token, &self.dist_token, &self.pos_embed, &self.patch_weight, &self.patch_bias]
            .into_iter()
            .map(Tensor::elem_count)
            .sum::<usize>()
            + self.blocks.iter().map(block).sum::<usize>()
            + self.norm.parameters()
            + self.head.as_ref().map_or(0, HeadWeights::parameters)
    }
}

fn audit(tensors: &BTreeMap<String, Tensor>) -> Result<(Audit, Option<Weights>)> {
    let config = infer(tensors)?;
    let rows = tensors
        .get("v.pos_embed")
        .and_then(|tensor| tensor.dims().get(1).copied())
        .unwrap_or_default();
    let mut reader = Reader::new(tensors);
    let weights = take(&mut reader, &config, rows);
    let (unused, mismatch) = reader.finish(NEVER_CALLED);
    Ok((Audit { config, unused, mismatch }, weights))
}

/// Names and stored shapes of all parameters that inference uses, for a network of these sizes
/// with a position table of `seq_len` rows.
pub fn layout(config: &Config, seq_len: usize) -> BTreeMap<String, Vec<usize>> {
    let nothing = BTreeMap::new();
    let mut reader = Reader::new(&nothing);
    take(&mut reader, config, seq_len);
    reader.into_layout()
}

/// Infers all sizes; each from the first tensor that tells it.
fn infer(tensors: &BTreeMap<String, Tensor>) -> Result<Config> {
    let dims = |name: &str| tensors.get(name).map(Tensor::dims);
    let depth = sizes::depth(tensors, "v.blocks.");
    // Any block will do, so that one missing tensor does not hide the sizes.
    let of_block = |leaf: &str, axis: usize| {
        (0..depth.unwrap_or(0))
            .find_map(|block| dims(&format!("v.blocks.{block}.{leaf}"))?.get(axis).copied())
    };
    let patch = dims("v.patch_embed.proj.weight");
    let needed = [
        (
            "v.blocks.*.attn.qkv.weight or v.cls_token",
            of_block("attn.qkv.weight", 1).or_else(|| dims("v.cls_token")?.last().copied()),
        ),
        ("v.blocks.*", depth),
        (
            "v.blocks.*.mlp.fc1.weight or fc2.weight",
            of_block("mlp.fc1.weight", 0).or_else(|| of_block("mlp.fc2.weight", 1)),
        ),
        ("v.patch_embed.proj.weight", patch.and_then(|dims| dims.get(2).copied())),
        ("v.patch_embed.proj.weight", patch.and_then(|dims| dims.get(3).copied())),
    ];
    let [d_model, depth, d_mlp, patch_f, patch_t] = sizes::demand("SSAST", tensors, needed)?;
    let n_classes = sizes::n_classes(tensors);
    let config = Config { d_model, depth, d_mlp, patch_f, patch_t, n_classes };
    match config.problem() {
        Some(problem) => bail!("not an SSAST checkpoint: {problem}"),
        None => Ok(config),
    }
}

fn block(reader: &mut Reader<'_>, index: usize, config: &Config) -> Option<BlockWeights> {
    let &Config { d_model, d_mlp, .. } = config;
    let prefix = format!("v.blocks.{index}");
    let norm1 = reader.norm(&format!("{prefix}.norm1"), d_model, NormKind::Layer);
    let norm2 = reader.norm(&format!("{prefix}.norm2"), d_model, NormKind::Layer);
    let mut linear = |name: &str, rows: usize, columns: usize| {
        let weight = reader.same(&format!("{prefix}.{name}.weight"), &[rows, columns]);
        let bias = reader.same(&format!("{prefix}.{name}.bias"), &[rows]);
        Some((weight?, bias?))
    };
    let qkv = linear("attn.qkv", 3 * d_model, d_model);
    let proj = linear("attn.proj", d_model, d_model);
    let fc1 = linear("mlp.fc1", d_mlp, d_model);
    let fc2 = linear("mlp.fc2", d_model, d_mlp);
    let ((qkv, qkv_bias), (proj, proj_bias)) = (qkv?, proj?);
    let ((fc1, fc1_bias), (fc2, fc2_bias)) = (fc1?, fc2?);
    Some(BlockWeights {
        norm1: norm1?,
        attention: AttentionWeights { qkv, qkv_bias, proj, proj_bias },
        norm2: norm2?,
        mlp: MlpWeights { fc1, fc1_bias, fc2, fc2_bias },
    })
}

/// `None` when anything did not fit; the reader knows what it was.
fn take(reader: &mut Reader<'_>, config: &Config, rows: usize) -> Option<Weights> {
    let &Config { d_model, patch_f, patch_t, .. } = config;
    let cls_token = reader.get("v.cls_token", &[1, 1, d_model], &[d_model]);
    let dist_token = reader.get("v.dist_token", &[1, 1, d_model], &[d_model]);
    let pos_embed = reader.get("v.pos_embed", &[1, rows, d_model], &[rows, d_model]);
    let patch_weight = reader.get(
        "v.patch_embed.proj.weight",
        &[d_model, 1, patch_f, patch_t],
        &[d_model, patch_f, patch_t],
    );
    let patch_bias = reader.same("v.patch_embed.proj.bias", &[d_model]);
    let blocks: Vec<_> = (0..config.depth).map(|index| block(reader, index, config)).collect();
    let norm = reader.norm("v.norm", d_model, NormKind::Layer);
    let head = reader.head(config.n_classes, d_model);
    Some(Weights {
        config: *config,
        cls_token: cls_token?,
        dist_token: dist_token?,
        pos_embed: pos_embed?,
        patch_weight: patch_weight?,
        patch_bias: patch_bias?,
        blocks: blocks.into_iter().collect::<Option<_>>()?,
        norm: norm?,
        head: head?,
        pretraining_input: None,
        unused: Unused::new(),
    })
}
