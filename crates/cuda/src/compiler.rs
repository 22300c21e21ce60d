//! NVIDIA's run-time compiler, on the source of our kernels.

use std::ffi::{CStr, CString};

use anyhow::{Context, Result, bail};
use cudarc::nvrtc::{result, sys};
use ssamba_scan::cuda::{Image, OPTIONS};

use crate::MissingLibrary;

/// Kernels compiled for an architecture such as `sm_90`.
///
/// # Errors
/// Names the compiler's library when it is missing, or says what the compiler says.
pub(crate) fn compile(image: &Image, architecture: &str) -> Result<Vec<u8>> {
    // SAFETY: opening the library runs its initialisers, which every program that uses the compiler
    // trusts.
    #[expect(unsafe_code, reason = "it is opened to see whether it is there")]
    if !unsafe { sys::is_culib_present() } {
        let needed_by = "the first use of a kind of GPU";
        return Err(MissingLibrary {
            get: "it comes with the CUDA toolkit, and with `python3 -m pip install nvidia-cuda-nvrtc`",
            ..MissingLibrary::new(LIBRARY, needed_by)
        }
        .into());
    }
    let program = Program::new(image)?;
    program
        .image(architecture)
        .with_context(|| format!("cannot compile the CUDA kernels for {architecture}"))
}

const LIBRARY: &str = if cfg!(windows) { "nvrtc64_*.dll" } else { "libnvrtc.so" };

struct Program(sys::nvrtcProgram);

impl Program {
    fn new(image: &Image) -> Result<Self> {
        let source = CString::new(image.source)?;
        let name = CString::new(format!("{}.cu", image.name))?;
        Ok(Self(result::create_program(&source, Some(&name))?))
    }

    fn image(&self, architecture: &str) -> Result<Vec<u8>> {
        let mut options = vec![format!("--gpu-architecture={architecture}")];
        options.extend(OPTIONS.map(Into::into));
        // SAFETY: the program is there until it is dropped.
        #[expect(unsafe_code, reason = "a C interface")]
        if let Err(error) = unsafe { result::compile_program(self.0, &options) } {
            bail!("{}", self.log().unwrap_or_else(|| error.to_string()));
        }
        let mut len = 0;
        // SAFETY: as above, and `len` is what the compiler asks for.
        #[expect(unsafe_code, reason = "a C interface")]
        let image = unsafe {
            sys::nvrtcGetCUBINSize(self.0, &mut len).result()?;
            let mut image = vec![0_u8; len];
            sys::nvrtcGetCUBIN(self.0, image.as_mut_ptr().cast()).result()?;
            image
        };
        Ok(image)
    }

    /// What the compiler has to say, on one line.
    fn log(&self) -> Option<String> {
        // SAFETY: the program is there until it is dropped, and a log ends with a NUL.
        #[expect(unsafe_code, reason = "a C interface")]
        let log = unsafe {
            let log = result::get_program_log(self.0).ok()?;
            CStr::from_ptr(log.as_ptr()).to_string_lossy().into_owned()
        };
        let words: Vec<&str> = log.split_whitespace().collect();
        (!words.is_empty()).then(|| words.join(" "))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it was created, and is destroyed once.
        #[expect(unsafe_code, reason = "a C interface")]
        let _ = unsafe { result::destroy_program(self.0) };
    }
}
