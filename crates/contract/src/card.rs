//! What a model says of itself: flat text entries in the ONNX file's `metadata_props`, so that
//! every runtime can read them with its own metadata call.

use std::{collections::BTreeMap, fmt, str::FromStr};

use anyhow::bail;
use serde::{Deserialize, Serialize};

use crate::{
    SelfTest,
    front_end::{FrontEnd, Input, Order, frame_length},
    io::{FBANK, Tensor, TensorError, WAVEFORM},
};

/// Version of the set of keys.
pub const FORMAT: u32 = 1;
const PREFIX: &str = "ssamba.";

/// How logits become scores between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scores {
    /// One label per clip.
    Softmax,
    /// Any number of labels per clip.
    Sigmoid,
}

impl Scores {
    /// Turns one row of logits into scores.
    pub fn apply(self, logits: &[f32]) -> Vec<f32> {
        match self {
            Self::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
            Self::Softmax => {
                let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let exp: Vec<f32> = logits.iter().map(|x| (x - max).exp()).collect();
                let sum: f32 = exp.iter().sum();
                exp.into_iter().map(|x| x / sum).collect()
            }
        }
    }
}

/// How the convolutions and recurrences of a file are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lowering {
    /// Nodes of our operators, each with a function body in standard ones.
    #[default]
    Function,
    /// Standard operators alone, without functions; one `Scan` over the tokens.
    Scan,
    /// The same over blocks of tokens.
    ScanBlock,
    /// Standard operators alone, without functions or control flow.
    Chunk,
    /// The recurrence as nodes of ONNX Runtime's `LinearAttention`, the rest in standard operators.
    LinearAttention,
}

impl fmt::Display for Lowering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&unquoted(self))
    }
}

/// Type of the values that flow through the layers, and of the matrices they are multiplied by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// Single precision.
    #[default]
    #[serde(rename = "fp32")]
    F32,
    /// Half precision.
    #[serde(rename = "fp16")]
    F16,
    /// Single precision between the products, most matrices in eight-bit integers.
    #[serde(rename = "int8")]
    I8,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&unquoted(self))
    }
}

/// What a model says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// Name of the model, for people.
    pub name: String,
    /// One label per class, in the order of the logits; empty for a feature extractor.
    pub labels: Vec<String>,
    /// How logits become scores.
    pub scores: Scores,
    /// Name of the recipe that said what the checkpoint does not.
    pub recipe: String,
    /// How a waveform becomes filter banks.
    pub front_end: FrontEnd,
    /// What the graph takes; a file that does not say takes filter banks.
    pub input: Input,
    /// SHA-256 of the checkpoint file, hexadecimal.
    pub checkpoint_sha256: String,
    /// Program and version that wrote the file.
    pub converter: String,
    /// Sizes and options of the network as `key=value` pairs, for people.
    pub network: String,
    /// Of the layers; a file that does not say is in single precision.
    pub precision: Precision,
    /// How convolutions and recurrences are written; a file that does not say has functions.
    pub lowering: Lowering,
    /// Clips that a run takes; `None`, any number.
    pub batch: Option<usize>,
    /// What the file should put out, if it tells.
    pub self_test: Option<SelfTest>,
}

/// Metadata that lacks a key of ours, or whose value makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CardError {
    /// No key of ours is there: the file was not written by ssamba-edge.
    NotOurs,
    /// The keys are of another version.
    Format {
        /// The version found.
        got: String,
    },
    /// A key is missing.
    Missing {
        /// The whole key.
        key: String,
    },
    /// A value cannot be read.
    Value {
        /// The whole key.
        key: String,
        /// What it holds.
        got: String,
    },
    /// Settings of the front end that make no sense.
    FrontEnd {
        /// Which, and what was expected.
        problem: String,
    },
}

impl std::error::Error for CardError {}

impl fmt::Display for CardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOurs => write!(
                f,
                "the file has no `{PREFIX}card` metadata, so it was not written by `ssamba-edge export`"
            ),
            Self::Format { got } => write!(
                f,
                "the file's card has format `{got}`, expected {FORMAT}: use the ssamba-edge that wrote it, or export again"
            ),
            Self::FrontEnd { problem } => write!(f, "the file's card says {problem}"),
            Self::Missing { key } => write!(f, "the file's card lacks `{key}`"),
            Self::Value { key, got } => {
                write!(f, "the file's card says `{key}` = `{got}`, which cannot be read")
            }
        }
    }
}

