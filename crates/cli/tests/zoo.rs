//! Every folder of `models/zoo` is what its card says.

mod program;

use std::{
    fs,
    path::{Path, PathBuf},
};

use program::{ssamba_edge, stderr, stdout};
use ssamba_model_common::Recipe;

/// A model of the zoo.
struct Model {
    name: String,
    folder: PathBuf,
    /// Weights, with the card `name.toml` beside them.
    checkpoint: PathBuf,
}

fn models() -> Vec<Model> {
    let zoo: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "..", "models", "zoo"].iter().collect();
    let folders = fs::read_dir(zoo).unwrap().map(|entry| entry.unwrap().path());
    let models: Vec<Model> = folders
        .filter(|path| path.is_dir())
        .map(|folder| {
            let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
            let forms = ["safetensors", "pth"].map(|form| folder.join(&name).with_extension(form));
            let [checkpoint] = &forms.iter().filter(|path| path.is_file()).collect::<Vec<_>>()[..]
            else {
                panic!("{name}: expected weights in one form of {forms:?}");
            };
            Model { checkpoint: (*checkpoint).clone(), name, folder }
        })
        .collect();
    assert!(models.iter().any(|model| model.name == "kws12"));
    models
}

/// The bundled clips: each is named for what is heard in it, `dog.wav` or `dog-2.wav`.
fn clips(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_clip = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "wav" || extension == "flac")
    };
    let mut clips: Vec<PathBuf> = files.filter(is_clip).collect();
    clips.sort();
    clips
}

#[test]
fn every_card_says_what_the_model_is_and_how_good() {
    for Model { name, folder, checkpoint } in models() {
        let path = checkpoint.with_extension("toml");
        let recipe = Recipe::read(&path).unwrap();
        assert_eq!(recipe.name, name);
        assert!(recipe.labels.len() > 1, "{name}: no labels");
        assert!(recipe.claims.sha256.is_some(), "{name}: no sha256 of the weights");
        let card: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        for split in ["validation", "testing"] {
            // Cross-validation of a few clips chooses no epoch.
            let Some(share) = card["accuracy"].get(split) else {
                assert!(
                    split == "validation" && card["data"]["validation"].as_integer() == Some(0)
                );
                continue;
            };
            let chance = 1.0 / recipe.labels.len() as f64;
            let share = share.as_float().unwrap();
            assert!(share > 2.0 * chance && share <= 1.0, "{name}: {split} {share}");
        }
        assert!(!card["data"]["licence"].as_str().unwrap().is_empty(), "{name}: no licence");
        for file in ["README.md", "LICENSE"] {
            assert!(folder.join(file).is_file(), "{name}: no {file}");
        }
    }
}

#[test]
fn every_model_is_exported_and_hears_its_clips() {
    let folder = tempfile::tempdir().unwrap();
    for Model { name, folder: model, checkpoint } in models() {
        let file = format!("{name}.onnx");
        let checkpoint = checkpoint.to_str().unwrap();
        let output = ssamba_edge(folder.path(), &["export", checkpoint, "-o", &file]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", stderr(&output));
        let labels = Recipe::read(&Path::new(checkpoint).with_extension("toml")).unwrap().labels;
        let said = format!("labels      {} (the recipe's)", labels.len());
        assert!(stderr(&output).contains(&said), "{name}: {}", stderr(&output));
        let clips = clips(&model);
        if clips.is_empty() || !cfg!(feature = "tract") {
            continue;
        }
        let paths: Vec<&str> = clips.iter().map(|path| path.to_str().unwrap()).collect();
        let run = ["run", &file, "--provider", "tract", "--json", "--top", "1"];
        let output = ssamba_edge(folder.path(), &[&run, &paths[..]].concat());
        let heard = stdout(&output);
        assert_eq!(heard.lines().count(), clips.len(), "{name}: {heard}{}", stderr(&output));
        for (line, clip) in heard.lines().zip(&clips) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let label = line["top"][0]["label"].as_str().unwrap();
            let stem = clip.file_stem().unwrap().to_str().unwrap();
            let rest = stem.strip_prefix(label);
            let named = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
            assert!(named, "{name}: {stem} is heard as {label}");
        }
    }
}

#[test]
fn weights_that_are_not_those_of_the_card_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for Model { name, checkpoint, .. } in models() {
        let copy = folder.path().join(checkpoint.file_name().unwrap());
        fs::copy(checkpoint.with_extension("toml"), copy.with_extension("toml")).unwrap();
        // The last value of a tensor, a little off.
        let mut tensors = ssamba_model_common::Checkpoint::read(&checkpoint).unwrap().tensors;
        let (_, bias) =
            tensors.iter_mut().find(|(name, _)| name.ends_with("mlp_head.1.bias")).unwrap();
        *bias = (&*bias + 1e-3).unwrap();
        candle_core::safetensors::save(&tensors.into_iter().collect(), &copy).unwrap();
        let file = copy.file_name().unwrap().to_str().unwrap();
        let output = ssamba_edge(folder.path(), &["export", file, "-o", "out.onnx"]);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{name}: {message}");
        assert!(message.contains(&format!("{name}.toml: it is of other weights")), "{message}");
    }
}
