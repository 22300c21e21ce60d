//! From a checkpoint on disk to a network and its card: what `export`, `verify`, `inspect` and `demo`
//! share.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use sha2::{Digest, Sha256};
use ssamba_contract::{
    Card, Input, Outputs, SelfTest, Session, Tensor,
    io::{EMBEDDING, FEATURES, LOGITS, SCORES},
    self_test,
};
use ssamba_features::Extractor;
use ssamba_model_common::{Checkpoint, Recipe, recipe::check_labels, recipes_for};
use ssamba_onnx::{Architecture, Network, Options, Weights};

use crate::verify::tolerance;

/// What a checkpoint cannot tell, on the command line.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct RecipeArgs {
    /// Recipe: speech-commands, esc50, audioset, superb, urban8k-dasl, pretrain, or a TOML file [default: the TOML file beside the checkpoint].
    #[arg(long, value_name = "NAME|FILE")]
    pub recipe: Option<String>,
    /// Labels, one a line in the order of the classes, or upstream's `class_labels_indices.csv`.
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// Network that the checkpoint holds [default: the one whose names it has].
    #[arg(long, value_enum)]
    pub arch: Option<Arch>,
}

/// [`Architecture`] on the command line.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum Arch {
    /// Bidirectional Mamba.
    Ssamba,
    /// Transformer.
    Ssast,
}

impl From<Arch> for Architecture {
    fn from(arch: Arch) -> Self {
        match arch {
            Arch::Ssamba => Self::Ssamba,
            Arch::Ssast => Self::Ssast,
        }
    }
}

/// The tokens in front of the patches, in words.
pub fn class_tokens(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Ssamba => "the class token",
        Architecture::Ssast => "the class and distillation tokens",
    }
}

/// A checkpoint, understood.
pub struct Source {
    pub network: Network,
    /// Hexadecimal SHA-256 of the checkpoint file.
    pub sha256: String,
    /// Where the recipe came from, for people.
    pub recipe_origin: String,
    /// Where the labels came from, for people.
    pub labels_origin: &'static str,
}

impl Source {
    /// Reads `checkpoint`; `fallback` names a built-in recipe to use where nothing else says one.
    pub fn read(checkpoint: &Path, args: &RecipeArgs, fallback: Option<&str>) -> Result<Self> {
        let file = Checkpoint::read(checkpoint)?;
        let weights = Weights::load(&file, args.arch.map(Into::into))?;
        let sha256 = sha256_of(checkpoint)?;
        let (mut recipe, recipe_origin) =
            find_recipe(checkpoint, &sha256, &weights, args, fallback)?;
        let published = || Recipe::published_labels(&recipe.name, weights.sizes().n_classes?);
        let (labels, labels_origin) = match (&args.labels, published()) {
            (Some(path), _) => (read_labels(path)?, "as given"),
            (None, _) if !recipe.labels.is_empty() => (recipe.labels, "the recipe's"),
            (None, Some(labels)) => (labels, "upstream's, in upstream's order"),
            (None, None) => (Vec::new(), "none"),
        };
        recipe.labels = labels;
        check_labels(&recipe.labels).with_context(|| checkpoint.display().to_string())?;
        let network = weights.with(recipe).with_context(|| checkpoint.display().to_string())?;
        Ok(Self { network, sha256, recipe_origin, labels_origin })
    }

    /// The card of an export of this network.
    pub fn card(&self, name: &str) -> Result<Card> {
        ssamba_onnx::card(&self.network, name, &self.sha256)
    }
}

fn find_recipe(
    checkpoint: &Path,
    sha256: &str,
    weights: &Weights,
    args: &RecipeArgs,
    fallback: Option<&str>,
) -> Result<(Recipe, String)> {
    let sizes = weights.sizes();
    if let Some(name) = &args.recipe {
        return Ok((Recipe::find(name)?, "as asked".into()));
    }
    let beside = checkpoint.with_extension("toml");
    if let Some(recipe) = Recipe::beside(checkpoint, sha256)? {
        return Ok((recipe, beside.display().to_string()));
    }
    if let Some((n_mels, n_frames)) = weights.pretraining_input() {
        let mut recipe = Recipe::built_in("pretrain").context("`pretrain` is built in")?;
        // Its patches do not overlap, and the file says what it took.
        (recipe.front_end.n_mels, recipe.front_end.n_frames) = (n_mels, n_frames);
        (recipe.stride_f, recipe.stride_t) = (sizes.patch_f, sizes.patch_t);
        let named = fallback.filter(|name| *name != recipe.name).and_then(Recipe::built_in);
        return Ok(match named {
            Some(named) => (named, "named by the model's card".into()),
            None => (recipe, "a pretraining checkpoint, its own input size".into()),
        });
    }
    if let Some(recipe) = fallback.and_then(Recipe::built_in) {
        return Ok((recipe, "named by the model's card".into()));
    }
    let fitting = recipes_for(sizes, weights.patches());
    bail!(
        "{}: a checkpoint does not say how its audio was prepared; pass --recipe NAME|FILE or put {} beside it; \
         built-in recipes with as many patches: {}",
        checkpoint.display(),
        beside.display(),
        if fitting.is_empty() { "none".into() } else { fitting.join(", ") },
    )
}

