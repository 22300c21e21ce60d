//! `ssamba-edge export --target embedded`: the folder that `ssamba-kws` opens.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, ensure};
use ssamba_kws::{Bundle, Settings};

use crate::{
    Answer, convert::sha256, export::Exported, folder, spotting::SettingsArgs, targets::Target,
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
    let write = |work: &Path| {
        let file = work.join("model.onnx");
        let source = export(&file)?.source;
        let settings = args.settings.with_measured(args.detect.as_deref(), &source.sha256)?;
        let bundle = pack(&file, checkpoint, &settings)?;
        let at = || format!("cannot write {}", folder.display());
        fs::remove_file(&file).with_context(at)?;
        for (name, bytes) in bundle.files() {
            fs::write(work.join(name), bytes).with_context(at)?;
        }
        Ok((bundle, settings))
    };
    let (bundle, settings) = folder::write_whole(folder, |there| Bundle::is_at(there), write)?;

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

/// The files for `ssamba-kws` of an exported file.
pub fn pack(file: &Path, checkpoint: &Path, settings: &Settings) -> Result<Bundle> {
    // Where the file lies for now is not worth a word.
    Bundle::new(file, settings)
        .map_err(|error| anyhow!("{}: {}", checkpoint.display(), error.root_cause()))
}
