//! What a pass over layers does on a device, and the memory that it does it in.

use std::ptr;

use anyhow::Result;
use ssamba_cuda::{Blas, Matrix, Memory, Product};
use ssamba_scan::cuda::{Bias, Launch, SumPlan};

use super::Devices;

/// Layers for one size of input, forward and back. Tokens are `[batch, seq_len, d_model]`.
pub(super) trait Layers: Send + Sync {
    /// Values that a pass needs memory for.
    fn memory(&self) -> usize;

    /// Tokens with positions to tokens after the last norm.
    ///
    /// # Errors
    /// What the device says.
    fn forward(&self, run: &mut Run<'_>, parameters: &[f32], tokens: &[f32]) -> Result<Vec<f32>>;

    /// The gradient of what [`forward`](Self::forward) put out, to those of the tokens and of the packed
    /// parameters; `run` has the memory that it left.
    ///
    /// # Errors
    /// What the device says.
    fn backward(&self, run: &mut Run<'_>, grad: &[f32]) -> Result<(Vec<f32>, Vec<f32>)>;
}

/// Hands out places in a memory, counted in values, each at a multiple of 256 bytes.
#[derive(Default)]
pub(super) struct Room {
    /// Values so far.
    pub(super) len: usize,
}

impl Room {
    pub(super) fn take(&mut self, len: usize) -> usize {
        let place = self.len;
        self.len += len.next_multiple_of(64);
        place
    }
}

/// A pass under way.
pub(super) struct Run<'a> {
    pub(super) devices: &'a Devices,
    pub(super) blas: &'a mut Blas,
    pub(super) memory: &'a mut Memory,
}

impl Run<'_> {
    /// The address of a place.
    pub(super) fn at(&self, place: usize) -> u64 {
        self.memory.address() + (place * size_of::<f32>()) as u64
    }

    /// Matrices of so many columns, so many values from one to the next.
    pub(super) fn dense(&self, place: usize, columns: usize, stride: usize) -> Matrix {
        Matrix::dense(self.at(place), columns, stride)
    }

    /// Matrices of so many columns each, whose rows lie side by side.
    pub(super) fn side_by_side(&self, place: usize, count: usize, columns: usize) -> Matrix {
        Matrix { leading: count * columns, ..Matrix::dense(self.at(place), columns, columns) }
    }

    /// One more sum over parts, of so many parts and values.
    pub(super) fn sum(
        &self,
        sums: SumPlan,
        parts: usize,
        factor: Option<usize>,
        out: usize,
        (count, len): (usize, usize),
    ) -> Result<SumPlan> {
        let factor = factor.map_or(0, |place| self.at(place));
        Ok(sums.add([self.at(parts), factor, self.at(out)], count, len)?)
    }

    /// Adds a bias to every row.
    pub(super) fn add_bias(&self, x: usize, bias: usize, rows: usize, width: usize) -> Result<()> {
        let (add, launch) = Bias::add(self.at(x), self.at(bias), rows, width)?;
        self.training(launch, add)
    }

    /// Sums the columns of `x`, in parts; `sums` adds these up.
    pub(super) fn columns(
        &self,
        sums: SumPlan,
        x: usize,
        parts: usize,
        out: usize,
        (rows, width): (usize, usize),
    ) -> Result<SumPlan> {
        let (columns, launch) = Bias::columns(self.at(x), self.at(parts), rows, width)?;
        self.training(launch, columns)?;
        self.sum(sums, parts, None, out, (Bias::parts(rows), width))
    }

    /// `out = left * right`, or added to it; sizes are rows, columns, inner, batch.
    pub(super) fn multiply(
        &mut self,
        [rows, columns, inner, batch]: [usize; 4],
        left: Matrix,
        right: Matrix,
        out: Matrix,
        add: bool,
    ) -> Result<()> {
        let product = Product { rows, columns, inner, batch, left, right, out, add };
        // SAFETY: the matrices are places of the layout that this memory was taken for, all work is on
        // the default stream, and no two places overlap.
        #[expect(unsafe_code, reason = "the device is addressed")]
        unsafe {
            self.blas.multiply(&product)
        }
    }

    /// The same where `inner` are the rows of a batch and the result is small, as in gradients of weights:
    /// matrix by matrix, because cuBLAS splits long sums over the device only then.
    pub(super) fn multiply_over_rows(
        &mut self,
        [rows, columns, inner, batch]: [usize; 4],
        left: Matrix,
        right: Matrix,
        out: Matrix,
    ) -> Result<()> {
        for index in 0..batch {
            let [left, right, out] = [left, right, out].map(|matrix| matrix.nth(index));
            self.multiply([rows, columns, inner, 1], left, right, out, false)?;
        }
        Ok(())
    }

    /// Launches a kernel of training.
    pub(super) fn training<A>(&self, launch: Launch, arguments: A) -> Result<()> {
        // SAFETY: the arguments are those of the kernel that the plan names, and their addresses places
        // of the layout that this memory was taken for; all work is on the default stream.
        #[expect(unsafe_code, reason = "kernels follow addresses")]
        unsafe {
            self.devices.training.launch(launch, arguments, ptr::null_mut())
        }
    }

    /// Launches a kernel of inference.
    pub(super) fn inference<A>(&self, launch: Launch, arguments: A) -> Result<()> {
        // SAFETY: as in `training`.
        #[expect(unsafe_code, reason = "kernels follow addresses")]
        unsafe {
            self.devices.inference.launch(launch, arguments, ptr::null_mut())
        }
    }
}
