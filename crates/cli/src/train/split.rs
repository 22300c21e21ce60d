//! Which clips are learned from, which choose the best epoch, and which score it once at the end.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use ssamba_model_common::recipe::check_labels;
use ssamba_training::Random;

use crate::clips::{self, Clip, TableArgs};

/// Clips by what they are for, on the command line.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct SplitArgs {
    /// Splits of the table to learn from [default: training].
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    training: Vec<String>,
    /// Splits of the table that choose the best epoch, or the share of the clips to learn from that
    /// is kept for it, of each label; with 0 the last epoch is the best [default: validation, or 0.1
    /// of clips without splits].
    #[arg(long, value_name = "NAME,...|SHARE")]
    validation: Option<String>,
    /// Splits of the table that score the best epoch once, at the end [default: testing, if there is one].
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    testing: Vec<String>,
}

/// Share of clips without splits that is kept for validation.
const SHARE: &str = "0.1";

/// A clip and the classes that are right for it.
pub type Labelled = (PathBuf, Vec<usize>);

/// Clips by what they are for, and the labels of all.
pub struct Split {
    pub labels: Vec<String>,
    pub training: Vec<Labelled>,
    pub validation: Vec<Labelled>,
    pub testing: Vec<Labelled>,
}

/// Reads the clips of `data` and tells them apart; `seed` draws those that are kept for validation.
pub fn split(data: &Path, table: &TableArgs, args: &SplitArgs, seed: u64) -> Result<Split> {
    let at = || data.display().to_string();
    let clips = clips::of_either(data, table, None)?;
    let labels: Vec<String> = clips
        .iter()
        .flat_map(Clip::labels)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(Into::into)
        .collect();
    check_labels(&labels).with_context(at)?;
    ensure!(labels.len() > 1, "{}: {} label, expected at least two", at(), labels.len());
    let parts = parts(&clips, args, seed).with_context(at)?;
    let indexed = |clips: Vec<&Clip>| -> Vec<Labelled> {
        let index = |label: &str| labels.binary_search_by(|known| known.as_str().cmp(label)).ok();
        let classes = |clip: &Clip| clip.labels().filter_map(index).collect();
        clips.into_iter().map(|clip| (clip.path.clone(), classes(clip))).collect()
    };
    let [training, validation, testing] =
        [parts.training, parts.validation, parts.testing].map(indexed);
    Ok(Split { labels, training, validation, testing })
}

#[derive(Debug, Default, PartialEq)]
struct Parts<'a> {
    training: Vec<&'a Clip>,
    validation: Vec<&'a Clip>,
    testing: Vec<&'a Clip>,
}

fn parts<'a>(clips: &'a [Clip], args: &SplitArgs, seed: u64) -> Result<Parts<'a>> {
    let known = clips::splits(clips);
    let listed = known.iter().copied().collect::<Vec<_>>().join(", ");
    if known.is_empty() {
        for (option, names) in [("--training", &args.training), ("--testing", &args.testing)] {
            ensure!(names.is_empty(), "the clips have no splits, which {option} could name");
        }
        let (training, validation) =
            kept(clips.iter().collect(), args.validation.as_deref().unwrap_or(SHARE), seed)?;
        return Ok(Parts { training, validation, testing: Vec::new() });
    }
    let named = |option: &str, names: &[String], usual: &[&str]| -> Result<BTreeSet<&'a str>> {
        if names.is_empty() {
            return Ok(known.iter().copied().filter(|name| usual.contains(name)).collect());
        }
        let find = |name: &String| {
            known.get(name.trim()).copied().with_context(|| {
                format!("{option}: no clips of the split `{}`, there are {listed}", name.trim())
            })
        };
        names.iter().map(find).collect()
    };
    let training = named("--training", &args.training, &["training", "train"])?;
    ensure!(
        !training.is_empty(),
        "no split is called training: name those to learn from by --training, of {listed}"
    );
    let testing = named("--testing", &args.testing, &["testing", "test"])?;
    // The name of a split comes first, as folds may be called by numbers.
    let share = args
        .validation
        .as_deref()
        .filter(|text| !known.contains(text) && text.parse::<f64>().is_ok());
    let names: Vec<String> = match (&args.validation, share) {
        (Some(names), None) => names.split(',').map(Into::into).collect(),
        _ => Vec::new(),
    };
    let validation = match share {
        Some(_) => BTreeSet::new(),
        None => named("--validation", &names, &["validation", "valid", "val"])?,
    };
    ensure!(
        share.is_some() || !validation.is_empty(),
        "no split is called validation: name one by --validation, of {listed}, or a share of the \
         clips to learn from as in --validation {SHARE}"
    );
    for (one, other, what) in [
        (&training, &validation, "to learn from and for validation"),
        (&training, &testing, "to learn from and for testing"),
        (&validation, &testing, "for validation and for testing"),
    ] {
        if let Some(name) = one.intersection(other).next() {
            bail!(
                "the split `{name}` is both {what}: tell them apart by --training, --validation and --testing"
            );
        }
    }
    let of = |names: &BTreeSet<&str>| -> Vec<&Clip> {
        let is_in = |clip: &&Clip| clip.split.as_deref().is_some_and(|split| names.contains(split));
        clips.iter().filter(is_in).collect()
    };
    let (training, validation) = match share {
        Some(share) => kept(of(&training), share, seed)?,
        None => (of(&training), of(&validation)),
    };
    Ok(Parts { training, validation, testing: of(&testing) })
}

