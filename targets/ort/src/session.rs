//! An exported file, open in ONNX Runtime.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

#[cfg(feature = "cuda")]
use std::sync::{RwLock, RwLockReadGuard};

use anyhow::{Context, Result, bail};
use ort::{
    environment::Environment,
    inputs,
    session::{
        Session as Graph,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::{TensorElementType, TensorRef, ValueType},
};
use ssamba_contract::{Card, Outputs, Precision, Session, Tensor, default_threads};
use tempfile::TempDir;

#[cfg(feature = "cuda")]
use crate::cuda::{ArenaUse, Bound, OfferedArena, allocator};
use crate::{Library, Placement, Provider, library, message::readable};

/// How to open a file.
#[derive(Clone, Debug)]
pub struct Options {
    /// What runs the file.
    pub provider: Provider,
    /// Threads that compute one node; `None`: one for each core that this process may use.
    pub threads: Option<usize>,
    /// ONNX Runtime's library; `None`: the one that [`library`](crate::library) finds.
    pub library: Option<PathBuf>,
    /// Whether our kernel runs the `SelectiveScan` nodes. Without it ONNX Runtime expands the
    /// function body that the file carries: slow, and there to be compared with.
    pub use_op: bool,
    /// Whether ONNX Runtime notes which provider runs each node, for [`OrtSession::placement`].
    pub profile: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            provider: Provider::default(),
            threads: None,
            library: None,
            use_op: true,
            profile: false,
        }
    }
}

/// An exported file, open on a provider of ONNX Runtime.
#[derive(Debug)]
pub struct OrtSession {
    graph: Graph,
    /// Where the profile is written, until it is read; it goes after the graph, which writes there.
    profile: Option<TempDir>,
    card: Card,
    library: Library,
    provider: Provider,
    #[cfg(feature = "cuda")]
    bound: Option<Bound>,
    /// Whether a CUDA graph is still to be captured, by the next run.
    #[cfg(feature = "cuda")]
    captures: bool,
}

impl OrtSession {
    /// Opens a file that `ssamba-edge export` wrote; loads ONNX Runtime first if this process has
    /// not.
    ///
    /// # Errors
    /// When ONNX Runtime cannot be loaded; when the provider cannot be used; when the file is
    /// refused; or when it has no card of ours, or one that contradicts its graph.
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let path = path.as_ref();
        let (library, environment) = library::runtime(options.library.as_deref())?;
        let profile = match options.profile {
            true => Some(tempfile::tempdir().context("no room for a profile")?),
            false => None,
        };
        let open = || -> Result<(Graph, Card)> {
            // For the system's own words where it cannot be read.
            File::open(path)?;
            let mut builder = builder(path, options, &library, &environment)?;
            if let Some(folder) = &profile {
                builder = builder.with_profiling(folder.path().join("run")).map_err(readable)?;
            }
            let graph = commit(builder, path, &options.provider, &environment)?;
            let card = card(&graph)?;
            check_graph(&graph, &card)?;
            if card.precision == Precision::I8 && options.provider.on_gpu() {
                bail!(
                    "its layers are in eight bits (int8), which is for a CPU: run it there, or export with \
                     --precision fp16"
                );
            }
            Ok((graph, card))
        };
        let (graph, card) =
            open().with_context(|| format!("cannot open `{}` in ONNX Runtime", path.display()))?;
        Ok(Self {
            graph,
            profile,
            card,
            library,
            provider: options.provider.clone(),
            #[cfg(feature = "cuda")]
            bound: None,
            #[cfg(feature = "cuda")]
            captures: options.provider.device().is_some_and(|cuda| cuda.cuda_graph),
        })
    }

    /// The ONNX Runtime that runs this session.
    pub fn library(&self) -> &Library {
        &self.library
    }

    /// Which provider ran each node in the runs since the file was opened. It ends the notes, so that
    /// later runs are not slowed down by them.
    ///
    /// # Errors
    /// When the file was not opened with [`Options::profile`], or this was called before.
    pub fn placement(&mut self) -> Result<Placement> {
        let provider = self.provider.name();
        let folder = self.profile.take();
        let folder = folder.with_context(|| format!("{provider}: no profile is being written"))?;
        let mut read = || -> Result<Placement> {
            let path = self.graph.end_profiling().map_err(readable)?;
            Placement::parse(&fs::read_to_string(path)?)
        };
        let placement = read().with_context(|| format!("{provider}: no placement"));
        drop(folder);
        placement
    }
}

