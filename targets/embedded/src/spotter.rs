//! A model over a stream.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use ssamba_contract::{Card, Input, Session, Tensor, io::LOGITS, self_test::Verdict};
use ssamba_features::{FeatureError, Stream};
use ssamba_tract::TractSession;

use crate::{Detector, Settings, bundle, settings::FRAME_MS};

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

/// The newest window of a stream, scored.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    /// Scores before smoothing, in the order of the classes.
    pub scores: &'a [f32],
    /// Whole frames from the start of the stream to its end: what [`Detector::push`] takes.
    pub frame: u64,
    /// Its end, in seconds since the start of the stream.
    pub time_s: f64,
}

/// Listens to one stream for the keywords of one model, on one thread.
///
/// Its buffers are taken when it is opened and do not grow with the stream.
pub struct Spotter {
    session: TractSession,
    stream: Stream,
    detector: Detector,
    /// By class.
    labels: Vec<String>,
    /// Scores of the newest window.
    scores: Vec<f32>,
    /// From one window to the next, in frames.
    hop: u64,
}

impl Spotter {
    /// Opens a folder that `ssamba-edge export --target embedded` wrote, or a file that
    /// `ssamba-edge export` wrote, and runs it once so that the first window is not late. What
    /// settings a folder asks for is for [`Settings::of`] to say.
    ///
    /// # Errors
    /// When it cannot be opened or takes no stream of 16 kHz, when it has no classes, or when
    /// a setting makes no sense.
    pub fn open(model: impl AsRef<Path>, settings: &Settings) -> Result<Self> {
        settings.check()?;
        let model = model.as_ref();
        let session = bundle::open(model)?;
        Self::new(session, settings).with_context(|| model.display().to_string())
    }

    fn new(mut session: TractSession, settings: &Settings) -> Result<Self> {
        let front_end = &session.card().front_end;
        ensure!(
            session.card().input == Input::Fbank,
            "the model takes waveforms, and a stream is heard frame by frame: export with --frontend fbank"
        );
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
        let labels: Vec<String> = (0..n_classes).map(|index| session.card().label(index)).collect();
        Ok(Self {
            detector: Detector::new(settings, &labels)?,
            labels,
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

    /// Whether this machine computes what the model should put out. The stream goes on where it was.
    ///
    /// # Errors
    /// When the model has no self-test, or the network fails.
    pub fn self_test(&mut self) -> Result<Verdict> {
        let test = self.card().self_test.clone();
        let test =
            test.context("there is no self-test in the model, export it without --no-selftest")?;
        test.run(&mut self.session)
    }

    /// Labels by class; a class without one is called by its number.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Takes in the next samples of the stream, mono in [-1, 1), any number of them, and calls
    /// `on_event` for each keyword heard. How a stream is cut into pieces changes nothing.
    ///
    /// # Errors
    /// When a sample is not finite, in which case none was taken in, or when the network fails.
    pub fn feed(&mut self, samples: &[f32], mut on_event: impl FnMut(Event)) -> Result<()> {
        self.listen(samples, |spotter, (frame, time_s)| {
            if let Some((class, score)) = spotter.detector.push(&spotter.scores, frame) {
                let label = spotter.labels[class].clone();
                on_event(Event { class, label, score, time_s });
            }
        })
    }

    /// As [`feed`](Self::feed), but hands on the scores of each window instead of deciding what
    /// fires: for a [`Detector`] of the caller's.
    ///
    /// # Errors
    /// As for [`feed`](Self::feed).
    pub fn feed_windows(
        &mut self,
        samples: &[f32],
        mut on_window: impl FnMut(Window<'_>),
    ) -> Result<()> {
        self.listen(samples, |spotter, (frame, time_s)| {
            on_window(Window { scores: &spotter.scores, frame, time_s });
        })
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

    /// Takes in samples; after each window that was scored, `body` gets the frame that it ends with
    /// and the time of its end.
    fn listen(
        &mut self,
        samples: &[f32],
        mut body: impl FnMut(&mut Self, (u64, f64)),
    ) -> Result<()> {
        if let Some(index) = samples.iter().position(|sample| !sample.is_finite()) {
            return Err(FeatureError::NotFinite { index, value: samples[index] }.into());
        }
        let mut rest = samples;
        while let Some(behind) = self.stream.push(rest) {
            rest = behind;
            if self.score()? {
                let time_s = self.stream.samples() as f64 / f64::from(SAMPLE_RATE);
                body(self, (self.stream.frames(), time_s));
            }
        }
        Ok(())
    }

    /// Runs the network if the newest frame ends a window; whether it does.
    fn score(&mut self) -> Result<bool> {
        let past_the_first = self.stream.frames().checked_sub(self.stream.frames_heard() as u64);
        if past_the_first.is_none_or(|frames| !frames.is_multiple_of(self.hop)) {
            return Ok(false);
        }
        let Some(window) = self.stream.window() else { return Ok(false) };
        let outputs = self.session.run(&window)?;
        let logits = outputs.get(LOGITS).context("the model has no logits any more")?;
        self.scores.fill(0.0);
        // A head that gives several rows a window is judged by each class's best row.
        for row in logits.row(0).chunks_exact(self.scores.len()) {
            for (best, score) in self.scores.iter_mut().zip(self.session.card().scores.apply(row)) {
                *best = best.max(score);
            }
        }
        Ok(true)
    }
}
