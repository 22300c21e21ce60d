//! A network and its card to one `.onnx` file.

use anyhow::{Context, Result, bail};
use onnx_protobuf::{
    FunctionProto, GraphProto, ModelProto, StringStringEntryProto, ValueInfoProto,
};
use protobuf::Message;
use ssamba_contract::{
    Card, Input, Lowering, Scores,
    io::{BATCH, EMBEDDING, FBANK, FEATURES, LOGITS, SAMPLES, SCORES, WAVEFORM},
    op::{Combine, Layout},
};
use ssamba_model::{Config, Head, Model, head::SECONDS};

use crate::{
    Attention, Network, Precision,
    conv_function::ConvConfiguration,
    function::{ScanConfiguration, model_proto},
    graph::{Attribute, Axis, Constants, GraphBuilder, Value, float_value},
    lower::{
        block::Encoder,
        front_end::front_end,
        head::{Results, head},
        linear_attention,
        patch_embed::patch_embed,
        ssast,
    },
    norm_function,
    quantize::{Layer, Quantizer, Selection},
    shapes::{self, Limit},
};

/// What can be chosen about an export.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Lower the two layers of a pair as one step; ignored where the recipe has no pairs.
    pub pair_fusion: bool,
    /// Put out the pooled embedding beside the logits.
    pub embedding: bool,
    /// How the attention of SSAST is written; `None` is [`Attention::Plain`], and all that SSAMBA
    /// takes.
    pub attention: Option<Attention>,
    /// Of the layers: in half precision the residual, the sequences of the mixers and their matrices
    /// are `f16`; the norms, the convolutions, the state of the scan and its parameters, the patch
    /// embedding and the head compute in `f32`, and so do input and outputs. Attention and MLP of
    /// SSAST are `f16` throughout. In eight bits, for CPUs, the large matrices of either network are
    /// stored so, and those of the in- and out-projections, of attention and MLP multiplied so; the
    /// rest computes in `f32`.
    pub precision: Precision,
    /// How convolutions and recurrences are written; SSAST, which has none, takes the default.
    pub lowering: Lowering,
    /// Clips that a run takes; `None` leaves it free.
    pub batch: Option<usize>,
    /// What the file takes: filter banks, or a waveform, and then the front end is in the graph and
    /// the scores are an output beside the logits.
    pub input: Input,
    /// Lay the patch embedding, SSAMBA's own operators and the products before them out for a GPU, which
    /// would rather multiply by zeros than copy: less memory, and on a CPU less speed. Half precision
    /// always is, in files with our operators.
    pub gpu: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pair_fusion: true,
            embedding: false,
            attention: None,
            precision: Precision::default(),
            lowering: Lowering::default(),
            batch: None,
            input: Input::default(),
            gpu: false,
        }
    }
}

/// Of the values between the products.
pub(crate) fn values(options: &Options) -> Precision {
    match options.precision {
        Precision::F32 | Precision::I8 => Precision::F32,
        Precision::F16 => Precision::F16,
    }
}

/// Whether a file is laid out for a GPU that has our operators.
pub(crate) fn for_gpu(options: &Options) -> bool {
    (options.gpu || options.precision == Precision::F16) && options.lowering == Lowering::Function
}

