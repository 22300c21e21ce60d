//! What the program does for the keyword spotter: `bench detect` and `export --target embedded`.
#![cfg(feature = "embedded")]

mod program;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use program::{KWS12, ssamba_edge, stderr, stdout, zoo};
use serde_json::Value;
use ssamba_kws::{Settings, Spotter};
use tempfile::TempDir;

#[track_caller]
fn done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    stdout(output)
}

/// A folder with the keyword model, `kws.onnx`, three clips, of which one must not fire though it
/// will, and two seconds of hiss.
fn workshop() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for file in [KWS12, "kws12.toml"] {
        fs::copy(zoo(file), at(file)).unwrap();
    }
    for (label, word) in [("yes", "yes"), ("stop", "stop"), ("_unknown_", "left")] {
        fs::create_dir_all(at("clips").join(label)).unwrap();
        let name = format!("clips/{label}/{word}.wav");
        fs::copy(zoo(&format!("{word}.wav")), at(&name)).unwrap();
    }
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(at("hiss.wav"), spec).unwrap();
    for index in 0..32_000_u32 {
        let hiss = (index.wrapping_mul(2_654_435_761) >> 16) as i16;
        writer.write_sample(hiss / 8).unwrap();
    }
    writer.finalize().unwrap();
    done(&ssamba_edge(folder.path(), &["export", KWS12, "-o", "kws.onnx"]));
    folder
}

fn detect(folder: &Path, options: &[&str]) -> Output {
    let common = ["bench", "detect", "kws.onnx", "clips", "--noise", "hiss.wav"];
    ssamba_edge(folder, &[&common, options].concat())
}

fn json(path: PathBuf) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_stream_of_known_words_has_the_known_hits_and_false_alarms() {
    let folder = workshop();
    let at = |name: &str| folder.path().join(name);
    let options = ["--snr", "40", "--seed", "3", "--write", "stream.wav", "-o", "first"];
    let table = done(&detect(folder.path(), &options));
    assert!(table.contains("0.8 (set)"), "{table}");
    let report = json(at("first/detect.json"));
    assert_eq!((&report["clips"]["keywords"], &report["clips"]["others"]), (&2.into(), &1.into()));
    assert_eq!((&report["seed"], &report["noise"][0]), (&3.into(), &"hiss.wav".into()));
    let stream = &report["streams"][0];
    let rates = &stream["at_settings"];
    assert_eq!((&rates["misses"], &rates["in_others"]), (&0.into(), &1.into()), "{rates}");
    assert_eq!((&rates["in_keywords"], &rates["in_background"]), (&0.into(), &0.into()));
    let label = |name: &str| {
        let labels = stream["labels"].as_array().unwrap();
        labels.iter().find(|row| row["label"] == name).unwrap().clone()
    };
    assert_eq!((&label("yes")["words"], &label("yes")["misses"]), (&1.into(), &0.into()));
    assert_eq!(label("left")["false_alarms"], 1);
    assert!(!stream["labels"].as_array().unwrap().iter().any(|row| row["label"] == "_unknown_"));
    // Higher thresholds miss more and raise fewer false alarms.
    let curve = stream["curve"].as_array().unwrap();
    let column = |key: &str| -> Vec<f64> {
        curve.iter().map(|point| point[key].as_f64().unwrap()).collect()
    };
    assert!(column("threshold").is_sorted() && column("misses").is_sorted());
    assert!(column("false_alarms").last() < column("false_alarms").first());
    assert_eq!(curve.last().unwrap()["misses"], 2, "nothing reaches 0.999");
    let svg = fs::read_to_string(at("first/detect.svg")).unwrap();
    assert!(svg.contains("40 dB; ring: threshold 0.8"), "{svg}");

    // The written stream, through the spotter itself: the events that were counted.
    let mut reader = hound::WavReader::open(at("stream.wav")).unwrap();
    let samples: Vec<i16> = reader.samples().map(Result::unwrap).collect();
    let mut spotter = Spotter::open(at("kws.onnx"), &Settings::default()).unwrap();
    let mut heard = Vec::new();
    spotter.feed_i16(&samples, |event| heard.push((event.time_s, event.label))).unwrap();
    let table = fs::read_to_string(at("stream.csv")).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|row| row.split(',').collect()).collect();
    assert_eq!((rows.len(), heard.len()), (3, 3), "{table}{heard:?}");
    for (row, (time_s, label)) in rows.iter().zip(&heard) {
        let (start, end): (f64, f64) = (row[0].parse().unwrap(), row[1].parse().unwrap());
        assert!((start..=end + 0.5).contains(time_s), "{row:?} {time_s}");
        assert_eq!(row[3], format!("{label}.wav"), "{row:?}");
    }

    // The seed is all that chance depends on.
    let again = |seed: &str, output: &str| {
        done(&detect(folder.path(), &["--snr", "40", "--seed", seed, "-o", output]));
        fs::read(at(output).join("detect.json")).unwrap()
    };
    let first = fs::read(at("first/detect.json")).unwrap();
    assert_eq!(again("3", "second"), first);
    assert_ne!(again("4", "third"), first);
}

