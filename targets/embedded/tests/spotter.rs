//! The library on a stream made of the bundled clips.

mod support;

use ssamba_contract::{Session, Tensor, io::LOGITS};
use ssamba_features::Extractor;
use ssamba_kws::{Detector, Settings};
use ssamba_tract::{Options, TractSession};

use crate::support::{Exported, WORDS, assert_words, clip, events, floats, stream};

#[test]
fn words_are_heard_once_each_and_in_order_however_the_stream_is_cut() {
    let exported = Exported::new();
    let mut spotter = exported.spotter(&Settings::default());
    let stream = stream();
    let whole = events(&mut spotter, &stream);
    assert_words(whole.iter().map(|event| (event.label.as_str(), event.time_s)));
    for size in [1, 160, 1000, 16_000] {
        spotter.reset();
        let mut cut = Vec::new();
        for piece in floats(&stream).chunks(size) {
            spotter.feed(piece, |event| cut.push(event)).unwrap();
        }
        assert_eq!(cut, whole, "pieces of {size}");
    }
}

#[test]
fn silence_fires_nothing() {
    let exported = Exported::new();
    let mut spotter = exported.spotter(&Settings::default());
    assert_eq!(events(&mut spotter, &[0; 80_000]), []);
    let hiss: Vec<i16> =
        (0..80_000_u32).map(|i| ((i.wrapping_mul(2_654_435_761) >> 16) as i16) / 1024).collect();
    spotter.reset();
    assert_eq!(events(&mut spotter, &hiss), []);
}

/// Each window as a clip of its own, through what `ssamba-edge run` does with clips.
#[test]
fn windows_have_the_scores_and_the_stream_the_events_of_the_clips() {
    /// Of scores: a clip loses its own mean before framing, a stream has none.
    const TOLERANCE: f32 = 1e-4;
    let exported = Exported::new();
    let settings = Settings::default();
    let mut session = TractSession::open(exported.model(), &Options::default()).unwrap();
    let mut extractor = Extractor::new(&session.card().front_end.clone()).unwrap();
    let mut spotter = exported.spotter(&settings);
    let mut detector = Detector::new(&settings, spotter.labels()).unwrap();
    let stream = floats(&stream());
    // The frames of a window end with the last whole one, 15 ms into the next shift.
    let (window, hop) = (97 * 160 + 400, 1600);
    let mut expected = Vec::new();
    let mut scores = Vec::new();
    for start in (0..=stream.len() - window).step_by(hop) {
        let end = start + window;
        let features = extractor.extract(&stream[start..end]).unwrap();
        let fbank = Tensor::new([1, 98, 128], features.fbank.data().to_vec()).unwrap();
        let outputs = session.run(&fbank).unwrap();
        let clip = session.card().scores.apply(outputs.get(LOGITS).unwrap().row(0));
        let frame = (98 + start / 160) as u64;
        if let Some((class, score)) = detector.push(&clip, frame) {
            expected.push((class, end as f64 / 16_000.0, score));
        }
        scores.push((frame, clip));
    }
    assert_eq!((scores.len(), expected.len()), (61, WORDS.len()));

    let mut clips = scores.iter();
    spotter
        .feed_windows(&stream, |window| {
            let (frame, clip) = clips.next().unwrap();
            assert_eq!(window.frame, *frame);
            for (got, expected) in window.scores.iter().zip(clip) {
                assert!((got - expected).abs() <= TOLERANCE, "{got}, expected {expected}");
            }
        })
        .unwrap();
    assert!(clips.next().is_none());
    spotter.reset();
    let mut expected = expected.into_iter();
    spotter
        .feed(&stream, |event| {
            let (class, time_s, score) = expected.next().unwrap();
            assert_eq!((event.class, event.time_s), (class, time_s));
            assert!((event.score - score).abs() <= TOLERANCE, "{event:?}");
        })
        .unwrap();
    assert!(expected.next().is_none());
}

#[test]
fn nothing_fires_within_the_refractory_time() {
    let exported = Exported::new();
    let repeated = clip("yes").repeat(4);
    for refractory_ms in [100, 700, 2000] {
        let settings = Settings { refractory_ms, ..Settings::default() };
        let times: Vec<f64> = events(&mut exported.spotter(&settings), &repeated)
            .iter()
            .map(|event| event.time_s)
            .collect();
        assert!(times.len() >= 2, "{refractory_ms} ms: {times:?}");
        let pause = f64::from(refractory_ms) / 1000.0 - 1e-9;
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= pause), "{times:?}");
    }
}

#[test]
fn reset_forgets() {
    let exported = Exported::new();
    let mut spotter = exported.spotter(&Settings::default());
    let stream = stream();
    let fresh = events(&mut spotter, &stream);
    for cut in [777, 20_000, 30_000] {
        spotter.reset();
        events(&mut spotter, &stream[..cut]);
        spotter.reset();
        assert_eq!(spotter.scores(), [0.0; 12]);
        assert_eq!(events(&mut spotter, &stream), fresh, "after {cut} samples");
    }
}

#[test]
fn thresholds_hold_for_their_labels() {
    let exported = Exported::new();
    let thresholds = [("stop".to_owned(), 1.0)].into();
    let settings = Settings { thresholds, ..Settings::default() };
    let heard = events(&mut exported.spotter(&settings), &stream());
    let labels: Vec<&str> = heard.iter().map(|event| event.label.as_str()).collect();
    assert_eq!(labels, [WORDS[0], WORDS[2]]);
}

#[test]
fn what_cannot_work_is_refused_when_opening() {
    let exported = Exported::new();
    let refused = |settings: &Settings| {
        let error = ssamba_kws::Spotter::open(exported.model(), settings).err().unwrap();
        format!("{error:#}")
    };
    let thresholds = [("maybe".to_owned(), 0.5)].into();
    let message = refused(&Settings { thresholds, ..Settings::default() });
    assert!(
        message.contains("a threshold for `maybe`, expected one of _silence_, _unknown_"),
        "{message}"
    );
    let thresholds = [("_silence_".to_owned(), 0.5)].into();
    let message = refused(&Settings { thresholds, ..Settings::default() });
    assert!(message.contains("`_silence_` never fires"), "{message}");
    let message = refused(&Settings { window_ms: Some(2000), ..Settings::default() });
    assert!(message.contains("a window of 198 frames does not fit the model"), "{message}");
}

#[test]
fn a_sample_that_is_not_finite_is_refused_and_nothing_taken_in() {
    let exported = Exported::new();
    let mut spotter = exported.spotter(&Settings::default());
    let mut samples = floats(&stream());
    let fresh = events(&mut spotter, &stream());
    spotter.reset();
    samples[40_000] = f32::NAN;
    let message = spotter.feed(&samples, |_| ()).unwrap_err().to_string();
    assert!(message.starts_with("sample 40000 of the waveform is NaN"), "{message}");
    assert_eq!(events(&mut spotter, &stream()), fresh);
}
