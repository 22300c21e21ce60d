//! Every runtime against candle, on the same files.
//!
//! The matrix is {tract, ONNX Runtime with our operator, stock ONNX Runtime in Python} x {micro,
//! tiny, the bundled keyword model} x {one clip, three clips} x the published input lengths x every
//! lowering x {filter banks, waveforms}; and for SSAST {plain attention in every runtime, fused
//! attention in ONNX Runtime}.

#![expect(clippy::print_stdout, reason = "the figures are worth reading")]

use onnx_protobuf::Message;
use ssamba_contract::{
    Input, Lowering, Session, Tensor,
    io::{EMBEDDING, LOGITS},
};
use ssamba_model::{Checkpoint, Head, NormKind, Published, Recipe};
use ssamba_onnx::{Attention, Options, Precision};
use ssamba_tests::{
    compare::{HALF, INT8, INT8_RUNTIMES, NETWORK, WAVEFORM, max_abs_error},
    hashed,
    suite::{Exported, kws12, onnx_runtimes, runtimes},
};

/// The lowerings without our operators.
const PLAIN: [Lowering; 4] =
    [Lowering::Scan, Lowering::ScanBlock, Lowering::Chunk, Lowering::LinearAttention];

/// Standard operators alone.
const CHUNKS: Options = Options {
    pair_fusion: true,
    embedding: false,
    attention: None,
    lowering: Lowering::Chunk,
    batch: None,
    input: Input::Fbank,
    precision: Precision::F32,
    gpu: false,
};

/// Runs one and three clips through every runtime and holds every output against candle.
fn check(what: &str, checkpoint: &Checkpoint, recipe: Recipe, options: &Options) {
    let exported = Exported::new(checkpoint, recipe, options).unwrap();
    let open = match options.attention {
        Some(Attention::Fused) => onnx_runtimes,
        _ => runtimes,
    };
    let mut runtimes = open(&exported.path(), &exported.card).unwrap();
    let tolerance = match (options.precision, options.input) {
        (Precision::F32, Input::Fbank) => NETWORK,
        (Precision::F32, Input::Waveform) => WAVEFORM,
        (Precision::F16, _) => HALF,
        (Precision::I8, _) => INT8,
    };
    for batch in [1, 3] {
        let input = exported.input(batch);
        let reference = exported.reference(&input).unwrap();
        for session in &mut runtimes {
            let outputs = session.run(&input).unwrap();
            let names: Vec<&str> = outputs.iter().map(|(name, _)| name).collect();
            let mut wanted: Vec<&str> = reference.iter().map(|(name, _)| *name).collect();
            if !options.embedding {
                wanted.retain(|name| *name != EMBEDDING);
            }
            assert_eq!(names, wanted, "{what}: outputs of {}", session.provider());
            for (name, got) in outputs.iter() {
                let (_, want) = reference.iter().find(|(wanted, _)| *wanted == name).unwrap();
                assert_eq!(got.shape(), want.shape(), "{what}: {name}");
                let error = max_abs_error(got.data(), want.data());
                let provider = session.provider();
                println!("{what:<36} batch {batch}  {name:<9} {provider:<30} {error:.1e}");
                assert!(error <= tolerance, "{what}: {name} of {provider} drifts by {error:e}");
            }
        }
    }
}

/// Hashed weights of the right number of positions for a built-in recipe.
fn hashed_model(d_model: usize, depth: usize, recipe: &str) -> (Checkpoint, Recipe) {
    let recipe = Recipe::built_in(recipe).unwrap();
    let config = ssamba_model::Config { depth, ..hashed::published(d_model, 7) };
    let (rows, columns) = recipe.grid(&config).unwrap();
    (hashed::checkpoint(&config, NormKind::Layer, 1 + rows * columns), recipe)
}

fn matrix(d_model: usize, depth: usize, recipe: &str) {
    let (checkpoint, recipe) = hashed_model(d_model, depth, recipe);
    check(&format!("{d_model}x{depth} {}", recipe.name), &checkpoint, recipe, &Options::default());
}

#[test]
fn micro_speech_commands() {
    matrix(32, 4, "speech-commands");
}

#[test]
fn micro_esc50() {
    matrix(32, 4, "esc50");
}

#[test]
fn micro_audioset() {
    matrix(32, 4, "audioset");
}

#[test]
fn tiny_speech_commands() {
    matrix(192, 24, "speech-commands");
}

