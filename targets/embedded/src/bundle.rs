//! The folder that `ssamba-edge export --target embedded` writes: three files, and nothing that
//! depends on when or where it was written.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, anyhow};
use ssamba_contract::Card;
use ssamba_tract::{Options, TractSession};

use crate::Settings;
#[cfg(feature = "onnx")]
use crate::Spotter;

/// The network for one clip, in tract's own format.
const MODEL: &str = "model.nnef.tar";
/// What the model says of itself: the entries of an exported file's metadata.
const CARD: &str = "card.json";
/// How to listen.
const SETTINGS: &str = "settings.json";

/// One thread: what is spotted fits on one core.
pub(crate) const OPTIONS: Options = Options { threads: Some(1) };

/// The files of a bundle, by name.
#[cfg(feature = "onnx")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle(Vec<(&'static str, Vec<u8>)>);

#[cfg(feature = "onnx")]
impl Bundle {
    /// What a spotter needs of a file that `ssamba-edge export` wrote, listening like this.
    ///
    /// # Errors
    /// When a spotter could not listen so, or tract cannot write the network down.
    pub fn new(model: impl AsRef<Path>, settings: &Settings) -> Result<Self> {
        let model = model.as_ref();
        let card = Spotter::open(model, settings)?.card().to_metadata();
        Ok(Self(vec![
            (MODEL, TractSession::open(model, &OPTIONS)?.pack()?),
            (CARD, json(&card)?),
            (SETTINGS, json(settings)?),
        ]))
    }

    /// Whether a folder holds a bundle, or nothing.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_at(folder: impl AsRef<Path>) -> Result<bool> {
        let at = || folder.as_ref().display().to_string();
        for entry in fs::read_dir(folder.as_ref()).with_context(at)? {
            let name = entry.with_context(at)?.file_name();
            if ![MODEL, CARD, SETTINGS].iter().any(|ours| *ours == name) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Names and contents of its files.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.0.iter().map(|(name, bytes)| (*name, bytes.as_slice()))
    }
}

#[cfg(feature = "onnx")]
fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

impl Settings {
    /// How a model wants to be listened with: what its folder says, or the default for a file.
    ///
    /// # Errors
    /// When the folder is none that `ssamba-edge export --target embedded` wrote.
    pub fn of(model: impl AsRef<Path>) -> Result<Self> {
        let model = model.as_ref();
        if !model.is_dir() {
            return Ok(Self::default());
        }
        let path = model.join(SETTINGS);
        let settings: Self = read(&path)?;
        settings.check().with_context(|| path.display().to_string())?;
        Ok(settings)
    }
}

/// Opens a file, or a folder.
pub(crate) fn open(model: &Path) -> Result<TractSession> {
    if !model.is_dir() {
        return open_file(model);
    }
    let path = model.join(CARD);
    let entries: BTreeMap<String, String> = read(&path)?;
    let card = Card::from_metadata(&entries).with_context(|| path.display().to_string())?;
    TractSession::open_pack(model.join(MODEL), card, &OPTIONS)
}

#[cfg(feature = "onnx")]
fn open_file(model: &Path) -> Result<TractSession> {
    TractSession::open(model, &OPTIONS)
}

#[cfg(not(feature = "onnx"))]
fn open_file(model: &Path) -> Result<TractSession> {
    // What is not there at all is named first.
    fs::metadata(model).with_context(|| format!("cannot open `{}`", model.display()))?;
    Err(anyhow!(
        "{}: a file, and this build reads no ONNX: name a folder that `ssamba-edge export --target \
         embedded` wrote, or build with `--features onnx`",
        model.display()
    ))
}

fn read<T: for<'de> serde::Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).map_err(|error| {
        anyhow!(
            "{}: not as `ssamba-edge export --target embedded` wrote it: {error}",
            path.display()
        )
    })
}
