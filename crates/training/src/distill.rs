//! Distillation: a network learns from labels and from what trained ones, its teachers, say of the
//! same clips.
//!
//! A target is `(1 - w) * label + w * mean of softmax(logits / temperature)` over teachers. They hear
//! every clip as it was changed for the network that learns, its masks left out.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use ssamba_contract::FrontEnd;
use ssamba_model_common::{Checkpoint, Recipe};

use crate::{architecture::Weights, augment::Finish, gpu::Gpu, network::Network, trainer::Trainer};

/// How much is learned from which teachers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distillation {
    /// Their share of a target, w.
    pub weight: f64,
    /// What their logits are divided by.
    pub temperature: f64,
    /// SHA-256 of their checkpoints.
    pub teachers: Vec<String>,
}

/// A trained network, of either architecture and any patches.
#[derive(Clone, Debug)]
pub struct Teacher {
    network: Network,
    /// For each class of the network that learns, the teacher's.
    classes: Vec<usize>,
    sha256: String,
}

impl Teacher {
    /// The network of `checkpoint`, which has the SHA-256 `sha256`, as `recipe` says; `student` is the
    /// recipe of the network that learns.
    ///
    /// # Errors
    /// When the checkpoint has no classifier or other labels than the student, or hears other features
    /// of a clip; mean, deviation and frames may differ.
    pub fn new(
        checkpoint: &Checkpoint,
        recipe: Recipe,
        sha256: String,
        student: &Recipe,
    ) -> Result<Self> {
        let at = || format!("teacher {}", checkpoint.path.display());
        let sizes = Weights::load(checkpoint).with_context(at)?.config().sizes();
        recipe.check(sizes).with_context(at)?;
        let n_classes = sizes.n_classes.with_context(|| {
            format!("{}: a pretraining checkpoint, expected one with a classifier", at())
        })?;
        ensure!(
            recipe.labels.len() == n_classes,
            "{}: recipe `{}` names no labels, expected those of its {n_classes} classes",
            at(),
            recipe.name
        );
        let classes = student
            .labels
            .iter()
            .map(|label| {
                let class = recipe.labels.iter().position(|known| known == label);
                class.with_context(|| format!("{}: it does not know the label `{label}`", at()))
            })
            .collect::<Result<Vec<_>>>()?;
        if let Some(label) = recipe.labels.iter().find(|label| !student.labels.contains(label)) {
            anyhow::bail!("{}: it has the label `{label}`, which no clip has", at());
        }
        let own = &student.front_end;
        let alike = FrontEnd {
            n_frames: own.n_frames,
            mean: own.mean,
            std: own.std,
            ..recipe.front_end.clone()
        };
        ensure!(
            alike == *own,
            "{}: it hears {}, the network that learns {}; only mean, deviation and frames may differ",
            at(),
            words(&alike),
            words(own)
        );
        let network =
            Network::from_checkpoint(checkpoint, recipe, n_classes, 0).with_context(at)?;
        Ok(Self { network, classes, sha256 })
    }

    fn on(self, gpu: &Arc<Gpu>) -> Self {
        Self { network: self.network.on(gpu.clone()), ..self }
    }

    /// Adds `share` of the teacher's answers for clips with these sounds to `targets`, `[clips,
    /// n_classes]`.
    fn answer(
        &self,
        clips: &[(Vec<f32>, Finish)],
        share: f64,
        temperature: f64,
        targets: &mut [f32],
    ) -> Result<()> {
        let front_end = &self.network.recipe().front_end;
        let fbanks: Vec<f32> = clips
            .iter()
            .flat_map(|(sound, finish)| finish.without_masks().apply(sound.clone(), front_end))
            .collect();
        let shape = (clips.len(), front_end.n_frames, front_end.n_mels);
        let logits = self.network.logits(&Tensor::from_vec(fbanks, shape, &Device::Cpu)?)?;
        let rows = targets.chunks_exact_mut(self.classes.len());
        for (logits, target) in logits.to_vec2::<f32>()?.iter().zip(rows) {
            let scores = softmax(logits, temperature);
            for (target, &class) in target.iter_mut().zip(&self.classes) {
                *target += (share * scores[class]) as f32;
            }
        }
        Ok(())
    }
}