/// SSAMBA: the outputs, and the functions that the nodes need.
fn ssamba(
    g: &mut GraphBuilder,
    model: &Model,
    options: &Options,
    fbank: &Value,
) -> Result<(Results, Vec<FunctionProto>)> {
    let config = &model.weights().config;
    let recipe = model.recipe();
    let fuse = options.pair_fusion && recipe.pairwise;
    let groups = if fuse { 2 } else { 1 };
    let reverse = [false, true].repeat(groups);
    let gpu = for_gpu(options);
    let layout = match options.lowering {
        Lowering::Function if !gpu => Layout::Streams,
        _ => Layout::Channels,
    };
    let conv = ConvConfiguration {
        groups,
        reverse: reverse.clone(),
        d_inner: config.d_inner,
        d_conv: config.d_conv,
        layout,
        precision: values(options),
    };
    // In single precision a file for a GPU cuts `dt` out of the product with the x-projection, for a
    // smaller product of its own, and so the others.
    let streams_of_row = match layout {
        Layout::Streams => Some(1),
        Layout::Channels => (gpu && options.precision == Precision::F16).then_some(reverse.len()),
    };
    let columns = streams_of_row.map(|streams| {
        let [ranks, states] = [config.dt_rank, config.d_state].map(|width| streams * width);
        [ranks, ranks + states]
    });
    let scan = ScanConfiguration {
        groups,
        reverse,
        // What the scan puts out takes the place of what it reads, and the out-projection adds the
        // directions: worth it where products cost least.
        combine: match options.precision {
            Precision::F32 | Precision::I8 => Combine::Sum,
            Precision::F16 => Combine::None,
        },
        // Halving is a power of two, folded into the out-projection.
        scale: 1.0,
        d_inner: config.d_inner,
        d_state: config.d_state,
        layout,
        columns,
        precision: values(options),
    };

    let precision = values(options);
    let lowering = options.lowering;
    let encoder = Encoder { model, conv: &conv, scan: &scan, precision, lowering, gpu };
    let input = (recipe.front_end.n_frames, recipe.front_end.n_mels);
    let placed = patch_embed(g, model.patch_embed(), precision, gpu, input, fbank)?;
    let (mut rho, k) = encoder.layers(g, placed, fuse)?;
    if precision != Precision::F32 {
        rho = g.scope("norm_f", |g| g.cast(&rho, Precision::F32));
    }
    let results = head(g, &encoder, &rho, k)?;
    let functions = match options.lowering {
        Lowering::Function => {
            let norm = encoder.adds_in_norms().then(norm_function::function);
            [conv.function(), scan.function()].into_iter().chain(norm).collect()
        }
        _ => Vec::new(),
    };
    Ok((results, functions))
}

/// A file, and what of it could be stored in fewer bits.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The file.
    pub bytes: Vec<u8>,
    /// Every layer that a [`Selection`] can choose, in the order of the graph; none but in
    /// [`Precision::I8`].
    pub layers: Vec<Layer>,
}

/// Lowers `network` to the bytes of an `.onnx` file that carries `card`, with what `options` say of
/// the file entered; the same input always gives the same bytes.
///
/// # Errors
/// When an option is not for this network, the network's tensors cannot be read, or the file would
/// pass protobuf's limit of 2 GiB.
pub fn export(network: &Network, card: &Card, options: &Options) -> Result<Vec<u8>> {
    Ok(export_selected(network, card, options, &Selection::All)?.bytes)
}

/// [`export`] with the choice of the layers that are stored in fewer bits in [`Precision::I8`]; where
/// none is left, the file says that it is in single precision.
///
/// # Errors
/// As [`export`].
pub fn export_selected(
    network: &Network,
    card: &Card,
    options: &Options,
    selection: &Selection,
) -> Result<Quantized> {
    let mut g = GraphBuilder::new(Constants::Initializers);
    if options.precision == Precision::I8 {
        if options.gpu {
            bail!(
                "a file in int8 is for CPUs, and cannot be laid out for a GPU: export one or the other"
            );
        }
        match options.lowering {
            Lowering::Chunk => bail!(
                "files of chunks are for TensorRT, which has no products in int8: export one or the other"
            ),
            Lowering::LinearAttention => {
                bail!("`linear-attention` is for GPUs, and int8 for CPUs: export one or the other")
            }
            _ => {}
        }
        g.quantizer = Quantizer::new(selection);
    }
    let fbank = match options.input {
        Input::Fbank => Value::named(FBANK),
        Input::Waveform => front_end(&mut g, &card.front_end, &Value::named(WAVEFORM))?,
    };
    let (results, functions) = match network {
        Network::Ssamba(model) => {
            if let Some(attention) = options.attention {
                bail!("SSAMBA has no attention to lower as `{attention}`, only SSAST has");
            }
            ssamba(&mut g, model, options, &fbank)?
        }
        Network::Ssast(model) => (ssast::lower(&mut g, model, options, &fbank)?, Vec::new()),
    };
    let output = outputs(&mut g, network, &results, card.scores, options);
    let layers = g.quantizer.layers().to_vec();
    let precision = match layers.iter().any(|layer| selection.contains(&layer.name)) {
        true => options.precision,
        false => values(options),
    };

    let &Options { lowering, batch, input, .. } = options;
    let card = Card { precision, lowering, batch, input, ..card.clone() };
    let graph = GraphProto {
        name: network.architecture().to_string(),
        input: vec![float_value(card.input_name(), &input_axes(&card))],
        output,
        ..g.into_graph()
    };
    if let Network::Ssamba(model) = network {
        let one = Card { batch: None, ..card.clone() };
        let inputs = [(card.input_name(), one.window_shape(1))];
        shapes::check(&graph, &functions, &inputs, limit(model, lowering))?;
    }
    let metadata = card.to_metadata().into_iter();
    let proto = ModelProto {
        metadata_props: metadata
            .map(|(key, value)| StringStringEntryProto { key, value, ..Default::default() })
            .collect(),
        ..model_proto(graph, functions)
    };
    let bytes = proto.write_to_bytes().context("the file cannot be serialised")?;
    Ok(Quantized { bytes, layers })
}

