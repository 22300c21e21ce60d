//! The program as its users meet it: exit codes, stdout, stderr.

mod program;

use std::{
    fs,
    io::{Read, Write},
    path::Path,
};

use program::{KWS12, official, recipe_beside, ssamba_edge, stderr, stdout, zoo};
use ssamba_model_common::{Checkpoint, hashed};
use tempfile::TempDir;
use zip::{ZipArchive, ZipWriter, write::SimpleFileOptions};

/// A folder with the keyword model's checkpoint, card, clips, and its export `kws.onnx`.
fn workshop() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in [KWS12, "kws12.toml", "yes.wav", "stop.wav", "left.wav"] {
        fs::copy(zoo(file), folder.path().join(file)).unwrap();
    }
    let output = ssamba_edge(folder.path(), &["export", KWS12, "-o", "kws.onnx"]);
    assert!(output.status.success(), "{}", stderr(&output));
    folder
}

/// The same with a transformer of the keyword model's sizes, `ssast.safetensors`: its recipe is the
/// keyword model's, its weights mean nothing.
fn transformer() -> TempDir {
    let folder = workshop();
    let config = ssamba_ssast::Config {
        d_model: 64,
        depth: 12,
        d_mlp: 96,
        patch_f: 128,
        patch_t: 4,
        n_classes: Some(12),
    };
    let checkpoint = hashed::checkpoint(ssamba_ssast::weights::layout(&config, 2 + 48));
    let tensors = checkpoint.tensors.into_iter().collect();
    candle_core::safetensors::save(&tensors, folder.path().join("ssast.safetensors")).unwrap();
    recipe_beside(&folder.path().join("ssast.safetensors"));
    folder
}

/// A copy of the official checkpoint with its pickle changed, its recipe beside it.
fn with_pickle(folder: &Path, name: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    let mut from = ZipArchive::new(fs::File::open(official("official.pth")).unwrap()).unwrap();
    let mut to = ZipWriter::new(fs::File::create(folder.join(name)).unwrap());
    for index in 0..from.len() {
        let mut entry = from.by_index(index).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let path = entry.name().unwrap().into_owned();
        to.start_file(&*path, SimpleFileOptions::default()).unwrap();
        let bytes = if path.ends_with("data.pkl") { change(bytes) } else { bytes };
        to.write_all(&bytes).unwrap();
    }
    to.finish().unwrap();
    fs::copy(official("official.toml"), folder.join(name).with_extension("toml")).unwrap();
}

/// Replaces the first occurrence by as many bytes, so that offsets stay.
fn replace(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
}