impl Trainer {
    /// The same run with teachers.
    ///
    /// # Errors
    /// When the plan's loss is not cross-entropy, or a number is out of range.
    pub fn taught_by(
        mut self,
        teachers: Vec<Teacher>,
        weight: f64,
        temperature: f64,
    ) -> Result<Self> {
        ensure!(
            self.plan.loss == crate::plan::Loss::CrossEntropy,
            "plan `{}` decides each class by itself, and teachers are for one class a clip",
            self.plan.name
        );
        ensure!(
            (0.0..=1.0).contains(&weight),
            "the teachers' share is {weight}, expected one from 0 to 1"
        );
        ensure!(
            temperature > 0.0 && temperature.is_finite(),
            "the temperature is {temperature}, expected a positive number"
        );
        let sums = teachers.iter().map(|teacher| teacher.sha256.clone()).collect();
        self.plan.distillation = Some(Distillation { weight, temperature, teachers: sums });
        self.teachers = match self.network.gpu() {
            Some(gpu) => teachers.into_iter().map(|teacher| teacher.on(gpu)).collect(),
            None => teachers,
        };
        Ok(self)
    }

    /// Targets `[clips, n_classes]` from labels, and from teachers where there are some.
    pub(crate) fn taught(
        &self,
        mut targets: Vec<f32>,
        clips: &[(Vec<f32>, Finish)],
    ) -> Result<Vec<f32>> {
        let Some(Distillation { weight, temperature, .. }) = self.plan.distillation else {
            return Ok(targets);
        };
        targets.iter_mut().for_each(|target| *target *= (1.0 - weight) as f32);
        let share = weight / self.teachers.len() as f64;
        for teacher in &self.teachers {
            teacher.answer(clips, share, temperature, &mut targets)?;
        }
        Ok(targets)
    }
}

/// What a clip is turned into, but for mean, deviation and frames.
fn words(front_end: &FrontEnd) -> String {
    let FrontEnd { sample_rate, n_mels, order, subtract_clip_mean, .. } = front_end;
    format!(
        "{n_mels} mel bins at {sample_rate} Hz ({order:?}, clip mean {})",
        if *subtract_clip_mean { "subtracted" } else { "kept" }
    )
}

