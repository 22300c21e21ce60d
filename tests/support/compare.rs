//! Comparisons, and the tolerance of every rung of the ladder of oracles.

use candle_core::Tensor;

/// Network outputs against the PyTorch goldens, and runtimes against candle: absolute, `f32`.
pub const NETWORK: f32 = 1e-4;

/// Outputs of files with the front end inside against the front end in `f64` and candle: absolute.
pub const WAVEFORM: f32 = 1e-3;

/// Logits of files in half precision against candle: absolute, what the rounding of every sequence
/// and matrix may cost a whole network.
pub const HALF: f32 = 2e-2;

/// Logits of files in eight bits against candle: absolute.
pub const INT8: f32 = 0.3;

/// Logits of one file in eight bits in two runtimes: absolute. Sums of integers are exact, but a value
/// between two steps that differs in its last bit goes to either.
pub const INT8_RUNTIMES: f32 = 2e-2;

/// Largest absolute difference.
///
/// # Panics
/// When the lengths differ or a value is not finite: neither is a number to report.
pub fn max_abs_error(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len(), "as many values as expected");
    let error = got.iter().zip(want).map(|(got, want)| (got - want).abs());
    let error = error.fold(0.0, |a: f32, b| if b.is_nan() { b } else { a.max(b) });
    assert!(error.is_finite(), "a value is not finite");
    error
}

/// Values of a candle tensor in row-major order.
///
/// # Panics
/// When the tensor is not `f32`.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().and_then(|tensor| tensor.to_vec1()).expect("an f32 tensor")
}

/// Asserts that two tensors have the same shape and differ by at most `atol`.
///
/// # Panics
/// When they do not.
pub fn assert_close(what: &str, got: &Tensor, want: &Tensor, atol: f32) {
    assert_eq!(got.dims(), want.dims(), "{what}: shape");
    let error = max_abs_error(&values(got), &values(want));
    assert!(error <= atol, "{what}: max abs error {error:e}, allowed {atol:e}");
}
