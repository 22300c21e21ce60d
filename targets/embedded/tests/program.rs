//! The program: what it prints for good and for wrong input.

mod support;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::support::{Exported, assert_words, clip_path, printed, stream};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ssamba-kws"))
}

fn write_wav(path: &Path, sample_rate: u32, channels: u16) {
    let spec = hound::WavSpec {
        channels,
        sample_rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for sample in stream() {
        for _ in 0..channels {
            writer.write_sample(sample).unwrap();
        }
    }
    writer.finalize().unwrap();
}

/// Labels and times of JSON lines.
fn assert_json_words(output: &Output) {
    let lines: Vec<serde_json::Value> =
        printed(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["label", "score", "time_s"]);
        assert!((0.8..=1.0).contains(&line["score"].as_f64().unwrap()), "{line}");
    }
    assert_words(
        lines
            .iter()
            .map(|line| (line["label"].as_str().unwrap(), line["time_s"].as_f64().unwrap())),
    );
}

#[test]
fn a_wav_file_and_raw_samples_give_the_same_events() {
    let exported = Exported::new();
    let (mono, stereo) = (exported.beside("mono.wav"), exported.beside("stereo.wav"));
    write_wav(&mono, 16_000, 1);
    write_wav(&stereo, 16_000, 2);
    let raw = exported.beside("stream.raw");
    let bytes: Vec<u8> = stream().iter().flat_map(|sample| sample.to_le_bytes()).collect();
    fs::write(&raw, bytes).unwrap();
    let from = |arguments: &[&OsStr], stdin: Stdio| {
        let mut command = program();
        command.arg(exported.model()).arg("--json").args(arguments).stdin(stdin);
        command.output().unwrap()
    };
    let samples = || Stdio::from(File::open(&raw).unwrap());
    let output = from(&[mono.as_ref()], Stdio::null());
    assert_json_words(&output);
    for other in [
        from(&[stereo.as_ref()], Stdio::null()),
        from(&["-".as_ref()], samples()),
        from(&[], samples()),
    ] {
        assert_eq!(printed(&other), printed(&output));
    }
}

#[test]
fn events_are_printed_while_the_stream_goes_on() {
    let exported = Exported::new();
    let mut child = program()
        .arg(exported.model())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes: Vec<u8> = stream().iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let (first, rest) = bytes.split_at(3 * 32_000);
    stdin.write_all(first).unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains(" s  yes 0."), "{line}");
    // The reader goes away: no error.
    drop(stdout);
    // Nor for us: the program may leave before it has read all.
    let _ = stdin.write_all(rest);
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
}

#[test]
fn one_clip_is_one_window() {
    let exported = Exported::new();
    let output = program().arg(exported.model()).arg(clip_path("yes")).output().unwrap();
    assert!(printed(&output).starts_with("    0.995 s  yes 0.9"), "{output:?}");
}

#[test]
fn errors_are_one_sentence_and_exit_with_2() {
    let exported = Exported::new();
    let (fast, cut) = (exported.beside("fast.wav"), exported.beside("cut.wav"));
    write_wav(&fast, 44_100, 1);
    write_wav(&cut, 16_000, 1);
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..20_000]).unwrap();
    let text = exported.beside("text");
    fs::write(&text, "not audio and no model").unwrap();
    let model = exported.model();
    let cases: [(&[&OsStr], &str); 8] = [
        (&[], "usage: ssamba-kws MODEL"),
        (&[model.as_ref(), fast.as_ref()], "fast.wav: 44100 Hz, expected 16000 Hz"),
        (&[model.as_ref(), cut.as_ref()], "cut.wav: it is no whole WAV file"),
        (&[model.as_ref(), text.as_ref()], "text: it is no whole WAV file"),
        (&[model.as_ref(), "none.wav".as_ref()], "none.wav: No such file"),
        (&[text.as_ref()], "it is not an ONNX model"),
        (&[model.as_ref(), "--hop=7".as_ref()], "a hop of 7 ms"),
        (&[model.as_ref(), "--threshold=maybe=0.5".as_ref()], "a threshold for `maybe`"),
    ];
    for (arguments, words) in cases {
        let output = program().args(arguments).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(words), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
    }
}

#[cfg(not(feature = "microphone"))]
#[test]
fn a_program_without_the_microphone_says_how_to_get_one_with_it() {
    for arguments in [&["model", "--microphone"] as &[&str], &["--list-microphones"]] {
        let output = program().args(arguments).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout), (Some(2), vec![]), "{stderr}");
        assert!(
            stderr.starts_with("error: this program was built without `microphone`"),
            "{stderr}"
        );
        assert!(
            stderr.contains("--features microphone") && stderr.lines().count() == 1,
            "{stderr}"
        );
    }
}