/// Clips to learn from, and the share of each label that is kept for validation.
fn kept<'a>(
    clips: Vec<&'a Clip>,
    share: &str,
    seed: u64,
) -> Result<(Vec<&'a Clip>, Vec<&'a Clip>)> {
    let share: f64 =
        share.parse().ok().filter(|share| (0.0..1.0).contains(share)).with_context(|| {
            format!("--validation is {share}, expected a share from 0 to 1 or a split of a table")
        })?;
    if share == 0.0 {
        return Ok((clips, Vec::new()));
    }
    let (mut training, mut validation) = (Vec::new(), Vec::new());
    let names: BTreeSet<&str> = clips.iter().map(|clip| clip.label.as_str()).collect();
    for (number, name) in names.into_iter().enumerate() {
        let of_label: Vec<&Clip> =
            clips.iter().copied().filter(|clip| clip.label == name).collect();
        let held = (of_label.len() as f64 * share).round() as usize;
        let order = Random::new(seed, &[4, number as u64]).order(of_label.len());
        for (place, index) in order.into_iter().enumerate() {
            let to = if place < held { &mut validation } else { &mut training };
            to.push(of_label[index]);
        }
    }
    ensure!(
        !training.is_empty() && !validation.is_empty(),
        "--validation {share} leaves {} clips to learn from and {} for validation, expected some of both",
        training.len(),
        validation.len()
    );
    Ok((training, validation))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clips `0`, `1`, ... of two labels in turns, one for each split.
    fn clips(splits: &[&str]) -> Vec<Clip> {
        let clip = |(index, split): (usize, &&str)| Clip {
            label: ["a", "b"][index % 2].into(),
            path: index.to_string().into(),
            split: (!split.is_empty()).then(|| (*split).to_owned()),
        };
        splits.iter().enumerate().map(clip).collect()
    }

    fn args(training: &[&str], validation: Option<&str>, testing: &[&str]) -> SplitArgs {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        SplitArgs {
            training: owned(training),
            validation: validation.map(Into::into),
            testing: owned(testing),
        }
    }

    fn told_apart(splits: &[&str], args: &SplitArgs) -> Result<[Vec<String>; 3]> {
        let clips = clips(splits);
        let Parts { training, validation, testing } = parts(&clips, args, 1)?;
        let names = |part: Vec<&Clip>| {
            let mut names: Vec<String> =
                part.iter().map(|clip| clip.path.display().to_string()).collect();
            names.sort();
            names
        };
        Ok([training, validation, testing].map(names))
    }

    #[test]
    fn splits_go_by_their_usual_names_or_by_those_asked_for() {
        let usual = ["training", "testing", "val", "other", "training"];
        let got = told_apart(&usual, &args(&[], None, &[])).unwrap();
        assert_eq!(got, [vec!["0", "4"], vec!["2"], vec!["1"]]);
        let got = told_apart(&usual, &args(&["other", "training"], Some("testing"), &["val"]));
        assert_eq!(got.unwrap(), [vec!["0", "3", "4"], vec!["1"], vec!["2"]]);
        let folds = ["1", "2", "3", "4"];
        let got = told_apart(&folds, &args(&["1", "2"], Some("3"), &["4"])).unwrap();
        assert_eq!(got, [vec!["0", "1"], vec!["2"], vec!["3"]]);
        let got = told_apart(&folds, &args(&["1", "2", "3"], Some("0"), &["4"])).unwrap();
        assert_eq!(got, [vec!["0", "1", "2"], vec![], vec!["3"]]);
    }

    #[test]
    fn a_share_is_taken_from_each_label_of_what_is_learned_from() {
        let splits = [&["training"; 20][..], &["testing"; 2]].concat();
        let [training, validation, testing] =
            told_apart(&splits, &args(&[], Some("0.2"), &[])).unwrap();
        assert_eq!((training.len(), validation.len(), testing.len()), (16, 4, 2));
        let odd = |names: &[String]| {
            names.iter().filter(|name| name.parse::<usize>().unwrap() % 2 == 1).count()
        };
        assert_eq!((odd(&training), odd(&validation)), (8, 2));
        let [training, validation, testing] = told_apart(&[""; 20], &args(&[], None, &[])).unwrap();
        assert_eq!((training.len(), validation.len(), testing.len()), (18, 2, 0));
    }

    #[test]
    fn what_cannot_be_told_apart_is_said() {
        let folds = ["fold1", "fold2"];
        for (splits, args, needle) in [
            (&folds[..], args(&[], None, &[]), "no split is called training: name those"),
            (
                &folds,
                args(&["fold1", "fold9"], Some("0"), &[]),
                "--training: no clips of the split `fold9`, there are fold1, fold2",
            ),
            (&folds, args(&["fold1"], None, &["fold2"]), "no split is called validation: name one"),
            (&folds, args(&["fold1"], Some("fold1"), &[]), "`fold1` is both to learn from and for"),
            (&folds, args(&["fold1"], Some("0"), &["fold1"]), "to learn from and for testing"),
            (&folds, args(&["fold1"], Some("1.5"), &[]), "--validation is 1.5, expected a share"),
            (&folds, args(&["fold1"], Some("0.1"), &[]), "--validation 0.1 leaves 1 clips"),
            (&["", ""], args(&["fold1"], None, &[]), "no splits, which --training could name"),
            (&["", ""], args(&[], Some("fold1"), &[]), "--validation is fold1, expected a share"),
        ] {
            let message = told_apart(splits, &args).unwrap_err().to_string();
            assert!(message.contains(needle), "{message}");
        }
    }
}
