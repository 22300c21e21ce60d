//! Compiled kernels, kept between processes: `ssamba-edge` in the user's cache folder.
//!
//! A file is named for what it was compiled from and for. It starts with the SHA-256 of the image
//! after it: the driver follows whatever is in an image. One that is spoiled, or that this driver
//! does not take, is compiled anew; where nothing can be kept, every process compiles.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process,
};

use anyhow::Result;
use sha2::{Digest, Sha256};
use ssamba_scan::cuda::{Image, OPTIONS};

const DIGEST: usize = 32;

/// What `load` makes of the image that is kept in `folder`, or else of the one that `compile` makes,
/// which is then kept.
pub(crate) fn module<M>(
    folder: Option<&Path>,
    image: &Image,
    architecture: &str,
    load: impl Fn(&[u8]) -> Result<M>,
    compile: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<M> {
    let path = folder.map(|folder| folder.join(name(image, architecture)));
    let kept = path.as_deref().and_then(read).and_then(|image| load(&image).ok());
    if let Some(module) = kept {
        return Ok(module);
    }
    let compiled = compile()?;
    let module = load(&compiled)?;
    if let Some(path) = path {
        // Without it the next process compiles.
        let _ = write(&path, &compiled);
    }
    Ok(module)
}

/// Where compiled kernels are kept, unless the system names no such place.
pub fn folder() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = if cfg!(windows) {
        absolute("LOCALAPPDATA")
    } else {
        absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))
    };
    Some(caches?.join("ssamba-edge"))
}

fn name(image: &Image, architecture: &str) -> String {
    format!("{}-{architecture}-{}.cubin", image.name, source(image))
}

/// What kernels are compiled from, as a digest.
pub fn source(image: &Image) -> String {
    digest([image.source].iter().chain(&OPTIONS).copied())
}

/// Parts of a key, as 32 hexadecimal digits.
pub fn digest<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
        digest.update([0]);
    }
    digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut image = fs::read(path).ok()?;
    let digest: Vec<u8> = image.drain(..DIGEST.min(image.len())).collect();
    (digest == Sha256::digest(&image).as_slice()).then_some(image)
}

/// Writes a file under another name first, so that no process reads a part of it.
fn write(path: &Path, image: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let partial = path.with_extension(process::id().to_string());
    let written = fs::File::create(&partial).and_then(|mut file| {
        file.write_all(&Sha256::digest(image))?;
        file.write_all(image)
    });
    written.and_then(|()| fs::rename(&partial, path)).inspect_err(|_| {
        let _ = fs::remove_file(&partial);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use ssamba_scan::cuda::{INFERENCE, TRAINING};

    const IMAGE: &[u8] = b"\x7fELF an image";

    /// Loads through the store, and tells whether it compiled.
    fn compiles(folder: Option<&Path>) -> bool {
        let mut compiled = false;
        let load = |image: &[u8]| Ok(image.to_vec());
        let module = module(folder, &INFERENCE, "sm_90", load, || {
            compiled = true;
            Ok(IMAGE.to_vec())
        });
        assert_eq!(module.unwrap(), IMAGE);
        compiled
    }

    #[test]
    fn an_image_is_compiled_once() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        assert!(compiles(Some(&folder)));
        assert!(!compiles(Some(&folder)));
        let files: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, [name(&INFERENCE, "sm_90").as_str()]);
    }

    #[test]
    fn a_spoiled_file_is_compiled_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name(&INFERENCE, "sm_90"));
        assert!(compiles(Some(folder.path())));
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for spoiled in [&[][..], &whole[..10], &whole[..whole.len() - 1], &flipped] {
            fs::write(&path, spoiled).unwrap();
            assert!(compiles(Some(folder.path())));
            assert!(!compiles(Some(folder.path())));
        }
    }

    #[test]
    fn an_image_that_does_not_load_is_compiled_anew() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join(name(&INFERENCE, "sm_90")), b"of a newer compiler").unwrap();
        let load = |image: &[u8]| match image == IMAGE {
            true => Ok(()),
            false => bail!("refused"),
        };
        module(Some(folder.path()), &INFERENCE, "sm_90", load, || Ok(IMAGE.to_vec())).unwrap();
        assert!(!compiles(Some(folder.path())));
    }

    #[test]
    fn without_a_folder_every_process_compiles() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for folder in [None, Some(file.as_path())] {
            assert!(compiles(folder));
            assert!(compiles(folder));
        }
    }

    #[test]
    fn each_architecture_and_image_has_a_file_of_its_own() {
        assert_ne!(name(&INFERENCE, "sm_80"), name(&INFERENCE, "sm_90"));
        assert_ne!(name(&TRAINING, "sm_90"), name(&INFERENCE, "sm_90"));
        assert!(name(&INFERENCE, "sm_90").starts_with("inference-sm_90-"));
    }
}
