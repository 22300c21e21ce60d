//! Waveforms to filter banks in the graph: what `ssamba_features::Extractor` computes, in `f32`.
//!
//! Everything before the power is linear, so one convolution does it: the rows of its kernel are
//! those of the Fourier transform, times the window, times pre-emphasis, less the frame's mean, folded
//! in `f64`. Frames are those of a convolution without padding (`snip_edges` in Kaldi). Of the
//! frequencies there are only those that a filter weighs.
//!
//! It stays in single precision whatever the rest of the file is in: mel energies span 1e-7 to 2e2,
//! of which half precision and eight bits keep too little.

use std::f64::consts::TAU;

use anyhow::Result;
use onnx_protobuf::GraphProto;
use protobuf::Message;
use ssamba_contract::{
    FrontEnd, Order, Precision,
    front_end::{frame_length, frame_shift},
    io::{BATCH, FBANK, SAMPLES, WAVEFORM},
};
use ssamba_features::{FLOOR, PREEMPHASIS, mel_weights, symmetric_hann};

use crate::{
    function::model_proto,
    graph::{Attribute, Axis, Constants, GraphBuilder, Value, float_value},
};

/// What the names of its nodes start with.
pub(crate) const SCOPE: &str = "front_end";

/// `waveform` `[batch, samples]` to `[batch, n_frames, n_mels]`, normalised. A clip has at least one
/// frame; what is beyond the last frame of the model is cut, what is missing is padded.
pub(crate) fn front_end(
    g: &mut GraphBuilder,
    settings: &FrontEnd,
    waveform: &Value,
) -> Result<Value> {
    let kernel = Kernel::new(settings)?;
    Ok(g.scope(SCOPE, |g| {
        let centred = centred(g, settings, waveform);
        let energies = kernel.energies(g, settings, &centred);
        let floor = g.rounded("floor", &[], &[FLOOR], Precision::F32);
        let energies = g.node("Max", &[&energies, &floor], &[]);
        let log = g.node("Log", &[&energies], &[]);
        match settings.order {
            Order::PadThenNormalise => {
                let padded = fit(g, settings, &log);
                normalise(g, settings, &padded)
            }
            Order::NormaliseThenPad => {
                let normalised = normalise(g, settings, &log);
                fit(g, settings, &normalised)
            }
        }
    }))
}

/// A model of the front end by itself, for tests and for measuring a runtime: input `waveform`
/// `[batch, samples]`, output `fbank` `[batch, n_frames, n_mels]`.
///
/// # Errors
/// When the settings describe no possible filter bank.
pub fn front_end_model(settings: &FrontEnd) -> Result<Vec<u8>> {
    let mut g = GraphBuilder::new(Constants::Initializers);
    let fbank = front_end(&mut g, settings, &Value::named(WAVEFORM))?;
    g.output(&fbank, FBANK);
    let waveform = [Axis::Named(BATCH), Axis::Named(SAMPLES)];
    let fbank = [Axis::Named(BATCH), Axis::Fixed(settings.n_frames), Axis::Fixed(settings.n_mels)];
    let graph = GraphProto {
        name: "front_end".into(),
        input: vec![float_value(WAVEFORM, &waveform)],
        output: vec![float_value(FBANK, &fbank)],
        ..g.into_graph()
    };
    Ok(model_proto(graph, Vec::new()).write_to_bytes()?)
}

/// The samples that are heard, less the mean of the whole clip: `[batch, 1, samples]`. Every frame
/// loses its own mean anyway; what is large and constant would only be rounded on the way.
fn centred(g: &mut GraphBuilder, settings: &FrontEnd, waveform: &Value) -> Value {
    let axis = g.integers(&[1]);
    let mean = g.node("ReduceMean", &[waveform, &axis], &[]);
    let (start, end) = (g.integers(&[0]), g.integers(&[settings.window_samples() as i64]));
    let heard = g.node("Slice", &[waveform, &start, &end, &axis], &[]);
    let centred = g.node("Sub", &[&heard, &mean], &[]);
    g.node("Unsqueeze", &[&centred, &axis], &[])
}

