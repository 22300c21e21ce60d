//! Gradients of a micro network: against the plain candle form, and against finite differences of it
//! in `f64`.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use ssamba_model::{
    Checkpoint, Config, Model, NormKind, Recipe, Weights,
    weights::{HeadWeights, LayerWeights, MixerWeights, NormWeights, StreamWeights, layout},
};
use ssamba_model_common::hashed;
use ssamba_ssast::{
    attention::AttentionWeights,
    block::{BlockWeights, MlpWeights},
};
use ssamba_training::{Network, folding};

fn config() -> Config {
    Config {
        d_model: 16,
        depth: 4,
        d_inner: 32,
        d_state: 16,
        d_conv: 4,
        dt_rank: 1,
        patch_f: 16,
        patch_t: 16,
        n_classes: Some(3),
    }
}

fn recipe(more: &str) -> Recipe {
    let text =
        format!("frames = 24\nmean = 0.0\nstd = 0.5\nmel_bins = 40\nstride = [10, 4]\n{more}");
    Recipe::parse(&text, "micro").unwrap()
}

fn network(recipe: &Recipe) -> Network {
    let (rows, columns) = recipe.grid(&config()).unwrap();
    let checkpoint = hashed::checkpoint(layout(&config(), NormKind::Layer, 1 + rows * columns));
    Network::from_checkpoint(&checkpoint, recipe.clone(), 3, 1).unwrap()
}

fn fbank() -> Tensor {
    Tensor::from_vec(hashed::hashed("x", 2 * 24 * 40, 1.0), (2, 24, 40), &candle_core::Device::Cpu)
        .unwrap()
}

/// Some number that depends on all logits.
fn loss(logits: &Tensor) -> Tensor {
    let weights = hashed::hashed("loss", logits.elem_count(), 1.0);
    let weights = Tensor::from_vec(weights, logits.shape(), logits.device()).unwrap();
    let weights = weights.to_dtype(logits.dtype()).unwrap();
    (logits * weights).unwrap().sum_all().unwrap()
}

/// The plain form's parameters, from folded ones.
fn official(network: &Network) -> BTreeMap<String, Tensor> {
    network
        .parameters()
        .map(|(name, var)| {
            let factor = folding(name, network.recipe());
            (name.to_owned(), (var.as_tensor() * factor).unwrap())
        })
        .collect()
}

fn plain(network: &Network) -> Weights {
    Weights::load(&Checkpoint::from_tensors("plain", official(network))).unwrap()
}

/// Two heads, and an MLP that is narrower than its input.
fn ssast_config() -> ssamba_ssast::Config {
    ssamba_ssast::Config {
        d_model: 128,
        depth: 2,
        d_mlp: 48,
        patch_f: 16,
        patch_t: 16,
        n_classes: Some(3),
    }
}

fn ssast(recipe: &Recipe) -> Network {
    let (rows, columns) = recipe.grid(&ssast_config()).unwrap();
    let layout = ssamba_ssast::weights::layout(&ssast_config(), 2 + rows * columns);
    Network::from_checkpoint(&hashed::checkpoint(layout), recipe.clone(), 3, 1).unwrap()
}

fn plain_ssast(network: &Network) -> ssamba_ssast::Weights {
    ssamba_ssast::Weights::load(&Checkpoint::from_tensors("plain", official(network))).unwrap()
}

/// Compares logits and all gradients with those of the plain form.
#[track_caller]
fn compare(what: &str, network: &Network, want: &Tensor) {
    let got = network.logits(&fbank()).unwrap();
    let error = (&got - want).unwrap().abs().unwrap().max_all().unwrap();
    assert!(error.to_scalar::<f32>().unwrap() < 2e-6, "{what}: {error}");

    let got = loss(&got).backward().unwrap();
    let want = loss(want).backward().unwrap();
    for (name, var) in network.parameters() {
        let [got, want] = [&got, &want].map(|store| store.get(var).unwrap());
        let largest = want.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        let error = (got - want).unwrap().abs().unwrap().max_all().unwrap();
        let error = error.to_scalar::<f32>().unwrap();
        assert!(error <= 1e-5 * largest, "{what}{name}: off by {error:e} of {largest:e}");
    }
}

#[test]
fn logits_and_gradients_are_those_of_the_plain_form() {
    for more in ["", "halve = false\n", "pairwise = false\n", "head = 'class-token'\n"] {
        let recipe = recipe(more);
        let network = network(&recipe);
        let model = Model::new(plain(&network), recipe).unwrap();
        compare(more, &network, &model.forward(&fbank()).unwrap().logits.unwrap());
    }
}

