//! SSAST as nodes: one file for each of `models/ssast`, under the same name.

pub(crate) mod attention;
pub(crate) mod block;

use anyhow::{Result, bail};
use ssamba_contract::Lowering;
use ssamba_model_common::NormKind;
use ssamba_ssast::{CLASS_TOKENS, Model, NORM_EPS};

use super::{
    block::{Affine, norm},
    head::{Pooling, Results, classify, pool},
    patch_embed::patch_embed,
};
use crate::{
    Options, Precision,
    export::{for_gpu, values},
    graph::{GraphBuilder, Value},
};

/// The whole network, from filter banks to its outputs.
pub(crate) fn lower(
    g: &mut GraphBuilder,
    model: &Model,
    options: &Options,
    fbank: &Value,
) -> Result<Results> {
    if options.lowering != Lowering::Function {
        bail!(
            "SSAST has no recurrence to lower as `{}`, leave the lowering out: with plain attention \
             its file holds standard operators alone",
            options.lowering
        );
    }
    let (form, precision) = (options.attention.unwrap_or_default(), values(options));
    let weights = model.weights();
    let d_model = weights.config.d_model;
    let front_end = &model.recipe().front_end;
    let input = (front_end.n_frames, front_end.n_mels);
    let gpu = for_gpu(options);
    let placed = patch_embed(g, model.patch_embed(), precision, gpu, input, fbank)?;
    let mut tokens = placed.sum(g);
    for (index, block) in weights.blocks.iter().enumerate() {
        tokens =
            g.scope(format!("block{index}"), |g| block::block(g, block, form, precision, &tokens))?;
    }
    let wide = Precision::F32;
    if precision != wide {
        tokens = g.scope("norm", |g| g.cast(&tokens, wide));
    }
    let kind = NormKind::Layer;
    let tokens =
        norm(g, "norm", kind, wide, d_model, Affine::Weights(&weights.norm), NORM_EPS, &tokens)?;
    let shape =
        Pooling { head: model.recipe().head, class_tokens: CLASS_TOKENS, seq_len: model.seq_len() };
    let embedding = g.scope("pool", |g| pool(g, &shape, &tokens));
    let logits = match &weights.head {
        Some(head) => Some(classify(g, head, &embedding)?),
        None => None,
    };
    Ok(Results { logits, embedding, features: None })
}
