//! `ssamba-edge`: export SSAMBA audio models to ONNX, run them, prove that they agree.
//!
//! Data goes to stdout, words for people to stderr. Exit codes: 0 done, 1 the answer is no,
//! 2 usage or error.

mod audio;
#[cfg(all(feature = "convert", any(feature = "cuda", feature = "embedded")))]
mod bench;
#[cfg(feature = "embedded")]
mod bundle;
#[cfg(feature = "convert")]
mod calibrate;
#[cfg(all(feature = "convert", any(feature = "cuda", feature = "embedded", feature = "train")))]
mod chart;
#[cfg(any(feature = "embedded", feature = "train"))]
mod clips;
#[cfg(any(all(feature = "convert", feature = "cuda"), feature = "train"))]
mod command;
#[cfg(feature = "convert")]
mod convert;
#[cfg(feature = "convert")]
mod demo;
#[cfg(feature = "train")]
mod eval;
#[cfg(feature = "convert")]
mod export;
#[cfg(feature = "embedded")]
mod folder;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "convert")]
mod inspect;
mod listen;
#[cfg(feature = "embedded")]
mod pack;
#[cfg(feature = "ort")]
mod placement;
mod provider;
mod run;
#[cfg(feature = "embedded")]
mod spotting;
#[cfg(feature = "convert")]
mod targets;
#[cfg(feature = "train")]
mod temperature;
mod terminal;
#[cfg(feature = "train")]
mod train;
#[cfg(feature = "convert")]
mod verify;

use std::{io, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Export SSAMBA audio models to ONNX, run them on the edge, and prove that they agree.
#[derive(Parser)]
#[command(name = "ssamba-edge", version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "convert")]
    Export(export::Args),
    Run(run::Args),
    #[cfg(feature = "train")]
    Train(Box<train::labelled::Args>),
    #[cfg(feature = "train")]
    Pretrain(train::unlabelled::Args),
    #[cfg(feature = "train")]
    Eval(eval::Args),
    #[cfg(feature = "train")]
    Calibrate(temperature::Args),
    #[cfg(feature = "convert")]
    Verify(verify::Args),
    #[cfg(feature = "convert")]
    Inspect(inspect::Args),
    #[cfg(feature = "convert")]
    Targets(targets::Args),
    #[cfg(feature = "embedded")]
    Bundle(bundle::Args),
    #[cfg(feature = "convert")]
    Demo(demo::Args),
    #[cfg(all(feature = "convert", any(feature = "cuda", feature = "embedded")))]
    Bench(bench::Args),
}

/// What a command that ran has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Done, or yes.
    Yes,
    /// The check that was asked for did not hold.
    No,
    /// Part of the work failed; the reasons are on stderr already.
    Failed,
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        Ok(Answer::Failed) => ExitCode::from(2),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::error(&error);
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<Answer> {
    match command {
        #[cfg(feature = "convert")]
        Command::Export(args) => export::run(&args),
        Command::Run(args) => run::run(&args),
        #[cfg(feature = "train")]
        Command::Train(args) => train::labelled::run(&args),
        #[cfg(feature = "train")]
        Command::Pretrain(args) => train::unlabelled::run(&args),
        #[cfg(feature = "train")]
        Command::Eval(args) => eval::run(&args),
        #[cfg(feature = "train")]
        Command::Calibrate(args) => temperature::run(&args),
        #[cfg(feature = "convert")]
        Command::Verify(args) => verify::run(&args),
        #[cfg(feature = "convert")]
        Command::Inspect(args) => inspect::run(&args),
        #[cfg(feature = "convert")]
        Command::Targets(args) => targets::run(&args),
        #[cfg(feature = "embedded")]
        Command::Bundle(args) => bundle::run(&args),
        #[cfg(feature = "convert")]
        Command::Demo(args) => demo::run(&args),
        #[cfg(all(feature = "convert", any(feature = "cuda", feature = "embedded")))]
        Command::Bench(args) => bench::run(&args),
    }
}

/// The reader of our output went away, as `head` does: no error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}
