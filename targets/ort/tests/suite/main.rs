//! Exported files in ONNX Runtime, through the public door.

mod add_layer_norm;
mod conv_problem;
#[cfg(feature = "cuda")]
mod cuda;
mod half;
mod norm_problem;
mod selective_scan;
mod session;
mod short_conv;
mod support;
#[cfg(feature = "cuda")]
mod tensorrt;

/// Options for tests, which take ONNX Runtime from where the test runner says.
fn options() -> ssamba_ort::Options {
    let library = std::env::var_os("ORT_DYLIB_PATH");
    assert!(library.is_some(), "needs ONNX Runtime: run `tests/run`, or set ORT_DYLIB_PATH");
    ssamba_ort::Options { threads: Some(1), ..Default::default() }
}
