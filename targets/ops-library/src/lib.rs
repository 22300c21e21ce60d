//! The operators `ssamba::SelectiveScan`, `ssamba::ShortConv` and `ssamba::AddLayerNorm` for every
//! program that has ONNX Runtime already, in whatever language: one shared library with one C function.
//!
//! The operators are those of `ssamba-ort`; `include/ssamba_ops.h` says what callers promise.

use ssamba_ort::custom_ops::{self, OrtApiBase, OrtSessionOptions, OrtStatusPtr};

/// Adds the operators to the options of a session; see `include/ssamba_ops.h`.
///
/// # Safety
/// `options` and `base` come from one ONNX Runtime, as its own function `RegisterCustomOpsLibrary_V2`
/// hands them in.
#[expect(unsafe_code, reason = "a function for C, which hands in raw pointers")]
#[unsafe(no_mangle)]
pub unsafe extern "system" fn RegisterCustomOps(
    options: *mut OrtSessionOptions,
    base: *const OrtApiBase,
) -> OrtStatusPtr {
    // SAFETY: the promise of the caller, passed on.
    unsafe { custom_ops::register(options, base) }
}