/// Of `logits / temperature`.
fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f64> =
        logits.iter().map(|&x| (f64::from(x - highest) / temperature).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.into_iter().map(|x| x / sum).collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::{
        Config,
        augment::{self},
        plan::{Augmentation, Plan},
        random::Random,
    };

    const LABELS: [&str; 3] = ["go", "no", "up"];

    fn recipe(text: &str, labels: [&str; 3]) -> Recipe {
        let rest = "mean = -4.0\nstd = 2.0\nmel_bins = 16\n";
        let mut recipe = Recipe::parse(&format!("{text}{rest}"), "micro").unwrap();
        recipe.labels = labels.map(Into::into).into();
        recipe
    }

    fn student() -> Recipe {
        recipe("frames = 16\nstride = [16, 4]\n", LABELS)
    }

    fn config() -> Config {
        Config::Ssamba(ssamba_model::Config {
            d_model: 16,
            depth: 2,
            d_inner: 32,
            d_state: 4,
            d_conv: 4,
            dt_rank: 1,
            patch_f: 16,
            patch_t: 4,
            n_classes: Some(3),
        })
    }

    /// Another architecture, other patches, more frames, another order of labels.
    fn other() -> (Config, Recipe) {
        let config = Config::Ssast(ssamba_ssast::Config {
            d_model: 64,
            depth: 1,
            d_mlp: 32,
            patch_f: 8,
            patch_t: 4,
            n_classes: Some(3),
        });
        (config, recipe("frames = 20\nstride = [8, 4]\n", ["up", "go", "no"]))
    }

    fn checkpoint(config: Config, recipe: &Recipe, seed: u64) -> Checkpoint {
        let network = Network::from_scratch(config, recipe.clone(), seed).unwrap();
        Checkpoint::from_tensors("teacher.pth", network.official().unwrap())
    }

    #[test]
    fn targets_are_those_of_the_definition() {
        let how = Augmentation { frequency_mask: 9.0, time_mask: 9.0, ..Default::default() };
        let mut random = Random::new(5, &[]);
        let clips: Vec<(Vec<f32>, Finish)> = (0..2)
            .map(|_| {
                let sound = (0..16 * 16).map(|_| (5.0 * random.normal()) as f32).collect();
                (sound, Finish::draw(&how, &student().front_end, &mut random))
            })
            .collect();
        let labels = [0.8, 0.1, 0.1, 0.1, 0.1, 0.8];
        let (weight, temperature) = (0.25, 2.0);
        let (config_of_other, recipe_of_other) = other();
        // Where each of our labels is among the teacher's.
        let teachers = [
            (checkpoint(config(), &student(), 3), student(), [0, 1, 2]),
            (checkpoint(config_of_other, &recipe_of_other, 4), recipe_of_other, [1, 2, 0]),
        ];
        let mut want = labels.map(|label| 0.75 * label);
        for (checkpoint, recipe, places) in &teachers {
            let network = Network::from_checkpoint(checkpoint, recipe.clone(), 3, 0).unwrap();
            for (clip, (sound, _)) in clips.iter().enumerate() {
                let front_end = &recipe.front_end;
                let fbank = augment::plain(sound, front_end);
                let fbank =
                    Tensor::from_vec(fbank, (1, front_end.n_frames, 16), &Device::Cpu).unwrap();
                let logits = network.logits(&fbank).unwrap().to_vec2::<f32>().unwrap().remove(0);
                let powers = logits.iter().map(|&x| (f64::from(x) / temperature).exp());
                let powers: Vec<f64> = powers.collect();
                for (class, &place) in places.iter().enumerate() {
                    want[3 * clip + class] +=
                        weight / 2.0 * powers[place] / powers.iter().sum::<f64>();
                }
            }
        }

        let network = Network::from_scratch(config(), student(), 1).unwrap();
        let plan = Plan::named("full-band").unwrap();
        let known = teachers.map(|(checkpoint, recipe, _)| {
            Teacher::new(&checkpoint, recipe, "sum".into(), &student()).unwrap()
        });
        let trainer = Trainer::new(network, plan, 1, NonZeroUsize::MIN)
            .unwrap()
            .taught_by(known.into(), weight, temperature)
            .unwrap();
        let got = trainer.taught(labels.map(|label| label as f32).into(), &clips).unwrap();
        for (got, want) in got.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 1e-6, "{got}, expected {want}");
        }
        assert!((got[..3].iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn who_cannot_teach_is_told_why() {
        let known = checkpoint(config(), &student(), 3);
        let refusal = |checkpoint: &Checkpoint, recipe: Recipe| {
            let teacher = Teacher::new(checkpoint, recipe, "sum".into(), &student());
            format!("{:#}", teacher.unwrap_err())
        };
        let labels = |labels| recipe("frames = 16\nstride = [16, 4]\n", labels);
        let message = refusal(&known, labels(["go", "no", "yes"]));
        assert!(message.contains("teacher.pth: it does not know the label `up`"), "{message}");
        let mut unnamed = student();
        unnamed.labels = Vec::new();
        assert!(refusal(&known, unnamed).contains("names no labels"));
        let mut deaf = student();
        deaf.front_end.subtract_clip_mean = false;
        assert!(refusal(&known, deaf).contains("clip mean kept"));

        let four = config().with_classes(Some(4));
        let mut recipe = student();
        recipe.labels.push("yes".into());
        let message = refusal(&checkpoint(four, &recipe, 1), recipe);
        assert!(message.contains("has the label `yes`, which no clip has"), "{message}");

        let square = Recipe { stride_f: 16, stride_t: 4, ..student() };
        let network = Network::for_pretraining(config(), square, 1).unwrap();
        let pretrained = Checkpoint::from_tensors("pre.pth", network.official().unwrap());
        let message = refusal(&pretrained, student());
        assert!(message.contains("pre.pth: a pretraining checkpoint"), "{message}");

        let network = Network::from_scratch(config(), student(), 1).unwrap();
        let plan = Plan::named("speech-commands").unwrap();
        let trainer = Trainer::new(network, plan, 1, NonZeroUsize::MIN).unwrap();
        let message = trainer.taught_by(Vec::new(), 0.5, 2.0).unwrap_err().to_string();
        assert!(message.contains("teachers are for one class a clip"), "{message}");
    }
}
