//! The program under test, and what it is run on.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A file of the bundled keyword model.
#[allow(dead_code, reason = "not every test of the program takes it")]
pub fn zoo(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "models", "zoo", "kws12", file].iter().collect()
}

/// Runs the program in `folder`.
pub fn ssamba_edge(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ssamba-edge"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
