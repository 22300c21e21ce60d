//! Waveform to normalised log-mel filter banks.
//!
//! - [`Fbank`]: log-mel filter banks as Kaldi computes them, one 25 ms frame every 10 ms.
//! - [`Extractor`]: the whole front end of a model, from samples to `[n_frames, n_mels]`.
//! - [`Stream`]: the same over a stream of samples, each frame computed once.
//!
//! It follows `torchaudio.compliance.kaldi.fbank` with the arguments that SSAMBA gives it
//! (SiavashShams/ssamba@019b276 `src/dataloader.py:135`; defaults in torchaudio 2.6
//! `compliance/kaldi.py:514-540`).

#![deny(missing_docs)]

mod error;
mod extractor;
mod fbank;
mod mel;
mod stream;

pub use error::FeatureError;
pub use extractor::{Extractor, Features};
pub use fbank::{FLOOR, Fbank, PREEMPHASIS, symmetric_hann};
pub use mel::mel_weights;
pub use stream::Stream;
