//! A model over a stream.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use ssamba_contract::{Card, Session, Tensor, io::LOGITS};
use ssamba_features::{FeatureError, Stream};
use ssamba_tract::{Options, TractSession};

use crate::{Settings, detector::Detector, settings::FRAME_MS};

/// Hz, of every stream.
pub const SAMPLE_RATE: u32 = 16_000;

/// How far a frame reaches beyond the start of the next: windows of n frames last 10 n + 15 ms.
const FRAME_OVERLAP_MS: u32 = 15;

/// A keyword was heard.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Position of the class in the logits.
    pub class: usize,
    /// Its label.
    pub label: String,
    /// Mean score over the last windows, between 0 and 1.
    pub score: f32,
    /// End of the newest window, in seconds since the start of the stream: when it was known, a
    /// little after the word ended.
    pub time_s: f64,
}

/// Listens to one stream for the keywords of one model, on one thread.
///
/// Its buffers are taken when it is opened and do not grow with the stream.
pub struct Spotter {
    session: TractSession,
    stream: Stream,
    detector: Detector,
    /// Scores of the newest window.
    scores: Vec<f32>,
    /// From one window to the next, in frames.
    hop: u64,
}

impl Spotter {
    /// Opens a file that `ssamba-edge export` wrote, and runs it once so that the first window is
    /// not late.
    ///
    /// # Errors
    /// When the file cannot be opened or takes no stream of 16 kHz, when it has no classes, or when
    /// a setting makes no sense.
    pub fn open(model: impl AsRef<Path>, settings: &Settings) -> Result<Self> {
        settings.check()?;
        let model = model.as_ref();
        let session = TractSession::open(model, &Options { threads: Some(1) })?;
        Self::new(session, settings).with_context(|| model.display().to_string())
    }

    fn new(mut session: TractSession, settings: &Settings) -> Result<Self> {
        let front_end = &session.card().front_end;
        ensure!(
            front_end.sample_rate == SAMPLE_RATE,
            "the model hears {} Hz, expected {SAMPLE_RATE} Hz",
            front_end.sample_rate
        );
        let frames_heard = match settings.window_ms {
            None => front_end.n_frames,
            Some(window_ms) => (window_ms.saturating_sub(FRAME_OVERLAP_MS) / FRAME_MS) as usize,
        };
        let stream = Stream::new(front_end, frames_heard)?;
        let quiet = [1, front_end.n_frames, front_end.n_mels];
        let quiet = Tensor::new(quiet, vec![0.0; quiet.iter().product()])?;
        let outputs = session.run(&quiet)?;
        let logits =
            outputs.get(LOGITS).context("a feature extractor has no keywords to listen for")?;
        let n_classes = logits.shape().last().copied().unwrap_or_default();
        let thresholds = settings.thresholds(session.card(), n_classes)?;
        let refractory = u64::from(settings.refractory_ms.div_ceil(FRAME_MS));
        Ok(Self {
            detector: Detector::new(thresholds, settings.smooth, refractory),
            scores: vec![0.0; n_classes],
            hop: u64::from(settings.hop_ms / FRAME_MS),
            stream,
            session,
        })
    }

    /// What the model says of itself.
    pub fn card(&self) -> &Card {
        self.session.card()
    }

    /// Takes in the next samples of the stream, mono in [-1, 1), any number of them, and calls
    /// `on_event` for each keyword heard. How a stream is cut into pieces changes nothing.
    ///
    /// # Errors
    /// When a sample is not finite, in which case none was taken in, or when the network fails.
    pub fn feed(&mut self, samples: &[f32], mut on_event: impl FnMut(Event)) -> Result<()> {
        if let Some(index) = samples.iter().position(|sample| !sample.is_finite()) {
            return Err(FeatureError::NotFinite { index, value: samples[index] }.into());
        }
        let mut rest = samples;
        while let Some(behind) = self.stream.push(rest) {
            rest = behind;
            if let Some(event) = self.listen()? {
                on_event(event);
            }
        }
        Ok(())
    }

    /// As [`feed`](Self::feed), for 16-bit samples.
    ///
    /// # Errors
    /// When the network fails.
    pub fn feed_i16(&mut self, samples: &[i16], mut on_event: impl FnMut(Event)) -> Result<()> {
        let mut piece = [0.0; 160];
        for samples in samples.chunks(piece.len()) {
            for (slot, &sample) in piece.iter_mut().zip(samples) {
                *slot = f32::from(sample) / 32_768.0;
            }
            self.feed(&piece[..samples.len()], &mut on_event)?;
        }
        Ok(())
    }

    /// Scores of the newest window, before smoothing, in the order of the classes; all 0 before the
    /// first window.
    pub fn scores(&self) -> &[f32] {
        &self.scores
    }

    /// Forgets the stream: the next sample is the first of another.
    pub fn reset(&mut self) {
        self.stream.reset();
        self.detector.reset();
        self.scores.fill(0.0);
    }

    /// Runs the network if the newest frame ends a window.
    fn listen(&mut self) -> Result<Option<Event>> {
        let frame = self.stream.frames();
        let past_the_first = frame.checked_sub(self.stream.frames_heard() as u64);
        if past_the_first.is_none_or(|frames| !frames.is_multiple_of(self.hop)) {
            return Ok(None);
        }
        let Some(window) = self.stream.window() else { return Ok(None) };
        let outputs = self.session.run(&window)?;
        let logits = outputs.get(LOGITS).context("the model has no logits any more")?;
        self.scores.fill(0.0);
        // A head that gives several rows a window is judged by each class's best row.
        for row in logits.row(0).chunks_exact(self.scores.len()) {
            for (best, score) in self.scores.iter_mut().zip(self.session.card().scores.apply(row)) {
                *best = best.max(score);
            }
        }
        Ok(self.detector.push(&self.scores, frame).map(|(class, score)| Event {
            class,
            label: self.session.card().label(class),
            score,
            time_s: self.stream.samples() as f64 / f64::from(SAMPLE_RATE),
        }))
    }
}
