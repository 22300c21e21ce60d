//! A pack, which the small programs read, computes what its file computes, for every kind of
//! network that can be a keyword spotter.

use ssamba_contract::{Session, Tensor};
use ssamba_model::{Checkpoint, Head, NormKind, Recipe};
use ssamba_onnx::{Options, Precision};
use ssamba_ssast::CLASS_TOKENS;
use ssamba_tests::{
    compare::max_abs_error,
    hashed,
    suite::{Exported, kws12},
};
use ssamba_tract::TractSession;

/// The same graph, planned in the same way.
const ROUNDING: f32 = 1e-5;

/// Bytes of the pack.
fn check(what: &str, checkpoint: &Checkpoint, recipe: Recipe, options: &Options) -> usize {
    let exported = Exported::new(checkpoint, recipe, options).unwrap();
    let threads = ssamba_tract::Options { threads: Some(1) };
    let mut file = TractSession::open(exported.path(), &threads).unwrap();
    let bytes = file.pack().unwrap_or_else(|error| panic!("{what}: {error:#}"));
    let path = exported.path().with_extension("nnef.tar");
    std::fs::write(&path, &bytes).unwrap();
    let mut pack = TractSession::open_pack(&path, exported.card.clone(), &threads).unwrap();
    let front_end = &exported.card.front_end;
    let shape = [1, front_end.n_frames, front_end.n_mels];
    let fbank = Tensor::new(shape, hashed::hashed("x", shape.iter().product(), 1.0)).unwrap();
    let (got, expected) = (pack.run(&fbank).unwrap(), file.run(&fbank).unwrap());
    assert_eq!(got.iter().count(), expected.iter().count());
    for ((name, got), (expected_name, expected)) in got.iter().zip(expected.iter()) {
        assert_eq!((name, got.shape()), (expected_name, expected.shape()), "{what}");
        let error = max_abs_error(got.data(), expected.data());
        assert!(error <= ROUNDING, "{what}: {name} is off by {error:e}");
    }
    let two = Tensor::new([2, shape[1], shape[2]], [fbank.data(), fbank.data()].concat()).unwrap();
    let message = format!("{:#}", pack.run(&two).unwrap_err());
    assert!(message.contains("a pack takes one clip at a time"), "{message}");
    bytes.len()
}

fn eight_bits() -> Options {
    Options { precision: Precision::I8, ..Options::default() }
}

#[test]
fn ssamba_in_every_form() {
    let recipe = Recipe::built_in("speech-commands").unwrap();
    let config = ssamba_model::Config { depth: 4, ..hashed::published(32, 7) };
    let (rows, columns) = recipe.grid(&config).unwrap();
    for (norm, head, pair_fusion) in [
        (NormKind::Layer, Head::ClassToken, true),
        (NormKind::Rms, Head::MeanTokens, true),
        (NormKind::Layer, Head::MeanTokens, false),
    ] {
        let checkpoint = hashed::checkpoint(&config, norm, 1 + rows * columns);
        let recipe = Recipe { head, ..recipe.clone() };
        let options = Options { pair_fusion, embedding: true, ..Options::default() };
        check(&format!("{norm:?} {head:?} {pair_fusion}"), &checkpoint, recipe, &options);
    }
}

#[test]
fn ssast_of_a_small_size() {
    let text = "frames = 61\nmean = -6.0\nstd = 5.0\nstride = [24, 5]\n";
    let recipe = Recipe::parse(text, "odd").unwrap();
    let config = ssamba_ssast::Config {
        d_model: 128,
        depth: 2,
        d_mlp: 72,
        patch_f: 32,
        patch_t: 6,
        n_classes: Some(3),
    };
    let (rows, columns) = recipe.grid(&config).unwrap();
    let checkpoint = hashed::ssast(&config, CLASS_TOKENS + rows * columns);
    for head in [Head::MeanTokens, Head::ClassToken] {
        let recipe = Recipe { head, ..recipe.clone() };
        check(&format!("ssast {head:?}"), &checkpoint, recipe.clone(), &Options::default());
        check(&format!("ssast {head:?} in eight bits"), &checkpoint, recipe, &eight_bits());
    }
}

#[test]
fn eight_bits_stay_eight_bits() {
    let (checkpoint, recipe) = kws12().unwrap();
    let whole = check("kws12", &checkpoint, recipe.clone(), &Options::default());
    let small = check("kws12 in eight bits", &checkpoint, recipe, &eight_bits());
    assert!(small * 5 < whole * 2, "{small} bytes instead of {whole}");
}