#[test]
fn tiny_speech_commands_in_every_other_lowering() {
    let (checkpoint, recipe) = hashed_model(192, 24, "speech-commands");
    for lowering in PLAIN {
        let options = Options { lowering, ..Options::default() };
        let what = format!("192x24 speech-commands, {lowering}");
        check(&what, &checkpoint, recipe.clone(), &options);
    }
}

/// With the front end inside, in every lowering.
#[test]
fn waveforms_in_every_lowering() {
    let all = [Lowering::Function].into_iter().chain(PLAIN);
    let tiny = hashed_model(192, 24, "speech-commands");
    for (what, (checkpoint, recipe), lowerings) in [
        ("kws12", kws12().unwrap(), all.collect()),
        // What differs is before the recurrence: two tell.
        ("tiny", tiny, vec![Lowering::Function, Lowering::ScanBlock]),
    ] {
        for lowering in lowerings {
            let options =
                Options { lowering, input: Input::Waveform, embedding: true, ..Options::default() };
            check(&format!("{what} waveform, {lowering}"), &checkpoint, recipe.clone(), &options);
        }
    }
}

/// A long sequence: many blocks, and segments that hand the state on.
#[test]
fn long_sequences_in_every_other_lowering() {
    let text = "frames = 1744\nmean = -4.0\nstd = 4.5\nstride = [8, 8]\n";
    let recipe = Recipe::parse(text, "long").unwrap();
    let config = ssamba_model::Config { depth: 2, ..hashed::published(192, 7) };
    let (rows, columns) = recipe.grid(&config).unwrap();
    assert_eq!((rows, columns), (15, 217));
    let checkpoint = hashed::checkpoint(&config, NormKind::Layer, 1 + rows * columns);
    for lowering in [Lowering::ScanBlock, Lowering::LinearAttention] {
        let options = Options { lowering, ..Options::default() };
        check(&format!("3,256 tokens, {lowering}"), &checkpoint, recipe.clone(), &options);
    }
}

#[test]
fn tiny_esc50() {
    matrix(192, 24, "esc50");
}

#[test]
fn tiny_audioset() {
    matrix(192, 24, "audioset");
}

#[test]
fn the_bundled_keyword_model() {
    let (checkpoint, recipe) = kws12().unwrap();
    for (what, options) in [
        ("kws12", Options { embedding: true, ..Options::default() }),
        ("kws12 for a GPU", Options { gpu: true, ..Options::default() }),
        ("kws12 layer by layer", Options { pair_fusion: false, ..Options::default() }),
    ] {
        check(what, &checkpoint, recipe.clone(), &options);
    }
    for lowering in PLAIN {
        for (form, pair_fusion) in [("", true), (" layer by layer", false)] {
            let options = Options { lowering, pair_fusion, embedding: true, ..Options::default() };
            check(&format!("kws12, {lowering}{form}"), &checkpoint, recipe.clone(), &options);
        }
    }
}

/// Every head, norm and option that a recipe can choose, on a small network.
#[test]
fn every_option_of_a_recipe() {
    let speech = hashed_model(32, 4, "speech-commands");
    let (superb, superb_recipe) = hashed_model(32, 4, "superb");
    let (dasl, dasl_recipe) = hashed_model(16, 2, "urban8k-dasl");
    let recipe = speech.1;
    for (what, checkpoint, recipe) in [
        ("class token", &speech.0, Recipe { head: Head::ClassToken, ..recipe.clone() }),
        ("sum of directions", &speech.0, Recipe { halve: false, ..recipe.clone() }),
        ("no pairs", &speech.0, Recipe { pairwise: false, ..recipe.clone() }),
        ("rms norm", &speech.0, Recipe { norm: Some(NormKind::Rms), ..recipe.clone() }),
        ("features", &superb, superb_recipe),
        ("per second", &dasl, dasl_recipe),
    ] {
        let plain = PLAIN.map(|lowering| (true, lowering));
        let layers = (false, Lowering::Function);
        for (pair_fusion, lowering) in [layers, (true, Lowering::Function)].into_iter().chain(plain)
        {
            let inputs: &[Input] = match (pair_fusion, lowering) {
                (true, Lowering::Function) => &[Input::Fbank, Input::Waveform],
                _ => &[Input::Fbank],
            };
            for &input in inputs {
                let embedding = true;
                let options =
                    Options { pair_fusion, lowering, embedding, input, ..Options::default() };
                let what = format!("{what}, {lowering}, {input}, pairs {pair_fusion}");
                check(&what, checkpoint, recipe.clone(), &options);
            }
        }
    }
}