impl Card {
    /// The card as metadata entries, sorted by key.
    pub fn to_metadata(&self) -> BTreeMap<String, String> {
        let front_end = &self.front_end;
        [
            ("card", FORMAT.to_string()),
            ("name", self.name.clone()),
            ("labels", json(&self.labels)),
            ("scores", unquoted(&self.scores)),
            ("recipe", self.recipe.clone()),
            ("sample_rate", front_end.sample_rate.to_string()),
            ("n_mels", front_end.n_mels.to_string()),
            ("n_frames", front_end.n_frames.to_string()),
            ("mean", front_end.mean.to_string()),
            ("std", front_end.std.to_string()),
            ("order", unquoted(&front_end.order)),
            ("subtract_clip_mean", front_end.subtract_clip_mean.to_string()),
            ("checkpoint_sha256", self.checkpoint_sha256.clone()),
            ("converter", self.converter.clone()),
            ("network", self.network.clone()),
            ("precision", unquoted(&self.precision)),
            ("lowering", unquoted(&self.lowering)),
        ]
        .into_iter()
        .chain((self.input != Input::Fbank).then(|| ("input", unquoted(&self.input))))
        .chain(self.self_test.iter().map(|test| ("self_test", json(test))))
        .chain(self.batch.map(|batch| ("batch", batch.to_string())))
        .map(|(key, value)| (format!("{PREFIX}{key}"), value))
        .collect()
    }

    /// Reads the card back; entries that are not ours are left alone.
    ///
    /// # Errors
    /// Names the first key that is missing or unreadable.
    pub fn from_metadata(metadata: &BTreeMap<String, String>) -> Result<Self, CardError> {
        let entries = Entries(metadata);
        match entries.text("card") {
            Err(_) => return Err(CardError::NotOurs),
            Ok(format) if format != FORMAT.to_string() => {
                return Err(CardError::Format { got: format.into() });
            }
            Ok(_) => {}
        }
        let card = Self {
            name: entries.text("name")?.into(),
            labels: entries.json("labels")?,
            scores: entries.word("scores")?,
            recipe: entries.text("recipe")?.into(),
            front_end: FrontEnd {
                sample_rate: entries.parse("sample_rate")?,
                n_mels: entries.parse("n_mels")?,
                n_frames: entries.parse("n_frames")?,
                mean: entries.parse("mean")?,
                std: entries.parse("std")?,
                order: entries.word::<Order>("order")?,
                subtract_clip_mean: entries.parse("subtract_clip_mean")?,
            },
            input: entries.optional("input", Entries::word)?.unwrap_or_default(),
            checkpoint_sha256: entries.text("checkpoint_sha256")?.into(),
            converter: entries.text("converter")?.into(),
            network: entries.text("network")?.into(),
            precision: entries.optional("precision", Entries::word)?.unwrap_or_default(),
            lowering: entries.optional("lowering", Entries::word)?.unwrap_or_default(),
            batch: entries.optional("batch", Entries::parse)?,
            self_test: entries.optional("self_test", Entries::json)?,
        };
        match card.front_end.problem() {
            Some(problem) => Err(CardError::FrontEnd { problem }),
            None => Ok(card),
        }
    }

