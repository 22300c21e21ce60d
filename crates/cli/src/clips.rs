//! Labelled clips: folders by label, or a table.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::audio;

/// One recording and what is said in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clip {
    pub label: String,
    pub path: PathBuf,
    /// What the table says, if it says it.
    pub split: Option<String>,
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

/// Clips that a CSV table with the columns `path` (from `root`), `label` and `split` lists, in its
/// order; all splits, or one.
pub fn of_manifest(table: &Path, root: &Path, split: Option<&str>) -> Result<Vec<Clip>> {
    let at = || table.display().to_string();
    let text = fs::read_to_string(table).with_context(at)?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |name: &str| {
        header.iter().position(|column| *column == name).with_context(|| {
            format!("{}: no column `{name}`, expected path, label and split", table.display())
        })
    };
    let (path, label) = (column("path")?, column("label")?);
    let split_column = column("split");
    let wanted = match split {
        Some(split) => Some((*split_column.as_ref().map_err(|error| anyhow!("{error}"))?, split)),
        None => None,
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
        if wanted.is_none_or(|(column, split)| cells[column] == split) {
            clips.push(Clip {
                label: cells[label].into(),
                path: root.join(cells[path]),
                split: split_column.as_ref().ok().map(|&column| cells[column].to_owned()),
            });
        }
    }
    ensure!(
        !clips.is_empty(),
        "{}: no clips{}",
        table.display(),
        split.map_or_else(String::new, |split| format!(" of the split `{split}`"))
    );
    Ok(clips)
}

/// Clips of a table, whose paths go from `root`, from the table's folder or from the folder above it;
/// or of a folder that holds one folder a label.
#[cfg(feature = "train")]
pub fn of_either(data: &Path, root: Option<&Path>, split: Option<&str>) -> Result<Vec<Clip>> {
    if data.is_dir() {
        ensure!(split.is_none(), "{}: a folder has no splits, a table may", data.display());
        return of_folder(data);
    }
    if let Some(root) = root {
        return of_manifest(data, root, split);
    }
    let beside = data.parent().unwrap_or(Path::new(""));
    let clips = of_manifest(data, beside, split)?;
    match beside.parent() {
        Some(above) if !clips[0].path.exists() => {
            let others = of_manifest(data, above, split)?;
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
        let read = |split| of_manifest(&table, Path::new("root"), split);
        let clip = Clip {
            label: "yes".into(),
            path: "root/a/1.wav".into(),
            split: Some("testing".into()),
        };
        assert_eq!(read(Some("testing")).unwrap(), [clip]);
        assert_eq!(read(None).unwrap().len(), 2);
        let message = read(Some("test")).unwrap_err().to_string();
        assert!(message.contains("no clips of the split `test`"), "{message}");
        fs::write(&table, "path,label\n\"a,b\",yes\n").unwrap();
        let message = read(None).unwrap_err().to_string();
        assert!(message.contains("line 2 is `\"a,b\",yes`"), "{message}");
        let message = read(Some("testing")).unwrap_err().to_string();
        assert!(message.contains("no column `split`"), "{message}");
    }
}
