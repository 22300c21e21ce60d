//! Finding and loading ONNX Runtime's shared library.
//!
//! In this order, the first that is there is the one:
//!
//! 1. the path that the caller names (`--ort-lib`);
//! 2. the variable `ORT_DYLIB_PATH`, unless it is empty;
//! 3. the folder of the executable: `libonnxruntime.so` or `libonnxruntime.so.*`,
//!    `libonnxruntime.dylib` or `libonnxruntime.*.dylib`, `onnxruntime.dll`;
//! 4. the `onnxruntime` package of the `python3` (else `python`) on the path.
//!
//! One that is there but does not load, or is too old, is an error, never a reason to look further.
//! A process holds one library: once it is loaded, no search is made, and naming another is an
//! error.

use std::{
    env,
    ffi::CStr,
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};
use ort::{environment::Environment, logging::LogLevel};

use crate::message;

/// The oldest ONNX Runtime that is taken is 1.24: before, it follows a null pointer when it infers
/// the shapes of a custom operator's node that omits an operand.
const OLDEST_MINOR: u32 = 24;

const VARIABLE: &str = "ORT_DYLIB_PATH";
const INSTALL: &str = "python3 -m pip install onnxruntime";

/// Prints the folder of the `onnxruntime` package, without importing it.
const PYTHON: &str = "\
import importlib.util, sys
# `-c` puts the current folder first: a library must not be taken from among somebody's recordings.
sys.path = [folder for folder in sys.path if folder]
spec = importlib.util.find_spec('onnxruntime')
for folder in (spec.submodule_search_locations if spec else None) or []:
    print(folder)
";

/// The library in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    path: PathBuf,
    origin: Origin,
    version: String,
}

impl Library {
    /// The file that was loaded.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which rule found it.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Its version, such as `1.32.0`.
    pub fn version(&self) -> &str {
        &self.version
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, origin, version } = self;
        write!(f, "ONNX Runtime {version} at `{}` ({origin})", path.display())
    }
}

/// Which rule found the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The caller named it.
    Named,
    /// `ORT_DYLIB_PATH` named it.
    Variable,
    /// It lies beside the executable.
    Executable,
    /// It belongs to an installed Python package.
    Python,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Named => "as asked for",
            Self::Variable => "named by ORT_DYLIB_PATH",
            Self::Executable => "beside the executable",
            Self::Python => "in the Python package",
        })
    }
}

/// Finds and loads the library, unless this process has loaded it before.
///
/// # Errors
/// When none is found, the one found does not load or is too old, or `named` is another than the
/// one that this process holds.
pub fn load(named: Option<&Path>) -> Result<Library> {
    runtime(named).map(|(library, _)| library)
}

/// What this process holds: `ort` loads one library, and ONNX Runtime allows one environment.
struct Process {
    library: Option<Library>,
    environment: Option<Environment>,
}

static PROCESS: Mutex<Process> = Mutex::new(Process { library: None, environment: None });

/// The library and the environment of this process.
pub(crate) fn runtime(named: Option<&Path>) -> Result<(Library, Environment)> {
    let mut process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    let library = match &process.library {
        Some(library) => {
            if let Some(named) = named.filter(|named| !same_file(named, &library.path)) {
                bail!(
                    "cannot load ONNX Runtime from `{}`: this process already uses {library}, and \
                     a process holds one",
                    named.display()
                );
            }
            library.clone()
        }
        None => {
            let (path, origin) = Search::new(named).run()?;
            let library = open(path, origin)?;
            process.library.insert(library).clone()
        }
    };
    let environment = match &process.environment {
        Some(environment) => environment.clone(),
        None => process.environment.insert(environment(&library)?).clone(),
    };
    Ok((library, environment))
}

fn same_file(left: &Path, right: &Path) -> bool {
    matches!((fs::canonicalize(left), fs::canonicalize(right)), (Ok(left), Ok(right)) if left == right)
}

/// Loads the library for `ort`, which keeps it for the life of the process.
fn open(path: PathBuf, origin: Origin) -> Result<Library> {
    let load = || -> Result<String> {
        // Before `ort` keeps it: a library that is refused can still be replaced by another.
        let version = version(&path)?;
        check_version(&version)?;
        drop(ort::init_from(&path)?);
        Ok(version)
    };
    let version = load().with_context(|| {
        format!("cannot load ONNX Runtime from `{}` ({origin})", path.display())
    })?;
    Ok(Library { path, origin, version })
}

