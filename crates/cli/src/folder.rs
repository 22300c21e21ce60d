//! Folders that are written whole or not at all.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

/// Writes a folder with `write`, which is given an empty one beside it. What is there already is
/// replaced if it is a folder that `is_ours`.
///
/// # Errors
/// When something else is there, when there is no folder around it, or when `write` fails.
pub fn write_whole<T>(
    folder: &Path,
    is_ours: impl FnOnce(&Path) -> Result<bool>,
    write: impl FnOnce(&Path) -> Result<T>,
) -> Result<T> {
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    ensure!(
        parent.is_dir(),
        "cannot write {}: there is no folder `{}`",
        folder.display(),
        parent.display()
    );
    ensure!(
        !folder.exists() || (folder.is_dir() && is_ours(folder)?),
        "cannot write {}: something else is there, name another folder",
        folder.display()
    );
    let mut builder = tempfile::Builder::new();
    builder.prefix(".ssamba-edge-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    let at = || format!("cannot write {}", folder.display());
    let work = builder.tempdir_in(parent).with_context(at)?;
    let written = write(work.path())?;
    replace(folder, work)?;
    Ok(written)
}

/// Puts a new folder where an old one may be.
fn replace(folder: &Path, new: tempfile::TempDir) -> Result<()> {
    let at = || format!("cannot write {}", folder.display());
    if folder.exists() {
        // The old one goes with this, whose name is free again.
        let old = tempfile::tempdir_in(new.path().parent().unwrap_or(folder)).with_context(at)?;
        fs::rename(folder, old.path().join("old")).with_context(at)?;
        if let Err(error) = fs::rename(new.path(), folder) {
            let _ = fs::rename(old.path().join("old"), folder);
            return Err(error).with_context(at);
        }
    } else {
        fs::rename(new.path(), folder).with_context(at)?;
    }
    // Nothing is left there to remove.
    let _ = new.keep();
    Ok(())
}
