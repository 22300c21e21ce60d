//! `train`, `eval` and `pretrain` as a user runs them, on clips of tones.
#![cfg(feature = "train")]

mod program;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use candle_core::Tensor;
use program::{ssamba_edge, stderr, stdout};
use serde_json::Value;
use ssamba_model_common::Checkpoint;
use tempfile::TempDir;

/// Half a second of a tone over some hiss.
fn tone(path: &Path, hertz: f32, number: u32) {
    let mut bytes = Vec::new();
    let samples = 8_000_u32;
    let chunk = |bytes: &mut Vec<u8>, name: &[u8], len: u32| {
        bytes.extend(name);
        bytes.extend(len.to_le_bytes());
    };
    chunk(&mut bytes, b"RIFF", 36 + 2 * samples);
    bytes.extend(b"WAVE");
    chunk(&mut bytes, b"fmt ", 16);
    for (value, width) in [(1, 2), (1, 2), (16_000_u32, 4), (32_000, 4), (2, 2), (16, 2)] {
        bytes.extend(&value.to_le_bytes()[..width]);
    }
    chunk(&mut bytes, b"data", 2 * samples);
    for index in 0..samples {
        let hiss = (index.wrapping_add(number * 7_919)).wrapping_mul(2_654_435_761) >> 16;
        let phase = std::f32::consts::TAU * hertz * index as f32 / 16_000.0;
        let value = 6_000.0 * phase.sin() + (hiss as i16 / 64) as f32;
        bytes.extend((value as i16).to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
}

/// A folder with `clips/low` and `clips/high`, ten of each, `clips.csv`, and a recipe.
fn workshop() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut table = String::from("path,label,split\n");
    for (label, hertz) in [("low", 300.0), ("high", 3_000.0)] {
        let clips = folder.path().join("clips").join(label);
        fs::create_dir_all(&clips).unwrap();
        for number in 0..10 {
            tone(&clips.join(format!("{number}.wav")), hertz + 20.0 * number as f32, number);
            let split = ["training", "validation", "testing"]
                [[0, 0, 2, 0, 1, 2, 0, 1, 0, 0][number as usize]];
            table += &format!("clips/{label}/{number}.wav,{label},{split}\n");
        }
    }
    fs::write(folder.path().join("clips.csv"), table).unwrap();
    let recipe = "frames = 48\nmean = -7.0\nstd = 4.0\nstride = [64, 8]\n";
    fs::write(folder.path().join("micro.toml"), recipe).unwrap();
    folder
}

const MICRO: [&str; 14] = [
    "train",
    "clips.csv",
    "--from",
    "scratch",
    "--recipe",
    "micro.toml",
    "--embed-dim",
    "16",
    "--depth",
    "2",
    "--patch",
    "64x8",
    "--rate",
    "0.005",
];

fn train(folder: &TempDir, more: &[&str]) -> Output {
    ssamba_edge(folder.path(), &[&MICRO, more].concat())
}

#[track_caller]
fn done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    stdout(output)
}

fn read(folder: &TempDir, file: &str) -> Vec<u8> {
    fs::read(folder.path().join(file)).unwrap()
}

