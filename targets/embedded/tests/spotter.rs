//! The library on a stream made of the bundled clips.

mod support;

use ssamba_contract::{Session, Tensor, io::LOGITS};
use ssamba_features::Extractor;
use ssamba_kws::Settings;
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

#[test]
fn a_window_has_the_scores_of_the_clip() {
    let exported = Exported::new();
    let mut session = TractSession::open(exported.model(), &Options::default()).unwrap();
    let mut extractor = Extractor::new(&session.card().front_end.clone()).unwrap();
    let settings = Settings { hop_ms: 100, ..Settings::default() };
    let mut spotter = exported.spotter(&settings);
    let stream = floats(&stream());
    // The frames of a window end with the last whole one, 15 ms into the next shift.
    let (window, hop) = (97 * 160 + 400, 1600);
    let mut start = 0;
    let mut fed = 0;
    while start + window <= stream.len() {
        spotter.feed(&stream[fed..start + window], |_| ()).unwrap();
        fed = start + window;
        let features = extractor.extract(&stream[start..fed]).unwrap();
        let fbank = Tensor::new([1, 98, 128], features.fbank.data().to_vec()).unwrap();
        let outputs = session.run(&fbank).unwrap();
        let expected = session.card().scores.apply(outputs.get(LOGITS).unwrap().row(0));
        for (got, expected) in spotter.scores().iter().zip(&expected) {
            assert!((got - expected).abs() <= 1e-4, "{got}, expected {expected}, at {start}");
        }
        start += hop;
    }
    assert_eq!(start / hop, 61);
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
    let thresholds = vec![("stop".to_owned(), 1.0)];
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
    let thresholds = vec![("maybe".to_owned(), 0.5)];
    let message = refused(&Settings { thresholds, ..Settings::default() });
    assert!(message.contains("a threshold for `maybe`, expected one of yes, no"), "{message}");
    let thresholds = vec![("_silence_".to_owned(), 0.5)];
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
