//! What a checkpoint cannot tell: input length, strides, front end, head, labels.
//!
//! Built in are the published recipes (values: SiavashShams/ssamba@019b276 `src/pretrain`,
//! `src/finetune/*`); anything else comes from a TOML file, usually beside the checkpoint:
//!
//! ```toml
//! name = "kws12"
//! labels = ["yes", "no"]      # in the order of the logits
//! frames = 98                 # 10 ms each
//! mean = -6.845978            # of the log-mel values over the training set
//! std = 5.5654526
//! stride = [128, 2]           # mel bins, frames
//! # optional, with their defaults:
//! sample_rate = 16000
//! mel_bins = 128
//! head = "mean-tokens"        # class-token, per-second, features
//! scores = "softmax"          # sigmoid
//! order = "pad-then-normalise" # normalise-then-pad
//! subtract_clip_mean = true
//! # of SSAMBA alone:
//! norm = "layer"              # rms; default: what the file holds
//! pairwise = true
//! halve = true
//! # optional, checked against the tensors:
//! patch = [128, 4]
//! embed_dim = 64
//! depth = 12
//! # optional, checked against the file that this one lies beside:
//! sha256 = "..."              # of the weights, hexadecimal
//! # for people, nothing is read from them:
//! task = "..."
//! form = "..."
//! parameters = 527052
//! [accuracy]                  # mean_average_precision
//! [data]
//! [training]
//! [calibration]
//! ```
//!
//! With the last of these it is the card of a model, as `train` writes it.

use std::{fs, path::Path};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use ssamba_contract::{FrontEnd, Order, Scores};

use crate::{NormKind, Sizes};

/// How tokens become the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    /// Mean of the patch tokens, then the classifier: upstream `ft_avgtok`.
    #[default]
    MeanTokens,
    /// The class token, or the mean of the class tokens where there are several, then the
    /// classifier: upstream `ft_cls`.
    ClassToken,
    /// Sixty slices of the token axis, the class token among them, each classified: upstream
    /// `ft_avgtok_1sec`. Tokens are frequency-major, so a slice is no second of audio; kept for
    /// weight compatibility.
    PerSecond,
    /// One vector per patch column, before the second final norm: the SUPERB expert.
    Features,
}

/// What a checkpoint cannot tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Name of a built-in recipe, or the one in the file.
    pub name: String,
    /// One label per class; may be empty.
    pub labels: Vec<String>,
    /// How a waveform becomes the network's input.
    pub front_end: FrontEnd,
    /// Mel bins between patches.
    pub stride_f: usize,
    /// Frames between patches.
    pub stride_t: usize,
    /// How tokens become the output.
    pub head: Head,
    /// How logits become scores.
    pub scores: Scores,
    /// Norm to run; `None` takes what the file holds.
    pub norm: Option<NormKind>,
    /// SSAMBA: layers are taken in pairs, the second fed reversed tokens (upstream `if_bidirectional`).
    pub pairwise: bool,
    /// SSAMBA: mean instead of sum of the two directions (upstream `if_devide_out`).
    pub halve: bool,
    /// What the file claims of the weights.
    pub claims: Claims,
}

/// What a recipe file may claim of the weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims {
    /// Mel bins and frames of a patch.
    pub patch: Option<[usize; 2]>,
    /// Width of tokens.
    pub embed_dim: Option<usize>,
    /// Number of layers.
    pub depth: Option<usize>,
    /// SHA-256 of the checkpoint file, hexadecimal. It holds for the file that the recipe lies beside;
    /// [`Recipe::check`] sees tensors alone, [`Recipe::beside`] checks it.
    pub sha256: Option<String>,
}

