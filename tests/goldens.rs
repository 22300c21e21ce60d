//! candle against the PyTorch reference: every golden of `tests/goldens`.

use candle_core::{DType, Tensor};
use ssamba_model::{
    Checkpoint, Head, Model, NormKind, Published, Recipe, Weights,
    mixer::selective_scan,
    pos_embed,
    weights::{LayerWeights, layout},
};
use ssamba_tests::{
    compare::{NETWORK, assert_close},
    golden::Golden,
    hashed,
    suite::official,
};
use ssamba_training::Network;

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
        let got = pos_embed::resample(&pos_embed, 1, (8, 64), grid).unwrap();
        // PyTorch rounds its interpolation weights in another order.
        assert_close(key, &got, &golden.tensor(key).squeeze(0).unwrap(), 2e-6);
    }
}

/// A second class token, SSAST's distillation token, keeps its row and moves the others by one.
#[test]
fn positions_of_two_class_tokens() {
    let golden = Golden::read("pos");
    let table = |key: &str| {
        let table = golden.tensor(key).squeeze(0).unwrap();
        Tensor::cat(&[&table.narrow(0, 0, 1).unwrap().neg().unwrap(), &table], 0).unwrap()
    };
    let got = pos_embed::resample(&table("pos"), 2, (8, 64), (12, 101)).unwrap();
    assert_close("audioset", &got, &table("audioset"), 2e-6);
}

/// A `DataParallel` prefix, half precision and safetensors make no other network.
#[test]
fn checkpoints_in_other_clothes_hold_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prefixed.safetensors");
    let file = std::fs::read(official()).unwrap();
    let said = |name: &[u8]| file.windows(name.len()).any(|window| window == name);
    assert!(said(b"module.v.cls_token") && said(b"module.v.head.weight"));
    let official = Checkpoint::read(&official()).unwrap();
    assert!(!official.tensors.keys().any(|name| name.starts_with("module.")));
    let prefixed =
        official.tensors.iter().map(|(name, tensor)| (format!("module.{name}"), tensor.clone()));
    candle_core::safetensors::save(&prefixed.collect(), &path).unwrap();
    assert_eq!(Checkpoint::read(&path).unwrap().tensors.len(), official.tensors.len());
    for (name, tensor) in Checkpoint::read(&path).unwrap().tensors {
        assert_close(&name, &tensor, &official.tensors[&name], 0.0);
    }
    let half = official
        .tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.to_dtype(DType::BF16).unwrap()));
    let half = Weights::load(&Checkpoint::from_tensors("half", half)).unwrap();
    assert_eq!(half.cls_token.dtype(), DType::F32);
    assert_close("cls_token", &half.cls_token, &Weights::load(&official).unwrap().cls_token, 1e-2);
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

