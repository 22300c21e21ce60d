//! `ssamba-edge export --target embedded`: the folder that `ssamba-kws` opens.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, ensure};
use ssamba_kws::{Bundle, Settings};

use crate::{
    Answer,
    convert::sha256,
    export::Exported,
    spotting::{SettingsArgs, measured},
    targets::Target,
    terminal,
};

/// How `ssamba-kws` is to listen.
#[derive(clap::Args)]
#[command(next_help_heading = "For --target embedded")]
pub struct PackArgs {
    /// Take the settings and the chosen thresholds of a `detect.json` that `bench detect
    /// --false-alarms` wrote.
    #[arg(long, value_name = "FILE")]
    detect: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingsArgs,
}

impl PackArgs {
    /// # Errors
    /// Names an option that an ONNX file has no place for.
    pub fn check(&self, target: Option<Target>) -> Result<()> {
        ensure!(
            target == Some(Target::Embedded) || (self.settings.is_empty() && self.detect.is_none()),
            "an ONNX file does not say how to listen:{} take --target embedded",
            match &self.detect {
                Some(_) => " --detect".to_owned() + &self.settings.words(),
                None => self.settings.words(),
            }
        );
        Ok(())
    }
}

/// Writes the folder; `export` writes the ONNX file that goes into it.
pub fn run(
    args: &PackArgs,
    checkpoint: &Path,
    folder: &Path,
    export: impl FnOnce(&Path) -> Result<Exported>,
) -> Result<Answer> {
    let parent = check(folder)?;
    let at = || format!("cannot write {}", folder.display());
    // Beside the folder, so that it can be moved there whole.
    let mut builder = tempfile::Builder::new();
    builder.prefix(".ssamba-edge-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    let work = builder.tempdir_in(parent).with_context(at)?;
    let file = work.path().join("model.onnx");
    let source = export(&file)?.source;
    let settings = match &args.detect {
        Some(path) => measured(path, &source.sha256)?,
        None => Settings::default(),
    };
    let settings = args.settings.over(settings)?;
    // Where the file lies for now is not worth a word.
    let bundle = Bundle::new(&file, &settings)
        .map_err(|error| anyhow!("{}: {}", checkpoint.display(), error.root_cause()))?;
    fs::remove_file(&file).with_context(at)?;
    for (name, bytes) in bundle.files() {
        fs::write(work.path().join(name), bytes).with_context(at)?;
    }
    replace(folder, work)?;

    terminal::note(format!("wrote       {}", folder.display()));
    for (name, bytes) in bundle.files() {
        let (size, sum) = (bytes.len() as f64 / 1e6, sha256(bytes));
        terminal::note(format!("            {name:<15} {size:>6.2} MB  sha256 {sum}"));
    }
    let each: Vec<String> =
        settings.thresholds.iter().map(|(label, x)| format!(", {label} {x}")).collect();
    terminal::note(format!("thresholds  {}{}", settings.threshold, each.concat()));
    terminal::note(format!("listen with ssamba-kws {}", folder.display()));
    Ok(Answer::Yes)
}

/// The folder around the one to write: there is one, and nothing is in the way but an older bundle.
fn check(folder: &Path) -> Result<&Path> {
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
        !folder.exists() || (folder.is_dir() && Bundle::is_at(folder)?),
        "cannot write {}: something else is there, name another folder",
        folder.display()
    );
    Ok(parent)
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