#[test]
fn logits_and_gradients_of_ssast_are_those_of_the_plain_form() {
    for more in ["", "head = 'class-token'\n"] {
        let recipe = recipe(more);
        let network = ssast(&recipe);
        let model = ssamba_ssast::Model::new(plain_ssast(&network), recipe).unwrap();
        compare(more, &network, &model.forward(&fbank()).unwrap().logits.unwrap());
    }
}

/// The same parameters in `f64`.
fn double(weights: Weights) -> Weights {
    let t = |tensor: Tensor| tensor.to_dtype(DType::F64).unwrap();
    let norm = |norm: NormWeights| NormWeights { weight: t(norm.weight), bias: norm.bias.map(t) };
    let stream = |stream: StreamWeights| StreamWeights {
        conv_weight: t(stream.conv_weight),
        conv_bias: t(stream.conv_bias),
        x_proj: t(stream.x_proj),
        dt_proj: t(stream.dt_proj),
        dt_bias: t(stream.dt_bias),
        a_log: t(stream.a_log),
        d_skip: t(stream.d_skip),
    };
    let layer = |layer: LayerWeights| LayerWeights {
        norm: norm(layer.norm),
        mixer: MixerWeights {
            in_proj: t(layer.mixer.in_proj),
            forward: stream(layer.mixer.forward),
            reverse: stream(layer.mixer.reverse),
            out_proj: t(layer.mixer.out_proj),
        },
    };
    Weights {
        cls_token: t(weights.cls_token),
        pos_embed: t(weights.pos_embed),
        patch_weight: t(weights.patch_weight),
        patch_bias: t(weights.patch_bias),
        layers: weights.layers.into_iter().map(layer).collect(),
        norm_f: norm(weights.norm_f),
        head: weights.head.map(|head| HeadWeights {
            norm: norm(head.norm),
            weight: t(head.weight),
            bias: t(head.bias),
        }),
        ..weights
    }
}

/// The same parameters of SSAST in `f64`.
fn double_ssast(weights: ssamba_ssast::Weights) -> ssamba_ssast::Weights {
    let t = |tensor: Tensor| tensor.to_dtype(DType::F64).unwrap();
    let norm = |norm: NormWeights| NormWeights { weight: t(norm.weight), bias: norm.bias.map(t) };
    let block = |BlockWeights { norm1, attention, norm2, mlp }| BlockWeights {
        norm1: norm(norm1),
        attention: AttentionWeights {
            qkv: t(attention.qkv),
            qkv_bias: t(attention.qkv_bias),
            proj: t(attention.proj),
            proj_bias: t(attention.proj_bias),
        },
        norm2: norm(norm2),
        mlp: MlpWeights {
            fc1: t(mlp.fc1),
            fc1_bias: t(mlp.fc1_bias),
            fc2: t(mlp.fc2),
            fc2_bias: t(mlp.fc2_bias),
        },
    };
    ssamba_ssast::Weights {
        cls_token: t(weights.cls_token),
        dist_token: t(weights.dist_token),
        pos_embed: t(weights.pos_embed),
        patch_weight: t(weights.patch_weight),
        patch_bias: t(weights.patch_bias),
        blocks: weights.blocks.into_iter().map(block).collect(),
        norm: norm(weights.norm),
        head: weights.head.map(|head| HeadWeights {
            norm: norm(head.norm),
            weight: t(head.weight),
            bias: t(head.bias),
        }),
        ..weights
    }
}

/// Compares the largest gradient of every parameter but those of `others` with the slope of
/// `definition`, logits in double precision; gives the number of parameters.
#[track_caller]
fn compare_slopes(
    network: &Network,
    others: impl Fn(&str) -> bool,
    definition: impl Fn(&Tensor) -> Tensor,
) -> usize {
    let store = loss(&network.logits(&fbank()).unwrap()).backward().unwrap();
    let input = fbank().to_dtype(DType::F64).unwrap();
    let mut kinds = 0;
    for (name, var) in network.parameters() {
        if others(name) {
            continue;
        }
        kinds += 1;
        let gradient: Vec<f32> = store.get(var).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let largest = gradient.iter().fold(0.0_f32, |largest, x| x.abs().max(largest));
        let index = gradient.iter().position(|x| x.abs() == largest).unwrap();
        let values: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
        let at = |step: f32| {
            let mut moved = values.clone();
            moved[index] += step;
            let taken = f64::from(moved[index]) - f64::from(values[index]);
            var.set(&Tensor::from_vec(moved, var.shape(), var.device()).unwrap()).unwrap();
            (taken, loss(&definition(&input)).to_scalar::<f64>().unwrap())
        };
        // Exact in f32 for values up to 8.
        let (above, below) = (at(1.0 / 2048.0), at(-1.0 / 2048.0));
        at(0.0);
        let slope = (above.1 - below.1) / (above.0 - below.0);
        let error = (f64::from(gradient[index]) - slope).abs() / slope.abs();
        assert!(error < 1e-4, "{name}[{index}] is {}, expected {slope}", gradient[index]);
    }
    kinds
}

