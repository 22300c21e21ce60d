//! The front end in the graph: log-mel values against `ssamba_features`, which computes in `f64`, and
//! against torch's goldens; whole files on real clips against the file that takes filter banks.

#![expect(clippy::print_stdout, reason = "the figures are worth reading")]

use std::{f64::consts::TAU, path::Path};

use ssamba_contract::{FrontEnd, Input, Order, Tensor, io::LOGITS};
use ssamba_features::Extractor;
use ssamba_onnx::{Options, front_end_model};
use ssamba_tests::{
    compare::{WAVEFORM, max_abs_error},
    golden::Golden,
    hashed::hashed,
    python::{self, StockSession},
    suite::{Exported, kws12, no_card, runtimes, zoo},
};
use tract_onnx::prelude::{Datum, Framework, InferenceFact, InferenceModelExt, IntoRunnable, tvec};

/// Log-mel values as they are, of `n_frames` frames.
fn settings(n_frames: usize, subtract_clip_mean: bool) -> FrontEnd {
    FrontEnd {
        sample_rate: 16_000,
        n_mels: 128,
        n_frames,
        mean: 0.0,
        std: 0.5,
        order: Order::PadThenNormalise,
        subtract_clip_mean,
    }
}

fn written(settings: &FrontEnd) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("front_end.onnx");
    std::fs::write(&path, front_end_model(settings).unwrap()).unwrap();
    (folder, path)
}

fn in_onnx_runtime(model: &Path, waveform: &Tensor) -> Vec<f32> {
    let mut session = StockSession::open(model, no_card()).unwrap();
    session.run_raw(&[waveform]).unwrap().remove(0).1.data().to_vec()
}

