//! The CUDA provider on whole networks, against candle. Everything here needs an NVIDIA GPU and ONNX
//! Runtime's libraries for it, named by `ORT_DYLIB_PATH`.

#![expect(clippy::print_stdout, reason = "the figures are worth reading")]

use std::{env, fs, path::PathBuf};

use ssamba_contract::{Session, Tensor, io::LOGITS};
use ssamba_features::Extractor;
use ssamba_model::{Checkpoint, Config, NormKind, Recipe};
use ssamba_onnx::{Options, Precision};
use ssamba_ort::{Cuda, OrtSession, Provider};
use ssamba_tests::{
    compare::{HALF, max_abs_error},
    hashed,
    suite::{Exported, kws12},
};

fn open(exported: &Exported, cuda_graph: bool) -> OrtSession {
    let provider = Provider::Cuda(Cuda { cuda_graph, ..Cuda::default() });
    let options = ssamba_ort::Options { provider, ..Default::default() };
    OrtSession::open(exported.path(), &options).unwrap()
}

/// Largest difference of logits that is allowed.
fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::F32 => 1e-3,
        Precision::F16 => HALF,
        Precision::I8 => unreachable!("not for a GPU"),
    }
}

fn input(exported: &Exported, batch: usize) -> Tensor {
    let shape = [batch, exported.card.front_end.n_frames, exported.card.front_end.n_mels];
    Tensor::new(shape, hashed::hashed("x", shape.iter().product(), 1.0)).unwrap()
}

/// Both precisions, laid out for either machine, with and without fusion of pairs and a CUDA graph, against candle; every repeat
/// has the same bits.
fn check(what: &str, checkpoint: &Checkpoint, recipe: &Recipe, batch: usize) {
    for (precision, gpu) in
        [(Precision::F32, false), (Precision::F32, true), (Precision::F16, true)]
    {
        for pair_fusion in [true, false] {
            let options = Options { precision, pair_fusion, gpu, ..Options::default() };
            let exported = Exported::new(checkpoint, recipe.clone(), &options).unwrap();
            let fbank = input(&exported, batch);
            let reference = exported.reference(&fbank).unwrap();
            let (_, want) = reference.iter().find(|(name, _)| *name == LOGITS).unwrap();
            for cuda_graph in [false, true] {
                let mut session = open(&exported, cuda_graph);
                let outputs = session.run(&fbank).unwrap();
                let got = outputs.get(LOGITS).unwrap();
                let error = max_abs_error(got.data(), want.data());
                println!(
                    "{what:<24} batch {batch} {precision:?} for a GPU {gpu:<5} fused \
                     {pair_fusion:<5} graph {cuda_graph:<5} {error:.1e}"
                );
                assert!(error <= tolerance(precision), "{what}: drifts by {error:e}");
                for _ in 0..3 {
                    let again = session.run(&fbank).unwrap();
                    assert_eq!(again.get(LOGITS).unwrap(), got, "{what}: a repeat differs");
                }
            }
        }
    }
}

/// Hashed weights for a clip of that many frames.
fn hashed_model(d_model: usize, depth: usize, frames: usize) -> (Checkpoint, Recipe) {
    let mut recipe = Recipe::built_in("speech-commands").unwrap();
    recipe.front_end.n_frames = frames;
    (recipe.stride_f, recipe.stride_t) = (16, 16);
    let config = Config { depth, ..hashed::published(d_model, 7) };
    let (rows, columns) = recipe.grid(&config).unwrap();
    (hashed::checkpoint(&config, NormKind::Layer, 1 + rows * columns), recipe)
}

#[test]
#[ignore = "needs a CUDA device"]
fn the_keyword_model() {
    let (checkpoint, recipe) = kws12().unwrap();
    check("kws12", &checkpoint, &recipe, 1);
    check("kws12", &checkpoint, &recipe, 5);
}

#[test]
#[ignore = "needs a CUDA device"]
fn the_published_tiny_size() {
    for (frames, batch) in [(16, 1), (32, 3), (288, 2), (1_024, 1)] {
        let (checkpoint, recipe) = hashed_model(192, 24, frames);
        check(&format!("tiny, {} tokens", 1 + frames / 2), &checkpoint, &recipe, batch);
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn twenty_two_thousand_tokens() {
    let (checkpoint, recipe) = hashed_model(32, 4, 44_032);
    check("micro, 22017 tokens", &checkpoint, &recipe, 1);
}

#[test]
#[ignore = "needs a CUDA device"]
fn a_graph_is_for_one_size_of_batch() {
    let (checkpoint, recipe) = kws12().unwrap();
    let exported = Exported::new(&checkpoint, recipe, &Options::default()).unwrap();
    let mut session = open(&exported, true);
    session.run(&input(&exported, 2)).unwrap();
    let message = format!("{:#}", session.run(&input(&exported, 3)).unwrap_err());
    assert!(message.contains("batch of 2, got 3"), "{message}");
    let mut session = open(&exported, false);
    for batch in [1, 4, 2] {
        let outputs = session.run(&input(&exported, batch)).unwrap();
        assert_eq!(outputs.get(LOGITS).unwrap().shape(), [batch, 12]);
    }
}

/// The same words as candle on the testing split of the keyword data, up to two clips.
#[test]
#[ignore = "needs a CUDA device and the keyword data: set SSAMBA_GSC12"]
fn the_keyword_model_hears_the_same_words() {
    let folder =
        PathBuf::from(env::var_os("SSAMBA_GSC12").expect("SSAMBA_GSC12 is the data's folder"));
    let list = fs::read_to_string(folder.join("testing_list.txt")).unwrap();
    let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let (checkpoint, recipe) = kws12().unwrap();
    for precision in [Precision::F32, Precision::F16] {
        let options = Options { precision, ..Options::default() };
        let exported = Exported::new(&checkpoint, recipe.clone(), &options).unwrap();
        let mut extractor = Extractor::new(&exported.card.front_end).unwrap();
        let mut session = open(&exported, false);
        let (mut differ, mut correct, mut drift) = (0, 0, 0.0_f32);
        for clip in list.lines() {
            let waveform = ssamba_audio::read(&folder.join(clip), 16_000).unwrap();
            let fbank = extractor.extract(&waveform.samples).unwrap().fbank;
            let fbank = Tensor::new([&[1], fbank.shape()].concat(), fbank.data().to_vec()).unwrap();
            let reference = exported.reference(&fbank).unwrap();
            let (_, want) = reference.iter().find(|(name, _)| *name == LOGITS).unwrap();
            let outputs = session.run(&fbank).unwrap();
            let got = outputs.get(LOGITS).unwrap();
            drift = drift.max(max_abs_error(got.data(), want.data()));
            let word = best(got.row(0));
            differ += usize::from(word != best(want.row(0)));
            correct += usize::from(clip.starts_with(&format!("{}/", exported.card.labels[word])));
        }
        let clips = list.lines().count();
        println!(
            "{precision:?}: {correct}/{clips} correct, {differ} unlike candle, drift {drift:.1e}"
        );
        assert!(differ <= 2 && drift <= tolerance(precision), "{precision:?}: {differ}, {drift:e}");
    }
}
