//! `ssamba-edge bundle`: what an app ships with a model.

mod program;

use std::{fs, path::Path, process::Command};

use program::{KWS12, ssamba_edge, stderr, stdout, zoo};
use serde_json::{Value, json};

fn bundle(folder: &Path, target: &str, output: &str, more: &[&str]) {
    let checkpoint = zoo(KWS12);
    let checkpoint = checkpoint.to_str().unwrap();
    let arguments = [&["bundle", checkpoint, "--target", target, "-o", output], more].concat();
    let output = ssamba_edge(folder, &arguments);
    assert_eq!(output.status.code(), Some(0), "{target}: {}", stderr(&output));
    assert_eq!(stdout(&output), "");
}

fn verify(folder: &Path, bundle: &str) -> (Option<i32>, String) {
    let output = ssamba_edge(folder, &["bundle", "--verify", bundle]);
    (output.status.code(), stdout(&output) + &stderr(&output))
}

fn refused(folder: &Path, arguments: &[&str]) -> String {
    let before: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let output = ssamba_edge(folder, arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    assert_eq!(stdout(&output), "");
    let after: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(before.len(), after.len(), "{arguments:?} left something behind");
    stderr(&output)
}

/// The golden clip of each is heard as candle hears it.
#[test]
fn every_bundle_holds_in_the_runtime_that_is_here() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let word = zoo("yes.wav");
    for target in ["tract", "ort-cpu", "web-wasm", "android", "ios", "triton", "embedded"] {
        bundle(folder, target, target, &["--clip", word.to_str().unwrap()]);
        let (code, text) = verify(folder, target);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("all as written") && text.contains("off by"), "{text}");
        let golden = fs::read(folder.join(target).join("golden.json")).unwrap();
        let golden: Value = serde_json::from_slice(&golden).unwrap();
        assert_eq!(golden["top"][0]["label"], "yes");
        assert!((golden["top"][0]["score"].as_f64().unwrap() - 0.989).abs() < 1e-3);
        let readme = fs::read_to_string(folder.join(target).join("README.md")).unwrap();
        assert!(readme.contains(&format!("for `{target}`")) && !readme.contains("{}"), "{readme}");
    }
}

#[test]
fn a_bundle_is_the_same_bytes_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for name in ["a.tar", "b.tar"] {
        bundle(folder, "ort-cpu", name, &[]);
    }
    assert!(fs::read(folder.join("a.tar")).unwrap() == fs::read(folder.join("b.tar")).unwrap());
    let (code, text) = verify(folder, "a.tar");
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn what_was_changed_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    bundle(folder, "ort-cpu", "kws", &[]);
    let path = |name: &str| folder.join("kws").join(name);
    let golden = fs::read_to_string(path("golden.json")).unwrap();
    fs::write(path("labels.txt"), "no\nyes\n").unwrap();
    let (code, text) = verify(folder, "kws");
    assert_eq!((code, text.as_str()), (Some(1), "kws: labels.txt was changed\n"));

    // Sums that fit do not help where the model computes something else.
    bundle(folder, "ort-cpu", "kws", &[]);
    let mut expected: Value = serde_json::from_str(&golden).unwrap();
    expected["values"][3] = json!(7.0);
    fs::write(path("golden.json"), serde_json::to_vec(&expected).unwrap()).unwrap();
    let sums = Command::new("sh")
        .args(["-c", "sha256sum $(find . -type f ! -name SHA256SUMS | sed 's,^./,,') > SHA256SUMS"])
        .current_dir(folder.join("kws"))
        .status()
        .unwrap();
    assert!(sums.success());
    let (code, text) = verify(folder, "kws");
    assert!(code == Some(1) && text.contains("DOES NOT compute"), "{text}");
}

#[test]
fn bad_input_gets_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let checkpoint = folder.join(KWS12);
    for file in [KWS12, "kws12.toml"] {
        fs::copy(zoo(file), folder.join(file)).unwrap();
    }
    fs::write(folder.join("model.onnx"), b"no checkpoint").unwrap();
    fs::write(folder.join("not.tar"), [7; 700]).unwrap();
    fs::create_dir(folder.join("full")).unwrap();
    fs::write(folder.join("full/mine.txt"), b"mine").unwrap();
    let checkpoint = checkpoint.to_str().unwrap();
    let licence = zoo("LICENSE");
    let licence = ["--license", licence.to_str().unwrap()];
    for (arguments, part) in [
        (vec!["bundle", checkpoint, "--target", "ios", "-o", "x"], "no licence lies beside it"),
        (vec!["bundle", "model.onnx", "--target", "ios", "-o", "x"], "not a checkpoint"),
        (vec!["bundle", "none.pth", "--target", "ios", "-o", "x"], "none.pth"),
        (vec!["bundle", "--verify", "not.tar"], "not.tar"),
        (vec!["bundle", "--verify", "full"], "no SHA256SUMS"),
        (
            [&["bundle", checkpoint, "--target", "ios", "-o", "full"][..], &licence].concat(),
            "something else is there",
        ),
        (
            [
                &["bundle", checkpoint, "--target", "ios", "-o", "x"][..],
                &licence,
                &["--ops-library", "model.onnx"],
            ]
            .concat(),
            "not a library of operators",
        ),
        (
            [
                &["bundle", checkpoint, "--target", "ios", "-o", "x"][..],
                &licence,
                &["--clip", "model.onnx"],
            ]
            .concat(),
            "model.onnx",
        ),
    ] {
        let message = refused(folder, &arguments);
        assert!(message.contains(part), "{arguments:?}: {message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    }
    assert!(folder.join("full/mine.txt").is_file());
}

/// By the schema that Triton's client publishes.
#[test]
fn triton_can_read_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("libssamba_ops.so"), b"..RegisterCustomOps..").unwrap();
    let more = ["--name", "key words", "--ops-library", "libssamba_ops.so"];
    bundle(folder, "triton", "kws", &more);
    let repository = folder.join("kws/model_repository/key_words");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/triton_config.py");
    let output = Command::new("python3")
        .arg("-B")
        .arg(script)
        .arg(repository.join("config.pbtxt"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let config: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(config["name"], "key_words");
    assert_eq!(config["backend"], "onnxruntime");
    assert_eq!(config["maxBatchSize"], 64);
    assert_eq!(
        config["input"],
        json!([{"name": "waveform", "dataType": "TYPE_FP32", "dims": ["-1"]}])
    );
    assert_eq!(config["output"][1]["labelFilename"], "labels.txt");
    assert_eq!(config["output"][1]["dims"], json!(["12"]));
    assert!(config["dynamicBatching"].is_object());
    assert_eq!(config["instanceGroup"][0]["kind"], "KIND_CPU");
    assert_eq!(config["modelOperations"]["opLibraryFilename"], json!(["libssamba_ops.so"]));
    assert!(folder.join("kws/lib/libssamba_ops.so").is_file());
    let labels = fs::read_to_string(repository.join("labels.txt")).unwrap();
    assert_eq!(labels.lines().count(), 12);
    assert!(repository.join("1/model.onnx").is_file());
}