#[test]
fn a_manifest_names_the_clips_of_a_split() {
    let folder = workshop();
    let table = "path,label,split\nyes/yes.wav,yes,testing\nstop/stop.wav,stop,training\n";
    fs::write(folder.path().join("table.csv"), table).unwrap();
    let options = ["--manifest", "table.csv", "--split", "testing", "-o", "out"];
    done(&detect(folder.path(), &options));
    let report = json(folder.path().join("out/detect.json"));
    assert_eq!(report["clips"]["by_label"], serde_json::json!({ "yes": 1 }));
    assert_eq!(report["streams"].as_array().unwrap().len(), 2, "20 and 10 dB");
    let words = "detect kws.onnx clips --manifest table.csv --split testing --noise hiss.wav";
    assert!(report["command"].as_str().unwrap().contains(words), "{}", report["command"]);
}

#[test]
fn a_folder_for_the_spotter_takes_what_was_measured() {
    let folder = workshop();
    let at = |name: &str| folder.path().join(name);
    let export = |options: &[&str]| {
        let common = ["export", KWS12, "--target", "embedded", "-o", "kws"];
        ssamba_edge(folder.path(), &[&common, options].concat())
    };
    done(&export(&[]));
    assert_eq!(Settings::of(at("kws")).unwrap(), Settings::default());
    let files = || -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(at("kws")).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries
            .map(|path| {
                (path.file_name().unwrap().to_str().unwrap().into(), fs::read(path).unwrap())
            })
            .collect();
        files.sort();
        files
    };
    let first = files();
    let names: Vec<&str> = first.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["card.json", "model.nnef.tar", "settings.json"]);
    done(&export(&[]));
    assert_eq!(files(), first, "written again over itself");

    let options = ["--snr", "40", "--smooth", "2", "--false-alarms", "0", "-o", "measured"];
    done(&detect(folder.path(), &options));
    let report = json(at("measured/detect.json"));
    let chosen = &report["chosen"];
    for rates in [&chosen["at_threshold"][0], &chosen["at_thresholds"][0]] {
        assert_eq!(rates["false_alarms"], 0, "{chosen}");
    }
    // Whether each label has a threshold of its own is for what was measured to say.
    let mut thresholds: BTreeMap<String, f32> =
        serde_json::from_value(chosen["thresholds"].clone()).unwrap();
    thresholds.insert("yes".into(), 0.7);
    done(&export(&["--detect", "measured/detect.json", "--threshold", "yes=0.7"]));
    let threshold = chosen["threshold"].as_f64().unwrap() as f32;
    assert!(threshold > 0.6, "{threshold}");
    let expected = Settings { smooth: 2, threshold, thresholds, ..Settings::default() };
    assert_eq!(Settings::of(at("kws")).unwrap(), expected);

    // The folder is a model like the file, to the last figure.
    let with = |model: &str| {
        let options = ["bench", "detect", model, "clips", "--noise", "hiss.wav", "-o", "with"];
        let options = [&options[..], &["--smooth", "3", "--threshold", "0.6"]].concat();
        done(&ssamba_edge(folder.path(), &options));
        json(at("with/detect.json"))["streams"].clone()
    };
    assert_eq!(with("kws"), with("kws.onnx"));
}

