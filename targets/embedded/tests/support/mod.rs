//! The bundled model, exported, and a stream made of the bundled clips.

// Each test file uses its part.
#![allow(dead_code, reason = "shared by test files that need different parts")]

use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

use ssamba_contract::SelfTest;
use ssamba_kws::{Event, Settings, Spotter};
use ssamba_model::{Checkpoint, Recipe};
use ssamba_onnx::Weights;
use tempfile::TempDir;

/// Words of the stream, in order.
pub const WORDS: [&str; 3] = ["yes", "stop", "left"];
/// One second of silence, then one of a word, and so on, silence last.
const SECOND: usize = 16_000;

/// The checkpoint of the bundled keyword model; its card is `kws12.toml`.
const KWS12: &str = "kws12.safetensors";

fn zoo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/zoo/kws12").join(name)
}

/// The exported file, in a folder that goes when this does.
pub struct Exported {
    folder: TempDir,
}

impl Exported {
    pub fn new() -> Self {
        Self::with_self_test(None)
    }

    pub fn with_self_test(self_test: Option<SelfTest>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::read(&zoo(KWS12)).unwrap();
        let weights = Weights::load(&checkpoint, None).unwrap();
        let network = weights.with(Recipe::read(&zoo("kws12.toml")).unwrap()).unwrap();
        let mut card = ssamba_onnx::card(&network, "kws12", "").unwrap();
        card.self_test = self_test;
        let bytes = ssamba_onnx::export(&network, &card, &ssamba_onnx::Options::default()).unwrap();
        let exported = Self { folder };
        fs::write(exported.model(), bytes).unwrap();
        exported
    }

    pub fn model(&self) -> PathBuf {
        self.folder.path().join("kws12.onnx")
    }

    /// Another file beside the model.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn spotter(&self, settings: &Settings) -> Spotter {
        Spotter::open(self.model(), settings).unwrap()
    }
}

/// A bundled clip of one second.
pub fn clip(word: &str) -> Vec<i16> {
    let mut reader = hound::WavReader::open(zoo(&format!("{word}.wav"))).unwrap();
    let samples: Vec<i16> = reader.samples().map(Result::unwrap).collect();
    assert_eq!((reader.spec().channels, samples.len()), (1, SECOND));
    samples
}

/// Path of a bundled clip.
pub fn clip_path(word: &str) -> PathBuf {
    zoo(&format!("{word}.wav"))
}

/// The words with silence around each.
pub fn stream() -> Vec<i16> {
    let mut stream = vec![0; SECOND];
    for word in WORDS {
        stream.extend(clip(word));
        stream.extend([0; SECOND]);
    }
    stream
}

pub fn floats(samples: &[i16]) -> Vec<f32> {
    samples.iter().map(|&sample| f32::from(sample) / 32_768.0).collect()
}

pub fn events(spotter: &mut Spotter, samples: &[i16]) -> Vec<Event> {
    let mut events = Vec::new();
    spotter.feed_i16(samples, |event| events.push(event)).unwrap();
    events
}

/// Asserts that the words were heard in order, each between its start and a second after its end.
pub fn assert_words<'a>(heard: impl IntoIterator<Item = (&'a str, f64)>) {
    let heard: Vec<(&str, f64)> = heard.into_iter().collect();
    let labels: Vec<&str> = heard.iter().map(|(label, _)| *label).collect();
    assert_eq!(labels, WORDS, "{heard:?}");
    for (index, (label, time_s)) in heard.iter().enumerate() {
        let start = (2 * index + 1) as f64;
        assert!((start..start + 2.0).contains(time_s), "{label} at {time_s} s");
    }
}

/// What a program that ran to its end printed; it must have gone well.
pub fn printed(output: &process::Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}