/// `[batch, frames, n_mels]` of any number of frames to that of the model: zeros at the end, as many
/// as could be missing, then what is too much is cut. No size is computed at run time.
fn fit(g: &mut GraphBuilder, settings: &FrontEnd, log: &Value) -> Value {
    let (n_frames, n_mels) = (settings.n_frames as i64, settings.n_mels as i64);
    let pads = g.integers(&[0, 0, 0, 0, n_frames - 1, 0]);
    let padded = g.node("Pad", &[log, &pads], &[]);
    let [start, end, axis] = [0, n_frames, 1].map(|value| g.integers(&[value]));
    let fitted = g.node("Slice", &[&padded, &start, &end, &axis], &[]);
    // Tells every reader of the graph the size that it has.
    g.reshape(&fitted, &[0, n_frames, n_mels])
}

fn normalise(g: &mut GraphBuilder, settings: &FrontEnd, log: &Value) -> Value {
    let mean = g.rounded("mean", &[], &[settings.mean], Precision::F32);
    let scale = g.rounded("scale", &[], &[2.0 * settings.std], Precision::F32);
    let centred = g.node("Sub", &[log, &mean], &[]);
    g.node("Div", &[&centred, &scale], &[])
}

/// Samples to mel energies.
struct Kernel {
    /// Samples in a frame.
    length: usize,
    /// Frequencies that a filter weighs.
    n_bins: usize,
    /// `[2 * n_bins, length]`: the real parts of all frequencies, then the imaginary ones.
    rows: Vec<f64>,
    /// `[n_mels, n_bins]`
    mel: Vec<f64>,
}

impl Kernel {
    fn new(settings: &FrontEnd) -> Result<Self> {
        let length = frame_length(settings.sample_rate);
        let n_fft = length.next_power_of_two();
        let mel = mel_weights(settings.sample_rate, n_fft, settings.n_mels)?;
        let weighed = |&bin: &usize| mel.column(bin).iter().any(|&weight| weight > 0.0);
        let bins: Vec<usize> = (0..mel.ncols()).filter(weighed).collect();
        let window = symmetric_hann(length);
        let turn = TAU / n_fft as f64;
        // Multiples of a whole turn are taken off before rounding.
        let angle = |bin: usize, i: usize| turn * (bin * i % n_fft) as f64;
        let parts: [fn(f64) -> f64; 2] = [f64::cos, |angle| -angle.sin()];
        let mut rows = Vec::with_capacity(2 * bins.len() * length);
        for part in parts {
            for &bin in &bins {
                let row: Vec<f64> = (0..length).map(|i| part(angle(bin, i)) * window[i]).collect();
                rows.extend(of_samples(&row));
            }
        }
        let mel = mel
            .rows()
            .into_iter()
            .flat_map(|filter| bins.iter().map(|&bin| filter[bin]).collect::<Vec<f64>>());
        Ok(Self { length, n_bins: bins.len(), rows, mel: mel.collect() })
    }

    /// `[batch, 1, samples]` to `[batch, frames, n_mels]`.
    fn energies(&self, g: &mut GraphBuilder, settings: &FrontEnd, samples: &Value) -> Value {
        let shape = [2 * self.n_bins, 1, self.length];
        let rows = g.rounded("kernel", &shape, &self.rows, Precision::F32);
        let shift = frame_shift(settings.sample_rate) as i64;
        let attributes = [
            ("kernel_shape", Attribute::Ints(vec![self.length as i64])),
            ("strides", Attribute::Ints(vec![shift])),
        ];
        let spectrum = g.node("Conv", &[samples, &rows], &attributes);
        let squares = g.mul(&spectrum, &spectrum);
        let parts = g.split(&squares, 1, &[self.n_bins, self.n_bins]);
        let power = g.add(&parts[0], &parts[1]);
        let shape = [settings.n_mels, self.n_bins];
        let mel = g.rounded("mel", &shape, &self.mel, Precision::F32);
        let energies = g.matmul(&mel, &power);
        g.transpose(&energies, &[0, 2, 1])
    }
}

/// A row that is multiplied with a frame after mean removal and pre-emphasis, as one for the frame
/// itself. The sample before the first one is taken to equal it.
fn of_samples(row: &[f64]) -> Vec<f64> {
    let mut folded = row.to_vec();
    folded[0] -= PREEMPHASIS * row[0];
    for (folded, next) in folded.iter_mut().zip(&row[1..]) {
        *folded -= PREEMPHASIS * next;
    }
    let mean = folded.iter().sum::<f64>() / folded.len() as f64;
    folded.iter_mut().for_each(|value| *value -= mean);
    folded
}
