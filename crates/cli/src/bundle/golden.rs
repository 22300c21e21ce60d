//! A clip and what the network makes of it, so that whoever unpacks a bundle can see that it works.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use hound::{SampleFormat, WavSpec, WavWriter};
use serde::{Deserialize, Serialize};
use ssamba_contract::{Card, Precision, SelfTest, Session, self_test};
use ssamba_onnx::Network;

use crate::{
    convert::CandleSession,
    listen::{Reader, Score, top},
    verify::tolerance,
};

/// Name of what is expected.
pub const EXPECTED: &str = "golden.json";

/// The clip and what is expected of it.
pub struct Golden {
    /// `golden.wav`, or with the ending of the clip that was given.
    pub clip_name: String,
    pub clip: Vec<u8>,
    pub expected: Expected,
}

/// What candle, the reference, gives for the clip.
#[derive(Debug, Serialize, Deserialize)]
pub struct Expected {
    /// The clip's file name.
    pub clip: String,
    /// The best classes, best first; none for a feature extractor.
    pub top: Vec<Score>,
    /// The first output of the file.
    #[serde(flatten)]
    pub test: SelfTest,
}

/// Classes that are told by name.
const TOP: usize = 3;

impl Golden {
    pub fn new(
        network: Network,
        card: &Card,
        precision: Precision,
        clip: Option<&Path>,
    ) -> Result<Self> {
        let ending = clip.and_then(Path::extension).map(|ending| ending.to_string_lossy());
        let clip_name = format!("golden.{}", ending.as_deref().unwrap_or("wav"));
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(&clip_name);
        match clip {
            Some(clip) => {
                fs::copy(clip, &path).with_context(|| clip.display().to_string())?;
            }
            None => noise(card, &path)?,
        }
        let read = Reader::new(card)?.read(&path);
        // Where the copy lies for now is not worth a word.
        let input = match (read, clip) {
            (Err(error), Some(clip)) => {
                return Err(anyhow::anyhow!("{}: {}", clip.display(), error.root_cause()));
            }
            (read, _) => read?.input,
        };
        let outputs = CandleSession::new(network, card.clone()).run(&input)?;
        let test = SelfTest::new(outputs.iter(), tolerance(precision, card.input))
            .context("the network puts nothing out")?;
        let expected = Expected { clip: clip_name.clone(), top: top(card, &outputs, TOP), test };
        Ok(Self { clip_name, clip: fs::read(&path)?, expected })
    }
}

/// The samples of the self-test in 16 bits, as many as the model hears.
fn noise(card: &Card, path: &Path) -> Result<()> {
    let spec = WavSpec {
        channels: 1,
        sample_rate: card.front_end.sample_rate,
        bits_per_sample: 16,
        sample_format: SampleFormat::Int,
    };
    let mut writer = WavWriter::create(path, spec)?;
    for sample in self_test::samples().take(card.front_end.window_samples()) {
        writer.write_sample((sample * 32_767.0) as i16)?;
    }
    Ok(writer.finalize()?)
}
