//! `ssamba-edge bundle --verify`: are the files what was written, and does the model compute here what
//! they say?

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, anyhow, ensure};
use ssamba_contract::{Card, Outputs, SelfTest, Tensor, io::LOGITS};
use ssamba_kws::{SAMPLE_RATE, Settings, Spotter};

use super::{
    CARD, MODEL, PACK, archive,
    golden::{EXPECTED, Expected},
    triton::Model,
};
use crate::{
    Answer,
    listen::{Reader, hear},
    provider::{Provider, RuntimeArgs},
    terminal,
};

pub fn run(bundle: &Path, provider: Provider, runtime: &RuntimeArgs) -> Result<Answer> {
    runtime.check(&[provider])?;
    let at = || bundle.display().to_string();
    let files = archive::read(bundle)?;
    let changes = files.changes().with_context(at)?;
    for change in &changes {
        terminal::say(format!("{}: {change}", bundle.display()))?;
    }
    if !changes.is_empty() {
        return Ok(Answer::No);
    }
    terminal::say(format!("{}: {} files, all as written", bundle.display(), files.iter().count()))?;

    let work = tempfile::tempdir()?;
    files.unpack(work.path())?;
    let expected: Expected = parse(files.get(EXPECTED), EXPECTED).with_context(at)?;
    let entries: BTreeMap<String, String> = parse(files.get(CARD), CARD).with_context(at)?;
    let card = Card::from_metadata(&entries).with_context(at)?;
    let clip = work.path().join(&expected.clip);
    let (test, pack) = (&expected.test, work.path().join(PACK));
    let (ran, verdict) = if pack.is_dir() {
        ensure!(
            matches!(provider, Provider::Auto | Provider::Tract),
            "{}: a bundle for `ssamba-kws`, which has tract alone: leave out --provider",
            bundle.display()
        );
        // A spotter puts out scores alone.
        let scores = SelfTest { values: card.scores.apply(&test.values), ..test.clone() };
        let outputs = in_spotter(&pack, &card, &clip).with_context(at)?;
        ("ssamba-kws".to_owned(), scores.judge(&outputs))
    } else {
        let name = match files.get(MODEL) {
            Some(_) => MODEL.to_owned(),
            None => Model::model_path(&card),
        };
        let model = work.path().join(name);
        let (ran, outputs) = in_runtime(&model, &card, &clip, provider, runtime)?;
        (ran, test.judge(&outputs))
    };
    let verb = if verdict.holds { "computes" } else { "DOES NOT compute" };
    terminal::say(format!(
        "{}: {ran} {verb} what {EXPECTED} says of {}: off by {:.1e}, allowed {:e}",
        bundle.display(),
        expected.clip,
        verdict.max_abs_error,
        test.atol
    ))?;
    Ok(if verdict.holds { Answer::Yes } else { Answer::No })
}

fn parse<T: for<'de> serde::Deserialize<'de>>(bytes: Option<&[u8]>, name: &str) -> Result<T> {
    let bytes = bytes.with_context(|| format!("there is no {name} in it"))?;
    serde_json::from_slice(bytes).map_err(|error| anyhow!("{name} cannot be read: {error}"))
}

fn in_runtime(
    model: &Path,
    card: &Card,
    clip: &Path,
    provider: Provider,
    runtime: &RuntimeArgs,
) -> Result<(String, Outputs)> {
    let provider = match (provider, card.beyond_tract()) {
        (Provider::Auto, Some(_)) => Provider::Cpu,
        (provider, _) => provider,
    };
    let mut session = provider.open(model, runtime)?;
    let clip = Reader::new(card)?.read(clip)?;
    let heard = hear(session.as_mut(), &[&clip])?;
    let outputs = heard.into_iter().next().context("nothing was heard")?.outputs;
    Ok((session.provider().to_owned(), outputs))
}

/// The scores of the first window, under the name of the logits.
fn in_spotter(pack: &Path, card: &Card, clip: &Path) -> Result<Outputs> {
    let settings = Settings { smooth: 1, ..Settings::of(pack)? };
    let mut spotter = Spotter::open(pack, &settings)?;
    let waveform = ssamba_audio::read(clip, SAMPLE_RATE)?;
    let mut samples = waveform.samples;
    // Silence, as a shorter clip is padded.
    samples.resize(samples.len().max(card.front_end.window_samples()), 0.0);
    let mut scores = None;
    spotter.feed_windows(&samples, |window| {
        scores.get_or_insert_with(|| window.scores.to_vec());
    })?;
    let scores = scores.context("the clip is shorter than a window")?;
    let scores = Tensor::new([1, scores.len()], scores)?;
    Ok(Outputs::new(vec![(LOGITS.into(), scores)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_named() {
        let message = format!("{:#}", parse::<Expected>(Some(b"{}"), EXPECTED).unwrap_err());
        assert!(message.starts_with("golden.json cannot be read"), "{message}");
        assert!(parse::<Expected>(None, EXPECTED).is_err());
        let nowhere = run(Path::new("nowhere.tar"), Provider::Auto, &RuntimeArgs::default());
        assert!(format!("{:#}", nowhere.unwrap_err()).starts_with("nowhere.tar: "));
    }
}
