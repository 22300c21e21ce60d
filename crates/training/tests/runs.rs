//! Runs of a micro network from start to end.

use std::num::NonZeroUsize;

use candle_core::{Device, Tensor};
use ssamba_model_common::{Architecture, Checkpoint, Recipe};
use ssamba_training::{
    Config, Data, Example, Masking, Network, Plan, Random, Teacher, Trainer, Validation, augment,
    score::highest,
};

const CLASSES: usize = 3;

fn ssamba() -> Config {
    Config::Ssamba(ssamba_model::Config {
        d_model: 16,
        depth: 2,
        d_inner: 32,
        d_state: 4,
        d_conv: 4,
        dt_rank: 1,
        patch_f: 16,
        patch_t: 4,
        n_classes: Some(CLASSES),
    })
}

fn ssast() -> Config {
    Config::Ssast(ssamba_ssast::Config {
        d_model: 64,
        depth: 2,
        d_mlp: 64,
        patch_f: 16,
        patch_t: 4,
        n_classes: Some(CLASSES),
    })
}

fn recipe() -> Recipe {
    let text = "frames = 16\nmean = -4.0\nstd = 2.0\nmel_bins = 16\nstride = [16, 4]\n";
    Recipe::parse(text, "micro").unwrap()
}

fn plan() -> Plan {
    let mut plan = Plan::named("nano").unwrap();
    (plan.epochs, plan.batch) = (6, 9);
    plan.augmentation.shift = 2.0;
    (plan.augmentation.frequency_mask, plan.augmentation.time_mask) = (2.0, 2.0);
    plan
}

/// Clips whose loud third of the mel bins is their class; the last class is the background.
fn data(count: usize) -> Data {
    let mut random = Random::new(11, &[]);
    let clips: Vec<Example> = (0..count)
        .map(|index| {
            let class = index % CLASSES;
            let frames = (0..16 * 16)
                .map(|i| {
                    let loud = i % 16 / 6 == class;
                    (random.normal() - if loud { 2.0 } else { 6.0 }) as f32
                })
                .collect();
            Example { frames, classes: vec![class] }
        })
        .collect();
    let background = (0..count).filter(|index| index % CLASSES == 2).collect();
    Data { clips, background }
}

fn trainer_of(config: Config, threads: usize, seed: u64) -> Trainer {
    let network = Network::from_scratch(config, recipe(), seed).unwrap();
    Trainer::new(network, plan(), seed, NonZeroUsize::new(threads).unwrap()).unwrap()
}

fn trainer(threads: usize, seed: u64) -> Trainer {
    trainer_of(ssamba(), threads, seed)
}

/// Runs to the end, or for so many steps.
fn run(trainer: &mut Trainer, data: &Data, most: usize) {
    let mut taken = 0;
    while trainer.progress.epoch < trainer.plan.epochs {
        let batches = trainer.batches(data.clips.len());
        for batch in &batches[trainer.progress.step..] {
            if taken == most {
                return;
            }
            trainer.step(data, batch, batches.len()).unwrap();
            taken += 1;
        }
        trainer.end_epoch(None);
    }
}

/// Logits of the plain network for a clip.
fn plain_logits(checkpoint: &Checkpoint, clip: &Example) -> Vec<f32> {
    let fbank = augment::plain(&clip.frames, &recipe().front_end);
    let fbank = Tensor::from_vec(fbank, (1, 16, 16), &Device::Cpu).unwrap();
    let outputs = match Architecture::of(checkpoint, None).unwrap() {
        Architecture::Ssamba => {
            let weights = ssamba_model::Weights::load(checkpoint).unwrap();
            ssamba_model::Model::new(weights, recipe()).unwrap().forward(&fbank)
        }
        Architecture::Ssast => {
            let weights = ssamba_ssast::Weights::load(checkpoint).unwrap();
            ssamba_ssast::Model::new(weights, recipe()).unwrap().forward(&fbank)
        }
    };
    outputs.unwrap().logits.unwrap().get(0).unwrap().to_vec1().unwrap()
}

#[test]
fn of_epochs_with_equal_scores_the_one_with_the_lower_loss_is_the_best() {
    let mut trainer = trainer(1, 1);
    let epochs = [
        (0.5, 2.0, true),
        (0.75, 3.0, true),
        (0.75, 3.0, false),
        (0.75, 2.5, true),
        (0.75, 4.0, false),
        (0.5, 1.0, false),
        (0.8, 9.0, true),
    ];
    for (score, loss, best) in epochs {
        let validation = Validation { score, loss };
        assert_eq!(trainer.end_epoch(Some(validation)), best, "{validation:?}");
    }
    assert_eq!((trainer.progress.best, trainer.progress.best_epoch), (Some(0.8), 7));
}