/// What no value of a file may hold.
fn limit(model: &Model, lowering: Lowering) -> Limit {
    let config = &model.weights().config;
    let allowed = match lowering {
        // The operator asks for every decay, and gets as many as can be bound.
        Lowering::LinearAttention => linear_attention::BINDING / size_of::<f32>(),
        _ => 0,
    };
    let &Config { d_inner, d_state, .. } = config;
    Limit { seq_len: model.seq_len(), d_inner, d_state, allowed }
}

/// Free axes are the batch and, of a waveform, the samples.
fn input_axes(card: &Card) -> Vec<Axis> {
    let axes = card.input_axes().into_iter().zip([BATCH, SAMPLES]);
    let axes = axes.map(|(axis, name)| axis.map_or(Axis::Named(name), Axis::Fixed));
    axes.chain(card.input_axes().into_iter().skip(2).flatten().map(Axis::Fixed)).collect()
}

fn batch(options: &Options) -> Axis {
    options.batch.map_or(Axis::Named(BATCH), Axis::Fixed)
}

/// Names the outputs and declares their shapes.
fn outputs(
    g: &mut GraphBuilder,
    network: &Network,
    results: &Results,
    scores: Scores,
    options: &Options,
) -> Vec<ValueInfoProto> {
    let config = network.sizes();
    let per_second = network.recipe().head == Head::PerSecond;
    let clip = |width| match per_second {
        true => vec![batch(options), Axis::Fixed(SECONDS), Axis::Fixed(width)],
        false => vec![batch(options), Axis::Fixed(width)],
    };
    let mut declared = Vec::new();
    if let Some(logits) = &results.logits {
        g.output(logits, LOGITS);
        let axes = clip(config.n_classes.unwrap_or_default());
        declared.push(float_value(LOGITS, &axes));
        if options.input == Input::Waveform {
            let scores = match scores {
                Scores::Softmax => g.node("Softmax", &[logits], &[("axis", Attribute::Int(-1))]),
                Scores::Sigmoid => g.node("Sigmoid", &[logits], &[]),
            };
            g.output(&scores, SCORES);
            declared.push(float_value(SCORES, &axes));
        }
    }
    if let Some(features) = &results.features {
        let (rows, columns) = network.grid();
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

/// The card of a network: what its recipe and sizes say, plus where it came from. [`export`] enters
/// what its options decide.
///
/// # Errors
/// When the recipe's words cannot be spelled; [`Weights::with`](crate::Weights::with) has checked that
/// there is a label for each class.
pub fn card(network: &Network, name: &str, checkpoint_sha256: &str) -> Result<Card> {
    let recipe = network.recipe();
    Ok(Card {
        name: name.into(),
        labels: if network.sizes().n_classes.is_some() {
            recipe.labels.clone()
        } else {
            Vec::new()
        },
        scores: recipe.scores,
        recipe: recipe.name.clone(),
        front_end: recipe.front_end.clone(),
        checkpoint_sha256: checkpoint_sha256.into(),
        converter: concat!("ssamba-edge ", env!("CARGO_PKG_VERSION")).into(),
        network: network.summary()?,
        input: Input::default(),
        precision: Precision::default(),
        lowering: Lowering::default(),
        batch: None,
        self_test: None,
    })
}
