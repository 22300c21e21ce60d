//! `ssamba-kws`: prints the keywords of a live 16 kHz stream, of a microphone or of a WAV file as they are heard.
//!
//! Events go to stdout, words for people to stderr. Exit codes: 0 the stream ended, 1 the self-test says no,
//! 2 usage or error.

mod args;
mod input;
#[cfg(feature = "microphone")]
mod microphone;
#[cfg(not(feature = "microphone"))]
#[path = "microphone/absent.rs"]
mod microphone;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};
use args::{Args, Command, Source};
use serde::Serialize;
use ssamba_kws::{Event, Settings, Spotter};

/// One line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    label: &'a str,
    score: f32,
    time_s: f64,
}

fn main() -> ExitCode {
    match args::parse(std::env::args_os().skip(1)).and_then(|command| run(&command)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether the answer is yes, which it is where nothing was asked.
fn run(command: &Command) -> Result<bool> {
    match command {
        Command::Say(text) => io::stdout().write_all(text.as_bytes())?,
        Command::Listen(args) => listen(args)?,
        Command::ListMicrophones => io::stdout().write_all(microphone::list()?.as_bytes())?,
        Command::SelfTest(model) => {
            let mut spotter = Spotter::open(model, &Settings::of(model)?)?;
            let name = model.display().to_string();
            let verdict = spotter.self_test().context(name.clone())?;
            let verb = if verdict.holds { "computes" } else { "DOES NOT compute" };
            let error = verdict.max_abs_error;
            writeln!(
                io::stdout(),
                "{name}: this machine {verb} what it should: off by {error:.1e}"
            )?;
            return Ok(verdict.holds);
        }
    }
    Ok(true)
}

fn listen(args: &Args) -> Result<()> {
    let feed = |spotter: &mut Spotter, samples: &[f32]| {
        let mut printed = Ok(());
        spotter.feed(samples, |event| {
            if printed.is_ok() {
                printed = print(&event, args.json);
            }
        })?;
        Ok(printed?)
    };
    // What cannot be read is named before the model is opened, which takes longer.
    match &args.source {
        Source::Wav(path) => {
            let mut wav = input::Wav::open(path)?;
            let mut spotter = open(args)?;
            wav.each(|samples| feed(&mut spotter, samples))
        }
        Source::Stdin => {
            let stdin = input::raw_stdin()?;
            let mut spotter = open(args)?;
            input::each_raw(stdin, |samples| feed(&mut spotter, samples))
        }
        Source::Microphone(device) => {
            let microphone = microphone::find(device.as_deref())?;
            let mut spotter = open(args)?;
            microphone.each(|samples| feed(&mut spotter, samples))
        }
    }
}

fn open(args: &Args) -> Result<Spotter> {
    Spotter::open(&args.model, &args.changes.of(Settings::of(&args.model)?))
}

/// One event, at once: whoever reads acts on it.
fn print(event: &Event, json: bool) -> io::Result<()> {
    let Event { label, score, time_s, .. } = event;
    let mut stdout = io::stdout().lock();
    if json {
        let line = Line { label, score: *score, time_s: *time_s };
        serde_json::to_writer(&mut stdout, &line)?;
        writeln!(stdout)?;
    } else {
        writeln!(stdout, "{time_s:9.3} s  {label} {score:.3}")?;
    }
    stdout.flush()
}

/// The reader of our output went away, as `head` does: no error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}