impl Session for OrtSession {
    fn provider(&self) -> &str {
        self.provider.name()
    }

    fn card(&self) -> &Card {
        &self.card
    }

    fn run(&mut self, input: &Tensor) -> Result<Outputs> {
        #[cfg(feature = "cuda")]
        if self.provider.device().is_some() {
            self.write(input)?;
            self.run_written()?;
            return self.read();
        }
        let provider = self.provider.name();
        self.card.check_input(input).context(provider)?;
        let value = TensorRef::from_array_view((input.shape(), input.data())).map_err(readable)?;
        let outputs = self
            .graph
            .run(inputs![self.card.input_name() => value])
            .map_err(readable)
            .with_context(|| format!("{provider}: run failed"))?;
        let outputs = outputs.iter().map(|(name, value)| {
            let (shape, data) = value
                .try_extract_tensor::<f32>()
                .map_err(readable)
                .with_context(|| format!("{provider}: output `{name}`"))?;
            let shape: Vec<usize> = shape.iter().map(|&size| size as usize).collect();
            Ok((name.to_owned(), Tensor::new(shape, data.to_vec())?))
        });
        Ok(Outputs::new(outputs.collect::<Result<_>>()?))
    }
}

/// Runs on a GPU in three steps, of which the second touches nothing but the device.
#[cfg(feature = "cuda")]
impl OrtSession {
    /// Copies the input to the device, to an address that stays the same for a batch of one size.
    ///
    /// # Errors
    /// When the provider is not a GPU's, the input does not fit the card, or the device's memory is
    /// too small; when a graph was captured for a batch of another size.
    pub fn write(&mut self, input: &Tensor) -> Result<()> {
        let provider = self.provider.name();
        self.card.check_input(input).context(provider)?;
        let name = self.card.input_name();
        let Some(cuda) = self.provider.device() else { bail!("{provider}: not on a GPU") };
        self.provider.check_batch(&self.card, input.shape()[0]).context(provider)?;
        let _device = shared_device();
        match &self.bound {
            Some(bound) if bound.shape() == input.shape() => {}
            Some(bound) if cuda.cuda_graph => bail!(
                "{provider}: the CUDA graph of this session is for a batch of {}, got {}; open another",
                bound.shape()[0],
                input.shape()[0]
            ),
            _ => {
                // What was bound goes first: there may be no room for both.
                self.bound = None;
                let device = crate::cuda::open(cuda.device)?;
                let bound = Bound::new(&self.graph, &device, cuda.device, name, input.shape());
                self.bound = Some(bound.context(provider)?);
            }
        }
        self.bound.as_mut().context("nothing is bound")?.write(input).context(provider)
    }

    /// Runs on what was written, and waits for the device.
    ///
    /// # Errors
    /// When nothing was written, or the device fails.
    pub fn run_written(&mut self) -> Result<()> {
        let provider = self.provider.name();
        let bound = self.bound.as_ref().with_context(|| format!("{provider}: no input yet"))?;
        let (_alone, _shared) = match self.captures {
            true => (Some(DEVICE.write().unwrap_or_else(PoisonError::into_inner)), None),
            false => (None, Some(shared_device())),
        };
        bound.run(&mut self.graph).with_context(|| format!("{provider}: run failed"))?;
        self.captures = false;
        Ok(())
    }

    /// Device memory that the session's tensors are in.
    ///
    /// # Errors
    /// When the provider is not a GPU's, or its arena does not tell.
    pub fn arena_use(&self) -> Result<ArenaUse> {
        let provider = self.provider.name();
        let Some(cuda) = self.provider.device() else { bail!("{provider}: not on a GPU") };
        let allocator = allocator(&self.graph, cuda.device).context(provider)?;
        ArenaUse::of(&allocator).context(provider)
    }

    /// The outputs of the last run.
    ///
    /// # Errors
    /// When there was none.
    pub fn read(&self) -> Result<Outputs> {
        let provider = self.provider.name();
        let bound = self.bound.as_ref().with_context(|| format!("{provider}: no input yet"))?;
        let _device = shared_device();
        bound.read().context(provider)
    }
}

