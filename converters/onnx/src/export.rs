//! A model and its card to one `.onnx` file.

use anyhow::{Context, Result};
use onnx_protobuf::{GraphProto, ModelProto, StringStringEntryProto, ValueInfoProto};
use protobuf::Message;
use ssamba_contract::{
    Card, Lowering,
    io::{BATCH, EMBEDDING, FBANK, FEATURES, LOGITS},
};
use ssamba_model::{Head, Model, head::SECONDS};

use crate::{
    conv_function::ConvConfiguration,
    function::{ScanConfiguration, model_proto},
    graph::{Axis, Constants, GraphBuilder, Precision, Value, float_value},
    lower::{
        block::Encoder,
        head::{Results, head},
        patch_embed::patch_embed,
    },
};

/// What can be chosen about an export.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Lower the two layers of a pair as one step; ignored where the recipe has no pairs.
    pub pair_fusion: bool,
    /// Put out the pooled embedding beside the logits.
    pub embedding: bool,
    /// Of the layers: in half precision the residual, the sequences of the mixers and their matrices
    /// are `f16`; the norms, the convolutions, the state of the scan and its parameters, the patch
    /// embedding and the head compute in `f32`, and so do input and outputs.
    pub precision: Precision,
    /// How convolutions and recurrences are written.
    pub lowering: Lowering,
    /// Clips that a run takes; `None` leaves it free.
    pub batch: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pair_fusion: true,
            embedding: false,
            precision: Precision::default(),
            lowering: Lowering::default(),
            batch: None,
        }
    }
}

/// Lowers `model` to the bytes of an `.onnx` file that carries `card`, with what `options` say of the
/// file entered; the same input always gives the same bytes.
///
/// # Errors
/// When the model's tensors cannot be read, or the file would pass protobuf's limit of 2 GiB.
pub fn export(model: &Model, card: &Card, options: &Options) -> Result<Vec<u8>> {
    let config = &model.weights().config;
    let recipe = model.recipe();
    let fuse = options.pair_fusion && recipe.pairwise;
    let groups = if fuse { 2 } else { 1 };
    let reverse = [false, true].repeat(groups);
    let conv = ConvConfiguration {
        groups,
        reverse: reverse.clone(),
        d_inner: config.d_inner,
        d_conv: config.d_conv,
        precision: options.precision,
    };
    let scan = ScanConfiguration {
        groups,
        reverse,
        // Halving is a power of two, folded into the out-projection.
        scale: 1.0,
        d_inner: config.d_inner,
        d_state: config.d_state,
        precision: options.precision,
    };

    let mut g = GraphBuilder::new(Constants::Initializers);
    let precision = options.precision;
    let encoder =
        Encoder { model, conv: &conv, scan: &scan, precision, lowering: options.lowering };
    let mut tokens = patch_embed(&mut g, model, &Value::named(FBANK))?;
    if precision != Precision::F32 {
        tokens = g.scope("patch_embed", |g| g.cast(&tokens, precision));
    }
    let (mut rho, k) = encoder.layers(&mut g, tokens, fuse)?;
    if precision != Precision::F32 {
        rho = g.scope("norm_f", |g| g.cast(&rho, Precision::F32));
    }
    let results = head(&mut g, &encoder, &rho, k)?;
    let output = outputs(&mut g, model, &results, options);

    let front_end = &card.front_end;
    let input_axes =
        [batch(options), Axis::Fixed(front_end.n_frames), Axis::Fixed(front_end.n_mels)];
    let graph = GraphProto {
        name: "ssamba".into(),
        input: vec![float_value(FBANK, &input_axes)],
        output,
        ..g.into_graph()
    };
    let functions = match options.lowering {
        Lowering::Function => vec![conv.function(), scan.function()],
        Lowering::Chunk => Vec::new(),
    };
    let card = Card { lowering: options.lowering, batch: options.batch, ..card.clone() };
    let metadata = card.to_metadata().into_iter();
    let proto = ModelProto {
        metadata_props: metadata
            .map(|(key, value)| StringStringEntryProto { key, value, ..Default::default() })
            .collect(),
        ..model_proto(graph, functions)
    };
    proto.write_to_bytes().context("the file cannot be serialised")
}

fn batch(options: &Options) -> Axis {
    options.batch.map_or(Axis::Named(BATCH), Axis::Fixed)
}

/// Names the outputs and declares their shapes.
fn outputs(
    g: &mut GraphBuilder,
    model: &Model,
    results: &Results,
    options: &Options,
) -> Vec<ValueInfoProto> {
    let config = &model.weights().config;
    let per_second = model.recipe().head == Head::PerSecond;
    let clip = |width| match per_second {
        true => vec![batch(options), Axis::Fixed(SECONDS), Axis::Fixed(width)],
        false => vec![batch(options), Axis::Fixed(width)],
    };
    let mut declared = Vec::new();
    if let Some(logits) = &results.logits {
        g.output(logits, LOGITS);
        declared.push(float_value(LOGITS, &clip(config.n_classes.unwrap_or_default())));
    }
    if let Some(features) = &results.features {
        let (rows, columns) = model.grid();
        g.output(features, FEATURES);
        let axes = [batch(options), Axis::Fixed(columns), Axis::Fixed(rows * config.d_model)];
        declared.push(float_value(FEATURES, &axes));
    }
    // A file without a classifier is a feature extractor: it always puts out its embedding.
    if options.embedding || declared.is_empty() {
        g.output(&results.embedding, EMBEDDING);
        declared.push(float_value(EMBEDDING, &clip(config.d_model)));
    }
    declared
}

/// The card of a model: what its recipe and sizes say, plus where it came from. [`export`] enters
/// what its options decide.
///
/// # Errors
/// When the recipe's words cannot be spelled; [`Model::new`] has checked that there is a label for
/// each class.
pub fn card(model: &Model, name: &str, checkpoint_sha256: &str) -> Result<Card> {
    let recipe = model.recipe();
    let config = &model.weights().config;
    let (rows, columns) = model.grid();
    let head = serde_json::to_value(recipe.head)?;
    let norm = serde_json::to_value(model.norm())?;
    let network = format!(
        "d_model={} depth={} d_inner={} d_state={} patch={}x{} stride={}x{} grid={rows}x{columns} \
         tokens={} head={} norm={} pairwise={} halve={} gflop={:.3}",
        config.d_model,
        config.depth,
        config.d_inner,
        config.d_state,
        config.patch_f,
        config.patch_t,
        recipe.stride_f,
        recipe.stride_t,
        model.seq_len(),
        head.as_str().unwrap_or_default(),
        norm.as_str().unwrap_or_default(),
        recipe.pairwise,
        recipe.halve,
        2.0 * config.macs(model.seq_len()) as f64 / 1e9,
    );
    Ok(Card {
        name: name.into(),
        labels: if config.n_classes.is_some() { recipe.labels.clone() } else { Vec::new() },
        scores: recipe.scores,
        recipe: recipe.name.clone(),
        front_end: recipe.front_end.clone(),
        checkpoint_sha256: checkpoint_sha256.into(),
        converter: concat!("ssamba-edge ", env!("CARGO_PKG_VERSION")).into(),
        network,
        lowering: Lowering::default(),
        batch: None,
    })
}
