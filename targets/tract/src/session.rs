//! An exported file, or a pack made of one, open in tract.

use std::{
    collections::VecDeque,
    fs,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ssamba_contract::{Card, Outputs, Session, Tensor, default_threads};
use tract_nnef::prelude::{Datum, IntoRunnable, TValue, TypedModel, TypedRunnableModel, tvec};

#[cfg(feature = "onnx")]
use crate::kept;
use crate::{nnef, operator::Node, selective_scan::SelectiveScan, short_conv::ShortConv};

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
/// that shape reuse the plan. Clips of a file with the front end inside have many lengths: the
/// plans of the last eight shapes are kept.
#[derive(Debug)]
pub struct TractSession {
    path: PathBuf,
    card: Card,
    model: Model,
    outputs: Vec<String>,
    plans: VecDeque<(Vec<usize>, Arc<TypedRunnableModel>)>,
}

/// What plans are made from.
#[derive(Debug)]
enum Model {
    /// Of any shape that the file allows.
    #[cfg(feature = "onnx")]
    Onnx(tract_onnx::prelude::InferenceModel),
    /// Of one shape.
    Pack(TypedModel),
}

/// Each holds the weights in an order of its own.
const PLANS: usize = 8;

impl TractSession {
    /// Opens a file that `ssamba-edge export` wrote.
    ///
    /// # Errors
    /// When the file is no ONNX model; when it has no card of ours, or one that contradicts its
    /// graph; or when a node is not what its operator allows.
    #[cfg(feature = "onnx")]
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let path = path.as_ref();
        let read = || -> Result<Self> {
            let threads = threads(options)?;
            let (card, outputs, model) = crate::onnx::read(&fs::read(path)?, threads)?;
            let model = Model::Onnx(model);
            Ok(Self { path: path.into(), card, model, outputs, plans: VecDeque::new() })
        };
        read().with_context(|| format!("cannot open `{}` in tract", path.display()))
    }

    /// Opens what [`pack`](Self::pack) made, with the card of the file that it was made of.
    ///
    /// # Errors
    /// When the pack is none, or is not of that card.
    pub fn open_pack(path: impl AsRef<Path>, card: Card, options: &Options) -> Result<Self> {
        let path = path.as_ref();
        let read = || -> Result<Self> {
            let mut model = guarded(|| nnef::read(&fs::read(path)?))?;
            let shape = packed_shape(&card);
            let fact = model.input_fact(0)?;
            ensure!(
                model.inputs.len() == 1
                    && fact.datum_type == f32::datum_type()
                    && fact.shape.as_concrete() == Some(&shape[..]),
                "the pack takes {fact:?}, but its card says f32 of shape {shape:?}"
            );
            let labels = model.outputs.iter().map(|&outlet| {
                let label = model.outlet_label(outlet).context("an output has no name")?;
                Ok(label.to_owned())
            });
            let outputs = labels.collect::<Result<_>>()?;
            set_threads(&mut model, threads(options)?);
            let model = Model::Pack(model);
            Ok(Self { path: path.into(), card, model, outputs, plans: VecDeque::new() })
        };
        read().with_context(|| format!("cannot open `{}` in tract", path.display()))
    }

    /// The model for one clip in tract's own format, without its card: for programs that cannot
    /// read ONNX. The same file gives the same bytes.
    ///
    /// # Errors
    /// When the session was opened from a pack, or a node has no place in that format.
    #[cfg(feature = "onnx")]
    pub fn pack(&self) -> Result<Vec<u8>> {
        use ssamba_contract::Input;
        use tract_onnx::prelude::{InferenceFact, InferenceModelExt};

        let Model::Onnx(model) = &self.model else { bail!("a pack is packed already") };
        ensure!(
            self.card.input == Input::Fbank,
            "`{}` takes a waveform, and a pack takes filter banks: export with --frontend fbank",
            self.path.display()
        );
        guarded(|| {
            let fact = InferenceFact::dt_shape(f32::datum_type(), packed_shape(&self.card));
            let mut model = model.clone().with_input_fact(0, fact)?;
            let hidden = kept::hide(&mut model);
            let mut model = model.into_typed()?.into_decluttered()?;
            kept::put_back(&mut model, hidden)?;
            for (outlet, name) in model.outputs.clone().into_iter().zip(&self.outputs) {
                model.set_outlet_label(outlet, name.clone())?;
            }
            // The card goes its own way.
            model.properties.clear();
            nnef::write(&model)
        })
        .with_context(|| format!("tract: cannot pack `{}`", self.path.display()))
    }

    fn plan(&mut self, shape: &[usize]) -> Result<Arc<TypedRunnableModel>> {
        if let Some(index) = self.plans.iter().position(|(planned, _)| planned == shape) {
            // To the end, as the last one used.
            let last = self.plans.remove(index);
            self.plans.extend(last);
        } else {
            let plan =
                guarded(|| self.model.planned(shape)?.into_runnable()).with_context(|| {
                    format!("tract: cannot plan `{}` for {shape:?}", self.path.display())
                })?;
            self.plans.push_back((shape.to_vec(), plan));
        }
        while self.plans.len() > PLANS {
            self.plans.pop_front();
        }
        let (_, plan) = self.plans.back().context("tract: no plan")?;
        Ok(plan.clone())
    }
}

impl Session for TractSession {
    fn provider(&self) -> &str {
        "tract"
    }

    fn card(&self) -> &Card {
        &self.card
    }

    fn run(&mut self, input: &Tensor) -> Result<Outputs> {
        self.card.check_input(input).context("tract")?;
        let plan = self.plan(input.shape())?;
        let values = guarded(|| {
            let input = tract_nnef::prelude::Tensor::from_shape(input.shape(), input.data())?;
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

impl Model {
    /// The model, optimised for a shape.
    fn planned(&self, shape: &[usize]) -> Result<TypedModel> {
        match self {
            #[cfg(feature = "onnx")]
            Self::Onnx(model) => {
                use tract_onnx::prelude::{InferenceFact, InferenceModelExt};
                let fact = InferenceFact::dt_shape(f32::datum_type(), shape);
                model.clone().with_input_fact(0, fact)?.into_optimized()
            }
            Self::Pack(model) => {
                let packed = &model.input_fact(0)?.shape;
                ensure!(
                    packed.as_concrete() == Some(shape),
                    "a pack takes one clip at a time, {packed:?}"
                );
                model.clone().into_optimized()
            }
        }
    }
}

/// What a pack takes.
fn packed_shape(card: &Card) -> [usize; 3] {
    [1, card.front_end.n_frames, card.front_end.n_mels]
}

fn threads(options: &Options) -> Result<NonZeroUsize> {
    match options.threads {
        Some(threads) => {
            NonZeroUsize::new(threads).context("0 threads asked for, expected at least 1")
        }
        None => Ok(default_threads()),
    }
}

/// Of every operator of ours in a pack.
fn set_threads(model: &mut TypedModel, threads: NonZeroUsize) {
    for node in model.nodes_mut() {
        if let Some(scan) = node.op_as_mut::<Node<SelectiveScan>>() {
            scan.threads = threads;
        } else if let Some(conv) = node.op_as_mut::<Node<ShortConv>>() {
            conv.threads = threads;
        }
    }
}

fn output(value: &TValue) -> Result<Tensor> {
    let data = value.try_as_plain_ram()?.as_slice::<f32>()?;
    Ok(Tensor::new(value.shape(), data.to_vec())?)
}

/// Runs a part of tract, which panics on some models that are not well formed. Its errors keep the
/// first and the last of their causes: where it happened, and what.
pub(crate) fn guarded<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
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
