//! Named ways to train: sizes, optimiser, schedule, loss and augmentation.
//!
//! Ours were measured on keyword clips; the published ones are SiavashShams/ssamba@019b276
//! `src/finetune/*` and `src/pretrain`, with `src/traintest.py:52-104`.

use serde::{Deserialize, Serialize};
use ssamba_model_common::{Architecture, Recipe, Sizes};

use crate::{architecture::Config, distill::Distillation};

/// Everything that decides a run, besides data, seed and initial values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// Passes over the training clips.
    pub epochs: usize,
    /// Clips of a step.
    pub batch: usize,
    /// Highest learning rate.
    pub rate: f64,
    /// Factor on the rate of the classifier.
    pub head_rate: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Pull of weights towards zero.
    pub weight_decay: f64,
    /// Where that pull acts.
    pub decay: Decay,
    /// Largest norm of a gradient; longer ones are shortened to it.
    pub clip: Option<f64>,
    /// How the rate changes.
    pub schedule: Schedule,
    /// What is minimised.
    pub loss: Loss,
    /// Share of a target that is spread over all classes.
    pub smoothing: f64,
    /// What becomes of a clip before it is seen.
    pub augmentation: Augmentation,
    /// What is learned from other networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<Distillation>,
}

/// Where weight decay acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// On matrices and convolution taps, apart from the gradient: AdamW.
    Decoupled,
    /// On all values, as part of the gradient: Adam as upstream uses it.
    Coupled,
}

/// How the learning rate changes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Schedule {
    /// A linear rise over epochs, then half a cosine to zero at the end of the last.
    Cosine {
        /// Epochs of the rise.
        warm_up: f64,
    },
    /// A factor at an epoch, and again every few epochs.
    Steps {
        /// First epoch with the factor, counted from 1.
        start: usize,
        /// Epochs to the next.
        every: usize,
        /// The factor.
        factor: f64,
        /// Whether the rate rises over the first thousand steps, every fiftieth.
        warm_up: bool,
    },
    /// A factor whenever validation got no better for some epochs, after a rise over the first
    /// thousand steps.
    Plateau {
        /// The factor.
        factor: f64,
        /// Epochs without a gain that are waited for.
        patience: usize,
    },
}

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// One class a clip.
    CrossEntropy,
    /// Each class by itself.
    Binary,
}

/// What becomes of a clip before it is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Augmentation {
    /// Most frames that a clip is moved by; what comes in from outside is its reflection.
    pub shift: f64,
    /// Slowest and fastest speed, which also moves mel bins; `[1, 1]` or `[0, 0]` is none.
    pub speed: [f64; 2],
    /// Highest volume of a mixed-in background clip.
    pub background: f64,
    /// How often one is mixed in.
    pub background_probability: f64,
    /// Widest mask over mel bins.
    pub frequency_mask: f64,
    /// Widest mask over frames.
    pub time_mask: f64,
    /// How often two clips are mixed, targets too.
    pub mixup: f64,
    /// Both parameters of the beta distribution of their shares.
    pub mixup_shape: usize,
    /// Upstream's noise after normalisation, and its roll by up to ten frames.
    pub noise_and_roll: bool,
}

/// Names of plans for training with labels.
pub const PLANS: [&str; 5] = ["full-band", "nano", "speech-commands", "esc50", "audioset"];

