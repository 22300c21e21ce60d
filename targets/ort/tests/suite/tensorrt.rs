//! The TensorRT provider: what it lacks, and on a machine that lacks nothing, what it computes.

use std::path::Path;

use crate::{
    options,
    support::{Files, message, micro_fbank, micro_model},
};
use ssamba_contract::{Session, io::LOGITS};
use ssamba_ort::{Batches, Cuda, MissingLibrary, Options, OrtSession, Provider, TensorRt};

/// Absolute and relative difference from the CPU.
const AGREEMENT: f32 = 1e-4;

fn tensorrt(cache: &Path) -> Options {
    let tensorrt = TensorRt { cache: Some(cache.to_owned()), ..TensorRt::default() };
    Options { provider: Provider::TensorRt(tensorrt), profile: true, ..options() }
}

#[test]
fn without_tensorrt_the_library_that_is_missing_is_named_and_nothing_runs() {
    let files = Files::new();
    let path = files.model(&micro_model());
    let folder = path.parent().unwrap();
    let options = tensorrt(folder);
    let Provider::TensorRt(asked) = &options.provider else { unreachable!() };
    match (OrtSession::open(&path, &options), asked.engines(&path, None)) {
        (Ok(session), Ok(_)) => assert_eq!(session.provider(), "tensorrt"),
        (Err(opening), Err(looking)) => {
            for error in [opening, looking] {
                let missing = error.downcast_ref::<MissingLibrary>();
                let missing = missing.unwrap_or_else(|| panic!("{error:#}"));
                let sentence = format!("{error:#}");
                assert!(sentence.contains("cannot use provider `tensorrt`"), "{sentence}");
                for part in [&missing.library, &missing.needed_by, missing.get] {
                    assert!(!part.is_empty() && sentence.contains(part), "{sentence}");
                }
                assert!(!sentence.contains('\n'), "{sentence}");
            }
        }
        (opening, looking) => panic!("{:?} and {looking:?}", opening.map(|_| "open")),
    }
    let kept = std::fs::read_dir(folder).unwrap().count();
    assert_eq!(kept, 1, "the model alone");
}

#[test]
#[ignore = "needs a CUDA device and TensorRT"]
fn a_model_agrees_with_the_cpu_and_our_operators_stay_on_cuda() {
    let files = Files::new();
    let path = files.model(&micro_model());
    let fbank = micro_fbank(1);
    let expected = OrtSession::open(&path, &options()).unwrap().run(&fbank).unwrap();
    let options = tensorrt(path.parent().unwrap());
    let Provider::TensorRt(asked) = &options.provider else { unreachable!() };
    let engines = asked.engines(&path, None).unwrap().unwrap();
    assert_eq!(engines.count(), 0);
    // The second time from what the first time kept.
    for _ in 0..2 {
        let mut session = OrtSession::open(&path, &options).unwrap();
        let built = engines.count();
        assert!(built > 0);
        let outputs = session.run(&fbank).unwrap();
        let [got, expected] =
            [&outputs, &expected].map(|outputs| outputs.get(LOGITS).unwrap().data());
        for (got, expected) in got.iter().zip(expected) {
            let bound = AGREEMENT * (1.0 + expected.abs());
            assert!((got - expected).abs() <= bound, "{got} and {expected}");
        }
        let placement = session.placement().unwrap();
        for node in placement.nodes() {
            let ours =
                ["SelectiveScan", "ShortConv", "AddLayerNorm"].contains(&node.op_type.as_str());
            assert_eq!(ours, ours && node.provider == "cuda", "{node:?}");
        }
        assert!(placement.nodes().iter().any(|node| node.provider == "tensorrt"));
        assert_eq!(engines.count(), built);
        let other = message(session.run(&micro_fbank(3)));
        assert!(other.contains("for a batch of 1, got 3"), "{other}");
    }
}

#[test]
fn what_cannot_be_asked_for_together_is_said() {
    let files = Files::new();
    let path = files.model(&micro_model());
    let open = |tensorrt: TensorRt| {
        let options = Options { provider: Provider::TensorRt(tensorrt), ..options() };
        message(OrtSession::open(&path, &options))
    };
    let cuda = Cuda { cuda_graph: true, ..Cuda::default() };
    let graph = open(TensorRt { cuda, ..TensorRt::default() });
    assert!(graph.contains("CUDA graph"), "{graph}");
    let batches = Some(Batches::new(1, 2, 4).unwrap());
    let range = open(TensorRt { batches, ..TensorRt::default() });
    assert!(range.contains("--lowering chunk"), "{range}");
}