fn in_tract(model: &Path, waveform: &Tensor) -> Vec<f32> {
    let fact = InferenceFact::dt_shape(f32::datum_type(), waveform.shape());
    let model = tract_onnx::onnx().model_for_path(model).unwrap().with_input_fact(0, fact).unwrap();
    let plan = model.into_optimized().unwrap().into_runnable().unwrap();
    let input = tract_onnx::prelude::Tensor::from_shape(waveform.shape(), waveform.data()).unwrap();
    let outputs = plan.run(tvec!(input.into())).unwrap();
    outputs[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec()
}

/// Ten seconds.
const SAMPLES: usize = 160_000;

fn signal(at: impl Fn(f64) -> f64) -> Vec<f32> {
    (0..SAMPLES).map(|index| at(index as f64 / 16_000.0) as f32).collect()
}

/// What is heard, and by how much a log-mel value of it may be off at most. Near the floor a mel energy
/// is what is left of products that cancel in `f32`.
fn signals() -> Vec<(&'static str, Vec<f32>, f32)> {
    let sine = |hz: f64| move |time: f64| 0.5 * (TAU * hz * time).sin();
    let noise = hashed("noise", SAMPLES, 1.0);
    vec![
        ("white noise", noise.clone(), 2e-4),
        (
            "tones with gaps",
            signal(|t| if t % 1.0 < 0.6 { sine(440.0)(t) + 0.3 * sine(2_500.0)(t) } else { 0.0 }),
            2e-3,
        ),
        ("pure tone", signal(sine(1_000.0)), 2e-3),
        ("tone and a constant", signal(|t| 0.5 + sine(300.0)(t)), 2e-3),
        ("silence", vec![0.0; SAMPLES], 4e-6),
        ("a constant", vec![0.25; SAMPLES], 4e-6),
        ("noise at -80 dB", noise.iter().map(|x| 1e-4 * x).collect(), 4e-6),
    ]
}

#[test]
fn log_mel_values_are_those_of_the_definition_in_f64() {
    let settings = settings(998, true);
    let (_folder, model) = written(&settings);
    let mut extractor = Extractor::new(&settings).unwrap();
    for (what, samples, allowed) in signals() {
        let want = extractor.extract(&samples).unwrap().fbank;
        let waveform = Tensor::new([1, samples.len()], samples).unwrap();
        for (runtime, got) in [
            ("ONNX Runtime", in_onnx_runtime(&model, &waveform)),
            ("tract", in_tract(&model, &waveform)),
        ] {
            let error = max_abs_error(&got, want.data());
            let sum: f64 = got.iter().zip(want.data()).map(|(a, b)| f64::from((a - b).abs())).sum();
            println!(
                "{what:<20} {runtime:<13} max {error:.1e} mean {:.1e}",
                sum / got.len() as f64
            );
            assert!(error <= allowed, "{what} in {runtime}: {error:e}");
        }
    }
}

/// An oracle that shares nothing with either.
#[test]
fn inputs_agree_with_torch() {
    let golden = Golden::read("fbank");
    let wave = golden.tensor("wave");
    let wave = ssamba_tests::compare::values(wave);
    let wave = Tensor::new([1, wave.len()], wave).unwrap();
    let speech = FrontEnd { mean: -6.845978, std: 5.5654526, ..settings(128, true) };
    let superb = FrontEnd {
        mean: -4.2677393,
        std: 4.5689974,
        order: Order::NormaliseThenPad,
        ..settings(1000, false)
    };
    for (name, settings) in [("speechcommands", speech), ("superb_head", superb)] {
        let want = ssamba_tests::compare::values(golden.tensor(name));
        let (_folder, model) = written(&settings);
        for got in [in_onnx_runtime(&model, &wave), in_tract(&model, &wave)] {
            assert_eq!(got.len(), settings.n_frames * 128, "{name}");
            let error = max_abs_error(&got[..want.len()], &want);
            println!("{name}: {error:.1e}");
            // The goldens are of `f32` themselves.
            assert!(error <= 3e-4, "{name}: {error:e}");
            if settings.order == Order::NormaliseThenPad {
                assert!(got[98 * 128..].iter().all(|&x| x == 0.0), "padding stays zero");
            }
        }
    }
}

/// Cutting and padding: of every length the frames are those of `ssamba_features`.
#[test]
fn clips_of_every_length_have_the_frames_that_they_should() {
    let speech = |order| FrontEnd { mean: -6.8, std: 5.5, order, ..settings(98, true) };
    let noise = hashed("noise", 48_000, 0.3);
    for order in [Order::PadThenNormalise, Order::NormaliseThenPad] {
        let settings = speech(order);
        let (_folder, model) = written(&settings);
        let mut extractor = Extractor::new(&settings).unwrap();
        for samples in [400, 401, 559, 560, 8_000, 15_919, 15_920, 15_921, 16_000, 16_080, 48_000] {
            let want = extractor.extract(&noise[..samples]).unwrap().fbank;
            let waveform = Tensor::new([1, samples], noise[..samples].to_vec()).unwrap();
            for (runtime, got) in [
                ("ONNX Runtime", in_onnx_runtime(&model, &waveform)),
                ("tract", in_tract(&model, &waveform)),
            ] {
                let error = max_abs_error(&got, want.data());
                assert!(error <= 2e-4, "{samples} samples, {order:?}, {runtime}: {error:e}");
            }
        }
    }
}

/// One frame is all that a model may take.
#[test]
fn a_model_of_one_frame_pads_nothing() {
    let settings = settings(1, true);
    let (_folder, model) = written(&settings);
    let waveform = Tensor::new([1, 1_000], hashed("noise", 1_000, 0.3)).unwrap();
    let want = Extractor::new(&settings).unwrap().extract(waveform.data()).unwrap().fbank;
    for got in [in_onnx_runtime(&model, &waveform), in_tract(&model, &waveform)] {
        assert!(max_abs_error(&got, want.data()) <= 2e-4);
    }
}

/// What a user gets: the same answers from both files, on clips as they are.
#[test]
fn both_files_hear_the_same_in_real_clips() {
    let (checkpoint, recipe) = kws12().unwrap();
    let exported = |input| {
        let options = Options { input, ..Options::default() };
        Exported::new(&checkpoint, recipe.clone(), &options).unwrap()
    };
    let (fbank, waveform) = (exported(Input::Fbank), exported(Input::Waveform));
    let mut of_fbank = runtimes(&fbank.path(), &fbank.card).unwrap();
    let mut of_waveform = runtimes(&waveform.path(), &waveform.card).unwrap();
    for clip in ["yes", "stop", "left"] {
        let read = ssamba_audio::read(&zoo("kws12").join(format!("{clip}.wav")), 16_000).unwrap();
        // As it is, cut short, twice as long, and alone with silence.
        let silence = vec![0.0; read.samples.len()];
        let long = [&read.samples[..], &silence[..]].concat();
        let short = &read.samples[..read.samples.len() / 2];
        for samples in [&read.samples[..], short, &long[..], &silence[..]] {
            let waveform = Tensor::new([1, samples.len()], samples.to_vec()).unwrap();
            let input = fbank.fbank(&waveform).unwrap();
            for (left, right) in of_fbank.iter_mut().zip(&mut of_waveform) {
                assert_eq!(left.provider(), right.provider());
                let (left, right) = (left.run(&input).unwrap(), right.run(&waveform).unwrap());
                let [left, right] = [&left, &right].map(|outputs| outputs.get(LOGITS).unwrap());
                let error = max_abs_error(left.data(), right.data());
                println!("{clip}, {} samples: {error:.1e}", samples.len());
                assert!(error <= WAVEFORM, "{clip}: {error:e}");
                assert_eq!(best(left), best(right), "{clip}");
            }
        }
    }
}

fn best(logits: &Tensor) -> Option<usize> {
    let values = logits.row(0).iter().enumerate();
    values.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}

#[test]
fn less_than_a_frame_is_refused_by_name() {
    let (checkpoint, recipe) = kws12().unwrap();
    let options = Options { input: Input::Waveform, ..Options::default() };
    let exported = Exported::new(&checkpoint, recipe, &options).unwrap();
    let short = Tensor::new([1, 399], vec![0.0; 399]).unwrap();
    for session in &mut runtimes(&exported.path(), &exported.card).unwrap() {
        if session.provider() != "stock ONNX Runtime in Python" {
            let error = format!("{:#}", session.run(&short).unwrap_err());
            assert!(
                error.ends_with("399 samples, and one frame takes 400: append silence"),
                "{error}"
            );
        }
    }
}

/// The weights of the front end are never rounded to fewer bits.
#[test]
fn the_front_end_stays_in_single_precision() {
    use onnx_protobuf::{ModelProto, tensor_proto::DataType};
    use protobuf::Message;
    let (checkpoint, recipe) = kws12().unwrap();
    for precision in [ssamba_onnx::Precision::F16, ssamba_onnx::Precision::I8] {
        let options = Options { input: Input::Waveform, precision, ..Options::default() };
        let exported = Exported::new(&checkpoint, recipe.clone(), &options).unwrap();
        let model = ModelProto::parse_from_bytes(&std::fs::read(exported.path()).unwrap()).unwrap();
        let kernels = model.graph.initializer.iter();
        let kernels: Vec<_> =
            kernels.filter(|tensor| tensor.name.starts_with("front_end/")).collect();
        assert_eq!(kernels.len(), 5);
        assert!(kernels.iter().all(|tensor| tensor.data_type == DataType::FLOAT as i32));
        let inside = model.graph.node.iter().filter(|node| node.name.starts_with("front_end/"));
        assert!(inside.clone().count() > 9);
        for node in inside {
            assert!(!["Cast", "MatMulInteger"].contains(&node.op_type.as_str()), "{}", node.name);
        }
        assert!(python::command("check_model.py").arg(exported.path()).status().unwrap().success());
    }
}