#[test]
fn a_run_learns_and_its_checkpoint_is_an_official_one() {
    let data = data(40);
    for config in [ssamba(), ssast()] {
        let mut trainer = trainer_of(config, 2, 1);
        run(&mut trainer, &data, usize::MAX);
        let logits = trainer.logits(&data.clips).unwrap();
        let right = |logits: &[Vec<f32>]| {
            let pairs = logits.iter().zip(&data.clips);
            pairs.filter(|(logits, clip)| clip.classes == [highest(logits)]).count()
        };
        assert!(right(&logits) >= 38, "{config:?}: {} of 40 are right", right(&logits));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("best.safetensors");
        std::fs::write(&path, trainer.checkpoint().unwrap()).unwrap();
        let checkpoint = Checkpoint::read(&path).unwrap();
        for (clip, want) in data.clips.iter().zip(&logits) {
            for (got, want) in plain_logits(&checkpoint, clip).into_iter().zip(want) {
                assert!((got - want).abs() < 1e-4, "{config:?}: {got} and {want}");
            }
        }
        // And back again: the same folded values to the bit.
        let again = Network::from_checkpoint(&checkpoint, recipe(), CLASSES, 9).unwrap();
        assert_eq!(again.values().unwrap(), trainer.network.values().unwrap());
        // For other labels only the head is drawn anew.
        let other = Network::from_checkpoint(&checkpoint, recipe(), CLASSES + 1, 9).unwrap();
        let (other, kept) = (other.official().unwrap(), &checkpoint.tensors);
        for (name, tensor) in &other {
            let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let same = values(tensor) == values(&kept[name]);
            assert_eq!(same, !name.starts_with("mlp_head."), "{name}");
        }
    }
}

#[test]
fn one_seed_gives_one_file_on_any_number_of_threads() {
    // Batches of seven parts: of two, any order gives the same sum.
    let data = data(60);
    for config in [ssamba(), ssast()] {
        let state = |threads, seed| {
            let mut trainer = trainer_of(config, threads, seed);
            trainer.plan.batch = 50;
            run(&mut trainer, &data, 7);
            (trainer.checkpoint().unwrap(), trainer.state(60).unwrap())
        };
        assert!(state(1, 5) == state(1, 5), "{config:?}");
        assert!(state(1, 5) == state(3, 5), "{config:?}");
        assert!(state(1, 5) != state(1, 6), "{config:?}");
    }
}

#[test]
fn a_run_that_was_stopped_ends_as_one_that_was_not() {
    let data = data(20);
    let mut whole = trainer(2, 3);
    run(&mut whole, &data, usize::MAX);
    // In the middle of the second epoch of three steps.
    let mut first = trainer(2, 3);
    run(&mut first, &data, 4);
    let state = first.state(20).unwrap();
    let mut second = trainer(1, 3);
    second.restore(&state, 20).unwrap();
    assert_eq!((second.progress.epoch, second.progress.step), (1, 1));
    assert_eq!(second.progress, first.progress);
    run(&mut second, &data, usize::MAX);
    assert_eq!(second.state(20).unwrap(), whole.state(20).unwrap());
    assert_eq!(second.checkpoint().unwrap(), whole.checkpoint().unwrap());
}

/// A run with teachers of these seeds, or with none.
fn taught(teachers: &[u64], weight: f64, threads: usize) -> Trainer {
    let mut student = recipe();
    student.labels = ["low", "middle", "high"].map(Into::into).into();
    let known = teachers.iter().map(|&seed| {
        let network = Network::from_scratch(ssast(), student.clone(), seed).unwrap();
        let checkpoint = Checkpoint::from_tensors("teacher", network.official().unwrap());
        Teacher::new(&checkpoint, student.clone(), format!("sum {seed}"), &student).unwrap()
    });
    let known: Vec<Teacher> = known.collect();
    let mut plan = plan();
    plan.augmentation.mixup = 0.5;
    let network = Network::from_scratch(ssamba(), student.clone(), 3).unwrap();
    let trainer = Trainer::new(network, plan, 3, NonZeroUsize::new(threads).unwrap()).unwrap();
    match known.is_empty() {
        true => trainer,
        false => trainer.taught_by(known, weight, 2.0).unwrap(),
    }
}

