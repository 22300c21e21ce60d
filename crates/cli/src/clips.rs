//! Labelled clips: folders by label, or a table.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use crate::audio;

/// One recording and what is said in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clip {
    pub label: String,
    pub path: PathBuf,
    /// What the table says, if it says it.
    pub split: Option<String>,
}

impl Clip {
    /// Its labels: several stand with `;` between.
    #[cfg(feature = "train")]
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.label.split(';').map(str::trim).filter(|label| !label.is_empty())
    }
}

/// Clips of a folder that holds one folder a label, sorted.
pub fn of_folder(root: &Path) -> Result<Vec<Clip>> {
    let at = || root.display().to_string();
    let mut folders = Vec::new();
    for entry in fs::read_dir(root).with_context(at)? {
        let path = entry.with_context(at)?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    let mut clips = Vec::new();
    for folder in folders {
        let label = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files = audio::collect(&[folder])?;
        clips.extend(files.into_iter().map(|path| Clip {
            label: label.clone(),
            path,
            split: None,
        }));
    }
    ensure!(!clips.is_empty(), "{}: expected a folder of clips for each label", root.display());
    Ok(clips)
}

/// Column of labels where no other is asked for.
pub const LABEL: &str = "label";

/// Clips that a CSV table with the columns `path` (from `root`), `split` and one of labels lists, in
/// its order; all splits, or one.
pub fn of_manifest(
    table: &Path,
    root: &Path,
    label_column: &str,
    split: Option<&str>,
) -> Result<Vec<Clip>> {
    let at = || table.display().to_string();
    let text = fs::read_to_string(table).with_context(at)?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |name: &str| {
        header.iter().position(|column| *column == name).with_context(|| {
            format!("{}: no column `{name}`, it has {}", table.display(), header.join(", "))
        })
    };
    let (path, label) = (column("path")?, column(label_column)?);
    let split_column = match split {
        Some(_) => Some(column("split")?),
        None => column("split").ok(),
    };
    let mut clips = Vec::new();
    for (index, line) in lines.enumerate() {
        let cells: Vec<&str> = line.split(',').collect();
        if cells.len() != header.len() || line.contains('"') {
            bail!(
                "{}: line {} is `{line}`, expected {} cells without quotes",
                table.display(),
                index + 2,
                header.len()
            );
        }
        clips.push(Clip {
            label: cells[label].into(),
            path: root.join(cells[path]),
            split: split_column.map(|column| cells[column].to_owned()),
        });
    }
    ensure!(!clips.is_empty(), "{}: no clips", table.display());
    let Some(split) = split else { return Ok(clips) };
    let names = splits(&clips).into_iter().map(str::to_owned).collect::<Vec<_>>();
    clips.retain(|clip| clip.split.as_deref() == Some(split));
    ensure!(
        !clips.is_empty(),
        "{}: no clips of the split `{split}`, it has {}",
        table.display(),
        names.join(", ")
    );
    Ok(clips)
}

/// Names of the splits of clips, sorted.
pub fn splits(clips: &[Clip]) -> BTreeSet<&str> {
    clips.iter().filter_map(|clip| clip.split.as_deref()).collect()
}

/// How a table is read, on the command line.
#[cfg(feature = "train")]
#[derive(clap::Args, Clone, Debug, Default)]
pub struct TableArgs {
    /// Folder from which the paths of the table go [default: the table's, or the one above].
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Column of the table that holds the labels [default: label].
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,
}

/// Clips of a table, whose paths go from the root, from the table's folder or from the folder above
/// it; or of a folder that holds one folder a label.
#[cfg(feature = "train")]
pub fn of_either(data: &Path, args: &TableArgs, split: Option<&str>) -> Result<Vec<Clip>> {
    if data.is_dir() {
        ensure!(split.is_none(), "{}: a folder has no splits, a table may", data.display());
        ensure!(
            args.label_column.is_none(),
            "{}: a folder has no columns, --label-column goes with a table",
            data.display()
        );
        return of_folder(data);
    }
    let read =
        |root: &Path| of_manifest(data, root, args.label_column.as_deref().unwrap_or(LABEL), split);
    if let Some(root) = &args.root {
        return read(root);
    }
    let beside = data.parent().unwrap_or(Path::new(""));
    let clips = read(beside)?;
    match beside.parent() {
        Some(above) if !clips[0].path.exists() => {
            let others = read(above)?;
            Ok(if others[0].path.exists() { others } else { clips })
        }
        _ => Ok(clips),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_gives_the_clips_of_a_split() {
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("table.csv");
        fs::write(&table, "path,label,split,x\na/1.wav,yes,testing,\na/2.wav,no,training,7\n")
            .unwrap();
        let read = |split| of_manifest(&table, Path::new("root"), LABEL, split);
        let clip = Clip {
            label: "yes".into(),
            path: "root/a/1.wav".into(),
            split: Some("testing".into()),
        };
        assert_eq!(read(Some("testing")).unwrap(), [clip]);
        assert_eq!(read(None).unwrap().len(), 2);
        let message = read(Some("test")).unwrap_err().to_string();
        assert!(
            message.contains("no clips of the split `test`, it has testing, training"),
            "{message}"
        );
        let by_x = of_manifest(&table, Path::new("root"), "x", None).unwrap();
        assert_eq!(by_x[1].label, "7");
        let message =
            of_manifest(&table, Path::new("root"), "speaker", None).unwrap_err().to_string();
        assert!(message.contains("no column `speaker`, it has path, label, split, x"), "{message}");
        fs::write(&table, "path,label\n\"a,b\",yes\n").unwrap();
        let message = read(None).unwrap_err().to_string();
        assert!(message.contains("line 2 is `\"a,b\",yes`"), "{message}");
        let message = read(Some("testing")).unwrap_err().to_string();
        assert!(message.contains("no column `split`"), "{message}");
    }
}