impl Plan {
    /// A plan by name.
    pub fn named(name: &str) -> Option<Self> {
        let ours = |epochs, speed, background| Self {
            name: name.into(),
            epochs,
            batch: 64,
            rate: 2e-3,
            head_rate: 1.0,
            betas: [0.9, 0.98],
            weight_decay: 0.05,
            decay: Decay::Decoupled,
            clip: Some(1.0),
            schedule: Schedule::Cosine { warm_up: 5.0 },
            loss: Loss::CrossEntropy,
            smoothing: 0.1,
            augmentation: Augmentation {
                shift: 10.0,
                speed,
                background,
                background_probability: 0.8,
                frequency_mask: 16.0,
                time_mask: 12.0,
                mixup_shape: 1,
                ..Augmentation::default()
            },
            distillation: None,
        };
        let published = |epochs, batch, rate, steps: (usize, usize, f64, bool), loss| Self {
            name: name.into(),
            epochs,
            batch,
            rate,
            head_rate: 1.0,
            betas: [0.95, 0.999],
            weight_decay: 5e-7,
            decay: Decay::Coupled,
            clip: None,
            schedule: Schedule::Steps {
                start: steps.0,
                every: steps.1,
                factor: steps.2,
                warm_up: steps.3,
            },
            loss,
            smoothing: 0.0,
            augmentation: Augmentation::default(),
            distillation: None,
        };
        let masks = |frequency_mask, time_mask, mixup, noise_and_roll| Augmentation {
            frequency_mask,
            time_mask,
            mixup,
            mixup_shape: 10,
            noise_and_roll,
            ..Augmentation::default()
        };
        Some(match name {
            "full-band" => ours(200, [0.85, 1.15], 0.15),
            "nano" => ours(120, [0.9, 1.1], 0.1),
            "speech-commands" => Self {
                augmentation: masks(48.0, 48.0, 0.6, true),
                ..published(30, 128, 2.5e-4, (5, 1, 0.85, true), Loss::Binary)
            },
            "esc50" => Self {
                augmentation: masks(24.0, 96.0, 0.0, true),
                ..published(50, 48, 1e-4, (6, 1, 0.85, false), Loss::CrossEntropy)
            },
            "audioset" => Self {
                head_rate: 3.0,
                augmentation: masks(48.0, 192.0, 0.5, false),
                ..published(50, 24, 1e-4, (15, 10, 0.75, false), Loss::Binary)
            },
            _ => return None,
        })
    }

    /// Pretraining as upstream does it: no labels, and no augmentation.
    pub fn pretraining() -> Self {
        Self {
            name: "pretrain".into(),
            epochs: 10,
            batch: 64,
            rate: 1e-4,
            head_rate: 1.0,
            betas: [0.95, 0.999],
            weight_decay: 5e-8,
            decay: Decay::Decoupled,
            clip: None,
            schedule: Schedule::Plateau { factor: 0.5, patience: 2 },
            loss: Loss::CrossEntropy,
            smoothing: 0.0,
            augmentation: Augmentation::default(),
            distillation: None,
        }
    }

    /// The network that a plan trains from scratch: recipe and sizes. SSAST has its published sizes, and in
    /// our plans SSAMBA's width with the depth that comes nearest to its number of parameters.
    pub fn network(name: &str, architecture: Architecture) -> Option<(Recipe, Config)> {
        let recipe = |text: &str| Recipe::parse(text, name).ok();
        let (recipe, d_model, depths, (patch_f, patch_t)) = match name {
            "full-band" => (recipe(FULL_BAND)?, 64, [12, 10], (128, 4)),
            "nano" => (recipe(NANO)?, 64, [12, 10], (16, 16)),
            _ => (Recipe::built_in(name)?, 192, [24, 12], (16, 16)),
        };
        let depth = match architecture {
            Architecture::Ssamba => depths[0],
            Architecture::Ssast => depths[1],
        };
        let sizes = Sizes { d_model, depth, patch_f, patch_t, n_classes: None };
        Some((recipe, Config::new(architecture, sizes)))
    }