#[test]
fn a_checkpoint_becomes_a_file_that_hears_the_words() {
    let folder = workshop();
    let clips = ["yes.wav", "stop.wav", "left.wav"];
    for provider in ["auto", "tract", "cpu"] {
        let arguments = [&["run", "kws.onnx", "--provider", provider], &clips[..]].concat();
        let output = ssamba_edge(folder.path(), &arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(stdout(&output).lines().count(), clips.len());
        for (line, clip) in stdout(&output).lines().zip(clips) {
            let word = clip.trim_end_matches(".wav");
            assert!(line.starts_with(&format!("{clip}: {word} 0.")), "{provider}: {line}");
        }
        assert_eq!(stderr(&output).contains("provider: tract (auto)"), provider == "auto");
    }
}

#[test]
fn json_has_one_object_a_line_with_the_promised_keys() {
    let folder = workshop();
    let arguments = ["export", KWS12, "--embedding", "-o", "embedding.onnx"];
    assert!(ssamba_edge(folder.path(), &arguments).status.success());
    let options = ["--json", "--top", "2", "--logits", "--embedding", "--provider", "cpu"];
    let arguments = [&["run", "embedding.onnx", ".", "--threads", "1"], &options[..]].concat();
    let output = ssamba_edge(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let lines: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let heard: Vec<_> =
        lines.iter().map(|line| line["top"][0]["label"].as_str().unwrap()).collect();
    assert_eq!(heard, ["left", "stop", "yes"], "a folder's clips, sorted");
    for line in &lines {
        assert_eq!(line["provider"], "cpu");
        let score = |rank: usize| line["top"][rank]["score"].as_f64().unwrap();
        assert_eq!(line["top"].as_array().unwrap().len(), 2);
        assert!(score(0) > score(1));
        assert_eq!(line["logits"].as_array().unwrap().len(), 12);
        assert_eq!(line["embedding"].as_array().unwrap().len(), 64);
        assert_eq!(line["audio_s"], 1.0);
        assert!(line["inference_ms"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn clips_that_run_together_are_heard_as_alone() {
    let folder = workshop();
    let scores = |options: &[&str]| -> Vec<(String, f64)> {
        let arguments = [&["run", "kws.onnx", ".", "--json", "--provider"], options].concat();
        let output = ssamba_edge(folder.path(), &arguments);
        let lines = stdout(&output);
        let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .map(|line: serde_json::Value| {
                let file = line["file"].as_str().unwrap().to_owned();
                (file, line["top"][0]["score"].as_f64().unwrap())
            })
            .collect()
    };
    let alone = scores(&["cpu", "--batch", "1"]);
    assert_eq!(alone.len(), 3);
    // The last batch is not full; then one of its clips cannot be read.
    fs::write(folder.path().join("aside.wav"), "no audio").unwrap();
    for options in [&["cpu"][..], &["cpu", "--batch", "2"], &["tract", "--batch", "3"]] {
        let together = scores(options);
        assert_eq!(together.len(), alone.len(), "{options:?}");
        for ((file, score), (same, expected)) in together.iter().zip(&alone) {
            assert_eq!(file, same);
            assert!((score - expected).abs() < 1e-5, "{options:?}: {file} {score} {expected}");
        }
    }
}

#[test]
fn verify_agrees_and_answers_no_when_a_file_drifts() {
    let folder = workshop();
    let verify = |model: &str, rest: &[&str]| {
        let arguments = [&["verify", model, "--against", KWS12], rest].concat();
        ssamba_edge(folder.path(), &arguments)
    };
    for rest in [&[][..], &["yes.wav", "left.wav"], &["--provider", "tract,cpu"]] {
        let output = verify("kws.onnx", rest);
        assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
        assert!(stdout(&output).contains("tract") && stdout(&output).contains("cpu"));
    }
    assert_eq!(verify("kws.onnx", &["--atol", "0"]).status.code(), Some(1));

    // The same card over other weights.
    let model = fs::read(folder.path().join("kws.onnx")).unwrap();
    // The name's last place is before the weight's bytes; the others are in nodes.
    let name = b"patch_embed/weight";
    let end = model.windows(name.len()).rposition(|window| window == name).unwrap() + name.len();
    let mut drifted = model;
    for value in drifted[end + 100..end + 500].as_chunks_mut::<4>().0 {
        *value = 0.25_f32.to_le_bytes();
    }
    fs::write(folder.path().join("drifted.onnx"), drifted).unwrap();
    let output = verify("drifted.onnx", &[]);
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("DRIFTS"));
}

#[test]
fn a_file_of_another_checkpoint_or_recipe_is_not_the_same_model() {
    let folder = workshop();
    with_pickle(folder.path(), "other.pth", |pickle| [pickle, vec![0]].concat());
    let against = ["verify", "kws.onnx", "--against", "other.pth"];
    let output = ssamba_edge(folder.path(), &against);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("another checkpoint"), "{}", stderr(&output));

    let card = fs::read_to_string(zoo("kws12.toml")).unwrap();
    let other = card.replace("std = ", "std = 1");
    assert_ne!(other, card);
    fs::write(folder.path().join("kws12.toml"), other).unwrap();
    let output = ssamba_edge(folder.path(), &["verify", "kws.onnx", "--against", KWS12]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("another recipe"), "{}", stderr(&output));
}

#[test]
fn inspect_tells_what_is_in_both_kinds_of_file() {
    let folder = workshop();
    let inspect = |file: &str| {
        let output = ssamba_edge(folder.path(), &["inspect", file, "--json"]);
        let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        (output.status.code(), report)
    };
    let (code, report) = inspect(KWS12);
    assert_eq!(code, Some(0));
    assert_eq!((&report["parameters"], &report["tokens"]), (&527_052.into(), &49.into()));
    let (code, report) = inspect("kws.onnx");
    assert_eq!((code, &report["ops"]["ssamba::SelectiveScan"]), (Some(0), &6.into()));
    assert_eq!(report["card"]["labels"].as_array().unwrap().len(), 12);

    let rename = |pickle: Vec<u8>| replace(&pickle, "3.mixer.A_log", "3.mixer.A_lag");
    with_pickle(folder.path(), "renamed.pth", rename);
    let (code, report) = inspect("renamed.pth");
    assert_eq!((code, &report["fits"]), (Some(1), &false.into()));
    assert_eq!(report["mismatch"]["missing"][0], "v.layers.3.mixer.A_log");
    assert_eq!(report["mismatch"]["unexpected"][0], "v.layers.3.mixer.A_lag");
}

#[test]
fn a_transformer_goes_the_same_way() {
    let folder = transformer();
    let run = |arguments: &[&str]| {
        let output = ssamba_edge(folder.path(), arguments);
        (output.status.code(), stdout(&output), stderr(&output))
    };
    let against = ["--against", "ssast.safetensors", "yes.wav", "left.wav"];
    for (file, form, providers) in
        [("plain.onnx", &[][..], "tract,cpu"), ("fused.onnx", &["--attention", "fused"], "cpu")]
    {
        let (code, _, said) = run(&[&["export", "ssast.safetensors", "-o", file], form].concat());
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("network     ssast\n"), "{said}");
        assert!(said.contains("1 x 48 patches and the class and distillation tokens"), "{said}");
        let (code, table, said) =
            run(&[&["verify", file, "--provider", providers], &against[..]].concat());
        assert_eq!(code, Some(0), "{table}{said}");
        for provider in providers.split(',') {
            assert!(table.contains(provider), "{table}");
            let (code, heard, said) = run(&["run", file, "yes.wav", "--provider", provider]);
            assert_eq!((code, heard.lines().count()), (Some(0), 1), "{said}");
        }
    }
    let (code, report, _) = run(&["inspect", "ssast.safetensors", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((code, &report["network"]), (Some(0), &"ssast".into()));
    assert_eq!((&report["sizes"]["heads"], &report["tokens"]), (&1.into(), &50.into()));

    // Names of both networks: neither is guessed.
    let mut tensors = Checkpoint::read(&zoo(KWS12)).unwrap().tensors;
    tensors.extend(Checkpoint::read(&folder.path().join("ssast.safetensors")).unwrap().tensors);
    let both = folder.path().join("both.safetensors");
    candle_core::safetensors::save(&tensors.into_iter().collect(), &both).unwrap();
    recipe_beside(&both);

    let export = |rest: &'static [&str]| [&["export"], rest, &["-o", "out.onnx"]].concat();
    for (arguments, needle) in [
        (
            vec!["run", "fused.onnx", "yes.wav", "--provider", "tract"],
            "ONNX Runtime alone has: run it there, or export with plain attention",
        ),
        (export(&["ssast.safetensors", "--arch", "ssamba"]), "not of ssamba as asked"),
        (export(&[KWS12, "--arch", "ssast"]), "not of ssast as asked"),
        (export(&[KWS12, "--attention", "plain"]), "SSAMBA has no attention"),
        (vec!["inspect", "plain.onnx", "--arch", "ssast"], "no checkpoint"),
        (export(&["both.safetensors"]), "pass --arch"),
        (export(&["both.safetensors", "--arch", "ssast"]), "unexpected: v.layers.0."),
        (export(&["ssast.safetensors", "--lowering", "chunk"]), "leave the lowering out"),
        (export(&["ssast.safetensors", "--recipe", "superb"]), "a head that SSAST has not"),
        (export(&["ssast.safetensors", "--recipe", "audioset"]), "1 x 103 patches"),
    ] {
        let (code, out, said) = run(&arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}: {said}");
        assert!(said.starts_with("error: ") && said.lines().count() == 1, "{arguments:?}: {said}");
        assert!(said.contains(needle), "{arguments:?}: {said}");
    }
}

#[test]
fn a_file_in_plain_operators_runs_verifies_and_says_so() {
    let folder = workshop();
    let export = |options: &[&str]| {
        let arguments = [&["export", KWS12, "-o", "chunk.onnx"], options].concat();
        let output = ssamba_edge(folder.path(), &arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stderr(&output)
    };
    assert!(export(&["--lowering", "chunk"]).contains("lowering    chunk"));
    for provider in ["tract", "cpu"] {
        let run = ["run", "chunk.onnx", "yes.wav", "--provider", provider];
        let output = ssamba_edge(folder.path(), &run);
        assert!(stdout(&output).starts_with("yes.wav: yes 0."), "{}", stderr(&output));
    }
    let verify = ["verify", "chunk.onnx", "--against", KWS12];
    let output = ssamba_edge(folder.path(), &verify);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));

    let output = ssamba_edge(folder.path(), &["inspect", "chunk.onnx", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["card"]["lowering"], "chunk");
    assert_eq!(report["functions"].as_array().unwrap().len(), 0);
    assert_eq!(report["opsets"].as_object().unwrap().keys().collect::<Vec<_>>(), ["ai.onnx"]);

    // A file for several clips at a time gets silence for those that are missing, and `verify` has
    // one at a time.
    export(&["--lowering", "chunk", "--batch", "2"]);
    for provider in ["tract", "cpu"] {
        let run = ["run", "chunk.onnx", "yes.wav", "stop.wav", "left.wav", "--provider", provider];
        let output = ssamba_edge(folder.path(), &run);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        for (line, word) in stdout(&output).lines().zip(["yes", "stop", "left"]) {
            assert!(line.starts_with(&format!("{word}.wav: {word} 0.")), "{provider}: {line}");
        }
        let verify =
            ["verify", "chunk.onnx", "--against", KWS12, "yes.wav", "--provider", provider];
        for refused in
            [&verify[..], &["run", "chunk.onnx", "yes.wav", "--provider", provider, "--batch", "3"]]
        {
            let output = ssamba_edge(folder.path(), refused);
            assert_eq!(output.status.code(), Some(2));
            assert_eq!(stdout(&output), "");
            let message = stderr(&output);
            assert_eq!(message.lines().count(), 1, "{message}");
            assert!(message.contains("--batch 2") || message.contains("2 clips"), "{message}");
        }
    }
}

#[test]
fn half_precision_is_for_onnx_runtime_and_verifies_there() {
    let folder = workshop();
    let run = |arguments: &[&str]| {
        let output = ssamba_edge(folder.path(), arguments);
        (output.status.code(), stdout(&output), stderr(&output))
    };
    let (code, _, said) = run(&["export", KWS12, "-o", "half.onnx", "--precision", "fp16"]);
    assert!(code == Some(0) && said.contains("precision   fp16"), "{said}");
    let (_, heard, said) = run(&["run", "half.onnx", "yes.wav", "--provider", "cpu"]);
    assert!(heard.starts_with("yes.wav: yes 0."), "{said}");
    let (code, table, said) = run(&["verify", "half.onnx", "--against", KWS12, "yes.wav"]);
    assert_eq!(code, Some(0), "{table}{said}");
    assert!(table.contains("within 2e-2") && said.contains("not compared: tract"), "{table}{said}");
    let strict = ["verify", "half.onnx", "--against", KWS12, "--atol", "1e-7"];
    assert_eq!(run(&strict).0, Some(1));
    let (_, report, _) = run(&["inspect", "half.onnx", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["card"]["precision"], "fp16");
    let (code, _, said) = run(&["run", "half.onnx", "yes.wav", "--provider", "tract"]);
    assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("half precision (fp16)") && said.contains("--precision fp32"), "{said}");
    let (_, heard, said) = run(&["run", "half.onnx", "yes.wav"]);
    assert!(heard.starts_with("yes.wav: yes 0."), "{said}");
    assert!(said.contains("not in tract: ") && said.contains("provider: cpu (auto)"), "{said}");
    // What neither takes is not looked for in the other.
    let (code, _, said) = run(&["run", "yes.wav", "yes.wav"]);
    assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
}

#[test]
fn eight_bits_run_and_verify_in_every_runtime() {
    let folder = workshop();
    let run = |arguments: &[&str]| {
        let output = ssamba_edge(folder.path(), arguments);
        (output.status.code(), stdout(&output), stderr(&output))
    };
    let (code, _, said) = run(&["export", KWS12, "-o", "int8.onnx", "--precision", "int8"]);
    assert!(code == Some(0) && said.contains("precision   int8"), "{said}");
    for provider in ["tract", "cpu"] {
        let (_, heard, said) = run(&["run", "int8.onnx", "yes.wav", "--provider", provider]);
        assert!(heard.starts_with("yes.wav: yes 0."), "{said}");
    }
    let (code, table, said) = run(&["verify", "int8.onnx", "--against", KWS12, "yes.wav"]);
    assert_eq!(code, Some(0), "{table}{said}");
    assert!(table.contains("tract") && table.contains("cpu"), "{table}{said}");
    let strict = ["verify", "int8.onnx", "--against", KWS12, "--atol", "1e-4"];
    assert_eq!(run(&strict).0, Some(1));
    let (_, report, _) = run(&["inspect", "int8.onnx", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["card"]["precision"], "int8");
}

/// The bundled clips in `clips`, each in a folder that is named for its word.
fn labelled_clips(folder: &Path) {
    for word in ["yes", "stop", "left"] {
        let of_word = folder.join("clips").join(word);
        fs::create_dir_all(&of_word).unwrap();
        fs::copy(zoo(&format!("{word}.wav")), of_word.join("clip.wav")).unwrap();
    }
}

/// The keyword model with one channel in every layer whose convolution is enormous and whose output
/// nobody reads: the network is the same, but eight bits for that convolution are spent on it.
fn hard_to_quantise(folder: &Path) {
    let mut tensors = Checkpoint::read(&zoo(KWS12)).unwrap().tensors;
    for (name, tensor) in &mut tensors {
        let shape = tensor.dims().to_vec();
        let mut values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        if name.ends_with("mixer.conv1d.weight") {
            values[..4].fill(1e5);
        } else if name.ends_with("mixer.x_proj.weight") || name.ends_with("mixer.out_proj.weight") {
            values.iter_mut().step_by(shape[1]).for_each(|value| *value = 0.0);
        }
        *tensor = candle_core::Tensor::from_vec(values, shape, tensor.device()).unwrap();
    }
    let path = folder.join("hard.safetensors");
    candle_core::safetensors::save(&tensors.into_iter().collect(), &path).unwrap();
    recipe_beside(&path);
}

#[test]
fn calibration_measures_every_layer_and_leaves_in_fp32_what_loses_too_much() {
    let folder = workshop();
    labelled_clips(folder.path());
    hard_to_quantise(folder.path());
    let calibrate = |checkpoint: &str, rest: &[&str]| {
        let export = ["export", checkpoint, "-o", "int8.onnx", "--precision", "int8"];
        let output = ssamba_edge(folder.path(), &[&export, rest].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let report = stdout(&output);
        (serde_json::from_str(&report).unwrap_or_default(), stderr(&output))
    };
    let kept = |report: &serde_json::Value, fate: &str| -> Vec<String> {
        let layers = report["layers"].as_array().unwrap().iter();
        let layers = layers.filter(|layer| layer["kept"] == fate);
        layers.map(|layer| layer["layer"].as_str().unwrap().to_owned()).collect()
    };

    let (report, said): (serde_json::Value, _) =
        calibrate(KWS12, &["--calibrate", "clips", "--json"]);
    assert_eq!((&report["clips"], &report["accuracy_fp32"]), (&3.into(), &100.0.into()));
    assert_eq!(kept(&report, "quantised").len(), 38, "{said}");
    assert!(report["total"]["max_abs"].as_f64().unwrap() > 0.0);
    assert!(said.contains("pair5/out_proj") && said.contains("38 of 38 layers"), "{said}");

    // Not named for classes: judged by agreement.
    fs::write(folder.path().join("list.txt"), "yes.wav\nstop.wav\n").unwrap();
    let (report, said) = calibrate(KWS12, &["--calibrate", "list.txt", "--json"]);
    assert_eq!((&report["clips"], &report["accuracy_fp32"]), (&2.into(), &().into()));
    assert_eq!(report["total"]["same_top"], 2);
    assert!(said.contains("without labels"), "{said}");

    let budget = ["--calibrate", "clips", "--max-drop", "0", "--json"];
    let (report, said) = calibrate("hard.safetensors", &budget);
    assert_eq!(report["accuracy_fp32"], 100.0);
    let left = kept(&report, "loses-alone");
    assert!(!left.is_empty() && left.iter().any(|name| name.ends_with("conv1d")), "{said}");
    assert!(said.contains("stays fp32: loses too much"), "{said}");
    assert_eq!(
        (&report["total"]["lost"], &report["total"]["accuracy"]),
        (&0.0.into(), &100.0.into())
    );
    let run = ["run", "int8.onnx", "yes.wav", "stop.wav", "left.wav", "--provider", "cpu"];
    let output = ssamba_edge(folder.path(), &run);
    let heard = stdout(&output);
    for (line, word) in heard.lines().zip(["yes", "stop", "left"]) {
        assert!(line.starts_with(&format!("{word}.wav: {word} ")), "{heard}");
    }
}

#[test]
fn a_calibration_that_cannot_be_says_why_and_leaves_nothing() {
    let folder = workshop();
    labelled_clips(folder.path());
    fs::create_dir(folder.path().join("empty")).unwrap();
    fs::create_dir(folder.path().join("broken")).unwrap();
    fs::write(folder.path().join("broken/clip.wav"), "RIFF").unwrap();
    fs::write(folder.path().join("blank.txt"), "\n\n").unwrap();
    fs::write(folder.path().join("gone.txt"), "nowhere.wav\n").unwrap();
    let files = || -> Vec<_> {
        let files = fs::read_dir(folder.path()).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
        files.sort();
        files
    };
    let before = files();
    let int8 = ["--precision", "int8", "--calibrate"];
    for (arguments, needle) in [
        ([&int8[..], &["nowhere"]].concat(), "nowhere: expected a folder of clips"),
        ([&int8[..], &["empty"]].concat(), "no audio in this folder"),
        ([&int8[..], &["broken"]].concat(), "clip.wav"),
        ([&int8[..], &["blank.txt"]].concat(), "no clips are listed"),
        ([&int8[..], &["gone.txt"]].concat(), "nowhere.wav"),
        ([&int8[..], &["yes.wav"]].concat(), "yes.wav: expected a folder of clips"),
        ([&int8[..], &["clips", "--max-drop=-1"]].concat(), "--max-drop is -1"),
        ([&int8[..], &["clips", "--max-drop", "nan"]].concat(), "--max-drop is NaN"),
        ([&int8[..], &["clips", "--recipe", "superb"]].concat(), ""),
        (vec!["--calibrate", "clips"], "--calibrate takes --precision int8"),
        (vec!["--precision", "int8", "--lowering", "chunk"], "TensorRT, which has no products"),
    ] {
        let export = [&["export", KWS12, "-o", "out.onnx"], &arguments[..]].concat();
        let output = ssamba_edge(folder.path(), &export);
        let said = stderr(&output);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(2), ""), "{said}");
        assert!(said.starts_with("error: ") && said.lines().count() == 1, "{arguments:?}: {said}");
        assert!(said.contains(needle), "{arguments:?}: {said}");
        assert_eq!(files(), before, "{arguments:?}");
    }
}

#[test]
#[cfg(feature = "cuda")]
fn bench_measures_every_network_and_writes_it_down() {
    let folder = tempfile::tempdir().unwrap();
    let bench = |options: &[&str]| {
        let common = ["bench", "efficiency", "--provider", "cpu", "--batch", "1", "--runs", "1"];
        ssamba_edge(folder.path(), &[&common, options].concat())
    };
    let networks = ["--networks", "ssamba,ssast,ssast-fused", "--tokens", "8,16", "-o", "out"];
    let output = bench(&networks);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report = fs::read_to_string(folder.path().join("out/efficiency.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let points = report["points"].as_array().unwrap();
    let measured: Vec<_> = points
        .iter()
        .filter(|point| point["median_ms"].as_f64().is_some_and(|ms| ms > 0.0))
        .map(|point| (point["network"].as_str().unwrap(), point["tokens"].as_u64().unwrap()))
        .collect();
    let expected = ["ssamba", "ssast", "ssast fused"].map(|name| [(name, 8), (name, 16)]);
    assert_eq!(measured, expected.concat());
    let svg = fs::read_to_string(folder.path().join("out/efficiency.svg")).unwrap();
    assert!(svg.contains("ssast fused tiny fp32, batch 1"), "{svg}");

    let output = bench(&["--tokens", "8,12"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output), "error: --tokens 12, expected positive multiples of 8\n");
}

#[test]
fn placement_lists_nodes_by_operator_and_provider() {
    let folder = workshop();
    let arguments = ["export", KWS12, "--lowering", "chunk", "-o", "chunk.onnx"];
    assert!(ssamba_edge(folder.path(), &arguments).status.success());
    for (file, scans) in [("kws.onnx", 6), ("chunk.onnx", 0)] {
        let arguments = ["inspect", file, "--placement", "--threads", "1", "--json"];
        let output = ssamba_edge(folder.path(), &arguments);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!((&report["provider"], &report["runs"]), (&"cpu".into(), &5.into()));
        let ops = report["ops"].as_array().unwrap();
        assert!(ops.iter().all(|op| op["provider"] == "cpu"));
        let of = |name: &str| -> u64 {
            let rows = ops.iter().filter(|op| op["op"] == name);
            rows.map(|op| op["nodes"].as_u64().unwrap()).sum()
        };
        assert_eq!((of("SelectiveScan"), of("MatMul") > 0), (scans, true), "{file}");
        let nodes: u64 = ops.iter().map(|op| op["nodes"].as_u64().unwrap()).sum();
        assert_eq!(report["nodes"], nodes);
        for op in ops {
            assert_eq!(op["nodes"], op["executions"], "no loop: each once a run");
        }
        let times: Vec<f64> = ops.iter().map(|op| op["ms"].as_f64().unwrap()).collect();
        assert!(times.is_sorted_by(|left, right| left >= right) && times[0] > 0.0, "{times:?}");
        assert!(!stderr(&output).contains("launches"), "{}", stderr(&output));
    }
    let output = ssamba_edge(folder.path(), &["inspect", "kws.onnx", "--placement"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("provider  op "), "{}", stdout(&output));
    assert!(stdout(&output).contains("cpu       SelectiveScan "), "{}", stdout(&output));
}

#[test]
fn a_contract_on_placement_holds_or_the_answer_is_no() {
    let folder = workshop();
    let run = |required: &str| {
        let arguments = ["run", "kws.onnx", "yes.wav", "--provider", "cpu", "--require", required];
        ssamba_edge(folder.path(), &arguments)
    };
    let held = run("cpu");
    assert_eq!(held.status.code(), Some(0), "{}", stderr(&held));
    assert!(stdout(&held).starts_with("yes.wav: yes 0."), "{}", stdout(&held));
    for required in ["cuda", "tensorrt"] {
        let broken = run(required);
        let message = stderr(&broken);
        assert_eq!((broken.status.code(), stdout(&broken).as_str()), (Some(1), ""), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        for part in ["kws.onnx: ", &format!("nodes did not run on {required}: "), " on cpu and "] {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn a_gpu_provider_runs_or_names_the_library_that_is_missing() {
    let folder = workshop();
    for provider in ["cuda", "tensorrt"] {
        let arguments = ["run", "kws.onnx", "yes.wav", "--provider", provider];
        let output = ssamba_edge(folder.path(), &arguments);
        let message = stderr(&output);
        match output.status.code() {
            Some(0) => assert!(stdout(&output).starts_with("yes.wav: yes 0."), "{message}"),
            code => {
                assert_eq!((code, stdout(&output).as_str()), (Some(2), ""), "{message}");
                assert_eq!(message.lines().count(), 1, "{message}");
                assert!(message.contains("` is missing, which "), "{message}");
            }
        }
    }
}

#[test]
fn demo_hears_its_clips() {
    let folder = tempfile::tempdir().unwrap();
    let output = ssamba_edge(folder.path(), &["demo", "-o", "kept"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    for word in ["\"yes\"", "\"stop\"", "\"left\""] {
        assert!(stdout(&output).contains(word), "{}", stdout(&output));
    }
    assert!(folder.path().join("kept/kws12.onnx").is_file());
}

/// Bad input: exit 2, nothing on stdout, one sentence that names the file, nothing left behind.
#[test]
fn wrong_input_gets_one_clear_sentence() {
    let folder = workshop();
    let at = |name: &str| folder.path().join(name);
    let yes = fs::read(zoo("yes.wav")).unwrap();
    let model = fs::read(at("kws.onnx")).unwrap();
    fs::write(at("empty.wav"), []).unwrap();
    fs::write(at("cut.wav"), &yes[..20_000]).unwrap();
    fs::write(at("text.wav"), "not audio at all\n").unwrap();
    // A whole WAV of 100 samples.
    let mut short = yes[..244].to_vec();
    short[4..8].copy_from_slice(&236_u32.to_le_bytes());
    short[40..44].copy_from_slice(&200_u32.to_le_bytes());
    fs::write(at("short.wav"), short).unwrap();
    fs::write(at("text.onnx"), "not a graph\n").unwrap();
    fs::write(at("cut.onnx"), &model[..model.len() / 2]).unwrap();
    // Our graph without our card.
    fs::write(at("foreign.onnx"), replace(&model, "ssamba.card", "nobody.card")).unwrap();
    let whole = fs::read(official("official.pth")).unwrap();
    fs::write(at("cut.pth"), &whole[..100_000]).unwrap();
    fs::write(at("bare.pth"), whole).unwrap();
    let rename = |pickle: Vec<u8>| replace(&pickle, "3.mixer.A_log", "3.mixer.A_lag");
    with_pickle(folder.path(), "missing.pth", rename);
    let call =
        |pickle: Vec<u8>| replace(&pickle, "collections\nOrderedDict", "subprocess.\ncheck_call.");
    with_pickle(folder.path(), "foreign.pth", call);
    let card = fs::read_to_string(official("official.toml")).unwrap();
    for (name, from, to) in [
        ("longer.toml", "frames = 98", "frames = 128"),
        ("mistyped.toml", "frames = 98", "frame = 98"),
        ("labels.toml", "\"yes\", ", ""),
        ("patch.toml", "patch = [128, 4]", "patch = [16, 16]"),
    ] {
        assert!(card.contains(from));
        fs::write(at(name), card.replacen(from, to, 1)).unwrap();
    }
    fs::create_dir(at("silent")).unwrap();
    let files = || fs::read_dir(folder.path()).unwrap().count();
    let before = files();

    let hear = |model, clip| vec!["run", model, clip];
    let export = |checkpoint| vec!["export", checkpoint, "-o", "out.onnx"];
    let with_recipe = |recipe| vec!["export", "bare.pth", "-o", "out.onnx", "--recipe", recipe];
    let on = |provider: &'static str, rest: &[&'static str]| {
        [&["run", "kws.onnx", "yes.wav", "--provider", provider], rest].concat()
    };
    let itself = format!("./{KWS12}");
    let missing_library = ["run", "kws.onnx", "yes.wav", "--provider", "cpu", "--ort-lib", "no.so"];
    let cases = [
        (hear("kws.onnx", "none.wav"), "none.wav", "no file"),
        (hear("kws.onnx", "empty.wav"), "empty.wav", "is empty"),
        (hear("kws.onnx", "cut.wav"), "cut.wav", "cut off after 9978 of 16000 samples"),
        (hear("kws.onnx", "text.wav"), "text.wav", "expected WAV, FLAC, OGG Vorbis or MP3"),
        (hear("kws.onnx", "short.wav"), "short.wav", "100 samples"),
        (hear("kws.onnx", "silent"), "silent", "no audio in this folder"),
        (hear("none.onnx", "yes.wav"), "none.onnx", "No such file"),
        (hear("text.onnx", "yes.wav"), "text.onnx", "not an ONNX model"),
        (hear("cut.onnx", "yes.wav"), "cut.onnx", "not an ONNX model"),
        (hear("foreign.onnx", "yes.wav"), "foreign.onnx", "not written by `ssamba-edge export`"),
        (hear(KWS12, "yes.wav"), KWS12, "ssamba-edge export"),
        (export("none.pth"), "none.pth", "No such file"),
        (export("cut.pth"), "cut.pth", "damaged or cut-off"),
        (export("yes.wav"), "yes.wav", "not a checkpoint"),
        (export("missing.pth"), "missing.pth", "1 missing: v.layers.3.mixer.A_log"),
        (export("foreign.pth"), "foreign.pth", "`subprocess..check_call.`"),
        (export("bare.pth"), "bare.pth", "--recipe"),
        (with_recipe("speech-commands"), "bare.pth", "1 x 13 patches"),
        (with_recipe("longer.toml"), "bare.pth", "1 x 63 patches"),
        (with_recipe("mistyped.toml"), "mistyped.toml", "line 4: unknown field `frame`"),
        (with_recipe("labels.toml"), "bare.pth", "11 labels"),
        (with_recipe("patch.toml"), "bare.pth", "patch = [16, 16]"),
        (with_recipe("nonsense"), "nonsense", "expected speech-commands"),
        (vec!["export", KWS12, "-o", "no/such.onnx"], "no/such.onnx", "no folder `no`"),
        (vec!["export", KWS12, "-o", &itself], KWS12, "the checkpoint itself"),
        (vec!["export", KWS12, "-o", "kws12.toml"], "kws12.toml", "the recipe itself"),
        (vec!["inspect", "text.wav"], "text.wav", "not an ONNX file"),
        (
            vec!["run", "kws.onnx", "yes.wav", "--embedding"],
            "kws.onnx",
            "export it with --embedding",
        ),
        (missing_library.to_vec(), "no.so", "no ONNX Runtime library"),
        (on("auto", &["--device", "1"]), "--device", "--provider cuda or tensorrt"),
        (on("cpu", &["--gpu-memory", "512"]), "--gpu-memory", "--provider cuda or tensorrt"),
        (on("tract", &["--gpu-arena", "as-requested"]), "--gpu-arena", "cuda or tensorrt"),
        (on("tensorrt", &["--cuda-graph"]), "--cuda-graph", "--provider cuda"),
        (on("cuda", &["--fp16"]), "--fp16", "--provider tensorrt"),
        (on("cuda", &["--engine-cache", "."]), "--engine-cache", "--provider tensorrt"),
        (on("cpu", &["--batch-profile", "1,8,32"]), "--batch-profile", "--provider tensorrt"),
        (on("cuda", &["--build-log"]), "--build-log", "--provider tensorrt"),
        (on("tract", &["--require", "cpu"]), "--provider cpu, cuda or tensorrt", "ONNX Runtime"),
        (
            on("tensorrt", &["--batch-profile", "1,8,32"]),
            "kws.onnx",
            "a range of batches takes a file in plain operators",
        ),
        (vec!["inspect", "kws.onnx", "--threads", "1"], "--placement", "options of a runtime"),
        (vec!["inspect", KWS12, "--placement"], KWS12, "ssamba-edge export"),
    ];
    for (arguments, file, needle) in cases {
        let output = ssamba_edge(folder.path(), &arguments);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert_eq!(stdout(&output), "", "{arguments:?}");
        let said: Vec<&str> =
            message.lines().filter(|line| !line.starts_with("provider: ")).collect();
        let [error] = said[..] else { panic!("{arguments:?}: {message}") };
        assert!(
            error.starts_with("error: ") && error.contains(file) && error.contains(needle),
            "{arguments:?}: {message}"
        );
        assert!(!message.contains("panicked"), "{arguments:?}: {message}");
    }
    assert_eq!(files(), before, "nothing was left behind");
}

#[test]
fn one_bad_clip_among_many_does_not_silence_the_others() {
    let folder = workshop();
    fs::write(folder.path().join("text.wav"), "not audio at all\n").unwrap();
    let arguments = ["run", "kws.onnx", "left.wav", "text.wav", "yes.wav"];
    let output = ssamba_edge(folder.path(), &arguments);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stdout(&output).lines().count(), 2);
    assert!(stderr(&output).contains("text.wav"));
}
