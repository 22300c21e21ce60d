//! An exported file, open in tract.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, bail};
use ssamba_contract::{
    Card, Outputs, Precision, Session, Tensor, default_threads,
    io::FBANK,
    op::{DOMAIN, VERSION, contrib},
};
use tract_onnx::{
    pb::ModelProto,
    prelude::{
        Datum, Framework, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, TValue,
        TypedRunnableModel, tvec,
    },
    tract_hir::{infer::Factoid, internal::DimLike},
};

use crate::{selective_scan, short_conv};

/// How to open a file.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Threads that compute one scan or short convolution; `None`: one for each core that this process may use. The
    /// products of matrices run on one thread.
    pub threads: Option<usize>,
}

/// An exported file, open in tract.
///
/// The first run with a shape plans for it, which takes far longer than the run; later runs with
/// that shape reuse the plan.
#[derive(Debug)]
pub struct TractSession {
    path: PathBuf,
    card: Card,
    model: InferenceModel,
    outputs: Vec<String>,
    plans: HashMap<[usize; 3], Arc<TypedRunnableModel>>,
}

impl TractSession {
    /// Opens a file that `ssamba-edge export` wrote.
    ///
    /// # Errors
    /// When the file is no ONNX model; when it has no card of ours, or one that contradicts its
    /// graph; or when a node is not what its operator allows.
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let path = path.as_ref();
        Self::read(path, options)
            .with_context(|| format!("cannot open `{}` in tract", path.display()))
    }

    fn read(path: &Path, options: &Options) -> Result<Self> {
        let threads = match options.threads {
            Some(threads) => {
                NonZeroUsize::new(threads).context("0 threads asked for, expected at least 1")?
            }
            None => default_threads(),
        };
        let bytes = fs::read(path)?;
        // Facts of inner values may name the batch, which tract does not unify with a number.
        let mut onnx = tract_onnx::onnx().with_ignore_value_info(true);
        selective_scan::register(&mut onnx);
        short_conv::register(&mut onnx);
        let proto = onnx
            .proto_model_for_read(&mut &*bytes)
            .map_err(|_| anyhow!("it is not an ONNX model"))?;
        let version = proto.opset_import.iter().find(|opset| opset.domain == DOMAIN);
        if let Some(opset) = version.filter(|opset| opset.version != VERSION) {
            bail!("its operators are of version {}, this program has {VERSION}", opset.version);
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
        let card = card(&proto)?;
        if card.precision == Precision::F16 {
            bail!(
                "its layers are in half precision (fp16), which takes ONNX Runtime: run it there, or export with \
                 --precision fp32"
            );
        }
        let outputs =
            proto.graph.iter().flat_map(|graph| &graph.output).map(|output| output.name.clone());
        let outputs: Vec<String> = outputs.collect();
        let mut model = guarded(|| onnx.model_for_proto_model(&proto))?;
        check_graph(&model, &card)?;
        selective_scan::set_threads(&mut model, threads);
        short_conv::set_threads(&mut model, threads);
        Ok(Self { path: path.into(), card, model, outputs, plans: HashMap::new() })
    }

    fn plan(&mut self, shape: [usize; 3]) -> Result<Arc<TypedRunnableModel>> {
        if let Some(plan) = self.plans.get(&shape) {
            return Ok(plan.clone());
        }
        let mut model = self.model.clone();
        let plan = guarded(|| {
            model.set_input_fact(0, InferenceFact::dt_shape(f32::datum_type(), shape))?;
            model.into_optimized()?.into_runnable()
        })
        .with_context(|| format!("tract: cannot plan `{}` for {shape:?}", self.path.display()))?;
        Ok(self.plans.entry(shape).or_insert(plan).clone())
    }
}

impl Session for TractSession {
    fn provider(&self) -> &str {
        "tract"
    }

    fn card(&self) -> &Card {
        &self.card
    }

    fn run(&mut self, fbank: &Tensor) -> Result<Outputs> {
        let shape = self.card.check_input(fbank).context("tract")?;
        let plan = self.plan(shape)?;
        let values = guarded(|| {
            let input = tract_onnx::prelude::Tensor::from_shape(&shape, fbank.data())?;
            plan.run(tvec!(input.into()))
        })
        .context("tract: run failed")?;
        let outputs = self.outputs.iter().zip(&values).map(|(name, value)| {
            let tensor = output(value).with_context(|| format!("tract: output `{name}`"))?;
            Ok((name.clone(), tensor))
        });
        Ok(Outputs::new(outputs.collect::<Result<_>>()?))
    }
}

fn output(value: &TValue) -> Result<Tensor> {
    let data = value.try_as_plain_ram()?.as_slice::<f32>()?;
    Ok(Tensor::new(value.shape(), data.to_vec())?)
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
    if names != [FBANK] {
        bail!("the graph takes the inputs {names:?}, expected `{FBANK}` alone");
    }
    let fact = model.input_fact(0)?;
    let sizes: Vec<Option<usize>> = fact
        .shape
        .dims()
        .map(|size| size.concretize().and_then(|size| size.to_usize().ok()))
        .collect();
    let expected = [card.batch, Some(card.front_end.n_frames), Some(card.front_end.n_mels)];
    let fits = sizes.len() == expected.len()
        && sizes
            .iter()
            .zip(expected)
            .all(|(&got, expected)| got.is_none() || expected.is_none() || got == expected);
    if !fits || fact.datum_type.concretize() != Some(f32::datum_type()) {
        bail!(
            "the graph's `{FBANK}` is {fact:?}, but its card says f32 of shape {}",
            card.input_shape()
        );
    }
    Ok(())
}

/// Runs a part of tract, which panics on some models that are not well formed. Its errors keep the
/// first and the last of their causes: where it happened, and what.
fn guarded<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let error = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error,
        Err(_) => bail!("tract gave up on the model, which is not well formed"),
    };
    let first = shorten(&error.to_string());
    let last = shorten(&error.root_cause().to_string());
    Err(if first == last { anyhow!(last) } else { anyhow!(last).context(first) })
}

/// The first line, up to a length that a person reads: tract prints whole nodes.
fn shorten(message: &str) -> String {
    const LENGTH: usize = 240;
    let line = message.lines().next().unwrap_or_default().trim();
    match line.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.into(),
    }
}
