//! The files of a bundle, in a folder or a tar file. The same files always give the same bytes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Component, Path},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    convert::{sha256, write_whole},
    folder,
};

/// Sums of all other files, as `sha256sum --check` reads them.
pub const SUMS: &str = "SHA256SUMS";

/// Bytes of one file that a bundle may hold: protobuf's limit, which a model has.
const LARGEST: u64 = 1 << 31;

/// Contents by name; folders in a name are separated by `/`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    /// # Errors
    /// When there is a file of that name already.
    pub fn add(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Result<()> {
        let name = name.into();
        ensure!(
            self.0.insert(name.clone(), bytes.into()).is_none(),
            "two files of a bundle are called `{name}`"
        );
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// Sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// Adds the sums of what is there.
    pub fn seal(&mut self) {
        self.0.insert(SUMS.into(), self.sums().into_bytes());
    }

    /// Names of files that are not as they were sealed, with what is wrong; none where all are.
    ///
    /// # Errors
    /// When there are no sums, or none that can be read.
    pub fn changes(&self) -> Result<Vec<String>> {
        let sums = self.get(SUMS).with_context(|| format!("there is no {SUMS} in it"))?;
        let sums = str::from_utf8(sums).with_context(|| SUMS.to_owned())?;
        let mut told = BTreeMap::new();
        for line in sums.lines() {
            let (sum, name) =
                line.split_once("  ").with_context(|| format!("{SUMS}: no sum in `{line}`"))?;
            told.insert(name, sum);
        }
        let mut changes = Vec::new();
        for (name, sum) in &told {
            match self.get(name) {
                None => changes.push(format!("{name} is missing")),
                Some(bytes) if sha256(bytes) != *sum => changes.push(format!("{name} was changed")),
                Some(_) => {}
            }
        }
        let added = self.0.keys().filter(|name| *name != SUMS && !told.contains_key(name.as_str()));
        changes.extend(added.map(|name| format!("{name} was added")));
        Ok(changes)
    }

    fn sums(&self) -> String {
        self.iter()
            .filter(|(name, _)| *name != SUMS)
            .map(|(name, bytes)| format!("{}  {name}\n", sha256(bytes)))
            .collect()
    }

    /// Writes them below a folder that is there.
    pub fn unpack(&self, folder: &Path) -> Result<()> {
        for (name, bytes) in self.iter() {
            let path = folder.join(name);
            let at = || format!("cannot write {}", path.display());
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).with_context(at)?;
            }
            fs::write(&path, bytes).with_context(at)?;
        }
        Ok(())
    }

    fn tar(&self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, bytes) in self.iter() {
            // No time, no owner: nothing but the files.
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, bytes)?;
        }
        Ok(archive.into_inner()?)
    }
}

/// Writes a folder, or a file where the name says so, whole or not at all.
pub fn write(output: &Path, files: &Files) -> Result<()> {
    if output.extension().is_some_and(|extension| extension == "tar") {
        return write_whole(output, &files.tar()?);
    }
    let is_ours = |folder: &Path| {
        let empty = || Ok::<_, std::io::Error>(fs::read_dir(folder)?.next().is_none());
        Ok(folder.join(SUMS).is_file() || empty().with_context(|| folder.display().to_string())?)
    };
    folder::write_whole(output, is_ours, |work| files.unpack(work))
}

/// Reads a folder, or a tar file.
pub fn read(bundle: &Path) -> Result<Files> {
    let mut files = Files::default();
    let read = if bundle.is_dir() {
        read_folder(bundle, "", &mut files)
    } else {
        File::open(bundle).map_err(Into::into).and_then(|file| read_tar(file, &mut files))
    };
    read.with_context(|| bundle.display().to_string())?;
    Ok(files)
}

fn read_folder(folder: &Path, prefix: &str, files: &mut Files) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        // Links could lead anywhere.
        let kind = entry.file_type()?;
        if kind.is_dir() {
            read_folder(&entry.path(), &format!("{name}/"), files)?;
        } else {
            ensure!(kind.is_file(), "`{name}` is neither a file nor a folder");
            let size = entry.metadata()?.len();
            ensure!(size <= LARGEST, "`{name}` has {size} bytes, no file of a bundle has so many");
            files.add(name, fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

fn read_tar(file: File, files: &mut Files) -> Result<()> {
    let mut archive = tar::Archive::new(file);
    let entries = archive.entries()?;
    for entry in entries {
        let mut entry = entry.context("not a tar file, or a damaged one")?;
        let path = entry.path()?.into_owned();
        let shown = path.display();
        if entry.header().entry_type().is_dir() {
            continue;
        }
        if !entry.header().entry_type().is_file() {
            bail!("`{shown}` is neither a file nor a folder");
        }
        ensure!(
            path.components().all(|part| matches!(part, Component::Normal(_))),
            "`{shown}` leads out of the bundle"
        );
        let size = entry.size();
        ensure!(size <= LARGEST, "`{shown}` has {size} bytes, no file of a bundle has so many");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).with_context(|| format!("`{shown}` is cut short"))?;
        files.add(path.to_string_lossy(), bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> Files {
        let mut files = Files::default();
        files.add("b/c", *b"2").unwrap();
        files.add("a", *b"1").unwrap();
        files.seal();
        files
    }

    #[test]
    fn a_folder_and_a_tar_file_read_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let files = sealed();
        for name in ["bundle", "bundle.tar"] {
            let path = folder.path().join(name);
            write(&path, &files).unwrap();
            assert_eq!(read(&path).unwrap(), files);
            assert_eq!(read(&path).unwrap().changes().unwrap(), [""; 0]);
            // Again over the old one.
            write(&path, &files).unwrap();
        }
        assert_eq!(files.tar().unwrap(), sealed().tar().unwrap());
    }

    #[test]
    fn what_changed_is_named() {
        let mut files = sealed();
        files.0.insert("a".into(), b"3".to_vec());
        files.0.remove("b/c");
        files.add("d", *b"4").unwrap();
        let changes = files.changes().unwrap();
        assert_eq!(changes, ["a was changed", "b/c is missing", "d was added"]);
        files.0.remove(SUMS);
        assert!(files.changes().is_err());
    }

    #[test]
    fn a_file_outside_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.tar");
        let mut header = tar::Header::new_ustar();
        header.set_size(1);
        header.set_mode(0o644);
        // The crate refuses to write such a name itself.
        header.as_mut_bytes()[..5].copy_from_slice(b"../up");
        header.set_cksum();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append(&header, &b"x"[..]).unwrap();
        fs::write(&path, archive.into_inner().unwrap()).unwrap();
        let message = format!("{:#}", read(&path).unwrap_err());
        assert!(message.contains("leads out of the bundle"), "{message}");
        fs::write(&path, [7; 700]).unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("tar file"));
    }
}
