//! Words for people, on stderr, and lines of data, on stdout.

#![expect(clippy::print_stderr, reason = "the one place that writes to stderr")]

use std::{
    fmt::Display,
    io::{self, Write},
};

/// Something worth knowing.
pub fn note(text: impl Display) {
    eprintln!("{text}");
}

/// Something that may surprise.
pub fn warning(text: impl Display) {
    eprintln!("warning: {text}");
}

/// The chain of causes, on one line.
pub fn error(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

/// One line of data.
pub fn say(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}
