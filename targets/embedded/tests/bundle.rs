//! A folder is as good as the file that it was made of.

mod support;

use std::{fs, path::PathBuf};

use ssamba_kws::{Bundle, Settings, Spotter};

use crate::support::{Exported, WORDS, assert_words, events, floats, stream};

/// Between a file and its folder: the same graph, planned in the same way.
const ROUNDING: f32 = 1e-5;

/// A folder beside the model.
fn folder(exported: &Exported, settings: &Settings) -> PathBuf {
    let folder = exported.beside("kws");
    fs::create_dir(&folder).unwrap();
    for (name, bytes) in Bundle::new(exported.model(), settings).unwrap().files() {
        fs::write(folder.join(name), bytes).unwrap();
    }
    folder
}

fn scores(spotter: &mut Spotter) -> Vec<f32> {
    let mut scores = Vec::new();
    spotter.feed_windows(&floats(&stream()), |window| scores.extend(window.scores)).unwrap();
    scores
}

#[test]
fn a_folder_hears_what_its_file_hears() {
    let exported = Exported::new();
    let folder = folder(&exported, &Settings::default());
    let settings = Settings::of(&folder).unwrap();
    assert_eq!(settings, Settings::default());
    let mut from_folder = Spotter::open(&folder, &settings).unwrap();
    let mut from_file = exported.spotter(&settings);
    assert_eq!(from_folder.card(), from_file.card());
    let (got, expected) = (scores(&mut from_folder), scores(&mut from_file));
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got - expected).abs() <= ROUNDING, "{got}, expected {expected}");
    }
    from_folder.reset();
    let heard = events(&mut from_folder, &stream());
    assert_words(heard.iter().map(|event| (event.label.as_str(), event.time_s)));
}

#[test]
fn a_folder_brings_its_settings() {
    let exported = Exported::new();
    let settings = Settings {
        smooth: 4,
        threshold: 0.61,
        thresholds: [("stop".into(), 1.0)].into(),
        ..Settings::default()
    };
    let folder = folder(&exported, &settings);
    assert_eq!(Settings::of(&folder).unwrap(), settings);
    let mut spotter = Spotter::open(&folder, &Settings::of(&folder).unwrap()).unwrap();
    let heard = events(&mut spotter, &stream());
    let labels: Vec<&str> = heard.iter().map(|event| event.label.as_str()).collect();
    assert_eq!(labels, [WORDS[0], WORDS[2]]);
}

#[test]
fn the_same_file_gives_the_same_bytes() {
    let exported = Exported::new();
    let bundle = || Bundle::new(exported.model(), &Settings::default()).unwrap();
    assert_eq!(bundle(), bundle());
}

#[test]
fn what_is_wrong_with_a_folder_is_named() {
    let exported = Exported::new();
    let folder = folder(&exported, &Settings::default());
    assert!(Bundle::is_at(&folder).unwrap());
    let broken = |name: &str, change: &dyn Fn(Vec<u8>) -> Option<Vec<u8>>| {
        let path = folder.join(name);
        let whole = fs::read(&path).unwrap();
        match change(whole.clone()) {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let opened = Settings::of(&folder).and_then(|settings| Spotter::open(&folder, &settings));
        let message = format!("{:#}", opened.err().expect("a broken folder"));
        fs::write(&path, whole).unwrap();
        assert!(message.contains(&*folder.to_string_lossy()), "{message}");
        message
    };
    let replace = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains(from), "{text}");
            Some(text.replace(from, to).into_bytes())
        }
    };
    for name in ["model.nnef.tar", "card.json", "settings.json"] {
        assert!(broken(name, &|_| None).contains("No such file"));
        // Not a panic, whatever is left of it.
        for part in [0, 1, 2, 5, 9] {
            broken(name, &|bytes| Some(bytes[..bytes.len() * part / 10].to_vec()));
        }
    }
    let message = broken("settings.json", &replace("\"smooth\": 3", "\"smooth\": 0"));
    assert!(message.contains("0 windows to average"), "{message}");
    let message = broken("settings.json", &replace("smooth", "smoothe"));
    assert!(message.contains("unknown field `smoothe`"), "{message}");
    let message = broken("card.json", &replace("\"98\"", "\"99\""));
    assert!(message.contains("its card says f32 of shape [1, 99, 128]"), "{message}");
    fs::write(folder.join("notes.txt"), "").unwrap();
    assert!(!Bundle::is_at(&folder).unwrap());
}