/// Both pretraining losses on fixed masks: a mask token in place of patches, both prediction heads,
/// the softmax over predictions.
#[test]
fn pretraining_losses() {
    let golden = Golden::read("pretrain");
    let checkpoint = golden.checkpoint();
    let parameter = |name: &str| &checkpoint.tensors[name];
    let fbank = golden.tensor("x");
    let recipe =
        Recipe::parse("frames = 256\nmean = 0.0\nstd = 0.5\nstride = [16, 16]\n", "").unwrap();
    let model = Model::new(Weights::load(&checkpoint).unwrap(), recipe).unwrap();
    let tokens = model.patch_tokens(fbank).unwrap();
    let (batch, patches, d_model) = tokens.dims3().unwrap();

    let index = golden.tensor("index").to_vec2::<i64>().unwrap();
    let masked = |patch: usize, row: &[i64]| row.contains(&(patch as i64));
    let hit: Vec<u8> = index
        .iter()
        .flat_map(|row| (0..patches).map(|patch| u8::from(masked(patch, row))))
        .collect();
    let hit = Tensor::from_vec(hit, (batch, patches, 1), tokens.device()).unwrap();
    let mask = parameter("mask_embed").broadcast_as(tokens.shape()).unwrap();
    let tokens = hit.broadcast_as(tokens.shape()).unwrap().where_cond(&mask, &tokens).unwrap();
    let encoded = model.encode(&tokens, |_, _| {}).unwrap().tokens;

    let head = |name: &str, x: &Tensor| {
        let linear = |x: &Tensor, layer: &str| {
            let weight = parameter(&format!("{name}.{layer}.weight")).t().unwrap();
            let bias = parameter(&format!("{name}.{layer}.bias"));
            x.matmul(&weight).unwrap().broadcast_add(bias).unwrap()
        };
        linear(&linear(x, "0").relu().unwrap(), "2")
    };
    let (mut nce, mut hits, mut square, mut count) = (0.0, 0, 0.0, 0.0);
    for (clip, row) in index.iter().enumerate() {
        let rows: Vec<u32> = row.iter().map(|&patch| patch as u32).collect();
        let rows = Tensor::new(rows, tokens.device()).unwrap();
        let chosen = encoded.get(clip).unwrap().narrow(0, 1, patches).unwrap();
        let chosen = chosen.index_select(&rows, 0).unwrap();
        // Patches of 16 x 16, row-major over frequency and time, on a grid of 8 x 16.
        let image = fbank.get(clip).unwrap().t().unwrap().contiguous().unwrap();
        let image = image.reshape((8, 16, 16, 16)).unwrap().permute((0, 2, 1, 3)).unwrap();
        let targets = image.contiguous().unwrap().reshape((patches, 256)).unwrap();
        let targets = targets.index_select(&rows, 0).unwrap();

        let predicted = head("cpredlayer", &chosen);
        let scores = targets.matmul(&predicted.t().unwrap()).unwrap().to_vec2::<f32>().unwrap();
        let log_sum_exp = |row: &[f32]| {
            let max = row.iter().copied().fold(f32::MIN, f32::max);
            max + row.iter().map(|score| (score - max).exp()).sum::<f32>().ln()
        };
        // acc looks down the columns of the softmax over rows.
        let norms: Vec<f32> = scores.iter().map(|row| log_sum_exp(row)).collect();
        for i in 0..row.len() {
            nce += f64::from(norms[i] - scores[i][i]);
            let column = |j: usize| scores[j][i] - norms[j];
            let best = (0..row.len()).max_by(|&a, &b| column(a).total_cmp(&column(b)));
            hits += usize::from(best == Some(i));
        }
        let error = (head("gpredlayer", &chosen) - &targets).unwrap().sqr().unwrap();
        square += f64::from(error.sum_all().unwrap().to_scalar::<f32>().unwrap());
        count += error.elem_count() as f64;
    }
    assert_eq!((batch, d_model), (2, 32));
    let total = index.iter().map(Vec::len).sum::<usize>() as f64;
    for (name, got) in [("acc", hits as f64 / total), ("nce", nce / total), ("mse", square / count)]
    {
        let want = f64::from(golden.tensor(name).to_scalar::<f32>().unwrap());
        assert!((got - want).abs() <= f64::from(NETWORK), "{name} is {got}, expected {want}");
    }
}

/// The same through the kernels and the folded form that are trained.
#[test]
fn pretraining_losses_of_the_trainer() {
    let golden = Golden::read("pretrain");
    let checkpoint = golden.checkpoint();
    let recipe =
        Recipe::parse("frames = 256\nmean = 0.0\nstd = 0.5\nstride = [16, 16]\n", "").unwrap();
    let network = Network::to_pretrain(&checkpoint, recipe).unwrap();
    let index = golden.tensor("index").to_vec2::<i64>().unwrap();
    let index: Vec<Vec<u32>> =
        index.iter().map(|row| row.iter().map(|&patch| patch as u32).collect()).collect();
    let losses = network.pretraining_losses(golden.tensor("x"), &index, &index).unwrap();
    let number = |tensor: Tensor| f64::from(tensor.to_scalar::<f32>().unwrap());
    let clips = index.len() as f64;
    for (name, sum) in
        [("acc", losses.accuracy), ("nce", number(losses.nce)), ("mse", number(losses.mse))]
    {
        let (got, want) = (sum / clips, number(golden.tensor(name).clone()));
        assert!((got - want).abs() <= f64::from(NETWORK), "{name} is {got}, expected {want}");
    }
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

#[test]
fn ssast_tiny() {
    let config = ssamba_ssast::Config::published(Published::Tiny, Some(35));
    let weights = ssamba_ssast::Weights::load(&hashed::ssast(&config, 146)).unwrap();
    assert_eq!((weights.config, weights.config.heads()), (config, 3));
    let model = ssamba_ssast::Model::new(weights, speech_commands()).unwrap();
    let logits = model.forward(&hashed::input(1, 128, 128)).unwrap().logits.unwrap();
    assert_close("logits", &logits, Golden::read("ssast_tiny").tensor("logits"), NETWORK);
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
