//! The program under test, and what it is run on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// The checkpoint of the bundled keyword model; its card is `kws12.toml`.
#[allow(dead_code, reason = "not every test of the program takes it")]
pub const KWS12: &str = "kws12.safetensors";

/// A file of the bundled keyword model.
#[allow(dead_code, reason = "not every test of the program takes it")]
pub fn zoo(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "models", "zoo", "kws12", file].iter().collect()
}

/// The keyword model's card as a recipe for other weights, beside a checkpoint.
#[allow(dead_code, reason = "not every test of the program takes it")]
pub fn recipe_beside(checkpoint: &Path) {
    let card = fs::read_to_string(zoo("kws12.toml")).unwrap();
    let lines = card.lines().filter(|line| !line.starts_with("sha256 ="));
    let recipe: String = lines.map(|line| format!("{line}\n")).collect();
    fs::write(checkpoint.with_extension("toml"), recipe).unwrap();
}

/// A keyword model in the form of the official code, `official.pth`, or the recipe beside it.
#[allow(dead_code, reason = "not every test of the program takes it")]
pub fn official(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "tests", "goldens", file].iter().collect()
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
