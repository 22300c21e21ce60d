//! Where engines are kept: in a folder for each file, GPU and set of versions.
//!
//! ONNX Runtime names an engine for the graph's structure, its own version and the kind of GPU. What
//! else an engine depends on, the weights first of all, is in the name of the folder.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use ssamba_cuda::{MissingLibrary, driver, store};
use ssamba_scan::cuda::INFERENCE;

use super::TensorRt;
use crate::{Library, cuda};

/// The file of ONNX Runtime's provider, beside its library.
pub(super) const PROVIDER: &str = if cfg!(windows) {
    "onnxruntime_providers_tensorrt.dll"
} else {
    "libonnxruntime_providers_tensorrt.so"
};

/// The engines of one file on one kind of GPU: a folder that ONNX Runtime reads and writes.
///
/// Its name changes with the file's content, the GPU, its compute capability, its driver, ONNX
/// Runtime, TensorRT, our kernels' source, and with what TensorRT is asked for: what was built for
/// other ones is never read. Nothing removes old folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engines {
    folder: PathBuf,
    timings: PathBuf,
}

impl Engines {
    pub(super) fn new(
        caches: &Path,
        asked: &TensorRt,
        model: &Path,
        library: &Library,
        tensorrt: Option<i32>,
    ) -> Result<Self> {
        let device = cuda::open(asked.cuda.device)?;
        let (gpu, driver, kernels) = (device.name()?, driver()?, store::source(&INFERENCE));
        let tensorrt = tensorrt.map_or_else(|| "unknown".into(), |version| version.to_string());
        let batches = asked.batches.map_or_else(String::new, |batches| format!("{batches:?}"));
        let key = Key {
            model: &sha256(model)?,
            gpu: &gpu,
            compute_capability: device.architecture(),
            driver: &driver,
            onnx_runtime: library.version(),
            tensorrt: &tensorrt,
            kernels: &kernels,
            precision: if asked.fp16 { "fp16" } else { "fp32" },
            batches: &batches,
        };
        Ok(Self {
            folder: caches.join(format!("engines-{}", key.engines())),
            timings: caches.join(format!("timings-{}", key.timings())),
        })
    }

    #[cfg(test)]
    pub(super) fn at(folder: &str, timings: &str) -> Self {
        Self { folder: folder.into(), timings: timings.into() }
    }

    /// The folder; it is there once an engine was built.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of how long TensorRT's ways to compute a layer took on this GPU, which the engines
    /// of all files share.
    pub fn timings(&self) -> &Path {
        &self.timings
    }

    /// How many engines are there.
    pub fn count(&self) -> usize {
        let Ok(files) = fs::read_dir(&self.folder) else { return 0 };
        files
            .filter_map(Result::ok)
            .filter(|file| file.path().extension().is_some_and(|extension| extension == "engine"))
            .count()
    }
}

/// All that an engine depends on.
#[derive(Clone, Copy, Debug)]
struct Key<'a> {
    /// SHA-256 of the file.
    model: &'a str,
    gpu: &'a str,
    compute_capability: &'a str,
    driver: &'a str,
    onnx_runtime: &'a str,
    /// As TensorRT counts its versions.
    tensorrt: &'a str,
    /// Digest of our kernels' source: where the graph is cut depends on what they run.
    kernels: &'a str,
    precision: &'a str,
    batches: &'a str,
}

impl Key<'_> {
    fn engines(&self) -> String {
        let Self { model, kernels, precision, batches, .. } = self;
        store::digest([&*self.timings(), model, kernels, precision, batches])
    }

    /// Of what times depend on.
    fn timings(&self) -> String {
        let Self { gpu, compute_capability, driver, onnx_runtime, tensorrt, .. } = self;
        store::digest([*gpu, compute_capability, driver, onnx_runtime, tensorrt])
    }
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut digest = Sha256::new();
    loop {
        let chunk = file.fill_buf()?;
        if chunk.is_empty() {
            break;
        }
        digest.update(chunk);
        let read = chunk.len();
        file.consume(read);
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The version of the TensorRT that ONNX Runtime's provider will load, such as 101303 for 10.13.3;
/// `None` when it does not tell.
///
/// The provider names the library that it needs in its own file, and that library tells its version
/// (`getInferLibVersion`). Both are looked at before ONNX Runtime is asked, so that a library that is
/// not there is named whatever ONNX Runtime would say.
///
/// # Errors
/// A [`MissingLibrary`], or what the loader says.
pub(super) fn tensorrt(onnx_runtime: &Path) -> Result<Option<i32>> {
    let provider = onnx_runtime.with_file_name(PROVIDER);
    let needed_by = format!("`{}`", provider.display());
    let bytes = match fs::read(&provider) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(
                MissingLibrary::new(needed_by.trim_matches('`'), "provider `tensorrt`").into()
            );
        }
        bytes => bytes.with_context(|| provider.display().to_string())?,
    };
    match library_needed(&bytes) {
        Some(library) => version(&library, &needed_by),
        // ONNX Runtime will say what it lacks.
        None => Ok(None),
    }
}

