//! Audio arguments: files, and folders of files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// Every file that is named, and every audio file in folders that are, sorted, sub-folders too.
pub fn collect(arguments: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for argument in arguments {
        if argument.is_dir() {
            let before = files.len();
            walk(argument, &mut files)?;
            ensure!(
                files.len() > before,
                "{}: no audio in this folder, expected .wav, .flac, .ogg or .mp3",
                argument.display()
            );
            files[before..].sort();
        } else {
            files.push(argument.clone());
        }
    }
    Ok(files)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let at = || folder.display().to_string();
    for entry in fs::read_dir(folder).with_context(at)? {
        let entry = entry.with_context(at)?;
        let path = entry.path();
        // Links to folders could lead round in circles.
        if entry.file_type().with_context(at)?.is_dir() {
            walk(&path, files)?;
        } else if ssamba_audio::is_audio(&path) {
            files.push(path);
        }
    }
    Ok(())
}