/// The TOML form; the keys are those of the cards that accompany checkpoints.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Option<String>,
    labels: Option<Vec<String>>,
    frames: usize,
    mean: f64,
    std: f64,
    stride: [usize; 2],
    #[serde(default = "sixteen_kilohertz")]
    sample_rate: u32,
    #[serde(default = "published_mels")]
    mel_bins: usize,
    #[serde(default)]
    head: Head,
    scores: Option<Scores>,
    order: Option<Order>,
    #[serde(default = "yes")]
    subtract_clip_mean: bool,
    norm: Option<NormKind>,
    #[serde(default = "yes")]
    pairwise: bool,
    #[serde(default = "yes")]
    halve: bool,
    patch: Option<[usize; 2]>,
    embed_dim: Option<usize>,
    depth: Option<usize>,
    sha256: Option<String>,
    // For people; nothing is read from them.
    #[serde(rename = "task")]
    _task: Option<String>,
    #[serde(rename = "form")]
    _form: Option<String>,
    #[serde(rename = "parameters")]
    _parameters: Option<u64>,
    #[serde(rename = "accuracy")]
    _accuracy: Option<toml::Table>,
    #[serde(rename = "mean_average_precision")]
    _mean_average_precision: Option<toml::Table>,
    #[serde(rename = "data")]
    _data: Option<toml::Table>,
    #[serde(rename = "training")]
    _training: Option<toml::Table>,
    #[serde(rename = "calibration")]
    _calibration: Option<toml::Table>,
}

fn sixteen_kilohertz() -> u32 {
    16_000
}

fn published_mels() -> usize {
    128
}

fn yes() -> bool {
    true
}

/// Names of the built-in recipes.
pub const BUILT_IN: [&str; 6] =
    ["speech-commands", "esc50", "audioset", "superb", "urban8k-dasl", "pretrain"];

/// Class names in upstream's order, one a line, by recipe: the `class_labels_indices.csv` files beside
/// its fine-tuning scripts (those of Speech Commands v2 and ESC-50 are the ones of YuanGongND/ast).
const PUBLISHED_LABELS: [(&str, &str); 4] = [
    ("speech-commands", include_str!("../labels/speech-commands-35.txt")),
    ("speech-commands", include_str!("../labels/speech-commands-30.txt")),
    ("esc50", include_str!("../labels/esc50.txt")),
    ("urban8k-dasl", include_str!("../labels/urban8k-dasl.txt")),
];

/// Mean and deviation of the AudioSet and LibriSpeech mix of pretraining.
const AUDIOSET: (f64, f64) = (-4.2677393, 4.5689974);

impl Recipe {
    /// A built-in recipe, or `None` for an unknown name.
    pub fn built_in(name: &str) -> Option<Self> {
        use Head::{Features, MeanTokens, PerSecond};
        use Scores::{Sigmoid, Softmax};
        // Speech Commands and AudioSet were trained with binary cross-entropy: sigmoid.
        let ((mean, std), n_frames, stride, head, scores) = match name {
            "speech-commands" => ((-6.845978, 5.5654526), 128, 10, MeanTokens, Sigmoid),
            "esc50" => ((-6.6268077, 5.358466), 512, 10, MeanTokens, Softmax),
            "audioset" => (AUDIOSET, 1024, 10, MeanTokens, Sigmoid),
            "superb" => (AUDIOSET, 1000, 10, Features, Softmax),
            "urban8k-dasl" => {
                ((-5.138443946838379, 4.229961395263672), 6144, 16, PerSecond, Softmax)
            }
            "pretrain" => (AUDIOSET, 1024, 16, MeanTokens, Softmax),
            _ => return None,
        };
        let superb = name == "superb";
        Some(Self {
            name: name.into(),
            labels: Vec::new(),
            front_end: FrontEnd {
                sample_rate: sixteen_kilohertz(),
                n_mels: published_mels(),
                n_frames,
                mean,
                std,
                order: if superb { Order::NormaliseThenPad } else { Order::PadThenNormalise },
                subtract_clip_mean: !superb,
            },
            stride_f: stride,
            stride_t: stride,
            head,
            scores,
            // The SUPERB expert builds RMSNorm and drops the biases of LayerNorm checkpoints.
            norm: superb.then_some(NormKind::Rms),
            pairwise: true,
            halve: true,
            claims: Claims::default(),
        })
    }