#[test]
fn what_is_trained_is_exported_and_scored() {
    let folder = workshop();
    let output = train(&folder, &["-o", "run", "--epochs", "25", "--batch", "2"]);
    done(&output);
    let words = stderr(&output);
    assert!(
        words.contains("12 to learn from, 4 for validation, 4 for testing, 2 labels"),
        "{words}"
    );
    assert!(words.contains("epoch 25/25  loss "), "{words}");
    let lines = String::from_utf8(read(&folder, "run/metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 25);
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(last["epoch"], 25);
    assert!(last["loss"].as_f64().unwrap() > 0.0 && last["validation_loss"].is_number());
    let page = String::from_utf8(read(&folder, "run/report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("accuracy, %"), "{page}");
    assert!(!page.contains("NaN") && !page.contains("src="), "{page}");

    let eval = |model: &str, more: &[&str]| {
        let output =
            ssamba_edge(folder.path(), &[&["eval", model, "clips.csv", "--json"], more].concat());
        serde_json::from_str::<Value>(&done(&output)).unwrap()
    };
    let checkpoint = eval("run/last.safetensors", &["--split", "testing", "--without", "low"]);
    assert_eq!(
        (checkpoint["clips"].as_u64(), checkpoint["accuracy"].as_f64()),
        (Some(4), Some(1.0)),
        "{words}\n{checkpoint}"
    );
    assert_eq!(checkpoint["accuracy_without"], 1.0);
    assert_eq!(checkpoint["provider"], "candle");
    assert_eq!(checkpoint["labels"], serde_json::json!(["high", "low"]));

    let export = ["export", "run/last.safetensors", "-o", "tones.onnx"];
    done(&ssamba_edge(folder.path(), &export));
    if cfg!(feature = "tract") {
        let file = eval("tones.onnx", &["--provider", "tract"]);
        assert_eq!((file["clips"].as_u64(), file["accuracy"].as_f64()), (Some(20), Some(1.0)));
        assert_eq!(file["confusion"], serde_json::json!([[10, 0], [0, 10]]));
    }
    // And on from there, with the labels of a folder.
    let output = ssamba_edge(
        folder.path(),
        &["train", "clips", "--from", "run/best.safetensors", "-o", "on", "--epochs", "1"],
    );
    done(&output);
    assert!(stderr(&output).contains("18 to learn from, 2 for validation"), "{}", stderr(&output));
}

fn card(folder: &TempDir, file: &str) -> toml::Table {
    String::from_utf8(read(folder, file)).unwrap().parse().unwrap()
}

fn sha256(folder: &TempDir, file: &str) -> String {
    let sum = Command::new("sha256sum").arg(folder.path().join(file)).output().unwrap();
    stdout(&sum).split(' ').next().unwrap().to_owned()
}

#[test]
fn the_card_says_how_a_checkpoint_was_made_and_how_good_it_is() {
    let folder = workshop();
    // Some clips are wrong on purpose, so that the shares of the splits differ.
    let table = String::from_utf8(read(&folder, "clips.csv")).unwrap();
    let table = table.replace("clips/low/5.wav,low", "clips/low/5.wav,high");
    fs::write(folder.path().join("clips.csv"), table).unwrap();
    let more = ["-o", "run", "--epochs", "25", "--batch", "2", "--seed", "3", "--threads", "1"];
    let named = ["--name", "tones", "--license", "CC0 1.0", "--background", "low"];
    let output = train(&folder, &[&more[..], &named].concat());
    done(&output);
    let best = card(&folder, "run/best.toml");
    assert_eq!(best["name"].as_str(), Some("tones"));
    assert_eq!(best["sha256"].as_str().unwrap(), sha256(&folder, "run/best.safetensors"));
    let data = &best["data"];
    assert_eq!(data["source"].as_str(), Some("clips.csv"));
    assert_eq!(data["sha256"].as_str().unwrap(), sha256(&folder, "clips.csv"));
    assert_eq!(data["licence"].as_str(), Some("CC0 1.0"));
    let counts = ["training", "validation", "testing"].map(|part| data[part].as_integer().unwrap());
    assert_eq!(counts, [12, 4, 4]);
    let training = &best["training"];
    let command = training["command"].as_str().unwrap();
    assert_eq!(
        command,
        format!(
            "ssamba-edge {} --epochs 25 --batch 2 --seed 3 --name tones --license 'CC0 1.0' \
             --background low",
            MICRO.join(" ")
        )
    );
    assert_eq!(training["seed"].as_integer(), Some(3));
    assert_eq!(training["plan"]["name"].as_str(), Some("full-band"));
    assert_eq!(training["plan"]["rate"].as_float(), Some(0.005));

    // The figures are those of the epoch, and of `eval`.
    let lines = String::from_utf8(read(&folder, "run/metrics.jsonl")).unwrap();
    let epochs: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let epoch = training["epoch"].as_integer().unwrap();
    assert_eq!(epochs.iter().rev().find(|line| line["best"] == true).unwrap()["epoch"], epoch);
    let near = |said: &toml::Value, share: &Value| {
        assert!(
            (said.as_float().unwrap() - share.as_f64().unwrap()).abs() < 1e-6,
            "{said} {share}"
        );
    };
    let of_epoch = &epochs[usize::try_from(epoch).unwrap() - 1];
    near(&best["accuracy"]["validation"], &of_epoch["validation_accuracy"]);
    let eval = [
        "eval",
        "run/best.safetensors",
        "clips.csv",
        "--split",
        "testing",
        "--without",
        "low",
        "--json",
    ];
    let scored: Value = serde_json::from_str(&done(&ssamba_edge(folder.path(), &eval))).unwrap();
    near(&best["accuracy"]["testing"], &scored["accuracy"]);
    near(&best["accuracy"]["testing_without"]["low"], &scored["accuracy_without"]);
    near(&best["mean_average_precision"]["testing"], &scored["mean_average_precision"]);
    assert_ne!(scored["accuracy"], scored["accuracy_without"]);
    assert!(stderr(&output).contains("of 4 clips, "), "{}", stderr(&output));

    // The last epoch is not scored, and a finished run that is resumed says the same again.
    let last = card(&folder, "run/last.toml");
    assert_eq!(last["training"]["epoch"].as_integer(), Some(25));
    assert!(last["accuracy"].get("testing").is_none());
    let again = ["-o", "run", "--epochs", "25", "--batch", "2", "--seed", "3", "--resume"];
    done(&train(&folder, &[&again[..], &named].concat()));
    assert_eq!(card(&folder, "run/best.toml"), best);

    // Weights under the card of others.
    fs::copy(folder.path().join("run/last.toml"), folder.path().join("run/best.toml")).unwrap();
    let export = ["export", "run/best.safetensors", "-o", "tones.onnx"];
    let train = ["train", "clips.csv", "--from", "run/best.safetensors", "-o", "on"];
    assert!(epoch < 25, "nothing was gained by then");
    for arguments in [&export[..], &train] {
        let output = ssamba_edge(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("it is of other weights"), "{}", stderr(&output));
    }
}

#[test]
fn folds_and_columns_are_chosen_by_name() {
    let folder = workshop();
    let mut table = String::from("path,label,split,speaker\n");
    for (label, number) in ["low", "high"].into_iter().flat_map(|l| (0..10).map(move |n| (l, n))) {
        let fold = number % 4 + 1;
        let speaker = if label == "low" { "anna" } else { "bert" };
        table += &format!("clips/{label}/{number}.wav,tone,fold{fold},{speaker}\n");
    }
    fs::write(folder.path().join("folds.csv"), table).unwrap();
    let micro = [&["train", "folds.csv"], &MICRO[2..]].concat();
    let folds = ["--training", "fold1,fold2,fold3", "--testing", "fold4"];
    let column = ["--label-column", "speaker"];
    let rest = ["--validation", "0", "-o", "run", "--epochs", "12", "--batch", "2"];
    let output = ssamba_edge(folder.path(), &[&micro[..], &folds, &column, &rest].concat());
    done(&output);
    let words = stderr(&output);
    assert!(
        words.contains("16 to learn from, 0 for validation, 4 for testing, 2 labels"),
        "{words}"
    );
    assert!(words.contains("testing     100.00 % of 4 clips, mAP 1.0000"), "{words}");
    assert_eq!(read(&folder, "run/best.safetensors"), read(&folder, "run/last.safetensors"));
    let best = card(&folder, "run/best.toml");
    assert_eq!(best["labels"].as_array().unwrap().len(), 2);
    assert_eq!(best["training"]["epoch"].as_integer(), Some(12));
    assert!(best["accuracy"].get("validation").is_none());
    let page = String::from_utf8(read(&folder, "run/report.html")).unwrap();
    assert!(page.contains("<svg") && !page.contains("NaN"), "{page}");

    let eval = |more: &[&str]| {
        let eval = ["eval", "run/best.safetensors", "folds.csv", "--json", "--split", "fold4"];
        ssamba_edge(folder.path(), &[&eval[..], more].concat())
    };
    let scored: Value = serde_json::from_str(&done(&eval(&column))).unwrap();
    assert_eq!((&scored["label_column"], &scored["accuracy"]), (&"speaker".into(), &1.0.into()));
    for (output, needle) in [
        (eval(&[]), "low/3.wav: the model does not know the label `tone`, but anna, bert"),
        (
            eval(&["--label-column", "speakr"]),
            "no column `speakr`, it has path, label, split, speaker",
        ),
        (
            eval(&[&column[..], &["--without", "tone"]].concat()),
            "--without: the model does not know",
        ),
    ] {
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains(needle), "{}", stderr(&output));
    }
}

#[test]
fn one_seed_gives_one_file_and_a_resumed_run_gives_it_too() {
    let folder = workshop();
    for (run, threads) in [("a", "1"), ("b", "2")] {
        done(&train(&folder, &["-o", run, "--epochs", "3", "--threads", threads]));
    }
    done(&train(&folder, &["-o", "c", "--epochs", "3", "--seed", "2"]));
    let file = |run: &str, name: &str| read(&folder, &format!("{run}/{name}.safetensors"));
    for name in ["best", "last", "state"] {
        assert!(file("a", name) == file("b", name), "{name} differs between two runs");
        assert!(file("a", name) != file("c", name), "{name} does not depend on the seed");
    }
    assert!(read(&folder, "a/best.toml") == read(&folder, "b/best.toml"), "cards differ");
    // The state of a longer plan is not that of a shorter one.
    let again = train(&folder, &["-o", "a", "--epochs", "3"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("add --resume"), "{}", stderr(&again));
    let other = train(&folder, &["-o", "a", "--epochs", "4", "--resume"]);
    assert!(stderr(&other).contains("of another plan"), "{}", stderr(&other));
}

/// The signal that Ctrl-C is.
#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_resume_ends_where_the_run_would_have() {
    use std::{
        io::{BufRead, BufReader},
        process::Stdio,
    };
    let folder = workshop();
    done(&train(&folder, &["-o", "whole", "--epochs", "30", "--batch", "2"]));
    let mut child = Command::new(env!("CARGO_BIN_EXE_ssamba-edge"))
        .args([&MICRO[..], &["-o", "cut", "--epochs", "30", "--batch", "2"]].concat())
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let second =
        |line: &Result<String, _>| matches!(line, Ok(line) if line.starts_with("epoch 2/"));
    assert!(lines.any(|line| second(&line)));
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{rest:?}");
    assert!(rest.last().unwrap().starts_with("stopped in epoch "), "{rest:?}");

    done(&train(&folder, &["-o", "cut", "--epochs", "30", "--batch", "2", "--resume"]));
    for name in ["best.safetensors", "last.safetensors", "state.safetensors"] {
        let whole = read(&folder, &format!("whole/{name}"));
        assert!(read(&folder, &format!("cut/{name}")) == whole, "{name} differs");
    }
    let lines = |run: &str| {
        let text = String::from_utf8(read(&folder, &format!("{run}/metrics.jsonl"))).unwrap();
        let values = text.lines().map(|line| {
            let mut value: Value = serde_json::from_str(line).unwrap();
            for timing in ["seconds", "clips_per_second"] {
                value.as_object_mut().unwrap().remove(timing);
            }
            value
        });
        values.collect::<Vec<_>>()
    };
    assert_eq!(lines("whole"), lines("cut"));
}

#[test]
fn a_pretrained_encoder_is_a_start() {
    let folder = workshop();
    let away = folder.path().join("tables").join("all");
    fs::create_dir_all(&away).unwrap();
    fs::copy(folder.path().join("clips.csv"), away.join("clips.csv")).unwrap();
    let output = ssamba_edge(
        folder.path(),
        &[
            "pretrain",
            "tables/all/clips.csv",
            "--root",
            ".",
            "-o",
            "pre",
            "--frames",
            "48",
            "--embed-dim",
            "16",
            "--depth",
            "2",
            "--patch",
            "64x8",
            "--mask",
            "5",
            "--cluster",
            "1x2",
            "--plan",
            "cosine",
            "--epochs",
            "3",
        ],
    );
    done(&output);
    assert!(stderr(&output).contains("5 patches hidden"), "{}", stderr(&output));
    let from = ["train", "clips.csv", "--from", "pre/best.safetensors", "--recipe", "micro.toml"];
    let output =
        ssamba_edge(folder.path(), &[&from[..], &["-o", "tuned", "--epochs", "1"]].concat());
    done(&output);
    let export = ["export", "pre/best.safetensors", "-o", "embed.onnx"];
    let output = ssamba_edge(folder.path(), &export);
    done(&output);
    assert!(stderr(&output).contains("puts out embeddings"), "{}", stderr(&output));
}

/// From scratch, from a pretraining file and from a trained one; what comes out is exported.
#[test]
fn the_transformer_is_trained_by_the_same_commands() {
    let folder = workshop();
    let command = |arguments: &[&str]| {
        let output = ssamba_edge(folder.path(), arguments);
        done(&output);
        stderr(&output)
    };
    let sizes = ["--arch", "ssast", "--embed-dim", "64", "--depth", "2", "--patch", "64x8"];
    let words = command(
        &[
            &["train", "clips.csv", "--from", "scratch", "--recipe", "micro.toml", "-o", "run"][..],
            &sizes,
            &["--epochs", "15", "--batch", "2", "--rate", "0.001"],
        ]
        .concat(),
    );
    assert!(words.contains("network     ssast, "), "{words}");
    assert!(
        words.contains("tokens      14 (2 x 6 patches of 64 x 8 and the class and dis"),
        "{words}"
    );
    command(&["export", "run/last.safetensors", "-o", "tones.onnx", "--arch", "ssast"]);
    for model in ["run/last.safetensors", "tones.onnx"] {
        if model.ends_with(".onnx") && !cfg!(feature = "tract") {
            continue;
        }
        let output = ssamba_edge(
            folder.path(),
            &["eval", model, "clips.csv", "--split", "testing", "--json"],
        );
        let report: Value = serde_json::from_str(&done(&output)).unwrap();
        assert_eq!(report["accuracy"], 1.0, "{model}: {report}\n{words}");
    }

    let masks = ["--frames", "48", "--mask", "5", "--cluster", "1x2", "--plan", "cosine"];
    let start = ["pretrain", "clips", "-o", "pre", "--epochs", "2"];
    command(&[&start[..], &sizes, &masks].concat());
    // Twice the patches over time: positions are resampled.
    let recipe = "frames = 48\nmean = -7.0\nstd = 4.0\nstride = [64, 4]\n";
    fs::write(folder.path().join("dense.toml"), recipe).unwrap();
    let from = ["train", "clips.csv", "--epochs", "1", "--arch", "ssast"];
    let words = command(
        &[&from[..], &["--from", "pre/best.safetensors", "--recipe", "dense.toml", "-o", "tuned"]]
            .concat(),
    );
    assert!(words.contains("tokens      24 (2 x 11 patches"), "{words}");
    command(&["pretrain", "clips", "--from", "pre/best.safetensors", "--mask", "5", "-o", "on"]);

    for (arguments, needle) in [
        (&["--from", "scratch", "--embed-dim", "96"][..], "expected a multiple of it"),
        (&["--from", "run/best.safetensors", "--depth", "2"], "has its own sizes"),
    ] {
        let output = ssamba_edge(folder.path(), &[&from, arguments, &["-o", "no"]].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(needle), "{arguments:?}: {}", stderr(&output));
    }
    let from = ["train", "clips.csv", "--arch", "ssamba", "--from", "run/best.safetensors"];
    let output = ssamba_edge(folder.path(), &[&from[..], &["-o", "no"]].concat());
    assert!(stderr(&output).contains("not of ssamba as asked"), "{}", stderr(&output));
}

#[test]
fn a_calibrated_checkpoint_hears_the_same_with_scores_that_say_how_often() {
    let folder = workshop();
    done(&train(&folder, &["-o", "run", "--epochs", "25", "--batch", "2"]));
    let calibrate = |checkpoint: &str, table: &str, output: &str| {
        ssamba_edge(folder.path(), &["calibrate", checkpoint, table, "-o", output])
    };
    // Two of ten clips of each label are called by the other.
    let table = String::from_utf8(read(&folder, "clips.csv")).unwrap();
    let odd: Vec<String> = table
        .lines()
        .map(|line| match line.contains("/0.wav") || line.contains("/1.wav") {
            true if line.contains(",low,") => line.replace(",low,", ",high,"),
            true => line.replace(",high,", ",low,"),
            false => line.to_owned(),
        })
        .collect();
    fs::write(folder.path().join("odd.csv"), odd.join("\n")).unwrap();
    let words = stderr(&calibrate("run/best.safetensors", "odd.csv", "mild.safetensors"));
    assert!(words.contains("after       80.00 % of what is heard is right, at a mean"), "{words}");

    let old = Checkpoint::read(&folder.path().join("run/best.safetensors")).unwrap().tensors;
    let new = Checkpoint::read(&folder.path().join("mild.safetensors")).unwrap().tensors;
    let card = card(&folder, "mild.toml");
    let temperature = card["calibration"]["temperature"].as_float().unwrap();
    assert!(old.keys().eq(new.keys()));
    for (name, old) in &old {
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let factor = if name.starts_with("mlp_head.1.") { temperature as f32 } else { 1.0 };
        for (old, new) in values(old).into_iter().zip(values(&new[name])) {
            assert!((old - factor * new).abs() <= 1e-5 * old.abs(), "{name}: {old}, {new}");
        }
    }
    assert_eq!(card["sha256"].as_str().unwrap(), sha256(&folder, "mild.safetensors"));
    assert_eq!(
        card["calibration"]["of"].as_str().unwrap(),
        sha256(&folder, "run/best.safetensors")
    );
    assert_eq!(card["training"]["seed"].as_integer(), Some(1), "the rest of the card stays");

    // The clips confirm it: there is nothing left to divide by.
    let words = stderr(&calibrate("mild.safetensors", "odd.csv", "again.safetensors"));
    assert!(words.contains("temperature 1.000,"), "{words}");
    for name in ["mild", "again"] {
        let (from, to) = (format!("{name}.safetensors"), format!("{name}.onnx"));
        done(&ssamba_edge(folder.path(), &["export", &from, "-o", &to]));
    }

    for (table, output, problem) in [
        ("clips.csv", "sure.safetensors", "every clip is right by a margin"),
        ("odd.csv", "mild.pth", "expected a name that ends in .safetensors"),
    ] {
        let refused = calibrate("run/best.safetensors", table, output);
        assert_eq!(refused.status.code(), Some(2));
        assert!(stderr(&refused).contains(problem), "{}", stderr(&refused));
        assert!(!folder.path().join(output).exists());
    }
}

#[test]
fn a_trained_network_teaches_another() {
    let folder = workshop();
    done(&train(&folder, &["-o", "teacher", "--epochs", "4"]));
    let student = ["-o", "student", "--epochs", "2", "--mixup", "0.5"];
    let taught = [&student[..], &["--teacher", "teacher/best.safetensors"]].concat();
    let output = train(&folder, &taught);
    done(&output);
    let words = stderr(&output);
    assert!(words.contains("teachers    1, with a share of 0.5 at temperature 2"), "{words}");
    let page = String::from_utf8(read(&folder, "student/report.html")).unwrap();
    assert!(page.contains("\"distillation\""), "{page}");
    // Through, so that nothing is left to do.
    let before = read(&folder, "student/last.safetensors");
    done(&train(&folder, &[&taught[..], &["--resume"]].concat()));
    assert!(read(&folder, "student/last.safetensors") == before);

    fs::copy(
        folder.path().join("teacher/best.safetensors"),
        folder.path().join("bare.safetensors"),
    )
    .unwrap();
    let fresh = ["-o", "other", "--epochs", "1"];
    for (arguments, needle) in [
        ([&student[..], &["--resume"]].concat(), "with other teachers"),
        (
            [&student[..], &["--resume", "--teacher", "student/best.safetensors"]].concat(),
            "with other teachers",
        ),
        ([&fresh[..], &["--teacher", "bare.safetensors"]].concat(), "no bare.toml beside it"),
        ([&fresh[..], &["--distill", "0.5"]].concat(), "--teacher"),
        ([&fresh[..], &["--mixup", "2"]].concat(), "a share from 0 to 1"),
        (
            [&fresh[..], &["--teacher", "teacher/best.safetensors", "--temperature", "0"]].concat(),
            "the temperature is 0",
        ),
        (
            [&fresh[..], &["--teacher", "teacher/best.safetensors", "--plan", "audioset"]].concat(),
            "plan `audioset` decides each class by itself",
        ),
    ] {
        let output = train(&folder, &arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(needle), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn what_cannot_be_trained_is_said_before_anything_is_written() {
    let folder = workshop();
    fs::write(folder.path().join("empty.csv"), "path,label,split\n").unwrap();
    let gone = "path,label,split\nclips/low/0.wav,low,training\nclips/high/0.wav,high,validation\n\
                gone.wav,low,testing\n";
    fs::write(folder.path().join("gone.csv"), gone).unwrap();
    fs::write(folder.path().join("one.csv"), "path,label\nclips/low/1.wav,low\n").unwrap();
    for (arguments, needle) in [
        (
            &["clips.csv", "--from", "scratch", "--plan", "best"][..],
            "no plan `best`: expected full-band",
        ),
        (
            // No machine has so many.
            &["clips.csv", "--from", "scratch", "--device", "cuda:999"],
            match cfg!(feature = "cuda") {
                true => "cannot use CUDA device 999",
                false => "this build does not train on GPUs",
            },
        ),
        (&["empty.csv", "--from", "scratch"], "empty.csv: no clips"),
        (&["one.csv", "--from", "scratch"], "one.csv: 1 label, expected at least two"),
        (&["clips.csv", "--from", "clips.csv"], "clips.csv: not a checkpoint"),
        (&["clips.csv", "--from", "scratch", "--patch", "16"], "--patch takes mel bins and frames"),
        (&["clips.csv", "--from", "scratch", "--depth", "3"], "3 layers, an odd number"),
        (&["clips", "--from", "scratch", "--validation", "1.5"], "a share from 0 to 1"),
        (&["clips.csv", "--from", "scratch", "--resume"], "run: no state of a run to resume"),
        (
            &["clips.csv", "--from", "scratch", "--training", "fold1"],
            "clips.csv: --training: no clips of the split `fold1`, there are testing, training",
        ),
        (
            &["clips.csv", "--from", "scratch", "--testing", "training"],
            "to learn from and for testing",
        ),
        (
            &["clips.csv", "--from", "scratch", "--label-column", "speaker"],
            "clips.csv: no column `speaker`, it has path, label, split",
        ),
        (&["clips", "--from", "scratch", "--label-column", "label"], "a folder has no columns"),
        (&["clips.csv", "--from", "scratch", "--device", "gpu"], "expected cpu, cuda or cuda:N"),
        (&["gone.csv", "--from", "scratch"], "gone.wav"),
    ] {
        let output = ssamba_edge(folder.path(), &[&["train"], arguments, &["-o", "run"]].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(needle), "{arguments:?}: {}", stderr(&output));
        assert!(!folder.path().join("run").exists(), "{arguments:?}");
    }
}