    /// Name of the graph's input.
    pub fn input_name(&self) -> &'static str {
        match self.input {
            Input::Fbank => FBANK,
            Input::Waveform => WAVEFORM,
        }
    }

    /// Axes of the graph's input; `None` is free.
    pub fn input_axes(&self) -> Vec<Option<usize>> {
        match self.input {
            Input::Fbank => {
                vec![self.batch, Some(self.front_end.n_frames), Some(self.front_end.n_mels)]
            }
            Input::Waveform => vec![self.batch, None],
        }
    }

    /// Shape of an input of `batch` clips that fill the model's frames exactly.
    pub fn window_shape(&self, batch: usize) -> Vec<usize> {
        let FrontEnd { n_frames, n_mels, .. } = self.front_end;
        match self.input {
            Input::Fbank => vec![batch, n_frames, n_mels],
            Input::Waveform => vec![batch, self.front_end.window_samples()],
        }
    }

    /// Checks that `input` has a shape that the model takes; every runtime asks this first.
    ///
    /// # Errors
    /// Names the shape found and the one expected.
    pub fn check_input(&self, input: &Tensor) -> anyhow::Result<()> {
        let (name, got, axes) = (self.input_name(), input.shape(), self.input_axes());
        let fits = got.len() == axes.len()
            && got.iter().zip(&axes).all(|(&got, axis)| axis.is_none_or(|size| size == got));
        if !fits || got[0] == 0 {
            let shape = self.input_shape();
            let batch = match self.batch {
                Some(batch) => format!("as the file was exported with --batch {batch}"),
                None => "with a batch of at least 1".into(),
            };
            bail!("`{name}` has shape {got:?}, expected {shape} {batch}");
        }
        let frame = frame_length(self.front_end.sample_rate);
        if self.input == Input::Waveform && got[1] < frame {
            bail!("`{name}` has {} samples, and one frame takes {frame}: append silence", got[1]);
        }
        Ok(())
    }

    /// Shape of the input, for people.
    pub fn input_shape(&self) -> String {
        let batch = self.batch.map_or_else(|| "batch".into(), |batch| batch.to_string());
        match self.input {
            Input::Fbank => {
                format!("[{batch}, {}, {}]", self.front_end.n_frames, self.front_end.n_mels)
            }
            Input::Waveform => format!("[{batch}, samples]"),
        }
    }

    /// Logits `[.., n_classes]` to scores between 0 and 1, of the same shape.
    ///
    /// # Errors
    /// Never for a tensor with axes.
    pub fn scores_of(&self, logits: &Tensor) -> Result<Tensor, TensorError> {
        let width = logits.shape().last().copied().unwrap_or(1).max(1);
        let rows = logits.data().chunks(width).flat_map(|row| self.scores.apply(row));
        Tensor::new(logits.shape(), rows.collect())
    }

    /// Why tract cannot run the file, if the card tells.
    pub fn beyond_tract(&self) -> Option<&'static str> {
        match (self.precision, self.lowering) {
            (Precision::F16, _) => Some(
                "its layers are in half precision (fp16), which takes ONNX Runtime: run it there, or \
                 export with --precision fp32",
            ),
            (_, Lowering::Scan) => Some(
                "it loops over single tokens (--lowering scan), which tract's optimiser does not \
                 finish: run it in ONNX Runtime, or export with --lowering scan-block",
            ),
            (_, Lowering::LinearAttention) => Some(
                "its recurrence is `com.microsoft::LinearAttention`, which ONNX Runtime alone has: \
                 run it there, or export with --lowering scan-block",
            ),
            _ => None,
        }
    }

    /// Label of class `index`; a class without a label is called by its number.
    pub fn label(&self, index: usize) -> String {
        self.labels.get(index).cloned().unwrap_or_else(|| format!("class {index}"))
    }
}

struct Entries<'a>(&'a BTreeMap<String, String>);

impl Entries<'_> {
    fn text(&self, key: &str) -> Result<&str, CardError> {
        let key = format!("{PREFIX}{key}");
        self.0.get(&key).map(String::as_str).ok_or(CardError::Missing { key })
    }

    /// `None` where the key is not there.
    fn optional<'a, T>(
        &'a self,
        key: &str,
        read: impl FnOnce(&'a Self, &str) -> Result<T, CardError>,
    ) -> Result<Option<T>, CardError> {
        self.text(key).ok().map(|_| read(self, key)).transpose()
    }

    fn unreadable(&self, key: &str, got: &str) -> CardError {
        CardError::Value { key: format!("{PREFIX}{key}"), got: got.into() }
    }

    fn parse<T: FromStr>(&self, key: &str) -> Result<T, CardError> {
        let text = self.text(key)?;
        text.parse().map_err(|_| self.unreadable(key, text))
    }

    fn json<T: for<'de> Deserialize<'de>>(&self, key: &str) -> Result<T, CardError> {
        let text = self.text(key)?;
        serde_json::from_str(text).map_err(|_| self.unreadable(key, text))
    }

    /// A unit variant, spelled without quotes.
    fn word<T: for<'de> Deserialize<'de>>(&self, key: &str) -> Result<T, CardError> {
        let text = self.text(key)?;
        serde_json::from_value(text.into()).map_err(|_| self.unreadable(key, text))
    }
}