/// One parameter of each kind, of the last pair, whose folding is the strongest.
#[test]
fn gradients_are_the_slopes_of_the_definition_in_double_precision() {
    let recipe = recipe("");
    let network = network(&recipe);
    let others = |name: &str| name.starts_with("v.layers.") && !name.starts_with("v.layers.3.");
    let kinds = compare_slopes(&network, others, |input| {
        let model = Model::new(double(plain(&network)), recipe.clone()).unwrap();
        model.forward(input).unwrap().logits.unwrap()
    });
    assert_eq!(kinds, 28, "18 of a layer, 10 of the rest");
}

/// One parameter of each kind, of the first block.
#[test]
fn gradients_of_ssast_are_the_slopes_of_the_definition_in_double_precision() {
    let recipe = recipe("");
    let network = ssast(&recipe);
    let others = |name: &str| name.starts_with("v.blocks.") && !name.starts_with("v.blocks.0.");
    let kinds = compare_slopes(&network, others, |input| {
        let weights = double_ssast(plain_ssast(&network));
        let model = ssamba_ssast::Model::new(weights, recipe.clone()).unwrap();
        model.forward(input).unwrap().logits.unwrap()
    });
    assert_eq!(kinds, 23, "12 of a block, 11 of the rest");
}

/// The generative loss, said again by the plain form: class and distillation token come before the
/// patches.
#[test]
fn what_ssast_says_of_hidden_patches_is_what_the_plain_form_says() {
    let text = "frames = 48\nmean = 0.0\nstd = 0.5\nmel_bins = 32\nstride = [16, 16]\n";
    let recipe = Recipe::parse(text, "micro").unwrap();
    let network = Network::for_pretraining(ssast_config(), recipe.clone(), 1).unwrap();
    let device = candle_core::Device::Cpu;
    let fbank = hashed::hashed("x", 48 * 32, 1.0);
    let fbank = Tensor::from_vec(fbank, (1, 48, 32), &device).unwrap();
    let hidden = [1_u32, 4];
    let got = network.pretraining_losses(&fbank, &[hidden.into()], &[hidden.into()]).unwrap();

    let model = ssamba_ssast::Model::new(plain_ssast(&network), recipe).unwrap();
    let all = official(&network);
    let embed = model.patch_embed();
    let mut tokens = embed.project(&fbank).unwrap();
    for &patch in &hidden {
        let range = [0..1, patch as usize..patch as usize + 1, 0..128];
        tokens = tokens.slice_assign(&range, &all["mask_embed"]).unwrap();
    }
    let mut tokens = embed.place(&tokens).unwrap();
    for block in &model.weights().blocks {
        tokens = block.forward(&tokens).unwrap();
    }
    let tokens = model.weights().norm.forward(&tokens, NormKind::Layer, 1e-6).unwrap();
    let rows = |tensor: &Tensor, first: u32| {
        let index = Tensor::new(&[first + hidden[0], first + hidden[1]], &device).unwrap();
        tensor.get(0).unwrap().index_select(&index, 0).unwrap()
    };
    let linear = |x: &Tensor, layer: &str| {
        let [weight, bias] =
            ["weight", "bias"].map(|leaf| &all[&format!("gpredlayer.{layer}.{leaf}")]);
        x.matmul(&weight.t().unwrap()).unwrap().broadcast_add(bias).unwrap()
    };
    let said = linear(&linear(&rows(&tokens, 2), "0").relu().unwrap(), "2");
    let truth = rows(&embed.patches(&fbank).unwrap(), 0);
    let want = (said - truth).unwrap().sqr().unwrap().mean_all().unwrap();
    let [got, want] = [got.mse, want].map(|x| x.to_scalar::<f32>().unwrap());
    assert!((got - want).abs() < 1e-6, "{got}, expected {want}");
}