    /// Upstream's class names for a built-in recipe, if it has as many as `n_classes`.
    pub fn published_labels(name: &str, n_classes: usize) -> Option<Vec<String>> {
        PUBLISHED_LABELS.into_iter().filter(|(recipe, _)| *recipe == name).find_map(|(_, text)| {
            let labels: Vec<String> = text.lines().map(Into::into).collect();
            (labels.len() == n_classes).then_some(labels)
        })
    }

    /// A built-in recipe by name, or a TOML file by path.
    ///
    /// # Errors
    /// When it is neither, or the file is not a recipe.
    pub fn find(name_or_path: &str) -> Result<Self> {
        if let Some(recipe) = Self::built_in(name_or_path) {
            return Ok(recipe);
        }
        let path = Path::new(name_or_path);
        ensure!(
            path.is_file(),
            "no recipe `{name_or_path}`: expected {} or a TOML file",
            BUILT_IN.join(", ")
        );
        Self::read(path)
    }

    /// Reads a TOML recipe.
    ///
    /// # Errors
    /// Names the file, the line and the key that is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        Self::parse(&text, &stem.unwrap_or_default())
            .with_context(|| format!("{}: not a recipe", path.display()))
    }

    /// The recipe that lies beside a checkpoint file of a SHA-256, if there is one: the TOML file of its
    /// name.
    ///
    /// # Errors
    /// As [`Self::read`], and when the recipe says that it belongs to another file.
    pub fn beside(checkpoint: &Path, sha256: &str) -> Result<Option<Self>> {
        let path = checkpoint.with_extension("toml");
        if !path.is_file() {
            return Ok(None);
        }
        let recipe = Self::read(&path)?;
        if let Some(claim) = &recipe.claims.sha256 {
            ensure!(
                claim.eq_ignore_ascii_case(sha256),
                "{}: it is of other weights, with sha256 {claim}, and {} has {sha256}; to take it \
                 nevertheless, name it by --recipe",
                path.display(),
                checkpoint.display()
            );
        }
        Ok(Some(recipe))
    }

    /// Parses a TOML recipe; `name` is used where it gives none.
    ///
    /// # Errors
    /// Names the line and the key that is wrong.
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        let file: File = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = text[..start].matches('\n').count() + 1;
            anyhow!("line {line}: {}", error.message())
        })?;
        ensure!(
            file.stride[0] > 0 && file.stride[1] > 0,
            "`stride` is {:?}, expected two positive numbers",
            file.stride
        );
        let front_end = FrontEnd {
            sample_rate: file.sample_rate,
            n_mels: file.mel_bins,
            n_frames: file.frames,
            mean: file.mean,
            std: file.std,
            order: file.order.unwrap_or(Order::PadThenNormalise),
            subtract_clip_mean: file.subtract_clip_mean,
        };
        if let Some(problem) = front_end.problem() {
            bail!("{problem}");
        }
        let labels = file.labels.unwrap_or_default();
        check_labels(&labels)?;
        if let Some(sha256) = &file.sha256 {
            ensure!(
                sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "`sha256` is `{sha256}`, expected 64 hexadecimal digits"
            );
        }
        Ok(Self {
            name: file.name.unwrap_or_else(|| name.into()),
            labels,
            front_end,
            stride_f: file.stride[0],
            stride_t: file.stride[1],
            head: file.head,
            scores: file.scores.unwrap_or(Scores::Softmax),
            norm: file.norm,
            pairwise: file.pairwise,
            halve: file.halve,
            claims: Claims {
                patch: file.patch,
                embed_dim: file.embed_dim,
                depth: file.depth,
                sha256: file.sha256,
            },
        })
    }

    /// The TOML form, which [`Self::parse`] reads back; `sizes` become its claims.
    pub fn to_toml(&self, sizes: impl Into<Sizes>) -> String {
        let sizes = sizes.into();
        let front_end = &self.front_end;
        let text = |text: &str| toml::Value::from(text).to_string();
        let labels: Vec<String> = self.labels.iter().map(|label| text(label)).collect();
        let word = |value: Result<toml::Value, _>| match value {
            Ok(value) => value.to_string(),
            // Never: they are words.
            Err(error) => text(&format!("{error}")),
        };
        let mut lines = vec![
            format!("name = {}", text(&self.name)),
            format!("labels = [{}]", labels.join(", ")),
            format!("frames = {}", front_end.n_frames),
            format!("mean = {:?}", front_end.mean),
            format!("std = {:?}", front_end.std),
            format!("stride = [{}, {}]", self.stride_f, self.stride_t),
            format!("sample_rate = {}", front_end.sample_rate),
            format!("mel_bins = {}", front_end.n_mels),
            format!("head = {}", word(toml::Value::try_from(self.head))),
            format!("scores = {}", word(toml::Value::try_from(self.scores))),
            format!("order = {}", word(toml::Value::try_from(front_end.order))),
            format!("subtract_clip_mean = {}", front_end.subtract_clip_mean),
        ];
        if let Some(norm) = self.norm {
            lines.push(format!("norm = {}", word(toml::Value::try_from(norm))));
        }
        lines.extend([
            format!("pairwise = {}", self.pairwise),
            format!("halve = {}", self.halve),
            format!("patch = [{}, {}]", sizes.patch_f, sizes.patch_t),
            format!("embed_dim = {}", sizes.d_model),
            format!("depth = {}", sizes.depth),
        ]);
        lines.join("\n") + "\n"
    }

    /// Patches over frequency and time, or an error when a patch does not fit the input.
    ///
    /// # Errors
    /// When the input is smaller than one patch.
    pub fn grid(&self, sizes: impl Into<Sizes>) -> Result<(usize, usize)> {
        let sizes = sizes.into();
        let steps = |axis, size: usize, patch: usize, stride: usize| {
            size.checked_sub(patch).map(|rest| rest / stride + 1).ok_or_else(|| {
                anyhow!(
                    "recipe `{}` has {size} {axis}, fewer than the {patch} of a patch",
                    self.name
                )
            })
        };
        Ok((
            steps("mel bins", self.front_end.n_mels, sizes.patch_f, self.stride_f)?,
            steps("frames", self.front_end.n_frames, sizes.patch_t, self.stride_t)?,
        ))
    }

    /// Checks what the recipe claims against what the tensors tell.
    ///
    /// # Errors
    /// Names the first claim that differs.
    pub fn check(&self, sizes: impl Into<Sizes>) -> Result<()> {
        let sizes = sizes.into();
        let &Claims { patch, embed_dim, depth, .. } = &self.claims;
        let found = [sizes.patch_f, sizes.patch_t];
        if let Some(patch) = patch.filter(|&patch| patch != found) {
            bail!("recipe `{}` says patch = {patch:?}, the checkpoint has {found:?}", self.name);
        }
        for (key, claim, found) in
            [("embed_dim", embed_dim, sizes.d_model), ("depth", depth, sizes.depth)]
        {
            if let Some(claim) = claim.filter(|&claim| claim != found) {
                bail!("recipe `{}` says {key} = {claim}, the checkpoint has {found}", self.name);
            }
        }
        if let Some(classes) = sizes.n_classes
            && !self.labels.is_empty()
            && self.labels.len() != classes
        {
            bail!(
                "recipe `{}` has {} labels, the checkpoint {classes} classes",
                self.name,
                self.labels.len()
            );
        }
        Ok(())
    }
}

