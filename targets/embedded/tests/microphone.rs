//! The microphone without one: ALSA makes a capture device of a pipe that the test fills.
#![cfg(all(feature = "microphone", target_os = "linux"))]

mod support;

use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::support::{Exported, WORDS, printed, stream};

/// 50 ms of the stream, and how long a piece of it takes: it is told at twice its speed.
const PIECE: usize = 800;
const PIECE_TIME: Duration = Duration::from_millis(25);

/// The program where ALSA knows some devices more, all of which read the pipe: `kws`, which is the default one, its
/// `twin`, and `array`, which has two channels of floats and nothing else. What the user's own settings say is not
/// asked: `.asoundrc` lies in a home of its own.
fn program(home: &Path) -> Command {
    let device = |name: &str, description: &str, slave: &str| {
        format!(
            "pcm.{name} {{
                type file
                slave.pcm {slave}
                file /dev/null
                infile \"{}\"
                format raw
                hint {{ show on description \"{description}\" }}
            }}\n",
            home.join("samples").display()
        )
    };
    let two_channels = "{
        type multi
        slaves.a { pcm null_of_floats channels 2 }
        bindings { 0 { slave a channel 0 } 1 { slave a channel 1 } }
    }";
    let settings = [
        device("kws", "A pipe", "null"),
        device("twin", "A pipe", "null"),
        "pcm.null_of_floats { type lfloat slave { pcm null format S32 } }\n".into(),
        device("array", "Two channels", two_channels),
        "pcm.!default kws\n".into(),
    ];
    fs::write(home.join(".asoundrc"), settings.concat()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ssamba-kws"));
    command.env("HOME", home).env_remove("XDG_CONFIG_HOME").stdin(Stdio::null());
    command
}

/// The bytes of a sample in each of the channels that a device has.
type Frame = fn(i16) -> Vec<u8>;

fn mono(sample: i16) -> Vec<u8> {
    sample.to_ne_bytes().into()
}

/// Two floats whose mean is the sample.
fn two_floats(sample: i16) -> Vec<u8> {
    [1.5, 0.5].map(|part| part * f32::from(sample) / 32_768.0).map(f32::to_ne_bytes).concat()
}