/// Sizes that nobody publishes: full-band patches, odd widths, other state and kernel sizes.
#[test]
fn sizes_are_not_wired_in() {
    let config = ssamba_model::Config {
        d_model: 24,
        depth: 2,
        d_inner: 40,
        d_state: 5,
        d_conv: 3,
        dt_rank: 3,
        patch_f: 32,
        patch_t: 6,
        n_classes: Some(3),
    };
    let text = "frames = 61\nmean = -6.0\nstd = 5.0\nstride = [24, 5]\n";
    let recipe = Recipe::parse(text, "odd").unwrap();
    let (rows, columns) = recipe.grid(&config).unwrap();
    let checkpoint = hashed::checkpoint(&config, NormKind::Layer, 1 + rows * columns);
    check("odd sizes", &checkpoint, recipe.clone(), &Options::default());
    for lowering in PLAIN {
        let options = Options { lowering, ..CHUNKS };
        check(&format!("odd sizes, {lowering}"), &checkpoint, recipe.clone(), &options);
    }
}

/// Half precision, in both forms of the pairs, with our kernels and with the function bodies.
#[test]
fn half_precision() {
    let tiny = hashed_model(192, 24, "speech-commands");
    for (what, (checkpoint, recipe)) in [("kws12", kws12().unwrap()), ("tiny", tiny)] {
        for (form, pair_fusion, lowering, input) in [
            ("fused", true, Lowering::Function, Input::Fbank),
            ("layers", false, Lowering::Function, Input::Fbank),
            ("waveform", true, Lowering::Function, Input::Waveform),
            ("chunks", true, Lowering::Chunk, Input::Fbank),
            ("blocks", true, Lowering::ScanBlock, Input::Fbank),
            ("attention", true, Lowering::LinearAttention, Input::Waveform),
        ] {
            let precision = Precision::F16;
            let options = Options { pair_fusion, lowering, precision, input, ..Options::default() };
            check(&format!("{what} fp16, {form}"), &checkpoint, recipe.clone(), &options);
        }
    }
}

/// Patches that do not overlap are cut out and multiplied for a GPU, and what is behind the last of them
/// left away.
#[test]
fn patches_cut_out_for_a_gpu() {
    let speech = Recipe::built_in("speech-commands").unwrap();
    let mut recipe = Recipe { stride_f: 16, stride_t: 16, ..speech };
    recipe.front_end.n_frames = 53;
    let ssamba = {
        let config = ssamba_model::Config { depth: 4, ..hashed::published(64, 7) };
        hashed::checkpoint(&config, NormKind::Layer, 1 + 8 * 3)
    };
    let ssast = {
        let published = ssamba_ssast::Config::published(Published::Tiny, Some(7));
        hashed::ssast(&ssamba_ssast::Config { depth: 2, ..published }, 2 + 8 * 3)
    };
    for (what, checkpoint) in [("ssamba", &ssamba), ("ssast", &ssast)] {
        for precision in [Precision::F32, Precision::F16] {
            let options = Options { precision, gpu: true, ..Options::default() };
            let exported = Exported::new(checkpoint, recipe.clone(), &options).unwrap();
            let network = std::fs::read(exported.path()).unwrap();
            let graph = onnx_protobuf::ModelProto::parse_from_bytes(&network).unwrap().graph;
            assert!(graph.node.iter().all(|node| node.op_type != "Conv"), "{what}");
            check(&format!("{what}, {precision:?}, cut"), checkpoint, recipe.clone(), &options);
        }
    }
}

/// In eight bits every runtime computes the same sums of integers: they agree with each other far
/// better than with candle.
fn check_int8(what: &str, checkpoint: &Checkpoint, recipe: Recipe, options: Options) {
    let options = Options { precision: Precision::I8, ..options };
    let exported = Exported::new(checkpoint, recipe.clone(), &options).unwrap();
    check(what, checkpoint, recipe, &options);
    let input = exported.input(3);
    let runs: Vec<(String, Tensor)> = runtimes(&exported.path(), &exported.card)
        .unwrap()
        .iter_mut()
        .map(|session| {
            let outputs = session.run(&input).unwrap();
            (session.provider().into(), outputs.get(LOGITS).unwrap().clone())
        })
        .collect();
    for (provider, logits) in &runs[1..] {
        let error = max_abs_error(logits.data(), runs[0].1.data());
        println!("{what:<36} {provider} and {}: {error:.1e}", runs[0].0);
        assert!(error <= INT8_RUNTIMES, "{what}: {provider} and {} differ by {error:e}", runs[0].0);
    }
}

