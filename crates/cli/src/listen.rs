//! One clip through front end and network.

use std::{path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use ssamba_contract::{Card, Input, Outputs, Session, Tensor, io::LOGITS};
use ssamba_features::Extractor;

use crate::terminal;

/// Turns audio files into what a model takes.
pub struct Reader {
    input: Input,
    extractor: Extractor,
}

/// A clip, ready for the network.
pub struct Clip {
    /// Length of the file's audio in seconds.
    pub seconds: f64,
    /// `[1, n_frames, n_mels]`, or `[1, samples]` for a file with the front end inside.
    pub input: Tensor,
}

/// What came out of a clip.
pub struct Heard {
    /// All outputs of the graph.
    pub outputs: Outputs,
    /// Time in the runtime, front end excluded unless it is in the file; of clips that ran together, each has its share.
    pub milliseconds: f64,
}

/// A class and its score.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub struct Score {
    /// Position in the logits.
    pub index: usize,
    /// Label of the class.
    pub label: String,
    /// Between 0 and 1.
    pub score: f32,
}

impl Reader {
    /// # Errors
    /// When the card's settings describe no possible front end.
    pub fn new(card: &Card) -> Result<Self> {
        Ok(Self { input: card.input, extractor: Extractor::new(&card.front_end)? })
    }

    /// Reads a file as the model's card asks.
    pub fn read(&mut self, path: &Path) -> Result<Clip> {
        let front_end = self.extractor.front_end();
        let (n_frames, window) = (front_end.n_frames, front_end.window_seconds());
        let waveform = ssamba_audio::read(path, front_end.sample_rate)?;
        let seconds = waveform.duration_seconds();
        let samples = waveform.samples;
        let at = || path.display().to_string();
        let (n_frames_of_clip, input) = match self.input {
            Input::Fbank => {
                let features = self.extractor.extract(&samples).with_context(at)?;
                let shape = [&[1], features.fbank.shape()].concat();
                (features.n_frames_of_clip, Tensor::new(shape, features.fbank.data().to_vec())?)
            }
            Input::Waveform => {
                let n_frames_of_clip = self.extractor.check(&samples).with_context(at)?;
                (n_frames_of_clip, Tensor::new([1, samples.len()], samples)?)
            }
        };
        if n_frames_of_clip > n_frames {
            terminal::warning(format!(
                "{}: {seconds:.2} s long, only the first {window:.2} s are heard",
                path.display()
            ));
        }
        Ok(Clip { seconds, input })
    }
}

/// Clips that run together where nothing else is asked for.
pub const TOGETHER: usize = 8;

/// Runs the network on clips, neighbours of one shape together: what came out of each. A file that takes a
/// number of clips gets silence for those that are missing.
pub fn hear(session: &mut dyn Session, clips: &[&Clip]) -> Result<Vec<Heard>> {
    let mut heard = Vec::with_capacity(clips.len());
    // Clips of a file with the front end inside are as long as they are.
    for alike in clips.chunk_by(|a, b| a.input.shape() == b.input.shape()) {
        heard.extend(hear_alike(session, alike)?);
    }
    Ok(heard)
}

fn hear_alike(session: &mut dyn Session, clips: &[&Clip]) -> Result<Vec<Heard>> {
    let Some(first) = clips.first() else { return Ok(Vec::new()) };
    let mut shape = first.input.shape().to_vec();
    shape[0] = session.card().batch.unwrap_or(0).max(clips.len());
    let mut data: Vec<f32> = clips.iter().flat_map(|clip| clip.input.data()).copied().collect();
    data.resize(shape.iter().product(), 0.0);
    let input = Tensor::new(shape, data)?;
    let start = Instant::now();
    let outputs = session.run(&input)?;
    let milliseconds = start.elapsed().as_secs_f64() * 1e3 / clips.len() as f64;
    for (name, tensor) in outputs.iter() {
        ensure!(
            tensor.data().iter().all(|value| value.is_finite()),
            "{}: the model's `{name}` is not finite: its weights are damaged",
            session.provider()
        );
    }
    let of_clip = |index| {
        let outputs = outputs.iter().map(|(name, tensor)| {
            let mut shape = tensor.shape().to_vec();
            shape[0] = 1;
            Ok((name.to_owned(), Tensor::new(shape, tensor.row(index).to_vec())?))
        });
        Ok(Heard { outputs: Outputs::new(outputs.collect::<Result<_>>()?), milliseconds })
    };
    (0..clips.len()).map(of_clip).collect()
}

/// The `count` best classes of the first clip of the batch, best first. A head that gives several
/// rows a clip is judged by each class's best row.
pub fn top(card: &Card, outputs: &Outputs, count: usize) -> Vec<Score> {
    let Some(logits) = outputs.get(LOGITS) else { return Vec::new() };
    let Some(&n_classes) = logits.shape().last() else { return Vec::new() };
    let mut best = vec![0.0_f32; n_classes];
    for row in logits.row(0).chunks_exact(n_classes) {
        for (best, score) in best.iter_mut().zip(card.scores.apply(row)) {
            *best = best.max(score);
        }
    }
    let mut order: Vec<usize> = (0..n_classes).collect();
    order.sort_by(|&a, &b| best[b].total_cmp(&best[a]));
    let score = |index| Score { index, label: card.label(index), score: best[index] };
    order.into_iter().take(count).map(score).collect()
}
