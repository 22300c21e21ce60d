//! SSAST as nodes: one file for each of `models/ssast`, under the same name.

pub(crate) mod attention;
pub(crate) mod block;

use anyhow::Result;
use ssamba_contract::io::FBANK;
use ssamba_model_common::NormKind;
use ssamba_ssast::{CLASS_TOKENS, Model, NORM_EPS};

use self::attention::Attention;
use super::{
    block::norm,
    head::{Pooling, Results, classify, pool},
    patch_embed::patch_embed,
};
use crate::graph::{GraphBuilder, Value};

/// The whole network, from the graph's input to its outputs.
pub(crate) fn lower(g: &mut GraphBuilder, model: &Model, form: Attention) -> Result<Results> {
    let weights = model.weights();
    let d_model = weights.config.d_model;
    let mut tokens = patch_embed(g, model.patch_embed(), &Value::named(FBANK))?;
    for (index, block) in weights.blocks.iter().enumerate() {
        tokens = g.scope(format!("block{index}"), |g| block::block(g, block, form, &tokens))?;
    }
    let kind = NormKind::Layer;
    let tokens = norm(g, "norm", kind, d_model, Some(&weights.norm), NORM_EPS, &tokens)?;
    let shape = Pooling {
        head: model.recipe().head,
        class_tokens: CLASS_TOKENS,
        seq_len: model.seq_len(),
        d_model,
    };
    let embedding = g.scope("pool", |g| pool(g, &shape, &tokens));
    let logits = match &weights.head {
        Some(head) => Some(classify(g, head, &embedding)?),
        None => None,
    };
    Ok(Results { logits, embedding, features: None })
}
