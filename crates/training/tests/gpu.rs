//! Layers on a GPU against the same layers on the CPU.

#![cfg(feature = "cuda")]
#![expect(clippy::print_stdout, reason = "the figures are worth reading")]

use candle_core::{Device, Tensor};
use ssamba_model_common::{Checkpoint, NormKind, Recipe, hashed};
use ssamba_training::{Gpu, Network};

const MELS: usize = 32;

fn recipe(n_frames: usize, more: &str) -> Recipe {
    let text = format!(
        "frames = {n_frames}\nmean = 0.0\nstd = 0.5\nmel_bins = {MELS}\nstride = [10, 2]\n{more}"
    );
    Recipe::parse(&text, "micro").unwrap()
}

fn ssamba(sizes: [usize; 5], recipe: &Recipe) -> Network {
    let [d_model, depth, d_state, d_conv, dt_rank] = sizes;
    let config = ssamba_model::Config {
        d_model,
        depth,
        d_inner: 2 * d_model,
        d_state,
        d_conv,
        dt_rank,
        patch_f: 16,
        patch_t: 4,
        n_classes: Some(3),
    };
    let (rows, columns) = recipe.grid(&config).unwrap();
    let layout = ssamba_model::weights::layout(&config, NormKind::Layer, 1 + rows * columns);
    network(&hashed::checkpoint(layout), recipe)
}

fn ssast(d_model: usize, d_mlp: usize, recipe: &Recipe) -> Network {
    let config = ssamba_ssast::Config {
        d_model,
        depth: 2,
        d_mlp,
        patch_f: 16,
        patch_t: 4,
        n_classes: Some(3),
    };
    let (rows, columns) = recipe.grid(&config).unwrap();
    network(&hashed::checkpoint(ssamba_ssast::weights::layout(&config, 2 + rows * columns)), recipe)
}

fn network(checkpoint: &Checkpoint, recipe: &Recipe) -> Network {
    Network::from_checkpoint(checkpoint, recipe.clone(), 3, 1).unwrap()
}

/// Logits, and the gradient of every parameter of some number that depends on all of them.
fn pass(network: &Network, batch: usize) -> Vec<(String, Vec<f32>)> {
    let n_frames = network.recipe().front_end.n_frames;
    let fbank = hashed::hashed("x", batch * n_frames * MELS, 1.0);
    let fbank = Tensor::from_vec(fbank, (batch, n_frames, MELS), &Device::Cpu).unwrap();
    let logits = network.logits(&fbank).unwrap();
    let weights = hashed::hashed("loss", logits.elem_count(), 1.0);
    let weights = Tensor::from_vec(weights, logits.shape(), &Device::Cpu).unwrap();
    let store = (&logits * weights).unwrap().sum_all().unwrap().backward().unwrap();
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
    let mut all = vec![("logits".to_owned(), values(&logits))];
    for (name, var) in network.parameters() {
        all.push((name.to_owned(), values(store.get(var).unwrap())));
    }
    all
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn logits_and_gradients_on_a_gpu_are_those_of_the_cpu() {
    let gpu = Gpu::open(0).unwrap();
    // Channels below, at and beyond a block of 128, sequences of one segment and of many.
    let short = || recipe(12, "");
    let networks = [
        ("usual", ssamba([64, 4, 16, 4, 4], &short()), 3),
        ("two blocks of channels", ssamba([80, 2, 16, 4, 5], &short()), 2),
        ("few states and taps", ssamba([16, 2, 5, 3, 1], &short()), 2),
        ("many states and taps", ssamba([16, 2, 20, 7, 2], &short()), 2),
        ("one by one", ssamba([16, 3, 16, 4, 1], &recipe(12, "pairwise = false\n")), 2),
        ("not halved", ssamba([16, 2, 16, 4, 1], &recipe(12, "halve = false\n")), 2),
        ("class token", ssamba([16, 2, 16, 4, 1], &recipe(12, "head = 'class-token'\n")), 2),
        ("long", ssamba([16, 2, 16, 4, 1], &recipe(400, "")), 1),
        ("transformer", ssast(64, 256, &short()), 3),
        ("two heads", ssast(128, 48, &recipe(100, "")), 2),
    ];
    for (what, network, batch) in networks {
        let want = pass(&network, batch);
        let got = pass(&network.on(gpu.clone()), batch);
        let mut worst = (0.0_f32, "");
        for ((name, want), (_, got)) in want.iter().zip(&got) {
            let largest = want.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let error =
                want.iter().zip(got).fold(0.0_f32, |error, (a, b)| error.max((a - b).abs()));
            assert!(error <= 1e-4 * largest, "{what}: {name} is off by {error:e} of {largest:e}");
            let relative = error / largest.max(f32::MIN_POSITIVE);
            if relative > worst.0 {
                worst = (relative, name);
            }
        }
        println!("{what}: off by {:.1e} of the largest value of {}", worst.0, worst.1);
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_pass_on_a_gpu_gives_the_same_bits_again() {
    let gpu = Gpu::open(0).unwrap();
    for network in [ssamba([64, 4, 16, 4, 4], &recipe(98, "")), ssast(128, 512, &recipe(98, ""))] {
        let network = network.on(gpu.clone());
        let once = pass(&network, 8);
        for _ in 0..3 {
            assert!(pass(&network, 8) == once);
        }
    }
}