#[test]
fn eight_bits() {
    let tiny = hashed_model(192, 24, "speech-commands");
    for (what, (checkpoint, recipe)) in [("kws12", kws12().unwrap()), ("tiny", tiny)] {
        let default = Options::default();
        for (form, options) in [
            ("fused", default),
            ("layers", Options { pair_fusion: false, ..default }),
            ("blocks", Options { lowering: Lowering::ScanBlock, ..default }),
            ("waveform", Options { input: Input::Waveform, ..default }),
        ] {
            check_int8(&format!("{what} int8, {form}"), &checkpoint, recipe.clone(), options);
        }
    }
    let config = ssamba_ssast::Config {
        depth: 2,
        ..ssamba_ssast::Config::published(Published::Tiny, Some(7))
    };
    let recipe = Recipe::built_in("speech-commands").unwrap();
    check_int8("ssast int8", &hashed::ssast(&config, 146), recipe, Options::default());
}

/// Products that ONNX Runtime does not fuse cost more than they save.
#[test]
fn onnx_runtime_fuses_every_product_in_eight_bits() {
    let (checkpoint, recipe) = hashed_model(192, 2, "speech-commands");
    let options = Options { precision: Precision::I8, ..Options::default() };
    let exported = Exported::new(&checkpoint, recipe, &options).unwrap();
    let profiled = ssamba_ort::Options { profile: true, ..Default::default() };
    let mut session = ssamba_ort::OrtSession::open(exported.path(), &profiled).unwrap();
    session.run(&exported.input(1)).unwrap();
    let placement = session.placement().unwrap();
    let count = |op: &str| placement.nodes().iter().filter(|node| node.op_type == op).count();
    let found =
        ["DynamicQuantizeLinear", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"].map(count);
    // A pair has a product for `x` and one for `z`, of the same input, and one behind the scan.
    assert_eq!(found, [1, 2, 1]);
    for op in ["MatMulInteger", "Cast", "Exp", "Neg"] {
        assert_eq!(count(op), 0, "{op} is left");
    }
}

/// SSAST in both forms of its attention.
fn ssast(what: &str, config: &ssamba_ssast::Config, recipe: Recipe) {
    let (rows, columns) = recipe.grid(config).unwrap();
    let checkpoint = hashed::ssast(config, ssamba_ssast::CLASS_TOKENS + rows * columns);
    for form in [Attention::Plain, Attention::Fused] {
        for precision in [Precision::F32, Precision::F16] {
            let attention = Some(form);
            let options = Options { attention, precision, embedding: true, ..Options::default() };
            let what = format!("ssast {what}, {form}, {precision}");
            check(&what, &checkpoint, recipe.clone(), &options);
            if form == Attention::Plain && precision == Precision::F32 {
                let options = Options { input: Input::Waveform, ..options };
                check(&format!("{what}, waveform"), &checkpoint, recipe.clone(), &options);
            }
        }
    }
}

#[test]
fn ssast_tiny() {
    let config = ssamba_ssast::Config::published(Published::Tiny, Some(7));
    for recipe in ["speech-commands", "esc50"] {
        ssast(recipe, &config, Recipe::built_in(recipe).unwrap());
    }
}

/// The other head, a network without a classifier, and sizes that nobody publishes.
#[test]
fn ssast_options_and_sizes() {
    let config = ssamba_ssast::Config {
        d_model: 128,
        depth: 2,
        d_mlp: 72,
        patch_f: 32,
        patch_t: 6,
        n_classes: Some(3),
    };
    let text = "frames = 61\nmean = -6.0\nstd = 5.0\nstride = [24, 5]\n";
    let recipe = Recipe::parse(text, "odd").unwrap();
    let class_token = Recipe { head: Head::ClassToken, ..recipe.clone() };
    ssast("class tokens", &config, class_token);
    ssast("no classifier", &ssamba_ssast::Config { n_classes: None, ..config }, recipe);
}

/// Two ways of writing the same network are the same network.
#[test]
fn a_fused_pair_is_its_two_layers() {
    let (checkpoint, recipe) = hashed_model(192, 24, "speech-commands");
    let mut logits = Vec::new();
    for pair_fusion in [true, false] {
        let options = Options { pair_fusion, ..Options::default() };
        let exported = Exported::new(&checkpoint, recipe.clone(), &options).unwrap();
        let input = exported.input(1);
        let outputs = runtimes(&exported.path(), &exported.card).unwrap()[0].run(&input).unwrap();
        logits.push(outputs.get(LOGITS).unwrap().data().to_vec());
    }
    let error = max_abs_error(&logits[0], &logits[1]);
    assert!(error <= 1e-5, "the two forms differ by {error:e}");
}