/// The name of TensorRT's library in the file of one that needs it, such as `libnvinfer.so.10`.
fn library_needed(file: &[u8]) -> Option<String> {
    let (start, end) = if cfg!(windows) { ("nvinfer_", ".dll") } else { ("libnvinfer.so.", "") };
    let place = file.windows(start.len()).position(|window| window == start.as_bytes())?;
    let digits: String = file[place + start.len()..]
        .iter()
        .map(|&byte| char::from(byte))
        .take_while(char::is_ascii_digit)
        .collect();
    (!digits.is_empty()).then(|| format!("{start}{digits}{end}"))
}

/// What TensorRT's library calls its version.
fn version(library: &str, needed_by: &str) -> Result<Option<i32>> {
    type GetInferLibVersion = unsafe extern "C" fn() -> i32;
    // SAFETY: opening a library runs its initialisers: ONNX Runtime is about to open this one.
    #[expect(unsafe_code, reason = "a library is opened")]
    let library = match unsafe { libloading::Library::new(library) } {
        Ok(library) => library,
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            let message = source.unwrap_or_else(|| error.to_string());
            return match MissingLibrary::from_loader(&message, needed_by) {
                Some(missing) => Err(missing.into()),
                // Where the loader has other words, ONNX Runtime loads it or says them.
                None if cfg!(not(target_os = "linux")) => Ok(None),
                None => bail!("{needed_by} needs `{library}`, which does not load: {message}"),
            };
        }
    };
    // SAFETY: the function has this type in every version that exports it, takes nothing, and is
    // called while its library is open.
    #[expect(unsafe_code, reason = "a C interface")]
    unsafe {
        let version = library.get::<GetInferLibVersion>(b"getInferLibVersion\0");
        Ok(version.ok().map(|version| version()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const KEY: Key<'static> = Key {
        model: "m",
        gpu: "NVIDIA H200",
        compute_capability: "sm_90",
        driver: "13000 580.1",
        onnx_runtime: "1.31.1",
        tensorrt: "101303",
        kernels: "k",
        precision: "fp32",
        batches: "",
    };

    #[test]
    fn the_folder_of_engines_changes_with_each_ingredient() {
        let others = [
            Key { model: "n", ..KEY },
            Key { gpu: "NVIDIA H100", ..KEY },
            Key { compute_capability: "sm_80", ..KEY },
            Key { driver: "13000 580.2", ..KEY },
            Key { onnx_runtime: "1.32.0", ..KEY },
            Key { tensorrt: "unknown", ..KEY },
            Key { kernels: "l", ..KEY },
            Key { precision: "fp16", ..KEY },
            Key { batches: "8", ..KEY },
            // The same letters at another border.
            Key { kernels: "kf", precision: "p32", ..KEY },
            KEY,
        ];
        let digests: BTreeSet<_> = others.iter().map(Key::engines).collect();
        assert_eq!(digests.len(), others.len());
        assert_eq!(KEY.engines(), KEY.engines());
        let timings: BTreeSet<_> = others.iter().map(Key::timings).collect();
        assert_eq!(timings.len(), 6, "GPU, capability, driver, two versions, and these");
    }

    #[test]
    fn engines_are_counted_by_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("engines");
        let engines = Engines { folder: folder.clone(), timings: folder.clone() };
        assert_eq!(engines.count(), 0);
        fs::create_dir(&folder).unwrap();
        for name in ["a_sm90.engine", "a_sm90.profile", "b_sm90.engine", "x.timing"] {
            fs::write(folder.join(name), "").unwrap();
        }
        assert_eq!(engines.count(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn the_library_that_a_provider_needs_is_in_its_file() {
        let file =
            b"\0libm.so.6\0libnvinfer_plugin.so.9\0libnvinfer.so.10\0libnvonnxparser.so.10\0";
        assert_eq!(library_needed(file).as_deref(), Some("libnvinfer.so.10"));
        for file in [&b""[..], b"libnvinfer.so", b"libnvinfer.so.\0", b"libnvinfer_plugin.so.9\0"] {
            assert_eq!(library_needed(file), None);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn without_tensorrt_its_library_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let onnx_runtime = folder.path().join("libonnxruntime.so.1.31.1");
        let missing = || {
            let error = tensorrt(&onnx_runtime).unwrap_err();
            error.downcast_ref::<MissingLibrary>().cloned().unwrap()
        };
        let provider = folder.path().join(PROVIDER).display().to_string();
        assert_eq!(missing(), MissingLibrary::new(&provider, "provider `tensorrt`"));
        // A version that there will not be.
        fs::write(folder.path().join(PROVIDER), b"\0libnvinfer.so.9999\0").unwrap();
        let expected = MissingLibrary::new("libnvinfer.so.9999", format!("`{provider}`"));
        assert_eq!(missing(), expected);
        assert!(missing().to_string().contains("NVIDIA TensorRT"));
        // One that names no library of TensorRT's: ONNX Runtime is asked.
        fs::write(folder.path().join(PROVIDER), b"\x7fELF").unwrap();
        assert_eq!(tensorrt(&onnx_runtime).unwrap(), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_library_that_does_not_tell_its_version_is_taken() {
        assert_eq!(version("libc.so.6", "`p`").unwrap(), None);
        let folder = tempfile::tempdir().unwrap();
        let broken = folder.path().join("libnvinfer.so.10");
        fs::write(&broken, "no library").unwrap();
        let error = version(broken.to_str().unwrap(), "`p`").unwrap_err();
        assert!(error.to_string().contains("does not load"), "{error}");
    }
}
