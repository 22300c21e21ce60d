//! The command line, read by hand: a parser would weigh more than the rest of the program's own
//! code.

use std::{ffi::OsString, path::PathBuf, str::FromStr};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ssamba_kws::{Changes, Settings};

/// Text of `--help`.
const HELP: &str = "\
Print the keywords of a 16 kHz stream as they are heard.

Usage: ssamba-kws MODEL [FILE.wav|-|--microphone[=DEVICE]] [OPTIONS]
       ssamba-kws --list-microphones

  MODEL     folder written by `ssamba-edge export --target embedded`, or file
            written by `ssamba-edge export`
  FILE.wav  16 kHz WAV file, any number of channels
  -         raw samples on stdin, 16 kHz, mono, 16-bit little endian [default]:
            arecord -q -t raw -f S16_LE -r 16000 -c 1 | ssamba-kws MODEL
  --microphone[=DEVICE]
            a sound device: the system's default one, or that with this name
            or identifier; brought to 16 kHz, mono; Ctrl-C ends
  --list-microphones
            print the identifiers and names of all

Both are in programs that were built with the feature `microphone`.

Options; a folder brings defaults of its own:
  --threshold X        mean score from which a label fires [default: 0.8]
  --threshold LABEL=X  the same for one label; may be repeated
  --hop MS             from one window to the next, a multiple of 10 [default: 100]
  --window MS          sound in one window [default: all that the model takes]
  --smooth N           windows whose scores are averaged [default: 3]
  --refractory MS      pause after an event [default: 1000]
  --json               print one JSON object a line: label, score, time_s
  --selftest           hear nothing, answer whether this machine computes what the
                       model should put out; the answer no is exit code 1
  --help, --version

Labels between underscores, such as _silence_, never fire.
";

const USAGE: &str = "usage: ssamba-kws MODEL [FILE.wav|-|--microphone] [OPTIONS], see --help";

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Print this.
    Say(String),
    /// Listen.
    Listen(Args),
    /// Run the model's self-test.
    SelfTest(PathBuf),
    /// Print which microphones there are.
    ListMicrophones,
}

/// Whereto and how to listen.
#[derive(Debug, PartialEq)]
pub struct Args {
    pub model: PathBuf,
    pub source: Source,
    /// To the settings of the model.
    pub changes: Changes,
    pub json: bool,
}

/// Where samples come from.
#[derive(Debug, PartialEq)]
pub enum Source {
    Stdin,
    Wav(PathBuf),
    /// The device with this name or identifier, or the system's default one.
    Microphone(Option<String>),
}