    /// The rate of a step, counted from 0 over the whole run, before any plateau.
    pub fn rate_at(&self, step: usize, steps_of_epoch: usize) -> f64 {
        let per_epoch = steps_of_epoch.max(1);
        // Upstream sets the rate every fiftieth of the first thousand steps, so it starts at zero.
        let rise = |step: usize| (step.min(1000) / 50 * 50) as f64 / 1000.0;
        self.rate
            * match self.schedule {
                Schedule::Cosine { warm_up } => {
                    let (step, rise) = (step as f64, warm_up * per_epoch as f64);
                    let all = (self.epochs * per_epoch) as f64;
                    if step < rise {
                        (step + 1.0) / rise
                    } else {
                        let part = ((step - rise) / (all - rise).max(1.0)).min(1.0);
                        0.5 * (1.0 + (std::f64::consts::PI * part).cos())
                    }
                }
                Schedule::Steps { start, every, factor, warm_up } => {
                    let epoch = step / per_epoch + 1;
                    let times = match epoch.checked_sub(start) {
                        Some(past) => past / every.max(1) + 1,
                        None => 0,
                    };
                    let rise = if warm_up { rise(step) } else { 1.0 };
                    rise * factor.powi(times as i32)
                }
                Schedule::Plateau { .. } => rise(step),
            }
    }
}

/// Patches over all mel bins, in time order.
const FULL_BAND: &str = "frames = 98\nmean = -6.845978\nstd = 5.5654526\nstride = [128, 2]\n";

/// Small square patches that overlap.
const NANO: &str = "frames = 128\nmean = -6.845978\nstd = 5.5654526\nstride = [10, 10]\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Network;

    #[test]
    fn every_plan_has_a_network() {
        for name in PLANS {
            let plan = Plan::named(name).unwrap();
            assert_eq!(plan.name, name);
            for architecture in [Architecture::Ssamba, Architecture::Ssast] {
                let (recipe, config) = Plan::network(name, architecture).unwrap();
                assert_eq!(config.architecture(), architecture);
                assert!(recipe.grid(&config).unwrap().1 > 1, "{name}");
            }
        }
        assert_eq!(Plan::named("nono"), None);
    }

    /// With as many classes as keywords: how many parameters there are, and that a layer more or less
    /// would be farther from SSAMBA.
    #[test]
    fn the_two_networks_of_our_plans_are_of_one_size() {
        let parameters = |recipe: &Recipe, config: Config| {
            let config = config.with_classes(Some(12));
            Network::from_scratch(config, recipe.clone(), 1).unwrap().len()
        };
        for (name, ssamba, ssast) in [("full-band", 527_052, 537_036), ("nano", 516_812, 526_796)] {
            let (recipe, config) = Plan::network(name, Architecture::Ssamba).unwrap();
            assert_eq!(parameters(&recipe, config), ssamba, "{name}");
            let (recipe, config) = Plan::network(name, Architecture::Ssast).unwrap();
            assert_eq!(parameters(&recipe, config), ssast, "{name}");
            let Config::Ssast(config) = config else { panic!("{config:?}") };
            for depth in [config.depth - 1, config.depth + 1] {
                let other = parameters(&recipe, ssamba_ssast::Config { depth, ..config }.into());
                assert!(other.abs_diff(ssamba) > ssast.abs_diff(ssamba), "{name}: {depth} layers");
            }
        }
    }

    #[test]
    fn a_cosine_rises_and_falls_to_zero() {
        let plan = Plan::named("nano").unwrap();
        let at = |step| plan.rate_at(step, 10) / plan.rate;
        assert_eq!((at(0), at(49), at(50)), (0.02, 1.0, 1.0));
        assert!(at(1199) < 1e-5 && at(1199) > 0.0, "{}", at(1199));
        assert!((at(50 + 575) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn steps_start_after_the_rise_of_a_thousand() {
        let plan = Plan::named("speech-commands").unwrap();
        let at = |step| plan.rate_at(step, 400) / plan.rate;
        assert_eq!((at(0), at(49), at(50), at(999), at(1000)), (0.0, 0.0, 0.05, 0.95, 1.0));
        assert_eq!(at(4 * 400 - 1), 1.0);
        assert!(
            (at(4 * 400) - 0.85).abs() < 1e-12 && (at(6 * 400) - 0.85_f64.powi(3)).abs() < 1e-12
        );
    }
}
