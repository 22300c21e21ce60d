//! Gradients of a micro network: against the plain candle form, and against finite differences of it
//! in `f64`.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use ssamba_model::{
    Checkpoint, Config, Model, NormKind, Recipe, Weights,
    weights::{HeadWeights, LayerWeights, MixerWeights, NormWeights, StreamWeights, layout},
};
use ssamba_model_common::hashed;
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

#[test]
fn logits_and_gradients_are_those_of_the_plain_form() {
    for more in ["", "halve = false\n", "pairwise = false\n", "head = 'class-token'\n"] {
        let recipe = recipe(more);
        let network = network(&recipe);
        let got = network.logits(&fbank()).unwrap();
        let model = Model::new(plain(&network), recipe).unwrap();
        let want = model.forward(&fbank()).unwrap().logits.unwrap();
        let error = (&got - &want).unwrap().abs().unwrap().max_all().unwrap();
        assert!(error.to_scalar::<f32>().unwrap() < 2e-6, "{more}: {error}");

        let got = loss(&got).backward().unwrap();
        let want = loss(&want).backward().unwrap();
        for (name, var) in network.parameters() {
            let [got, want] = [&got, &want].map(|store| store.get(var).unwrap());
            let largest = want.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let error = (got - want).unwrap().abs().unwrap().max_all().unwrap();
            let error = error.to_scalar::<f32>().unwrap();
            assert!(error <= 1e-5 * largest, "{more}{name}: off by {error:e} of {largest:e}");
        }
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

/// One parameter of each kind, of the last pair, whose folding is the strongest.
#[test]
fn gradients_are_the_slopes_of_the_definition_in_double_precision() {
    let recipe = recipe("");
    let network = network(&recipe);
    let store = loss(&network.logits(&fbank()).unwrap()).backward().unwrap();
    let input = fbank().to_dtype(DType::F64).unwrap();
    let mut kinds = 0;
    for (name, var) in network.parameters() {
        if name.starts_with("v.layers.") && !name.starts_with("v.layers.3.") {
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
            let model = Model::new(double(plain(&network)), recipe.clone()).unwrap();
            let logits = model.forward(&input).unwrap().logits.unwrap();
            (taken, loss(&logits).to_scalar::<f64>().unwrap())
        };
        // Exact in f32 for values up to 8.
        let (above, below) = (at(1.0 / 2048.0), at(-1.0 / 2048.0));
        at(0.0);
        let slope = (above.1 - below.1) / (above.0 - below.0);
        let error = (f64::from(gradient[index]) - slope).abs() / slope.abs();
        assert!(error < 1e-4, "{name}[{index}] is {}, expected {slope}", gradient[index]);
    }
    assert_eq!(kinds, 28, "18 of a layer, 10 of the rest");
}