/// Held exclusively while a CUDA graph is captured: what another session of the process asks of the
/// driver meanwhile would fail, and spoil the capture.
#[cfg(feature = "cuda")]
static DEVICE: RwLock<()> = RwLock::new(());

#[cfg(feature = "cuda")]
fn shared_device() -> RwLockReadGuard<'static, ()> {
    DEVICE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held while a file is opened: ONNX Runtime enters the domain of an operator into a table of the
/// process, and two sessions that do so at the same time fail.
static OPENING: Mutex<()> = Mutex::new(());

fn builder(
    path: &Path,
    options: &Options,
    library: &Library,
    environment: &Environment,
) -> Result<SessionBuilder> {
    let threads = match options.threads {
        Some(0) => bail!("0 threads asked for, expected at least 1"),
        Some(threads) => threads,
        None => default_threads().get(),
    };
    let mut builder = Graph::builder(environment)
        .map_err(readable)?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(readable)?
        .with_intra_threads(threads)
        .map_err(readable)?;
    let provider = &options.provider;
    builder = provider
        .register(builder, path, library, || card_of(path, environment))
        .with_context(|| format!("cannot use provider `{}` of {library}", provider.name()))?;
    if provider.on_gpu() {
        // A plan made in the first run would come on top of what that run took.
        builder = builder.with_memory_pattern(false).map_err(readable)?;
    }
    if options.use_op {
        let domain = provider.operators()?;
        builder = builder.with_operators(domain).map_err(readable)?;
    }
    Ok(builder)
}

#[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "for arenas on GPUs"))]
fn commit(
    builder: SessionBuilder,
    path: &Path,
    provider: &Provider,
    environment: &Environment,
) -> Result<Graph> {
    let mut builder = builder;
    let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    #[cfg(feature = "cuda")]
    let _device = shared_device();
    #[cfg(feature = "cuda")]
    let _arena = match provider {
        Provider::Cuda(cuda) => {
            builder = builder.with_env_allocators().map_err(readable)?;
            Some(OfferedArena::new(environment, cuda)?)
        }
        _ => None,
    };
    builder.commit_from_file(path).map_err(readable)
}

/// The card of a file that cannot be opened on its provider before its card is known.
pub(crate) fn card_of(path: &Path, environment: &Environment) -> Result<Card> {
    let builder = Graph::builder(environment)
        .map_err(readable)?
        .with_optimization_level(GraphOptimizationLevel::Disable)
        .map_err(readable)?
        .with_operators(Provider::Cpu.operators()?)
        .map_err(readable)?;
    card(&commit(builder, path, &Provider::Cpu, environment)?)
}

fn card(graph: &Graph) -> Result<Card> {
    let metadata = graph.metadata().map_err(readable)?;
    let entries: BTreeMap<String, String> = metadata
        .custom_keys()
        .map_err(readable)?
        .into_iter()
        .filter_map(|key| metadata.custom(&key).map(|value| (key, value)))
        .collect();
    Ok(Card::from_metadata(&entries)?)
}

/// Whether the graph takes what the card says it takes.
fn check_graph(graph: &Graph, card: &Card) -> Result<()> {
    let name = card.input_name();
    let [input] = graph.inputs() else {
        let names: Vec<&str> = graph.inputs().iter().map(|input| input.name()).collect();
        bail!("the graph takes the inputs {names:?}, expected `{name}` alone");
    };
    if input.name() != name {
        bail!("the graph takes the input `{}`, expected `{name}`", input.name());
    }
    let expected = card.input_axes().into_iter().map(|axis| axis.map_or(-1, |size| size as i64));
    match input.dtype() {
        ValueType::Tensor { ty: TensorElementType::Float32, shape, .. }
            if shape.len() == expected.len()
                && shape
                    .iter()
                    .zip(expected)
                    .all(|(&got, expected)| got == expected || got == -1 || expected == -1) =>
        {
            Ok(())
        }
        other => bail!(
            "the graph's `{name}` is {other}, but its card says f32 of shape {}",
            card.input_shape()
        ),
    }
}