/// Fills the pipe for as long as this lives: with the stream, then with silence, or nothing more.
struct Speaker {
    quiet: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Speaker {
    fn new(home: &Path, frame: Frame, goes_on: bool) -> Self {
        let path = home.join("samples");
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let quiet = Arc::new(AtomicBool::new(false));
        let stop = quiet.clone();
        // Open for reading too, so that neither end waits for the other.
        let mut pipe = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let thread = thread::spawn(move || {
            let (samples, silence) = (stream(), [0; PIECE]);
            let mut pieces = samples.chunks(PIECE);
            while !stop.load(Relaxed) {
                if let Some(piece) = pieces.next().or(goes_on.then_some(&silence)) {
                    let bytes: Vec<u8> = piece.iter().flat_map(|&sample| frame(sample)).collect();
                    pipe.write_all(&bytes).unwrap();
                }
                thread::sleep(PIECE_TIME);
            }
        });
        Self { quiet, thread: Some(thread) }
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.quiet.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A program that listens; it is killed should the test fail.
struct Listening(Option<Child>);

impl Listening {
    fn start(command: &mut Command) -> Self {
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(Some(piped.spawn().unwrap()))
    }

    /// The first lines of stdout.
    fn lines(&mut self, count: usize) -> Vec<String> {
        let child = self.0.as_mut().unwrap();
        // One byte at a time: what comes after these lines stays for the end.
        let stdout = BufReader::with_capacity(1, child.stdout.as_mut().unwrap());
        let lines: Vec<String> = stdout.lines().take(count).map(Result::unwrap).collect();
        if lines.len() < count {
            let mut words = String::new();
            child.stderr.as_mut().unwrap().read_to_string(&mut words).unwrap();
            panic!("the program ended after {lines:?}: {words}");
        }
        lines
    }

    /// Ends the program as Ctrl-C does.
    fn interrupt(mut self) -> Output {
        let child = self.0.take().unwrap();
        let id = child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &id]).status().unwrap();
        assert!(sent.success());
        child.wait_with_output().unwrap()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn write_wav(path: PathBuf, samples: &[i16]) -> PathBuf {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(&path, spec).unwrap();
    for &sample in samples {
        writer.write_sample(sample).unwrap();
    }
    writer.finalize().unwrap();
    path
}

/// Listens with this option to the stream, and asserts that it hears what it hears in a file.
fn assert_hears_the_stream(option: &str, frame: Frame, heard: &str) {
    let exported = Exported::new();
    let home = tempfile::tempdir().unwrap();
    let wav = write_wav(exported.beside("stream.wav"), &stream());
    let expected = program(home.path()).arg(exported.model()).arg(wav).output().unwrap();
    let expected: Vec<String> = printed(&expected).lines().map(str::to_owned).collect();
    assert_eq!(expected.len(), WORDS.len());
    let _speaker = Speaker::new(home.path(), frame, true);
    let mut listening = Listening::start(program(home.path()).arg(exported.model()).arg(option));
    assert_eq!(listening.lines(expected.len()), expected);
    let output = listening.interrupt();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    // Nothing was lost, and nothing else was said.
    let line = format!("listening to {heard}; Ctrl-C ends\n");
    assert_eq!((stderr, output.stdout), (line, vec![]));
}

#[test]
fn a_device_gives_the_events_of_a_wav_file_and_ctrl_c_ends_it() {
    let heard = "the microphone `kws`, 16000 Hz, mono, i16";
    assert_hears_the_stream("--microphone=kws", mono, heard);
}

#[test]
fn the_default_device_does_too() {
    let heard = "the default microphone, 16000 Hz, mono, i16";
    assert_hears_the_stream("--microphone", mono, heard);
}

#[test]
fn two_channels_of_floats_found_by_their_name_do_too() {
    let heard = "the microphone `Two channels`, 16000 Hz, 2 channels, f32";
    assert_hears_the_stream("--microphone=Two channels", two_floats, heard);
}

#[test]
fn devices_are_listed_with_their_names() {
    let home = tempfile::tempdir().unwrap();
    let listed = printed(&program(home.path()).arg("--list-microphones").output().unwrap());
    let lines: Vec<&str> = listed.lines().collect();
    for line in ["kws\tA pipe", "twin\tA pipe", "array\tTwo channels"] {
        assert!(lines.contains(&line), "{listed}");
    }
}

#[test]
fn errors_are_one_sentence_and_exit_with_2() {
    let exported = Exported::new();
    let home = tempfile::tempdir().unwrap();
    let (kws, twin, array) = ("kws (A pipe)", "twin (A pipe)", "array (Two channels)");
    // Devices of the machine itself may be listed too.
    let cases: [(&str, &str, &[&str]); 4] = [
        ("--microphone=nobody", "no microphone `nobody`", &[kws, twin, array]),
        ("--microphone=A pipe", "2 microphones are called `A pipe`", &[kws, twin]),
        // The pipe is not there: the device cannot be opened.
        ("--microphone=kws", "the microphone `kws`: it is not connected", &[twin, array]),
        ("--microphone", "the default microphone: it is not connected", &[kws, twin, array]),
    ];
    for (option, wrong, others) in cases {
        let output = program(home.path()).arg(exported.model()).arg(option).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{option}: {stderr}");
        assert!(stderr.starts_with(&format!("error: {wrong}")), "{stderr}");
        let (_, listed) = stderr.split_once(", choose with --microphone=DEVICE one of ").unwrap();
        for device in [kws, twin, array] {
            assert_eq!(listed.contains(device), others.contains(&device), "{device}: {stderr}");
        }
        assert_eq!((stderr.lines().count(), output.stdout), (1, vec![]), "{stderr}");
    }
}

#[test]
fn a_device_that_gives_nothing_more_ends_the_program() {
    let exported = Exported::new();
    let home = tempfile::tempdir().unwrap();
    let _speaker = Speaker::new(home.path(), mono, false);
    let output =
        program(home.path()).arg(exported.model()).arg("--microphone=kws").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    let line = "error: the microphone `kws`: it gave no samples for 10 s, is it still connected?";
    assert_eq!(stderr.lines().nth(1), Some(line), "{stderr}");
    let heard = String::from_utf8(output.stdout).unwrap();
    assert_eq!(heard.lines().count(), WORDS.len(), "{heard}");
}
