//! An exported file, read into tract.

use std::{collections::BTreeMap, num::NonZeroUsize};

use anyhow::{Result, anyhow, bail};
use ssamba_contract::{
    Card,
    op::{DOMAIN, VERSION, contrib},
};
use tract_onnx::{
    pb::ModelProto,
    prelude::{Datum, Framework, InferenceModel},
    tract_hir::{infer::Factoid, internal::DimLike},
};

use crate::{
    integer_product,
    operator::{register, set_threads},
    quantize,
    selective_scan::SelectiveScan,
    session::guarded,
    short_conv::ShortConv,
};

/// The card, the names of the outputs, and the graph.
pub(crate) fn read(
    bytes: &[u8],
    threads: NonZeroUsize,
) -> Result<(Card, Vec<String>, InferenceModel)> {
    // Facts of inner values may name the batch, which tract does not unify with a number.
    let mut onnx = tract_onnx::onnx().with_ignore_value_info(true);
    register::<SelectiveScan>(&mut onnx);
    register::<ShortConv>(&mut onnx);
    integer_product::register(&mut onnx);
    quantize::register(&mut onnx);
    let proto = onnx
        .proto_model_for_read(&mut &bytes[..])
        .map_err(|_| anyhow!("it is not an ONNX model"))?;
    let version = proto.opset_import.iter().find(|opset| opset.domain == DOMAIN);
    if let Some(opset) = version.filter(|opset| opset.version != VERSION) {
        bail!("its operators are of version {}, this program has {VERSION}", opset.version);
    }
    let card = card(&proto)?;
    if let Some(reason) = card.beyond_tract() {
        bail!(reason);
    }
    // By domain: tract looks nodes up by type alone.
    let mut nodes = proto.graph.iter().flat_map(|graph| &graph.node);
    if let Some(node) = nodes.find(|node| node.domain == contrib::DOMAIN) {
        bail!(
            "it holds `{}::{}`, which ONNX Runtime alone has: run it there, or export with plain attention",
            node.domain,
            node.op_type
        );
    }
    let outputs =
        proto.graph.iter().flat_map(|graph| &graph.output).map(|output| output.name.clone());
    let outputs: Vec<String> = outputs.collect();
    let mut model = guarded(|| onnx.model_for_proto_model(&proto))?;
    check_graph(&model, &card)?;
    set_threads::<SelectiveScan>(&mut model, threads);
    set_threads::<ShortConv>(&mut model, threads);
    Ok((card, outputs, model))
}

fn card(proto: &ModelProto) -> Result<Card> {
    let entries: BTreeMap<String, String> =
        proto.metadata_props.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
    Ok(Card::from_metadata(&entries)?)
}

/// Whether the graph takes what the card says it takes.
fn check_graph(model: &InferenceModel, card: &Card) -> Result<()> {
    let names: Vec<&str> =
        model.inputs.iter().map(|input| model.nodes[input.node].name.as_str()).collect();
    let input = card.input_name();
    if names != [input] {
        bail!("the graph takes the inputs {names:?}, expected `{input}` alone");
    }
    let fact = model.input_fact(0)?;
    let sizes: Vec<Option<usize>> = fact
        .shape
        .dims()
        .map(|size| size.concretize().and_then(|size| size.to_usize().ok()))
        .collect();
    let expected = card.input_axes();
    let fits = sizes.len() == expected.len()
        && sizes
            .iter()
            .zip(expected)
            .all(|(&got, expected)| got.is_none() || expected.is_none() || got == expected);
    if !fits || fact.datum_type.concretize() != Some(f32::datum_type()) {
        bail!(
            "the graph's `{input}` is {fact:?}, but its card says f32 of shape {}",
            card.input_shape()
        );
    }
    Ok(())
}
