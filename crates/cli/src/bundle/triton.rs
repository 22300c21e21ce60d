//! A model repository for Triton Inference Server, whose backend is ONNX Runtime.
//!
//! The configuration is in the text form of Triton's `model_config.proto`.

use std::fmt::Write;

use ssamba_contract::{
    Card, Input,
    io::{LOGITS, SCORES},
};

use super::{LABELS, MODEL};

/// Folder of the repository.
pub const REPOSITORY: &str = "model_repository";
/// Requests that the server may put together.
const MAX_BATCH: usize = 64;
/// How long a request may wait for others, in µs.
const QUEUE_DELAY_US: u32 = 2_000;

/// A model to serve.
pub struct Model<'a> {
    pub card: &'a Card,
    /// File name of our operators, where the server's loader finds them.
    pub library: Option<&'a str>,
}

impl Model<'_> {
    /// Its name in requests and in the repository.
    pub fn name(&self) -> String {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        self.card.name.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
    }

    /// Where the file of the model lies.
    pub fn model_path(card: &Card) -> String {
        let name = Model { card, library: None }.name();
        format!("{REPOSITORY}/{name}/1/{MODEL}")
    }

    /// The files of the repository.
    pub fn files(&self, model: &[u8], labels: &str) -> Vec<(String, Vec<u8>)> {
        let folder = format!("{REPOSITORY}/{}", self.name());
        vec![
            (Self::model_path(self.card), model.to_vec()),
            (format!("{folder}/config.pbtxt"), self.configuration().into_bytes()),
            (format!("{folder}/{LABELS}"), labels.into()),
        ]
    }

    /// `config.pbtxt`.
    fn configuration(&self) -> String {
        let card = self.card;
        let (n_mels, n_frames) = (card.front_end.n_mels, card.front_end.n_frames);
        let input = match card.input {
            Input::Waveform => "-1".to_owned(),
            Input::Fbank => format!("{n_frames}, {n_mels}"),
        };
        let mut text = format!(
            "name: \"{}\"\nbackend: \"onnxruntime\"\nmax_batch_size: {MAX_BATCH}\n",
            self.name()
        );
        let mut tensor = |kind: &str, name: &str, dims: &str, labels: bool| {
            let labels =
                if labels { format!("\n    label_filename: \"{LABELS}\"") } else { String::new() };
            let _ = write!(
                text,
                "{kind} [\n  {{\n    name: \"{name}\"\n    data_type: TYPE_FP32\n    dims: [ {dims} ]{labels}\n  }}\n]\n"
            );
        };
        tensor("input", card.input_name(), &input, false);
        let classes = card.labels.len().to_string();
        tensor("output", LOGITS, &classes, false);
        if card.input == Input::Waveform {
            tensor("output", SCORES, &classes, true);
        }
        let _ = write!(
            text,
            "# Requests of one length run together.\n\
             dynamic_batching {{\n  max_queue_delay_microseconds: {QUEUE_DELAY_US}\n}}\n\
             # One thread for each request; add instances for more cores.\n\
             instance_group [\n  {{\n    count: 1\n    kind: KIND_CPU\n  }}\n]\n\
             parameters {{\n  key: \"intra_op_thread_count\"\n  value {{ string_value: \"1\" }}\n}}\n"
        );
        if let Some(library) = self.library {
            let _ = write!(text, "model_operations {{\n  op_library_filename: \"{library}\"\n}}\n");
        }
        text
    }
}