#[test]
fn teachers_change_what_is_learned_and_nothing_that_is_drawn() {
    let data = data(20);
    let ends = |teachers: &[u64], weight| {
        let mut trainer = taught(teachers, weight, 2);
        run(&mut trainer, &data, 4);
        trainer.checkpoint().unwrap()
    };
    let alone = ends(&[], 0.5);
    assert!(ends(&[5, 6], 0.0) == alone, "without a share they are as good as absent");
    assert!(ends(&[5], 0.5) != alone);
    assert!(ends(&[5], 0.5) != ends(&[6], 0.5));
}

#[test]
fn a_run_with_teachers_resumes_to_the_bit_and_with_no_others() {
    let data = data(20);
    let mut whole = taught(&[5, 6], 0.5, 2);
    run(&mut whole, &data, usize::MAX);
    let mut first = taught(&[5, 6], 0.5, 1);
    run(&mut first, &data, 4);
    let state = first.state(20).unwrap();
    let mut second = taught(&[5, 6], 0.5, 2);
    second.restore(&state, 20).unwrap();
    run(&mut second, &data, usize::MAX);
    assert!(second.state(20).unwrap() == whole.state(20).unwrap());
    assert!(second.checkpoint().unwrap() == whole.checkpoint().unwrap());

    let refusal = |mut trainer: Trainer| trainer.restore(&state, 20).unwrap_err().to_string();
    for others in [&[][..], &[5], &[6, 5], &[5, 7]] {
        let message = refusal(taught(others, 0.5, 1));
        assert!(message.contains("with other teachers"), "{others:?}: {message}");
    }
    assert!(refusal(taught(&[5, 6], 0.25, 1)).contains("of another plan"));
}

#[test]
fn a_state_of_another_run_is_refused() {
    let state = trainer(1, 3).state(20).unwrap();
    let refusal =
        |trainer: &mut Trainer, clips| format!("{:#}", trainer.restore(&state, clips).unwrap_err());
    assert!(refusal(&mut trainer(1, 4), 20).contains("with seed 3"));
    assert!(refusal(&mut trainer(1, 3), 21).contains("over 20 clips, there are 21 now"));
    let mut other = trainer(1, 3);
    assert!(format!("{:#}", other.restore(&state[..50], 20).unwrap_err()).contains("damaged"));
}

#[test]
fn a_number_that_is_not_finite_stops_the_run_and_is_named() {
    let mut data = data(20);
    data.clips[0].frames[7] = f32::NAN;
    let mut trainer = trainer(2, 3);
    let before = trainer.state(20).unwrap();
    let error = trainer.step(&data, &[3, 0, 5], 3).unwrap_err().to_string();
    assert!(error.contains("step 1: the loss is NaN, the gradient of `"), "{error}");
    assert_eq!(trainer.state(20).unwrap(), before);
}

#[test]
fn pretraining_learns_what_was_hidden() {
    let data = data(16);
    for config in [ssamba(), ssast()] {
        let network = Network::for_pretraining(config, recipe(), 2).unwrap();
        let plan = Plan {
            rate: 3e-3,
            batch: 4,
            epochs: 30,
            schedule: plan().schedule,
            ..Plan::pretraining()
        };
        let mut trainer = Trainer::new(network, plan, 2, NonZeroUsize::MIN).unwrap();
        let masking = Masking::published(2);
        masking.check(trainer.network.grid()).unwrap();
        let before = trainer.pretraining_scores(&data, &masking).unwrap();
        for _ in 0..30 {
            let batches = trainer.batches(16);
            for batch in &batches {
                trainer.pretraining_step(&data, &masking, batch, batches.len()).unwrap();
            }
            trainer.end_epoch(None);
        }
        let after = trainer.pretraining_scores(&data, &masking).unwrap();
        assert!(after[2] < 0.5 * before[2], "{config:?}: mse {} to {}", before[2], after[2]);
        assert!(after[1] < before[1], "{config:?}: nce {} to {}", before[1], after[1]);

        // A pretraining file, whose encoder a classifier starts from.
        let official = trainer.network.official().unwrap();
        let checkpoint = Checkpoint::from_tensors("pretrained", official);
        assert!(checkpoint.is_pretraining());
        let tuned = Network::from_checkpoint(&checkpoint, recipe(), CLASSES, 1).unwrap();
        assert_eq!(tuned.official().unwrap().len() + 9, trainer.network.parameters().count() + 4);
    }
}