/// Labels end up in terminals and in lines of output.
///
/// # Errors
/// Names the first label that is empty or holds control characters.
pub fn check_labels(labels: &[String]) -> Result<()> {
    for (index, label) in labels.iter().enumerate() {
        ensure!(
            !label.trim().is_empty() && !label.contains(char::is_control),
            "label {index} is {label:?}, expected printable text"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KWS: &str =
        "labels = ['yes', 'no']\nframes = 98\nmean = -6.8\nstd = 5.5\nstride = [128, 2]\n";

    #[test]
    fn every_built_in_name_is_a_recipe() {
        for name in BUILT_IN {
            assert_eq!(Recipe::built_in(name).unwrap().name, name);
        }
        assert_eq!(Recipe::built_in("speech_commands"), None);
    }

    #[test]
    fn published_labels_are_chosen_by_the_number_of_classes() {
        for (name, classes, first) in [
            ("speech-commands", 35, "backward"),
            ("speech-commands", 30, "five"),
            ("esc50", 50, "dog"),
            ("urban8k-dasl", 10, "air_conditioner"),
        ] {
            assert_eq!(Recipe::published_labels(name, classes).unwrap()[0], first);
        }
        assert_eq!(Recipe::published_labels("speech-commands", 12), None);
    }

    #[test]
    fn a_toml_recipe_needs_only_what_the_file_cannot_tell() {
        let recipe = Recipe::parse(KWS, "kws").unwrap();
        assert_eq!((recipe.name.as_str(), recipe.labels.len()), ("kws", 2));
        assert_eq!((recipe.stride_f, recipe.stride_t, recipe.front_end.n_mels), (128, 2, 128));
        assert!(recipe.pairwise && recipe.halve && recipe.norm.is_none());
    }

    #[test]
    fn a_recipe_that_is_written_is_read_back() {
        let sizes = Sizes { d_model: 64, depth: 12, patch_f: 128, patch_t: 4, n_classes: Some(2) };
        let mut recipes: Vec<Recipe> =
            BUILT_IN.iter().map(|name| Recipe::built_in(name).unwrap()).collect();
        recipes.push(Recipe::parse(&format!("{KWS}halve = false\n"), "a \"b\" \\").unwrap());
        for mut recipe in recipes {
            let read = Recipe::parse(&recipe.to_toml(sizes), "").unwrap();
            recipe.claims = Claims {
                patch: Some([128, 4]),
                embed_dim: Some(64),
                depth: Some(12),
                sha256: None,
            };
            assert_eq!(read, recipe);
        }
    }

    #[test]
    fn a_misspelled_key_is_named() {
        let error = Recipe::parse(&format!("{KWS}pairwize = true\n"), "kws").unwrap_err();
        assert!(error.to_string().contains("pairwize"), "{error}");
    }

    #[test]
    fn a_claim_that_differs_from_the_tensors_is_an_error() {
        let sizes = Sizes { d_model: 64, depth: 12, patch_f: 128, patch_t: 4, n_classes: Some(2) };
        for (line, needle) in [
            ("patch = [16, 16]", "patch = [16, 16]"),
            ("depth = 24", "depth = 24"),
            ("embed_dim = 192", "embed_dim = 192"),
        ] {
            let recipe = Recipe::parse(&format!("{KWS}{line}\n"), "kws").unwrap();
            let message = recipe.check(sizes).unwrap_err().to_string();
            assert!(message.contains(needle), "{message}");
        }
        let recipe = Recipe::parse(KWS, "kws").unwrap();
        assert!(recipe.check(sizes).is_ok());
        assert!(recipe.check(Sizes { n_classes: Some(3), ..sizes }).is_err());
        assert_eq!(recipe.grid(sizes).unwrap(), (1, 48));
    }
    #[test]
    fn a_card_belongs_to_the_weights_that_it_says() {
        let folder = std::env::temp_dir().join(format!("ssamba-recipe-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let checkpoint = folder.join("kws.safetensors");
        let (ours, other) = ("ab".repeat(32), "cd".repeat(32));
        assert_eq!(Recipe::beside(&checkpoint, &ours).unwrap(), None);
        let tables = "[accuracy]\nvalidation = 0.9\n[data]\ntraining = 3\n[training]\nseed = 1\n";
        fs::write(folder.join("kws.toml"), format!("{KWS}sha256 = '{ours}'\n{tables}")).unwrap();
        let recipe = Recipe::beside(&checkpoint, &ours.to_uppercase()).unwrap().unwrap();
        assert_eq!(recipe.claims.sha256, Some(ours.clone()));
        let message = Recipe::beside(&checkpoint, &other).unwrap_err().to_string();
        assert!(message.contains("kws.toml: it is of other weights") && message.contains(&ours));
        fs::remove_dir_all(&folder).unwrap();
        let message = Recipe::parse(&format!("{KWS}sha256 = 'abc'\n"), "").unwrap_err();
        assert!(message.to_string().contains("`sha256` is `abc`"), "{message}");
    }
}
