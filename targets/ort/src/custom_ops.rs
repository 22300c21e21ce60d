//! Our operators in the session of a program that has an ONNX Runtime of its own: nothing is searched
//! for, nothing is loaded, the program hands its library in.

use std::{
    borrow::Cow,
    ffi::{CStr, CString},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};
use ort::{AsPointer, operator::OperatorDomain, sys};
use ssamba_contract::op::DOMAIN;

pub use ort::sys::{OrtApiBase, OrtSessionOptions, OrtStatusPtr};

use crate::{Provider, library, message::readable};

/// What the process uses, once it has been handed in.
struct Registered {
    /// The library's table of functions, which also tells one library from another.
    api: *const sys::OrtApi,
    /// Lives as long as the process: sessions keep pointers to it, and nobody says when they end.
    domain: &'static OperatorDomain,
}

// SAFETY: the table is static data of the library, the domain is not changed any more.
#[expect(unsafe_code, reason = "pointers are not Send")]
unsafe impl Send for Registered {}

static REGISTERED: Mutex<Option<Registered>> = Mutex::new(None);

/// Adds the operators, on the CPU, to the options of a session. Returns null, or a status for the
/// caller to release; no panic leaves it.
///
/// # Safety
/// Both pointers are valid and of the same ONNX Runtime, which stays loaded as long as the process
/// lives, as does the code of this function.
#[expect(unsafe_code, reason = "the caller hands in raw pointers")]
pub unsafe fn register(options: *mut OrtSessionOptions, base: *const OrtApiBase) -> OrtStatusPtr {
    // SAFETY: the promise of the caller, passed on.
    let added = catch_unwind(AssertUnwindSafe(|| unsafe { add(options, base) }));
    let reason: Cow<'_, str> = match added {
        Ok(Ok(())) => return OrtStatusPtr(ptr::null_mut()),
        Ok(Err(error)) => format!("{DOMAIN}: {error:#}").into(),
        Err(_) => "ssamba: the operators could not be registered: a fault of the library".into(),
    };
    let reason = CString::new(reason.replace('\0', " ")).unwrap_or_default();
    // SAFETY: every version has a first table, which begins with the functions for statuses.
    unsafe {
        let api = ((*base).GetApi)(1);
        ((*api).CreateStatus)(sys::OrtErrorCode::ORT_FAIL, reason.as_ptr())
    }
}

/// # Safety
/// As for [`register`].
#[expect(unsafe_code, reason = "the caller hands in raw pointers")]
unsafe fn add(options: *mut OrtSessionOptions, base: *const OrtApiBase) -> Result<()> {
    // SAFETY: the string is static data of the library.
    let version = unsafe { CStr::from_ptr(((*base).GetVersionString)()) }.to_string_lossy();
    library::check_version(&version).context("cannot use this ONNX Runtime")?;
    // SAFETY: the base is valid.
    let api = unsafe { ((*base).GetApi)(sys::ORT_API_VERSION) };
    if api.is_null() {
        bail!("ONNX Runtime {version} has no API of level {}", sys::ORT_API_VERSION);
    }
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    let Registered { domain, .. } = match &*registered {
        Some(registered) if ptr::eq(registered.api, api) => registered,
        Some(_) => bail!("this process has registered the operators in another ONNX Runtime"),
        None => {
            // SAFETY: the table of that level has all the fields that `ort` knows.
            if !ort::set_api(unsafe { ptr::read(api) }) {
                bail!("this process has loaded another ONNX Runtime for the operators");
            }
            let domain = Box::leak(Box::new(Provider::Cpu.operators()?));
            registered.insert(Registered { api, domain })
        }
    };
    // SAFETY: the options are valid, and the domain is never freed.
    let added = unsafe {
        let status = ((*api).AddCustomOpDomain)(options, domain.ptr().cast_mut());
        ort::Error::result_from_status(status)
    };
    added.map_err(readable).context("ONNX Runtime refuses the operators")
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::c_char,
        mem::MaybeUninit,
        sync::{LazyLock, OnceLock},
    };

    use super::*;

    /// What the fake of ONNX Runtime was asked to say.
    static SAID: OnceLock<String> = OnceLock::new();

    /// A table of which only the first function is there.
    static TABLE: LazyLock<usize> = LazyLock::new(|| {
        let table = Box::leak(Box::new(MaybeUninit::<sys::OrtApi>::uninit())).as_mut_ptr();
        // SAFETY: the table is leaked, so the field is there for good.
        #[expect(unsafe_code, reason = "the other fields are left alone")]
        unsafe {
            (&raw mut (*table).CreateStatus).write(create_status);
        }
        table.expose_provenance()
    });

    extern "system" fn create_status(_: sys::OrtErrorCode, message: *const c_char) -> OrtStatusPtr {
        // SAFETY: `register` hands in a C string.
        #[expect(unsafe_code, reason = "a C string")]
        let message = unsafe { CStr::from_ptr(message) };
        SAID.set(message.to_str().unwrap().into()).unwrap();
        OrtStatusPtr(ptr::dangling_mut())
    }

    extern "system" fn api(_: u32) -> *const sys::OrtApi {
        ptr::with_exposed_provenance(*TABLE)
    }

    extern "system" fn version() -> *const c_char {
        c"1.23.2".as_ptr()
    }

    #[test]
    fn a_runtime_that_is_too_old_is_told_so_in_its_own_status() {
        let base = OrtApiBase { GetApi: api, GetVersionString: version };
        // SAFETY: of a runtime of this version nothing is used but what the base here has.
        #[expect(unsafe_code, reason = "as a runtime calls it")]
        let status = unsafe { register(ptr::null_mut(), &base) };
        assert!(!status.0.is_null());
        assert_eq!(
            SAID.get().unwrap(),
            "ssamba: cannot use this ONNX Runtime: it is version 1.23.2, expected 1.24 or newer: \
             python3 -m pip install onnxruntime --upgrade"
        );
    }
}