/// JSON of a value whose serialisation cannot fail: lists, unit variants and what holds only those.
fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn unquoted<T: Serialize>(value: &T) -> String {
    json(value).trim_matches('"').into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> Card {
        Card {
            name: "kws".into(),
            labels: vec!["yes".into(), "a \"quoted\", one".into()],
            scores: Scores::Softmax,
            recipe: "speech-commands".into(),
            front_end: FrontEnd {
                sample_rate: 16_000,
                n_mels: 128,
                n_frames: 98,
                mean: -6.845978,
                std: 5.5654526,
                order: Order::PadThenNormalise,
                subtract_clip_mean: true,
            },
            input: Input::Waveform,
            checkpoint_sha256: "00ff".into(),
            converter: "ssamba-edge 0.1.0".into(),
            network: "d_model=64".into(),
            precision: Precision::F16,
            lowering: Lowering::Chunk,
            batch: Some(2),
            self_test: Some(SelfTest {
                output: "logits".into(),
                values: vec![1.5, -0.1],
                atol: 1e-4,
            }),
        }
    }

    #[test]
    fn a_card_survives_the_trip_through_metadata() {
        let mut metadata = card().to_metadata();
        metadata.insert("producer.note".into(), "somebody else's entry".into());
        assert_eq!(Card::from_metadata(&metadata).unwrap(), card());
    }

    #[test]
    fn a_missing_or_broken_entry_is_named() {
        let metadata = card().to_metadata();
        let optional = [
            "ssamba.precision",
            "ssamba.lowering",
            "ssamba.batch",
            "ssamba.input",
            "ssamba.self_test",
        ];
        let required = |key: &&String| *key != "ssamba.card" && !optional.contains(&key.as_str());
        for key in metadata.keys().filter(required) {
            let mut lacking = metadata.clone();
            lacking.remove(key);
            let error = Card::from_metadata(&lacking).unwrap_err();
            assert_eq!(error, CardError::Missing { key: key.clone() });
        }
        let mut older = metadata.clone();
        older.retain(|key, _| !optional.contains(&key.as_str()));
        let read = Card::from_metadata(&older).unwrap();
        assert_eq!((read.lowering, read.batch), (Lowering::Function, None));
        assert_eq!((read.precision, read.input), (Precision::F32, Input::Fbank));
        for key in optional {
            let mut broken = metadata.clone();
            broken.insert(key.into(), "-1".into());
            let error = Card::from_metadata(&broken).unwrap_err();
            assert_eq!(error, CardError::Value { key: key.into(), got: "-1".into() });
        }
        let mut broken = metadata;
        broken.insert("ssamba.n_frames".into(), "many".into());
        let message = Card::from_metadata(&broken).unwrap_err().to_string();
        assert!(message.contains("`ssamba.n_frames` = `many`"), "{message}");
        assert_eq!(Card::from_metadata(&BTreeMap::new()), Err(CardError::NotOurs));
        for (key, value) in [("mean", "1e308"), ("std", "1e-320"), ("n_mels", "1000000000")] {
            let mut absurd = card().to_metadata();
            absurd.insert(format!("ssamba.{key}"), value.into());
            let error = Card::from_metadata(&absurd).unwrap_err();
            assert!(matches!(error, CardError::FrontEnd { .. }), "{error}");
        }
    }

    #[test]
    fn a_fixed_batch_is_asked_for() {
        let clips = |batch| Tensor::new([batch, 98, 128], vec![0.0; batch * 98 * 128]).unwrap();
        let fixed = Card { input: Input::Fbank, ..card() };
        assert!(fixed.check_input(&clips(2)).is_ok());
        let message = fixed.check_input(&clips(1)).unwrap_err().to_string();
        assert!(message.contains("expected [2, 98, 128]"), "{message}");
        let free = Card { batch: None, ..fixed };
        assert!(free.check_input(&clips(1)).is_ok());
        assert!(free.check_input(&clips(0)).is_err());
    }

    #[test]
    fn a_waveform_has_any_length_from_one_frame_on() {
        let card = Card { batch: None, ..card() };
        let check = |shape: &[usize]| {
            let data = vec![0.0; shape.iter().product()];
            card.check_input(&Tensor::new(shape, data).unwrap()).map_err(|error| error.to_string())
        };
        assert_eq!(card.window_shape(3), [3, 15_920]);
        for samples in [400, 15_920, 100_000] {
            assert_eq!(check(&[2, samples]), Ok(()));
        }
        let short = "`waveform` has 399 samples, and one frame takes 400: append silence";
        assert_eq!(check(&[1, 399]).unwrap_err(), short);
        let rank = check(&[1, 98, 128]).unwrap_err();
        assert!(rank.contains("expected [batch, samples] with a batch"), "{rank}");
    }

    #[test]
    fn scores_are_what_their_names_say() {
        let softmax = Scores::Softmax.apply(&[1000.0, 1000.0]);
        assert_eq!(softmax, [0.5, 0.5]);
        assert_eq!(Scores::Sigmoid.apply(&[0.0]), [0.5]);
    }
}