/// Whether that version is taken.
///
/// # Errors
/// When it is too old, or not a version.
pub(crate) fn check_version(version: &str) -> Result<()> {
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    if minor.is_none_or(|minor| minor < OLDEST_MINOR) {
        bail!("it is version {version}, expected 1.{OLDEST_MINOR} or newer: {INSTALL} --upgrade");
    }
    Ok(())
}

/// What the library at `path` calls itself.
fn version(path: &Path) -> Result<String> {
    type GetApiBase = unsafe extern "system" fn() -> *const ort::sys::OrtApiBase;
    // SAFETY: opening a library runs its initialisers: the caller names ONNX Runtime, and any
    // program that uses it trusts these. `OrtGetApiBase` has this type in every version, and the
    // table and the string it leads to are static data of the library, which is open until the
    // string is copied.
    #[expect(unsafe_code, reason = "ort does not tell the version of a library")]
    unsafe {
        let library = libloading::Library::new(path)?;
        let get_api_base: libloading::Symbol<'_, GetApiBase> = library
            .get(b"OrtGetApiBase\0")
            .context("it does not export `OrtGetApiBase`, so it is not ONNX Runtime")?;
        let base = get_api_base().as_ref().context("`OrtGetApiBase` returned null")?;
        let version = (base.GetVersionString)();
        if version.is_null() {
            bail!("it does not tell its version");
        }
        Ok(CStr::from_ptr(version).to_string_lossy().into_owned())
    }
}

fn environment(library: &Library) -> Result<Environment> {
    let environment = ort::init_from(library.path())?
        .with_name("ssamba-edge")
        .with_telemetry(false)
        .build()
        .map_err(message::readable)
        .with_context(|| format!("cannot start {library}"))?;
    if env::var_os("ORT_LOG").is_none() {
        environment.set_log_level(LogLevel::Fatal);
    }
    Ok(environment)
}

/// Where to look; the parts that read the system are filled in by [`Search::new`].
struct Search<P> {
    named: Option<PathBuf>,
    variable: Option<PathBuf>,
    executable: Option<PathBuf>,
    python: P,
}

impl Search<fn() -> Vec<PathBuf>> {
    fn new(named: Option<&Path>) -> Self {
        Self {
            named: named.map(Into::into),
            variable: env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(Into::into),
            executable: env::current_exe().ok().and_then(|path| path.parent().map(Into::into)),
            python: python_packages,
        }
    }
}

impl<P: FnOnce() -> Vec<PathBuf>> Search<P> {
    fn run(self) -> Result<(PathBuf, Origin)> {
        for (path, origin) in [(self.named, Origin::Named), (self.variable, Origin::Variable)] {
            let Some(path) = path else { continue };
            if !path.is_file() {
                bail!("there is no ONNX Runtime library at `{}` ({origin})", path.display());
            }
            // `ort` looks for a relative path beside the executable first.
            return Ok((std::path::absolute(&path).unwrap_or(path), origin));
        }
        let mut looked = vec![format!("{VARIABLE} (not set)")];
        if let Some(folder) = self.executable {
            if let Some(path) = in_folder(&folder) {
                return Ok((path, Origin::Executable));
            }
            looked.push(format!("`{}`", folder.display()));
        }
        let packages = (self.python)();
        if packages.is_empty() {
            looked.push("the packages of python3 (no onnxruntime there)".into());
        }
        for package in packages {
            let folder = package.join("capi");
            if let Some(path) = in_folder(&folder) {
                return Ok((path, Origin::Python));
            }
            looked.push(format!("`{}`", folder.display()));
        }
        bail!(
            "found no ONNX Runtime library: get one with `{INSTALL}`, or name its file by --ort-lib or ORT_DYLIB_PATH; looked at \
             {}",
            looked.join(", ")
        )
    }
}

