//! Files for other runtimes: `export --target`, `--lowering` and `--frontend`, and what takes them.

mod program;

use std::{collections::BTreeMap, fs, path::Path};

use program::{KWS12, ssamba_edge, stderr, stdout, zoo};
use serde_json::Value;
use tempfile::TempDir;

/// A folder with the keyword model's checkpoint, recipe and clips.
fn workshop() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in [KWS12, "kws12.toml", "yes.wav", "stop.wav", "left.wav"] {
        fs::copy(zoo(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn run(folder: &Path, arguments: &[&str]) -> String {
    let output = ssamba_edge(folder, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

fn fails(folder: &Path, arguments: &[&str]) -> String {
    let output = ssamba_edge(folder, arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    stderr(&output)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The bundled word, cut or repeated to that many samples.
fn clip(folder: &Path, name: &str, samples: usize) {
    clip_of("yes.wav", folder, name, samples);
}

fn clip_of(word: &str, folder: &Path, name: &str, samples: usize) {
    let word = fs::read(zoo(word)).unwrap();
    let (header, data) = word.split_at(44);
    let data: Vec<u8> = data.iter().copied().cycle().take(2 * samples).collect();
    let mut file = header.to_vec();
    file[4..8].copy_from_slice(&(36 + data.len() as u32).to_le_bytes());
    file[40..44].copy_from_slice(&(data.len() as u32).to_le_bytes());
    file.extend(data);
    fs::write(folder.join(name), file).unwrap();
}

#[test]
fn every_target_is_listed_with_its_reason_and_its_file_is_what_the_list_says() {
    let folder = workshop();
    let folder = folder.path();
    let listed = run(folder, &["targets"]);
    let lines = run(folder, &["targets", "--json"]);
    let names = [
        "tract",
        "ort-cpu",
        "ort-cuda",
        "tensorrt",
        "web-wasm",
        "web-webgpu",
        "android",
        "ios",
        "triton",
        "embedded",
    ];
    let profiles: Vec<Value> = lines.lines().map(json).collect();
    let found: Vec<&str> = profiles.iter().map(|line| line["target"].as_str().unwrap()).collect();
    assert_eq!(found, names);
    for profile in &profiles {
        let target = profile["target"].as_str().unwrap();
        assert!(listed.contains(&format!("\n    {}\n", profile["why"].as_str().unwrap())));
        if target == "embedded" {
            continue;
        }
        run(folder, &["export", KWS12, "--target", target, "-o", "t.onnx"]);
        let file = json(&run(folder, &["inspect", "t.onnx", "--json"]));
        for (key, name) in
            [("lowering", "lowering"), ("precision", "precision"), ("frontend", "input")]
        {
            assert_eq!(file["card"][name], profile[key], "{target}: {key}");
        }
        assert!(file["opsets"]["ai.onnx"].as_i64() <= profile["opset"].as_i64(), "{target}");
        assert!(file["ir_version"].as_i64() <= profile["ir"].as_i64(), "{target}");
        let heard = run(folder, &["run", "t.onnx", "yes.wav", "--provider", "cpu"]);
        assert!(heard.starts_with("yes.wav: yes 0.9"), "{target}: {heard}");
        let verified = ["verify", "t.onnx", "--against", KWS12, "--provider", "cpu", "stop.wav"];
        assert!(run(folder, &verified).contains("1/1  within"), "{target}");
    }
}

#[test]
fn options_that_are_spelled_out_come_before_the_target() {
    let folder = workshop();
    let folder = folder.path();
    let webgpu = ["export", KWS12, "--target", "web-webgpu", "-o", "t.onnx"];
    let spelled = ["--lowering", "scan-block", "--frontend", "fbank", "--precision", "int8"];
    run(folder, &[&webgpu[..], &spelled].concat());
    let card = &json(&run(folder, &["inspect", "t.onnx", "--json"]))["card"];
    let told = ["lowering", "input", "precision"].map(|key| card[key].as_str().unwrap().to_owned());
    assert_eq!(told, ["scan-block", "fbank", "int8"]);
    // Together they are no file, whoever said which.
    let message = fails(folder, &[&webgpu[..], &["--precision", "int8"]].concat());
    assert!(message.contains("`linear-attention` is for GPUs, and int8 for CPUs"), "{message}");
    let message = fails(folder, &["export", KWS12, "--target", "toaster", "-o", "x.onnx"]);
    assert!(message.contains("'toaster'") && message.contains("web-wasm"), "{message}");
}

#[test]
fn a_spotter_takes_filter_banks() {
    let folder = workshop();
    let arguments =
        ["export", KWS12, "--target", "embedded", "--frontend", "waveform", "-o", "kws"];
    let message = fails(folder.path(), &arguments);
    assert!(message.contains("the model takes waveforms"), "{message}");
    assert!(message.contains("export with --frontend fbank"), "{message}");
    assert!(!folder.path().join("kws").exists());
}

/// As a user has them: clips of many lengths in one folder, each heard as by the other file.
#[test]
fn a_file_that_takes_a_waveform_hears_what_the_other_hears() {
    let folder = workshop();
    let folder = folder.path();
    fs::create_dir(folder.join("clips")).unwrap();
    for (name, samples) in
        [("a", 400), ("b", 8_000), ("c", 15_920), ("d", 16_000), ("e", 16_000), ("f", 40_000)]
    {
        clip(&folder.join("clips"), &format!("{name}.wav"), samples);
    }
    run(folder, &["export", KWS12, "-o", "f.onnx"]);
    run(folder, &["export", KWS12, "--frontend", "waveform", "-o", "w.onnx"]);
    for provider in ["tract", "cpu"] {
        let heard = ["f.onnx", "w.onnx"].map(|file| {
            let lines =
                run(folder, &["run", file, "clips", "--provider", provider, "--json", "--logits"]);
            let lines = lines.lines().map(json).map(|line| {
                let logits = line["logits"].as_array().unwrap().iter();
                let logits: Vec<f64> = logits.map(|value| value.as_f64().unwrap()).collect();
                let label = line["top"][0]["label"].as_str().unwrap().to_owned();
                (line["file"].as_str().unwrap().to_owned(), (label, logits))
            });
            lines.collect::<BTreeMap<_, _>>()
        });
        assert_eq!(heard[0].len(), 6);
        for (file, (label, logits)) in &heard[0] {
            let (other, others) = &heard[1][file];
            assert_eq!(label, other, "{file}");
            let errors = logits.iter().zip(others).map(|(a, b)| (a - b).abs());
            assert!(errors.fold(0.0, f64::max) < 1e-3, "{file} in {provider}");
        }
    }
    for clips in [&[][..], &["yes.wav", "clips"]] {
        let arguments = [&["verify", "w.onnx", "--against", KWS12], clips].concat();
        let table = run(folder, &arguments);
        assert_eq!(table.matches("within 1e-3").count(), 2, "{table}");
    }
    clip(folder, "blip.wav", 399);
    let message = fails(folder, &["run", "w.onnx", "blip.wav"]);
    assert!(message.contains("blip.wav") && message.contains("399 samples (24.9 ms)"), "{message}");
}

#[test]
fn verify_says_which_runtime_a_lowering_is_not_for() {
    let folder = workshop();
    let folder = folder.path();
    run(folder, &["export", KWS12, "--lowering", "scan", "-o", "s.onnx"]);
    let output = ssamba_edge(folder, &["verify", "s.onnx", "--against", KWS12]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("cpu") && !stdout(&output).contains("tract"));
    assert!(stderr(&output).contains("not compared: tract: it loops over single tokens"));
    let message = fails(folder, &["run", "s.onnx", "yes.wav", "--provider", "tract"]);
    assert!(message.contains("--lowering scan-block"), "{message}");
}

/// A file knows what it should put out: asked on any runtime, it answers yes, and no where it is damaged.
#[test]
fn a_file_tests_the_machine_that_it_is_on() {
    let folder = workshop();
    let folder = folder.path();
    for options in
        [&[][..], &["--frontend", "waveform", "--lowering", "scan-block"], &["--precision", "int8"]]
    {
        let export = [&["export", KWS12, "-o", "s.onnx"], options].concat();
        run(folder, &export);
        let first = fs::read(folder.join("s.onnx")).unwrap();
        run(folder, &export);
        assert!(first == fs::read(folder.join("s.onnx")).unwrap(), "{options:?}");
        for provider in ["tract", "cpu"] {
            let line = run(folder, &["run", "--selftest", "s.onnx", "--provider", provider]);
            let start = format!("s.onnx: {provider} computes what it should: `logits` is off by");
            assert!(line.starts_with(&start), "{line}");
        }
        let line = json(&run(folder, &["run", "s.onnx", "--selftest", "--json"]));
        assert_eq!(
            (line["holds"].as_bool(), line["output"].as_str()),
            (Some(true), Some("logits"))
        );

        // One expected value is another number.
        let mut bytes = first;
        let key = b"\"output\":\"logits\",\"values\":[";
        let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len();
        let digit = at + bytes[at..].iter().position(u8::is_ascii_digit).unwrap();
        bytes[digit] = if bytes[digit] == b'9' { b'1' } else { b'9' };
        fs::write(folder.join("s.onnx"), bytes).unwrap();
        let output = ssamba_edge(folder, &["run", "--selftest", "s.onnx", "--provider", "cpu"]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stdout(&output).contains("cpu DOES NOT compute what it should"));
    }
    run(folder, &["export", KWS12, "--no-selftest", "-o", "n.onnx"]);
    let message = fails(folder, &["run", "--selftest", "n.onnx"]);
    assert!(message.contains("export it without --no-selftest"), "{message}");
    fails(folder, &["run", "n.onnx"]);
}

#[test]
fn eval_takes_clips_of_any_length_where_the_front_end_is_inside() {
    let folder = workshop();
    let folder = folder.path();
    run(folder, &["export", KWS12, "--frontend", "waveform", "-o", "w.onnx"]);
    // Taken for clips of one length, the third would be the second half of the second.
    for (word, samples) in [("left", 16_000), ("stop", 32_000), ("yes", 16_000)] {
        fs::create_dir_all(folder.join("words").join(word)).unwrap();
        clip_of(&format!("{word}.wav"), folder, &format!("words/{word}/a.wav"), samples);
    }
    let scored = json(&run(folder, &["eval", "w.onnx", "words", "--json"]));
    assert_eq!((&scored["clips"], &scored["accuracy"]), (&Value::from(3), &Value::from(1.0)));
}