#[test]
fn wrong_input_gets_one_clear_sentence_and_leaves_nothing_behind() {
    let folder = workshop();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("kws12.txt"), "no result").unwrap();
    fs::create_dir(at("full")).unwrap();
    fs::write(at("full/letter.txt"), "").unwrap();
    fs::create_dir_all(at("foreign/cat")).unwrap();
    fs::copy(zoo("yes.wav"), at("foreign/cat/yes.wav")).unwrap();
    done(&detect(folder.path(), &["-o", "no-choice"]));
    let report = fs::read_to_string(at("no-choice/detect.json")).unwrap();
    let sha256 = json(at("no-choice/detect.json"))["checkpoint_sha256"].clone();
    let other = report.replace(sha256.as_str().unwrap(), "00");
    fs::write(at("other.json"), other).unwrap();
    let before = fs::read_dir(folder.path()).unwrap().count();

    let embedded = ["export", KWS12, "--target", "embedded", "-o", "new"];
    let export = |options: &[&str]| ssamba_edge(folder.path(), &[&embedded, options].concat());
    let onnx = |options: &[&str]| {
        let common = ["export", KWS12, "-o", "new.onnx"];
        ssamba_edge(folder.path(), &[&common, options].concat())
    };
    let bench = |options: &[&str]| detect(folder.path(), options);
    let of = |clips: &str, noise: &str| {
        ssamba_edge(folder.path(), &["bench", "detect", "kws.onnx", clips, "--noise", noise])
    };
    for (output, words) in [
        (
            export(&["--threshold", "maybe=0.5"]),
            "a threshold for `maybe`, expected one of _silence_",
        ),
        (export(&["--threshold", "high"]), "--threshold takes X or LABEL=X, got `high`"),
        (export(&["--hop", "7"]), "a hop of 7 ms"),
        (export(&["--window", "2000"]), "a window of 198 frames does not fit the model"),
        (export(&["--precision", "fp16"]), "--precision fp32"),
        (export(&["--detect", "kws12.txt"]), "kws12.txt: not a result of `bench detect`"),
        (export(&["--detect", "other.json"]), "other.json: measured with another checkpoint"),
        (export(&["--detect", "no-choice/detect.json"]), "measure with --false-alarms N"),
        (export(&["-o", "full"]), "the argument '--output <FILE>' cannot be used multiple times"),
        (onnx(&["--smooth", "2"]), "an ONNX file does not say how to listen: --smooth 2"),
        (bench(&["--tolerance", "2000"]), "--tolerance 2000, expected at most the shortest pause"),
        (bench(&["--pause", "5,3"]), "--pause 5,3, expected the shorter first"),
        (bench(&["--snr", "nan"]), "--snr NaN"),
        (bench(&["--write", "new.wav"]), "--write takes one stream"),
        (bench(&["--manifest", "none.csv"]), "none.csv: No such file"),
        (
            of("foreign", "hiss.wav"),
            "foreign: no clip has a label of the model, one of _silence_, _unknown_",
        ),
        (of("clips/yes", "hiss.wav"), "expected a folder of clips for each label"),
        (of("clips", "none.wav"), "none.wav"),
    ] {
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{words}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(words), "{words}: {stderr}");
        assert!(stderr.lines().count() == 1 || words.contains("--output"), "{stderr}");
    }
    let full = ["export", KWS12, "--target", "embedded", "-o", "full"];
    let output = ssamba_edge(folder.path(), &full);
    assert!(stderr(&output).contains("full: something else is there"), "{}", stderr(&output));
    assert!(at("full/letter.txt").is_file());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before, "something was left behind");
}