/// Reads the arguments behind the program's name.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Command> {
    let mut changes = Changes::default();
    let (mut json, mut self_test) = (false, false);
    let mut microphone = None;
    let mut files = Vec::new();
    let mut options = true;
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let text = argument.to_str().unwrap_or_default();
        if !options || text == "-" || !text.starts_with('-') {
            files.push(PathBuf::from(argument));
            continue;
        }
        let (name, mut value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        // The value of an option stands behind `=` or is the next argument.
        let mut operand = || match value.take() {
            Some(value) => Ok(value),
            None => arguments
                .next()
                .and_then(|value| value.into_string().ok())
                .with_context(|| format!("{name} takes a value")),
        };
        match name {
            "--threshold" => {
                let value = operand()?;
                match value.rsplit_once('=') {
                    Some((label, x)) => {
                        changes.thresholds.insert(label.into(), number(name, x)?);
                    }
                    None => changes.threshold = Some(number(name, &value)?),
                }
            }
            "--hop" => changes.hop_ms = Some(number(name, &operand()?)?),
            "--window" => changes.window_ms = Some(number(name, &operand()?)?),
            "--smooth" => changes.smooth = Some(number(name, &operand()?)?),
            "--refractory" => changes.refractory_ms = Some(number(name, &operand()?)?),
            // The name of a device stands behind `=` alone: the next argument may be the model.
            "--microphone" => {
                let device = value.take();
                ensure!(device.as_deref() != Some(""), "--microphone= takes the name of a device");
                microphone = Some(Source::Microphone(device));
            }
            _ if text == "--list-microphones" => return Ok(Command::ListMicrophones),
            _ if text == "--json" => json = true,
            _ if text == "--selftest" => self_test = true,
            _ if text == "--" => options = false,
            _ if text == "--help" || text == "-h" => return Ok(Command::Say(HELP.into())),
            _ if text == "--version" || text == "-V" => {
                return Ok(Command::Say(
                    concat!("ssamba-kws ", env!("CARGO_PKG_VERSION"), "\n").into(),
                ));
            }
            _ => bail!("there is no option {text}; {USAGE}"),
        }
    }
    changes.of(Settings::default()).check()?;
    let mut files = files.into_iter();
    let model = files.next().context(USAGE)?;
    if self_test {
        if let Some(extra) = files.next() {
            bail!("--selftest hears nothing, not {} either; {USAGE}", extra.display());
        }
        ensure!(microphone.is_none(), "--selftest hears nothing, no microphone either; {USAGE}");
        return Ok(Command::SelfTest(model));
    }
    let source = match (microphone, files.next()) {
        (Some(_), Some(extra)) => bail!(
            "one stream at a time, the microphone or {0}; is it a device: --microphone={0}",
            extra.display()
        ),
        (Some(microphone), None) => microphone,
        (None, Some(path)) if path.as_os_str() != "-" => Source::Wav(path),
        (None, _) => Source::Stdin,
    };
    if let Some(extra) = files.next() {
        bail!("one stream at a time, not also {}; {USAGE}", extra.display());
    }
    Ok(Command::Listen(Args { model, source, changes, json }))
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T> {
    value.parse().map_err(|_| anyhow!("{name} takes a number, got `{value}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_stand_anywhere_and_have_defaults() {
        let Command::Listen(args) = read("m.onnx").unwrap() else { panic!("listens") };
        assert_eq!(
            (args.source, args.changes, args.json),
            (Source::Stdin, Changes::default(), false)
        );
        let line = "--hop 50 m.onnx --threshold=0.7 --threshold stop=0.9 a.wav --json --smooth 1";
        let Command::Listen(args) = read(line).unwrap() else { panic!("listens") };
        assert_eq!((args.model, args.source), ("m.onnx".into(), Source::Wav("a.wav".into())));
        let expected = Changes {
            hop_ms: Some(50),
            smooth: Some(1),
            threshold: Some(0.7),
            thresholds: [("stop".into(), 0.9)].into(),
            ..Changes::default()
        };
        assert_eq!((args.changes, args.json), (expected, true));
        assert_eq!(read("--selftest m").unwrap(), Command::SelfTest("m".into()));
        for (line, device) in [
            ("--microphone m", None),
            ("m --microphone --json", None),
            ("--microphone=hw:0,0 m", Some("hw:0,0")),
            ("m --microphone=a=b", Some("a=b")),
        ] {
            let Command::Listen(args) = read(line).unwrap() else { panic!("listens") };
            let source = Source::Microphone(device.map(str::to_owned));
            assert_eq!((args.model, args.source), ("m".into(), source), "{line}");
        }
        assert_eq!(read("--list-microphones").unwrap(), Command::ListMicrophones);
        let Command::Listen(args) = read("-- --m -").unwrap() else { panic!("listens") };
        assert_eq!((args.model, args.source), ("--m".into(), Source::Stdin));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, words) in [
            ("", "usage:"),
            ("m a.wav b.wav", "not also b.wav"),
            ("m a.wav --selftest", "not a.wav either"),
            ("m --microphone --selftest", "no microphone either"),
            ("m --microphone hw:0", "--microphone=hw:0"),
            ("m --microphone=", "takes the name of a device"),
            ("--microphone", "usage:"),
            ("m --loud", "no option --loud"),
            ("m --json=yes", "no option --json=yes"),
            ("m --hop", "--hop takes a value"),
            ("m --hop fast", "--hop takes a number, got `fast`"),
            ("m --hop 15", "multiple of 10"),
            ("m --threshold yes=2", "2 for `yes`"),
        ] {
            let message = read(line).unwrap_err().to_string();
            assert!(message.contains(words), "{line}: {message}");
        }
    }
}