/// The library in a folder: the plain name before names with a version, and of those the last.
fn in_folder(folder: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_library))
        .filter(|path| path.is_file())
        .collect();
    found.sort_by_key(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let version: Vec<u32> = name.split('.').filter_map(|part| part.parse().ok()).collect();
        (name == PLAIN_NAME, version)
    });
    found.pop()
}

const PLAIN_NAME: &str = if cfg!(windows) {
    "onnxruntime.dll"
} else if cfg!(target_vendor = "apple") {
    "libonnxruntime.dylib"
} else {
    "libonnxruntime.so"
};

fn is_library(name: &str) -> bool {
    if name == PLAIN_NAME {
        return true;
    }
    if cfg!(target_vendor = "apple") {
        name.starts_with("libonnxruntime.") && name.ends_with(".dylib")
    } else {
        cfg!(unix) && name.starts_with("libonnxruntime.so.")
    }
}

/// Folders of the `onnxruntime` package of the first Python on the path that runs.
fn python_packages() -> Vec<PathBuf> {
    ["python3", "python"]
        .into_iter()
        .find_map(|python| {
            let output = Command::new(python)
                .args(["-c", PYTHON])
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .output()
                .ok()
                .filter(|output| output.status.success())?;
            Some(String::from_utf8_lossy(&output.stdout).lines().map(Into::into).collect())
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search() -> Search<fn() -> Vec<PathBuf>> {
        Search { named: None, variable: None, executable: None, python: Vec::new }
    }

    fn folder_with(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            fs::create_dir_all(folder.path().join(file).parent().unwrap()).unwrap();
            fs::write(folder.path().join(file), "").unwrap();
        }
        folder
    }

    #[test]
    fn the_first_place_that_has_a_library_is_the_one() {
        let capi = format!("onnxruntime/capi/{PLAIN_NAME}");
        let folder = folder_with(&["named", "variable", &format!("bin/{PLAIN_NAME}"), &capi]);
        let path = |name: &str| folder.path().join(name);
        let found = |named: bool, variable: bool, executable: bool| {
            Search {
                named: named.then(|| path("named")),
                variable: variable.then(|| path("variable")),
                executable: Some(if executable { path("bin") } else { path("onnxruntime") }),
                python: || vec![path("onnxruntime")],
            }
            .run()
            .unwrap()
        };
        assert_eq!(found(true, true, true), (path("named"), Origin::Named));
        assert_eq!(found(false, true, true), (path("variable"), Origin::Variable));
        assert_eq!(found(false, false, true), (path("bin").join(PLAIN_NAME), Origin::Executable));
        assert_eq!(found(false, false, false), (path(&capi), Origin::Python));
    }

    #[test]
    fn a_named_path_that_is_not_there_is_an_error_and_not_passed_over() {
        let folder = folder_with(&[&format!("bin/{PLAIN_NAME}")]);
        let executable = Some(folder.path().join("bin"));
        for (named, variable, origin) in [
            (Some("nowhere.so".into()), None, "as asked for"),
            (None, Some("nowhere.so".into()), "named by ORT_DYLIB_PATH"),
        ] {
            let search = Search { named, variable, executable: executable.clone(), ..search() };
            let error = search.run().unwrap_err().to_string();
            assert_eq!(
                error,
                format!("there is no ONNX Runtime library at `nowhere.so` ({origin})")
            );
        }
    }

    #[test]
    fn without_a_library_the_error_says_how_to_get_one_and_where_it_looked() {
        let folder = folder_with(&["other.so"]);
        let executable = Some(folder.path().to_owned());
        let error = Search { executable, ..search() }.run().unwrap_err().to_string();
        for part in [INSTALL, VARIABLE, &folder.path().display().to_string(), "python3"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_plain_name_comes_first_and_then_the_highest_version() {
        let versions = [
            "libonnxruntime.so.1.9.0",
            "libonnxruntime.so.1.32.0",
            "libonnxruntime_providers_shared.so",
        ];
        let folder = folder_with(&versions);
        assert_eq!(in_folder(folder.path()), Some(folder.path().join("libonnxruntime.so.1.32.0")));
        fs::write(folder.path().join(PLAIN_NAME), "").unwrap();
        assert_eq!(in_folder(folder.path()), Some(folder.path().join(PLAIN_NAME)));
        assert_eq!(in_folder(Path::new("/nowhere")), None);
    }
}
