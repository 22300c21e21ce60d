//! Against torch: `tests/goldens/fbank.safetensors` at the root of the workspace, one second of
//! sound with the filter banks and the inputs that the reference computes from it in `f32`.

use std::path::Path;

use safetensors::SafeTensors;
use ssamba_contract::{FrontEnd, Order};
use ssamba_features::{Extractor, Fbank};

/// In log units. Near the floor a mel energy is what is left of products that cancel, and the
/// goldens' own `f32` rounding shows: removing the mean of the clip, which changes nothing in exact
/// arithmetic, moves one of their values by 1.3e-3.
const FBANK: f32 = 1e-3;
/// In log units, on average over all values.
const FBANK_MEAN: f32 = 1e-5;
/// In log units, where the energy is at least e^-8; the floor is at e^-15.9.
const FBANK_LOUD: f32 = 1e-4;
/// After division by 2 * std, about 10; the value that moves by 1.3e-3 is one of these.
const NORMALISED: f32 = 2e-4;

struct Golden(Vec<u8>);

impl Golden {
    fn open() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        Self(std::fs::read(root.join("tests/goldens/fbank.safetensors")).unwrap())
    }

    fn tensor(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        let values = view.data().chunks_exact(4);
        let values = values.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        (view.shape().to_vec(), values)
    }
}

fn assert_close(name: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{name}");
    let differences = got.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let worst = differences.fold(0.0, |worst, d| if d > worst || d.is_nan() { d } else { worst });
    assert!(worst <= tolerance, "{name}: largest difference {worst:e}, allowed {tolerance:e}");
}

fn front_end(n_frames: usize, mean: f64, std: f64, order: Order) -> FrontEnd {
    let subtract_clip_mean = order == Order::PadThenNormalise;
    FrontEnd { sample_rate: 16_000, n_mels: 128, n_frames, mean, std, order, subtract_clip_mean }
}

#[test]
fn filter_banks_agree_with_torch() {
    let golden = Golden::open();
    let (_, wave) = golden.tensor("wave");
    let (shape, expected) = golden.tensor("fbank");
    assert_eq!(shape, [98, 128]);
    let got = Fbank::new(16_000, 128).unwrap().compute(&wave);
    assert_close("fbank", &got, &expected, FBANK);

    let differences = got.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    let mean = differences.sum::<f32>() / got.len() as f32;
    assert!(mean <= FBANK_MEAN, "mean difference {mean:e}, allowed {FBANK_MEAN:e}");

    let (loud, expected): (Vec<f32>, Vec<f32>) =
        got.iter().zip(&expected).filter(|&(_, &golden)| golden >= -8.0).unzip();
    assert!(loud.len() > got.len() / 2);
    assert_close("loud part of fbank", &loud, &expected, FBANK_LOUD);
}

#[test]
fn speech_commands_input_agrees_with_torch() {
    let golden = Golden::open();
    let (_, wave) = golden.tensor("wave");
    let (_, expected) = golden.tensor("speechcommands");
    let settings = front_end(128, -6.845978, 5.5654526, Order::PadThenNormalise);
    let features = Extractor::new(&settings).unwrap().extract(&wave).unwrap();
    assert_eq!((features.n_frames_of_clip, features.is_cut()), (98, false));
    assert_close("speechcommands", features.fbank.data(), &expected, NORMALISED);
}

#[test]
fn superb_input_agrees_with_torch() {
    let golden = Golden::open();
    let (_, wave) = golden.tensor("wave");
    let (_, expected) = golden.tensor("superb_head");
    let settings = front_end(1000, -4.2677393, 4.5689974, Order::NormaliseThenPad);
    let features = Extractor::new(&settings).unwrap().extract(&wave).unwrap();
    assert_eq!(features.fbank.shape(), [1000, 128]);
    assert_close("superb", &features.fbank.data()[..128 * 128], &expected, NORMALISED);
    assert!(features.fbank.data()[98 * 128..].iter().all(|&x| x == 0.0));
}