/// One label a line, or a table with a `display_name` column as upstream ships it.
fn read_labels(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let text = text.trim_start_matches('\u{feff}');
    let lines: Vec<&str> =
        text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    ensure!(!lines.is_empty(), "{}: no labels in this file", path.display());
    if lines[0] != "index,mid,display_name" {
        return Ok(lines.into_iter().map(Into::into).collect());
    }
    let rows = lines[1..].iter().enumerate().map(|(index, line)| {
        let mut cells = line.splitn(3, ',');
        match (cells.next(), cells.next(), cells.next()) {
            (Some(number), Some(_), Some(name)) if number == index.to_string() => {
                Ok(name.trim_matches('"').to_owned())
            }
            _ => Err(anyhow!(
                "{}: line {} is `{line}`, expected `{index},id,name`",
                path.display(),
                index + 2
            )),
        }
    });
    rows.collect()
}

/// Hexadecimal SHA-256 of a file.
pub fn sha256_of(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(sha256(&bytes))
}

/// Hexadecimal SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file whole or not at all.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let at = || format!("cannot write {}", path.display());
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    ensure!(
        !path.exists() || path.is_file(),
        "cannot write {}: something that is no file is there",
        path.display()
    );
    ensure!(
        folder.is_dir(),
        "cannot write {}: there is no folder `{}`",
        path.display(),
        folder.display()
    );
    let mut builder = tempfile::Builder::new();
    builder.prefix(".ssamba-edge-");
    // A temporary file is private by default; what the umask leaves of this is not.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).with_context(at)?;
    file.write_all(bytes).with_context(at)?;
    file.persist(path).map_err(|error| error.error).with_context(at)?;
    Ok(())
}

/// `candle` as one more runtime: the reference that the others are held against.
pub struct CandleSession {
    network: Network,
    card: Card,
}

impl CandleSession {
    pub fn new(network: Network, card: Card) -> Self {
        Self { network, card }
    }

    /// Of a checkpoint, under the name of its recipe.
    #[cfg(feature = "train")]
    pub fn open(checkpoint: &Path, args: &RecipeArgs) -> Result<Self> {
        let source = Source::read(checkpoint, args, None)?;
        let card = source.card(&source.network.recipe().name)?;
        Ok(Self::new(source.network, card))
    }
}

/// The test that a file with these options carries; `None` for a network that puts out nothing.
pub fn self_test(network: &Network, card: &Card, options: &Options) -> Result<Option<SelfTest>> {
    let &Options { batch, input, precision, .. } = options;
    let card = Card { batch, input, ..card.clone() };
    let test = self_test::input(&card)?;
    let outputs = CandleSession::new(network.clone(), card).run(&test)?;
    Ok(SelfTest::new(outputs.iter(), tolerance(precision, input)))
}

impl Session for CandleSession {
    fn provider(&self) -> &str {
        "candle"
    }

    fn card(&self) -> &Card {
        &self.card
    }

    fn run(&mut self, input: &Tensor) -> Result<Outputs> {
        let device = candle_core::Device::Cpu;
        let of = |tensor: &Tensor| {
            candle_core::Tensor::from_slice(tensor.data(), tensor.shape(), &device)
        };
        let fbank = match self.card.input {
            Input::Fbank => of(input)?,
            Input::Waveform => {
                let mut extractor = Extractor::new(&self.card.front_end)?;
                let clips = (0..input.shape()[0])
                    .map(|clip| Ok(of(&extractor.extract(input.row(clip))?.fbank)?))
                    .collect::<Result<Vec<_>>>()?;
                candle_core::Tensor::stack(&clips, 0)?
            }
        };
        let outputs = self.network.forward(&fbank)?;
        let named = [
            (LOGITS, outputs.logits),
            (FEATURES, outputs.features),
            (EMBEDDING, Some(outputs.embedding)),
        ];
        let tensors = named.into_iter().filter_map(|(name, tensor)| Some((name, tensor?)));
        let converted = tensors.map(|(name, tensor)| {
            let data = tensor.flatten_all()?.to_vec1()?;
            Ok((name.to_owned(), Tensor::new(tensor.dims(), data)?))
        });
        let mut outputs = converted.collect::<Result<Vec<_>>>()?;
        if let Some((_, logits)) = outputs.iter().find(|(name, _)| name == LOGITS) {
            let scores = self.card.scores_of(logits)?;
            outputs.push((SCORES.into(), scores));
        }
        Ok(Outputs::new(outputs))
    }
}
