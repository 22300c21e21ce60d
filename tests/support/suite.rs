//! Models and runtimes of the parity matrix.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ssamba_contract::{Card, FrontEnd, Input, Lowering, Order, Precision, Scores, Session, Tensor};
use ssamba_features::Extractor;
use ssamba_model::{Checkpoint, Recipe};
use ssamba_onnx::{Network, Options, Weights, card, export};
use tempfile::TempDir;

use crate::{compare::values, hashed, python::StockSession};

/// A network, exported to a file that lives as long as this.
pub struct Exported {
    /// The reference.
    pub network: Network,
    /// What the file says of itself.
    pub card: Card,
    folder: TempDir,
}

impl Exported {
    /// Exports a checkpoint with a recipe.
    ///
    /// # Errors
    /// When they do not fit, or the file cannot be written.
    pub fn new(checkpoint: &Checkpoint, recipe: Recipe, options: &Options) -> Result<Self> {
        let network = Weights::load(checkpoint, None)?.with(recipe)?;
        let card = card(&network, "suite", "")?;
        let &Options { precision, lowering, batch, input, .. } = options;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("model.onnx"), export(&network, &card, options)?)?;
        // As the file says it.
        let card = Card { precision, lowering, batch, input, ..card };
        Ok(Self { network, card, folder })
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("model.onnx")
    }

    /// Deterministic input of `batch` clips that fill the model's frames.
    ///
    /// # Panics
    /// Never for shapes that fit in memory.
    pub fn input(&self, batch: usize) -> Tensor {
        let shape = self.card.window_shape(batch);
        let data = hashed::hashed("x", shape.iter().product(), 1.0);
        Tensor::new(shape, data).expect("as many values")
    }

    /// The reference's outputs for the names that a runtime gave, on what the file takes.
    ///
    /// # Errors
    /// When the front end or candle fails.
    pub fn reference(&self, input: &Tensor) -> Result<Vec<(&'static str, Tensor)>> {
        use ssamba_contract::io::{EMBEDDING, FEATURES, LOGITS, SCORES};
        let device = candle_core::Device::Cpu;
        let fbank = match self.card.input {
            Input::Fbank => input.clone(),
            Input::Waveform => self.fbank(input)?,
        };
        let fbank = candle_core::Tensor::from_slice(fbank.data(), fbank.shape(), &device)?;
        let outputs = self.network.forward(&fbank)?;
        let named = [
            (LOGITS, outputs.logits),
            (FEATURES, outputs.features),
            (EMBEDDING, Some(outputs.embedding)),
        ];
        let tensors = named.into_iter().filter_map(|(name, tensor)| Some((name, tensor?)));
        let mut outputs = tensors
            .map(|(name, tensor)| Ok((name, Tensor::new(tensor.dims(), values(&tensor))?)))
            .collect::<Result<Vec<_>>>()?;
        if let [(LOGITS, logits), ..] = &outputs[..]
            && self.card.input == Input::Waveform
        {
            let scores = self.card.scores_of(logits)?;
            outputs.insert(1, (SCORES, scores));
        }
        Ok(outputs)
    }

    /// Filter banks of waveforms, `[batch, n_frames, n_mels]`.
    ///
    /// # Errors
    /// When a waveform is shorter than one frame.
    pub fn fbank(&self, waveforms: &Tensor) -> Result<Tensor> {
        let mut extractor = Extractor::new(&self.card.front_end)?;
        let mut data = Vec::new();
        for clip in 0..waveforms.shape()[0] {
            data.extend(extractor.extract(waveforms.row(clip))?.fbank.data());
        }
        let fbank = Card { input: Input::Fbank, ..self.card.clone() };
        Ok(Tensor::new(fbank.window_shape(waveforms.shape()[0]), data)?)
    }
}

/// Every runtime of the matrix on one file: tract, unless the file is of a kind that it refuses, ONNX
/// Runtime with our operator, and the stock Python package without it.
///
/// # Errors
/// When one of them cannot open the file.
pub fn runtimes(path: &Path, card: &Card) -> Result<Vec<Box<dyn Session>>> {
    let mut all: Vec<Box<dyn Session>> = Vec::new();
    if card.beyond_tract().is_none() {
        all.push(Box::new(ssamba_tract::TractSession::open(path, &Default::default())?));
    }
    all.extend(onnx_runtimes(path, card)?);
    Ok(all)
}

/// The runtimes of the matrix that are ONNX Runtime.
///
/// # Errors
/// When one of them cannot open the file.
pub fn onnx_runtimes(path: &Path, card: &Card) -> Result<Vec<Box<dyn Session>>> {
    let ort = ssamba_ort::OrtSession::open(path, &Default::default())
        .context("the suite is run by tests/run, which sets ORT_DYLIB_PATH")?;
    let stock = StockSession::open(path, card.clone())?;
    Ok(vec![Box::new(ort), Box::new(stock)])
}

/// For a model of an operator, which carries no card: the stock session only asks for one to hand it
/// on.
pub fn no_card() -> Card {
    Card {
        name: String::new(),
        labels: Vec::new(),
        scores: Scores::Softmax,
        recipe: String::new(),
        front_end: FrontEnd {
            sample_rate: 16_000,
            n_mels: 128,
            n_frames: 1,
            mean: 0.0,
            std: 1.0,
            order: Order::PadThenNormalise,
            subtract_clip_mean: true,
        },
        checkpoint_sha256: String::new(),
        converter: String::new(),
        network: String::new(),
        precision: Precision::F32,
        lowering: Lowering::Function,
        batch: None,
        self_test: None,
        input: Input::Fbank,
    }
}

/// The bundled keyword model: checkpoint and recipe.
///
/// # Errors
/// When it is not where the repository has it.
pub fn kws12() -> Result<(Checkpoint, Recipe)> {
    let checkpoint = zoo("kws12").join(KWS12);
    let recipe = Recipe::read(&checkpoint.with_extension("toml"))?;
    Ok((Checkpoint::read(&checkpoint)?, recipe))
}

/// The checkpoint of the bundled keyword model, in its folder.
pub const KWS12: &str = "kws12.safetensors";

/// A keyword model in the form of the official code, as `torch.save` writes it: `DataParallel` names,
/// zeros in a head that is never called.
pub fn official() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "goldens", "official.pth"].iter().collect()
}

/// A folder of `models/zoo`.
pub fn zoo(model: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "models", "zoo", model].iter().collect()
}
