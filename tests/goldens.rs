//! candle against the PyTorch reference: every golden of `tests/goldens`.

use candle_core::Tensor;
use ssamba_model::{
    Head, Model, NormKind, Recipe, Weights,
    mixer::selective_scan,
    pos_embed,
    weights::{LayerWeights, layout},
};
use ssamba_tests::{
    compare::{NETWORK, assert_close},
    golden::Golden,
    hashed,
};

fn speech_commands() -> Recipe {
    Recipe::built_in("speech-commands").unwrap()
}

fn micro(recipe: Recipe) -> Model {
    Model::new(Weights::load(&Golden::read("micro").checkpoint()).unwrap(), recipe).unwrap()
}

#[test]
fn scan() {
    let golden = Golden::read("scan");
    // The golden is channels first, as upstream; ours is token-major.
    let token_major = |key| golden.tensor(key).transpose(1, 2).unwrap().contiguous().unwrap();
    let [u, dt, b, c] = ["u", "dt", "b", "c"].map(token_major);
    let y = selective_scan(&u, &dt, golden.tensor("a"), &b, &c).unwrap();
    let skip = u.broadcast_mul(golden.tensor("d")).unwrap();
    assert_close("y", &(y + skip).unwrap(), &token_major("y"), 1e-5);
}

/// The mixer of a layer, out of a golden that holds nothing else.
#[test]
fn mixer() {
    let golden = Golden::read("mixer");
    let mut checkpoint = hashed::checkpoint(&hashed::micro(7), NormKind::Layer, 145);
    for (name, tensor) in golden.weights() {
        checkpoint.tensors.insert(format!("v.layers.1.mixer.{name}"), tensor);
    }
    let LayerWeights { mixer, .. } = Weights::load(&checkpoint).unwrap().layers.remove(1);
    let y = mixer.forward(golden.tensor("h"), true).unwrap();
    assert_close("y", &y, golden.tensor("y"), 1e-5);
}

#[test]
fn micro_with_every_intermediate_stream() {
    let golden = Golden::read("micro");
    let mut steps = 0;
    let outputs = micro(speech_commands())
        .forward_traced(golden.tensor("x"), |step, streams| {
            steps += 1;
            if step == 0 {
                assert_close("tokens", &streams.hidden, golden.tensor("trace.tokens"), 1e-5);
                return;
            }
            let pair = step - 1;
            let key = format!("trace.pair{pair}.hidden");
            assert_close(&key, &streams.hidden, golden.tensor(&key), NETWORK);
            let key = format!("trace.pair{pair}.residual");
            assert_close(&key, streams.residual.as_ref().unwrap(), golden.tensor(&key), NETWORK);
        })
        .unwrap();
    assert_eq!(steps, 3, "the tokens and two pairs");
    assert_close("encoded", &outputs.tokens, golden.tensor("trace.encoded"), NETWORK);
    assert_close("logits", &outputs.logits.unwrap(), golden.tensor("logits"), NETWORK);
}

#[test]
fn micro_with_the_class_token_head() {
    let golden = Golden::read("micro");
    let model = micro(Recipe { head: Head::ClassToken, ..speech_commands() });
    let logits = model.forward(golden.tensor("x")).unwrap().logits.unwrap();
    assert_close("logits", &logits, golden.tensor("cls_logits"), NETWORK);
}

#[test]
fn micro_without_pairs_and_with_the_sum_of_directions() {
    let x = Golden::read("micro");
    for (name, recipe) in [
        ("micro_single", Recipe { pairwise: false, ..speech_commands() }),
        ("micro_sum", Recipe { halve: false, ..speech_commands() }),
    ] {
        let logits = micro(recipe).forward(x.tensor("x")).unwrap().logits.unwrap();
        assert_close(name, &logits, Golden::read(name).tensor("logits"), NETWORK);
    }
}

#[test]
fn micro_with_rms_norm_from_the_file_or_by_choice() {
    let x = Golden::read("micro");
    let want = Golden::read("micro_rms");
    let native = hashed::checkpoint(&hashed::micro(7), NormKind::Rms, 145);
    let native = Model::new(Weights::load(&native).unwrap(), speech_commands()).unwrap();
    let chosen = micro(Recipe { norm: Some(NormKind::Rms), ..speech_commands() });
    for model in [native, chosen] {
        let logits = model.forward(x.tensor("x")).unwrap().logits.unwrap();
        assert_close("logits", &logits, want.tensor("logits"), NETWORK);
    }
}

#[test]
fn positions_of_every_recipe() {
    let golden = Golden::read("pos");
    let pos_embed = golden.tensor("pos").squeeze(0).unwrap();
    for (key, grid) in [
        ("speechcommands", (12, 12)),
        ("esc50", (12, 50)),
        ("audioset", (12, 101)),
        ("superb", (12, 99)),
        ("longer16", (8, 128)),
        ("same", (8, 64)),
    ] {
        let got = pos_embed::resample(&pos_embed, (8, 64), grid).unwrap();
        // PyTorch rounds its interpolation weights in another order.
        assert_close(key, &got, &golden.tensor(key).squeeze(0).unwrap(), 2e-6);
    }
}

/// A pretraining file loads, names what it does not use, and yields an embedding.
#[test]
fn a_pretraining_file_is_a_feature_extractor() {
    let checkpoint = Golden::read("pretrain").checkpoint();
    let weights = Weights::load(&checkpoint).unwrap();
    assert_eq!(weights.pretraining_input, Some((128, 256)));
    assert!(weights.unused.iter().any(|(name, _)| name == "cpredlayer.0.weight"));
    let model = Model::new(weights, speech_commands()).unwrap();
    let outputs = model.forward(Golden::read("micro").tensor("x")).unwrap();
    assert!(outputs.logits.is_none());
    assert_eq!(outputs.embedding.dims(), [2, 32]);
}

/// The hashed rule itself, against weights that Python stored.
#[test]
fn hashed_weights_are_the_generator_s() {
    let stored = Golden::read("micro").weights();
    let ours = hashed::checkpoint(&hashed::micro(7), NormKind::Layer, 145);
    assert_eq!(
        stored.keys().collect::<Vec<_>>(),
        layout(&hashed::micro(7), NormKind::Layer, 145).keys().collect::<Vec<_>>()
    );
    for (name, tensor) in &stored {
        let atol = if name.ends_with("_log") { 1e-6 } else { 0.0 };
        assert_close(name, &ours.tensors[name], tensor, atol);
    }
}

fn full(size: usize, name: &str, recipe: &str, n_classes: usize, seq_len: usize) {
    let checkpoint =
        hashed::checkpoint(&hashed::published(size, n_classes), NormKind::Layer, seq_len);
    let model =
        Model::new(Weights::load(&checkpoint).unwrap(), Recipe::built_in(recipe).unwrap()).unwrap();
    let x: Tensor = hashed::input(1, model.recipe().front_end.n_frames, 128);
    let logits = model.forward(&x).unwrap().logits.unwrap();
    assert_close(name, &logits, Golden::read(name).tensor("logits"), NETWORK);
}

#[test]
fn full_tiny_sc() {
    full(192, "full_tiny_sc", "speech-commands", 35, 145);
}

#[test]
fn full_small_sc() {
    full(384, "full_small_sc", "speech-commands", 35, 145);
}

#[test]
fn full_base_sc() {
    full(768, "full_base_sc", "speech-commands", 35, 145);
}

#[test]
fn full_tiny_as() {
    full(192, "full_tiny_as", "audioset", 527, 1213);
}

#[test]
fn full_small_as() {
    full(384, "full_small_as", "audioset", 527, 1213);
}
