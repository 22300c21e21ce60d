//! Words for people, on stderr, and lines of data, on stdout.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// Something worth knowing.
pub fn note(text: impl Display) {
    write(text);
}

/// Something that may surprise.
pub fn warning(text: impl Display) {
    write(format_args!("warning: {text}"));
}

/// The chain of causes, on one line.
pub fn error(error: &anyhow::Error) {
    // Some libraries put a backtrace behind their first line.
    let causes = error.chain().map(|cause| cause.to_string());
    let lines: Vec<String> =
        causes.map(|cause| cause.lines().next().unwrap_or_default().to_owned()).collect();
    write(format_args!("error: {}", lines.join(": ")));
}

/// A spinner while something takes its time; hidden by itself where stderr is no terminal.
#[cfg(feature = "cuda")]
pub fn waiting<T>(text: &'static str, task: impl FnOnce() -> T) -> T {
    let progress = indicatif::ProgressBar::new_spinner().with_message(text);
    progress.enable_steady_tick(std::time::Duration::from_millis(100));
    let outcome = task();
    progress.finish_and_clear();
    outcome
}

/// Nobody may be reading any more: that is no reason to stop.
fn write(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// One line of data.
pub fn say(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}
