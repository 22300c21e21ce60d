//! `ssamba-edge demo`: the whole way on a keyword model and clips that ship with the program.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    Answer,
    convert::{CandleSession, RecipeArgs},
    export::{Exported, export},
    listen::{Reader, hear, top},
    provider::RuntimeArgs,
    terminal,
    verify::{ATOL, compare, inputs, open, print},
};

/// Export the bundled keyword model, verify it, and say what it hears in the bundled clips.
#[derive(clap::Args)]
pub struct Args {
    /// Folder to keep the checkpoint, the exported file and the clips in [default: a temporary one].
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

macro_rules! bundled {
    ($($file:literal),* $(,)?) => {
        [$(($file, include_bytes!(concat!("../../../models/zoo/kws12/", $file)).as_slice())),*]
    };
}

/// The keyword model, its card, and clips of its testing split; `models/zoo/kws12/README.md` has sources and
/// licences.
const BUNDLED: [(&str, &[u8]); 5] =
    bundled!["kws12.safetensors", "kws12.toml", "yes.wav", "stop.wav", "left.wav"];

pub fn run(args: &Args) -> Result<Answer> {
    match &args.output {
        Some(folder) => {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            let answer = show(folder, &args.runtime)?;
            terminal::note(format!("\nfiles are in {}", folder.display()));
            Ok(answer)
        }
        None => show(tempfile::tempdir()?.path(), &args.runtime),
    }
}

fn show(folder: &Path, runtime: &RuntimeArgs) -> Result<Answer> {
    for (name, bytes) in BUNDLED {
        let path = folder.join(name);
        fs::write(&path, bytes).with_context(|| path.display().to_string())?;
    }
    let (checkpoint, file) = (folder.join(BUNDLED[0].0), folder.join("kws12.onnx"));
    let clips: Vec<PathBuf> = BUNDLED[2..].iter().map(|(name, _)| folder.join(name)).collect();

    let recipe = RecipeArgs::default();
    let Exported { source, bytes, .. } =
        export(&checkpoint, &file, &recipe, None, |_| Default::default(), true, None)?;
    terminal::note(format!(
        "exported {}, {} parameters, to kws12.onnx, {:.2} MB",
        BUNDLED[0].0,
        source.network.parameters(),
        bytes.len() as f64 / 1e6
    ));

    let (mut sessions, missing) = open(&file, &[], runtime)?;
    let card = source.card("kws12")?;
    let inputs = inputs(&card, &clips)?;
    terminal::note("\nverified on the clips:");
    let agreements = compare(CandleSession::new(source.network, card), &mut sessions, &inputs)?;
    print(&agreements, ATOL)?;
    for reason in missing {
        terminal::note(format!("not compared: {reason}"));
    }

    for mut session in sessions {
        terminal::note(format!("\nheard by {}:", session.provider()));
        let mut reader = Reader::new(session.card())?;
        for clip in &clips {
            let name = clip.file_name().unwrap_or_default().to_string_lossy();
            let clip = reader.read(clip)?;
            // Verifying has planned the shape already.
            let heard = hear(session.as_mut(), &[&clip])?.remove(0);
            for score in top(session.card(), &heard.outputs, 1) {
                terminal::say(format!(
                    "{name:<9} {:.1} s  \"{}\" {:.3}  in {:.1} ms",
                    clip.seconds, score.label, score.score, heard.milliseconds
                ))?;
            }
        }
    }
    let holds = agreements.iter().all(|agreement| agreement.holds(ATOL));
    Ok(if holds { Answer::Yes } else { Answer::No })
}
