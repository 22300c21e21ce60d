//! Products of matrices, by cuBLAS, in single precision: no TF32.

use std::{ffi::c_int, sync::Arc};

use anyhow::{Context, Result, anyhow};
use cudarc::cublas::{result, sys};

use crate::{Device, MissingLibrary};

/// cuBLAS on the default stream of a device.
#[derive(Debug)]
pub struct Blas {
    device: Arc<Device>,
    handle: sys::cublasHandle_t,
}

/// Row-major matrices on a device, one for each of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// Of the first value of the first.
    pub address: u64,
    /// Values from a row to the next.
    pub leading: usize,
    /// Values from a matrix to the next.
    pub stride: usize,
    /// Whether the transpose is meant: rows and columns then are those of the transpose.
    pub transposed: bool,
}

/// `out = left * right`, for every matrix of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Rows of `left` and `out`.
    pub rows: usize,
    /// Columns of `right` and `out`.
    pub columns: usize,
    /// Columns of `left`, rows of `right`.
    pub inner: usize,
    /// Matrices.
    pub batch: usize,
    /// First factor.
    pub left: Matrix,
    /// Second factor.
    pub right: Matrix,
    /// Result, which is not transposed.
    pub out: Matrix,
    /// Whether the product is added to what `out` holds.
    pub add: bool,
}

impl Matrix {
    /// A dense matrix, or matrices one after the other, of so many columns as they lie in memory.
    pub fn dense(address: u64, columns: usize, stride: usize) -> Self {
        Self { address, leading: columns, stride, transposed: false }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// One of the batch.
    pub fn nth(self, index: usize) -> Self {
        Self { address: self.address + (index * self.stride * size_of::<f32>()) as u64, ..self }
    }

    fn operation(&self) -> sys::cublasOperation_t {
        if self.transposed {
            sys::cublasOperation_t::CUBLAS_OP_T
        } else {
            sys::cublasOperation_t::CUBLAS_OP_N
        }
    }
}

// SAFETY: a handle may be used from any thread, by one at a time, and every use is through `&mut`.
#[expect(unsafe_code, reason = "the handle is a pointer")]
unsafe impl Send for Blas {}

impl Blas {
    /// Opens the library for a device.
    ///
    /// # Errors
    /// Names it when it is missing.
    pub fn new(device: &Arc<Device>) -> Result<Self> {
        // SAFETY: opening the library runs its initialisers, which every program that uses it trusts.
        #[expect(unsafe_code, reason = "it is opened to see whether it is there")]
        if !unsafe { sys::is_culib_present() } {
            return Err(MissingLibrary::new(LIBRARY, "training on a GPU").into());
        }
        device.bind()?;
        let handle = result::create_handle().map_err(|error| anyhow!("cuBLAS: {error:?}"))?;
        Ok(Self { device: device.clone(), handle })
    }

    /// Starts a product, and returns before it is done.
    ///
    /// # Errors
    /// What cuBLAS says.
    ///
    /// # Safety
    /// The matrices lie in memory of this device, which nothing that runs beside the default stream
    /// writes, nor, of `out`, reads; `out` overlaps neither factor.
    #[expect(unsafe_code, reason = "the device is addressed")]
    pub unsafe fn multiply(&mut self, product: &Product) -> Result<()> {
        self.device.bind()?;
        let Product { rows, columns, inner, batch, left, right, out, add } = *product;
        let int = |size: usize| c_int::try_from(size).context("a matrix is too large for cuBLAS");
        let (one, kept) = (1.0_f32, if add { 1.0_f32 } else { 0.0 });
        // In the terms of cuBLAS, which counts columns first: the transposes, in the other order.
        let [m, n, k] = [int(columns)?, int(rows)?, int(inner)?];
        let [op_a, op_b] = [right.operation(), left.operation()];
        let [a, b] = [right.address as *const f32, left.address as *const f32];
        let c = out.address as *mut f32;
        let [lda, ldb, ldc] = [int(right.leading)?, int(left.leading)?, int(out.leading)?];
        let handle = self.handle;
        // SAFETY: the handle is open, and the rest is the caller's.
        unsafe {
            if batch == 1 {
                // Only here does it split long sums over the device.
                result::sgemm(handle, op_a, op_b, m, n, k, &one, a, lda, b, ldb, &kept, c, ldc)
            } else {
                let batch = int(batch)?;
                let [a_step, b_step, c_step] =
                    [right, left, out].map(|matrix| matrix.stride as i64);
                result::sgemm_strided_batched(
                    handle, op_a, op_b, m, n, k, &one, a, lda, a_step, b, ldb, b_step, &kept, c,
                    ldc, c_step, batch,
                )
            }
        }
        .map_err(|error| anyhow!("cuBLAS: {error:?}"))
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: it was created in `new`, and is destroyed once.
            #[expect(unsafe_code, reason = "a C interface")]
            let _ = unsafe { result::destroy_handle(self.handle) };
        }
    }
}

const LIBRARY: &str = if cfg!(windows) { "cublas64_*.dll" } else { "libcublas.so" };
