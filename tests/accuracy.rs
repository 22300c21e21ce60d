//! Accuracy on real speech: the same in every runtime, and that of the model's card; in eight bits at
//! most half a point less.
//!
//! Needs the testing split of the keyword data as FLAC or WAV: `SSAMBA_GSC12` is a folder with one
//! folder a label and `testing_list.txt`. `SSAMBA_CHECKPOINT` is the checkpoint to score, with its
//! TOML card beside it; by default the bundled one.

#![expect(clippy::print_stdout, reason = "the figures are worth reading")]

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use ssamba_contract::{Session, Tensor, io::LOGITS};
use ssamba_features::Extractor;
use ssamba_model::{Checkpoint, Recipe};
use ssamba_onnx::{Options, Precision};
use ssamba_tests::suite::{Exported, KWS12, runtimes, zoo};

/// Clips that candle runs at once.
const BATCH: usize = 16;

struct Testing {
    fbanks: Vec<Tensor>,
    truth: Vec<usize>,
}

fn testing(folder: &Path, exported: &Exported) -> Testing {
    let list = fs::read_to_string(folder.join("testing_list.txt")).unwrap();
    let mut extractor = Extractor::new(&exported.card.front_end).unwrap();
    let (mut fbanks, mut truth) = (Vec::new(), Vec::new());
    for clip in list.lines() {
        let label = clip.split('/').next().unwrap();
        truth.push(exported.card.labels.iter().position(|known| known == label).unwrap());
        let waveform = ssamba_audio::read(&folder.join(clip), 16_000).unwrap();
        fbanks.push(extractor.extract(&waveform.samples).unwrap().fbank);
    }
    Testing { fbanks, truth }
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

/// Clips whose best class is the right one, in each runtime.
fn correct(exported: &Exported, clips: &Testing) -> Vec<(String, usize)> {
    let score = |mut session: Box<dyn Session>| {
        let hits = clips.fbanks.iter().zip(&clips.truth).filter(|(fbank, truth)| {
            let shape = [&[1], fbank.shape()].concat();
            let clip = Tensor::new(shape, fbank.data().to_vec()).unwrap();
            let outputs = session.run(&clip).unwrap();
            best(outputs.get(LOGITS).unwrap().row(0)) == **truth
        });
        let hits = hits.count();
        (session.provider().to_owned(), hits)
    };
    runtimes(&exported.path(), &exported.card).unwrap().into_iter().map(score).collect()
}

#[test]
#[ignore = "needs the keyword data: set SSAMBA_GSC12"]
fn every_runtime_has_the_accuracy_of_the_card() {
    let folder =
        PathBuf::from(env::var_os("SSAMBA_GSC12").expect("SSAMBA_GSC12 is the data's folder"));
    let checkpoint =
        env::var_os("SSAMBA_CHECKPOINT").map_or_else(|| zoo("kws12").join(KWS12), PathBuf::from);
    let card = checkpoint.with_extension("toml");
    let claimed = {
        let card: toml::Table = fs::read_to_string(&card).unwrap().parse().unwrap();
        card["accuracy"]["testing"].as_float().unwrap()
    };
    let export = |precision| {
        let options = Options { precision, ..Options::default() };
        let (checkpoint, recipe) = (Checkpoint::read(&checkpoint), Recipe::read(&card));
        Exported::new(&checkpoint.unwrap(), recipe.unwrap(), &options).unwrap()
    };
    let exported = export(Precision::F32);
    let clips = testing(&folder, &exported);

    let mut single = vec![("candle".to_owned(), 0)];
    for (fbanks, truth) in clips.fbanks.chunks(BATCH).zip(clips.truth.chunks(BATCH)) {
        let shape = [&[fbanks.len()], fbanks[0].shape()].concat();
        let data = fbanks.iter().flat_map(|fbank| fbank.data()).copied().collect();
        let outputs = exported.reference(&Tensor::new(shape, data).unwrap()).unwrap();
        let (_, logits) = outputs.iter().find(|(name, _)| *name == LOGITS).unwrap();
        single[0].1 += (0..truth.len()).filter(|&i| best(logits.row(i)) == truth[i]).count();
    }
    single.extend(correct(&exported, &clips));
    let eight = correct(&export(Precision::I8), &clips);

    let total = clips.truth.len();
    let expected = (claimed * total as f64).round() as i64;
    for (precision, scores) in [(Precision::F32, &single), (Precision::I8, &eight)] {
        for (who, correct) in scores {
            let share = *correct as f64 / total as f64;
            println!("{precision} {who:<30} {correct}/{total} = {share:.4}");
        }
    }
    for (who, correct) in single {
        let off = correct as i64 - expected;
        assert!(off.abs() <= 1, "{who}: {correct} of {total}, the card says {expected}");
    }
    for (who, correct) in eight {
        let lost = (expected - correct as i64) as f64 / total as f64;
        assert!(lost <= 0.005, "{who}: {correct} of {total} in int8, the card says {expected}");
    }
}
