//! The small kernels of training: norms, softmax, GELU, sums over parts, and what lies around a
//! projection of patches.
//! Sizes are those of one call; addresses are of dense `f32` values on a device.

use super::{Launch, PlanError, int};

/// Places in [`TRAINING_KERNELS`].
pub(super) mod kernel {
    pub(crate) const NORM_FORWARD: usize = 0;
    pub(crate) const NORM_BACKWARD: usize = 1;
    pub(crate) const NORM_COLUMNS: usize = 2;
    pub(crate) const SUM_PARTS: usize = 3;
    pub(crate) const DECAY: usize = 4;
    pub(crate) const CUT_PATCHES: usize = 5;
    pub(crate) const ADD_BIAS: usize = 6;
    pub(crate) const BIAS_COLUMNS: usize = 7;
    pub(crate) const SCAN_BACKWARD_16: usize = 8;
    pub(crate) const SCAN_BACKWARD_32: usize = 9;
    pub(crate) const CONV_BACKWARD_4: usize = 10;
    pub(crate) const CONV_BACKWARD_16: usize = 11;
    pub(crate) const SOFTMAX_FORWARD: usize = 12;
    pub(crate) const SOFTMAX_BACKWARD: usize = 13;
    pub(crate) const GELU_FORWARD: usize = 14;
    pub(crate) const GELU_BACKWARD: usize = 15;
}

/// Of [`TRAINING`](super::TRAINING).
pub(super) const TRAINING_KERNELS: [&str; 16] = [
    "norm_forward",
    "norm_backward",
    "norm_columns",
    "sum_parts",
    "decay",
    "cut_patches",
    "add_bias",
    "bias_columns",
    "scan_backward_16",
    "scan_backward_32",
    "conv_backward_4",
    "conv_backward_16",
    "softmax_forward",
    "softmax_backward",
    "gelu_forward",
    "gelu_backward",
];

/// Constants of the kernels: threads of a block, and rows of a block that sums columns.
const NORM_THREADS: usize = 256;
const WARP: usize = 32;
const THREADS: usize = 128;
const ROWS_OF_BLOCK: usize = 64;
/// Sums of one launch at most.
const SUMS: usize = 8;

fn launch(kernel: usize, blocks: usize, threads: usize) -> Result<Launch, PlanError> {
    let blocks = int("blocks", blocks)?.unsigned_abs();
    Ok(Launch { kernel, blocks, threads: threads as u32, shared_bytes: 0 })
}

/// The LayerNorms of one or more layers over the same rows.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Norm {
    /// `[rows, width]`
    pub x: u64,
    /// `[groups, width]`
    pub weight: u64,
    /// `[groups, width]`
    pub bias: u64,
    /// `[groups, rows, width]`, of the forward pass.
    pub out: u64,
    /// `[groups, rows, width]`, gradient of `out`.
    pub grad: u64,
    /// `[rows, width]`, gradient of `x`, to which is added.
    pub grad_x: u64,
    /// `[rows, 2]`, room for means and reciprocal deviations.
    pub statistics: u64,
    /// `[Norm::parts, 2, groups, width]`, gradients of weights, then of biases.
    pub partial: u64,
    rows: i32,
    width: i32,
    groups: i32,
    rows_of_block: i32,
    eps: f32,
}

impl Norm {
    /// A call of these sizes, whose addresses are still to be set.
    ///
    /// # Errors
    /// Names the size that is beyond what a launch can count.
    pub fn new(rows: usize, width: usize, groups: usize, eps: f32) -> Result<Self, PlanError> {
        Ok(Self {
            x: 0,
            weight: 0,
            bias: 0,
            out: 0,
            grad: 0,
            grad_x: 0,
            statistics: 0,
            partial: 0,
            rows: int("rows", rows)?,
            width: int("width", width)?,
            groups: int("groups", groups)?,
            rows_of_block: ROWS_OF_BLOCK as i32,
            eps,
        })
    }

    /// Parts of that many rows, each of which has sums of its own for weights and biases.
    pub fn parts(rows: usize) -> usize {
        rows.div_ceil(ROWS_OF_BLOCK)
    }

    fn rows(&self) -> usize {
        self.rows.unsigned_abs() as usize
    }

    fn warps(&self, kernel: usize) -> Result<Launch, PlanError> {
        launch(kernel, self.rows().div_ceil(NORM_THREADS / WARP), NORM_THREADS)
    }

    /// Of the forward pass: reads `x`, `weight`, `bias`, writes `out`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn forward(&self) -> Result<Launch, PlanError> {
        self.warps(kernel::NORM_FORWARD)
    }

    /// Of the gradient of `x`: reads `x`, `weight`, `grad`, adds to `grad_x`, writes `statistics`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn backward(&self) -> Result<Launch, PlanError> {
        self.warps(kernel::NORM_BACKWARD)
    }

    /// Of the gradients of weights and biases, after [`backward`](Self::backward): reads `x`, `grad`,
    /// `statistics`, writes `partial`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn columns(&self) -> Result<Launch, PlanError> {
        launch(kernel::NORM_COLUMNS, Self::parts(self.rows()), NORM_THREADS)
    }
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Sum {
    parts: u64,
    factor: u64,
    out: u64,
    count: i32,
    len: i32,
    first_block: i32,
}

/// Several sums over parts in one launch, each in the order of its parts.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SumPlan {
    sums: [Sum; SUMS],
    count: i32,
    // After the kernel's fields.
    blocks: i32,
}

impl SumPlan {
    /// One more: `out[i] = (sum over parts of parts[part, i]) * factor[i]`; without a factor it is 0.
    ///
    /// # Errors
    /// Names the size that is beyond what a launch can count.
    pub fn add(
        mut self,
        [parts, factor, out]: [u64; 3],
        count: usize,
        len: usize,
    ) -> Result<Self, PlanError> {
        let at = self.count.unsigned_abs() as usize;
        let Some(sum) = self.sums.get_mut(at) else {
            return Err(PlanError { size: "sums", got: at + 1, most: SUMS });
        };
        let first_block = self.blocks;
        let (count, length) = (int("parts", count)?, int("len", len)?);
        *sum = Sum { parts, factor, out, count, len: length, first_block };
        self.count += 1;
        self.blocks = int("blocks", first_block as usize + len.div_ceil(THREADS))?;
        Ok(self)
    }

    /// What to launch.
    pub fn launch(&self) -> Launch {
        Launch {
            kernel: kernel::SUM_PARTS,
            blocks: self.blocks.unsigned_abs(),
            threads: THREADS as u32,
            shared_bytes: 0,
        }
    }
}

/// `a = -exp(a_log)`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Decay {
    a_log: u64,
    a: u64,
    len: i32,
}

impl Decay {
    /// Of so many values, and its launch.
    ///
    /// # Errors
    /// Names the size that is beyond what a launch can count.
    pub fn new(a_log: u64, a: u64, len: usize) -> Result<(Self, Launch), PlanError> {
        let launch = launch(kernel::DECAY, len.div_ceil(THREADS), THREADS)?;
        Ok((Self { a_log, a, len: int("len", len)? }, launch))
    }
}

/// Patches of filter banks.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Patches {
    fbank: u64,
    patches: u64,
    sizes: [i32; 9],
}

/// Sizes of [`Patches`].
#[derive(Clone, Copy, Debug)]
pub struct PatchSizes {
    /// B
    pub batch: usize,
    /// Frames, mel bins.
    pub input: (usize, usize),
    /// Patches over frequency and over time.
    pub grid: (usize, usize),
    /// Mel bins and frames of a patch.
    pub patch: (usize, usize),
    /// Mel bins and frames from a patch to the next.
    pub stride: (usize, usize),
}

impl Patches {
    /// From `fbank` `[batch, n_frames, n_mels]` to `patches`
    /// `[batch, rows * columns, patch_f * patch_t]`, and the launch.
    ///
    /// # Errors
    /// Names the size that is beyond what a launch can count.
    pub fn new(fbank: u64, patches: u64, sizes: &PatchSizes) -> Result<(Self, Launch), PlanError> {
        let PatchSizes { batch, input, grid, patch, stride } = *sizes;
        let numbers =
            [batch, input.0, input.1, grid.0, grid.1, patch.0, patch.1, stride.0, stride.1];
        let mut counted = [0; 9];
        for (to, from) in counted.iter_mut().zip(numbers) {
            *to = int("patches", from)?;
        }
        let values = batch * grid.0 * grid.1 * patch.0 * patch.1;
        let launch = launch(kernel::CUT_PATCHES, values.div_ceil(THREADS), THREADS)?;
        Ok((Self { fbank, patches, sizes: counted }, launch))
    }
}

/// A bias over rows.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Bias {
    x: u64,
    bias: u64,
    partial: u64,
    rows: i32,
    width: i32,
    rows_of_block: i32,
}

impl Bias {
    /// Adds `bias` `[width]` to all rows of `x` `[rows, width]`, and the launch.
    ///
    /// # Errors
    /// Names the size that is beyond what a launch can count.
    pub fn add(x: u64, bias: u64, rows: usize, width: usize) -> Result<(Self, Launch), PlanError> {
        let call = Self::new([x, bias, 0], rows, width)?;
        Ok((call, launch(kernel::ADD_BIAS, (rows * width).div_ceil(THREADS), THREADS)?))
    }

    /// Sums the columns of `x` into `partial` `[Bias::parts, width]`, and the launch.
    ///
    /// # Errors
    /// Names the size that is beyond what a launch can count.
    pub fn columns(
        x: u64,
        partial: u64,
        rows: usize,
        width: usize,
    ) -> Result<(Self, Launch), PlanError> {
        let call = Self::new([x, 0, partial], rows, width)?;
        Ok((call, launch(kernel::BIAS_COLUMNS, Self::parts(rows), THREADS)?))
    }

    /// Parts of that many rows, each of which has sums of its own.
    pub fn parts(rows: usize) -> usize {
        rows.div_ceil(ROWS_OF_BLOCK)
    }

    fn new([x, bias, partial]: [u64; 3], rows: usize, width: usize) -> Result<Self, PlanError> {
        Ok(Self {
            x,
            bias,
            partial,
            rows: int("rows", rows)?,
            width: int("width", width)?,
            rows_of_block: ROWS_OF_BLOCK as i32,
        })
    }
}

/// Softmax over rows.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Softmax {
    shares: u64,
    grad: u64,
    rows: i32,
    width: i32,
    scale: f32,
}

impl Softmax {
    /// Of `scale` times the scores in `shares` `[rows, width]`, in place, and the launch; with the gradient
    /// of the result in `grad`, in place that of the scores.
    ///
    /// # Errors
    /// Names the size that is beyond what a launch can count.
    pub fn new(
        shares: u64,
        grad: u64,
        rows: usize,
        width: usize,
        scale: f32,
    ) -> Result<(Self, Launch), PlanError> {
        let kernel = if grad == 0 { kernel::SOFTMAX_FORWARD } else { kernel::SOFTMAX_BACKWARD };
        let launch = launch(kernel, rows.div_ceil(NORM_THREADS / WARP), NORM_THREADS)?;
        let (rows, width) = (int("rows", rows)?, int("width", width)?);
        Ok((Self { shares, grad, rows, width, scale }, launch))
    }
}

/// GELU, by the error function.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Gelu {
    x: u64,
    out: u64,
    len: i64,
}

impl Gelu {
    /// Of `x` into `out`, and the launch.
    ///
    /// # Errors
    /// Names the size that is beyond what a launch can count.
    pub fn forward(x: u64, out: u64, len: usize) -> Result<(Self, Launch), PlanError> {
        Self::new(kernel::GELU_FORWARD, x, out, len)
    }

    /// From the gradient of the result to that of `x`, in place, and the launch.
    ///
    /// # Errors
    /// Names the size that is beyond what a launch can count.
    pub fn backward(x: u64, grad: u64, len: usize) -> Result<(Self, Launch), PlanError> {
        Self::new(kernel::GELU_BACKWARD, x, grad, len)
    }

    fn new(kernel: usize, x: u64, out: u64, len: usize) -> Result<(Self, Launch), PlanError> {
        let launch = launch(kernel, len.div_ceil(THREADS), THREADS)?;
        Ok((Self { x, out, len: len as i64 }, launch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_share_a_launch() {
        let plan = SumPlan::default().add([8, 0, 16], 3, 129).unwrap();
        let plan = plan.add([24, 32, 40], 2, 1).unwrap();
        assert_eq!(plan.launch().blocks, 3);
        assert_eq!(plan.sums[1].first_block, 2);
        let mut plan = SumPlan::default();
        for _ in 0..SUMS {
            plan = plan.add([0; 3], 1, 1).unwrap();
        }
        let message = plan.add([0; 3], 1, 1).unwrap_err().to_string();
        assert!(message.starts_with("`sums` is 9"), "{message}");
    }

    #[test]
    fn a_warp_is_a_row_and_columns_are_summed_in_parts() {
        let norm = Norm::new(130, 64, 2, 1e-5).unwrap();
        assert_eq!(norm.forward().unwrap().blocks, 17);
        assert_eq!((Norm::parts(130), norm.columns().unwrap().blocks), (3, 3));
        let (_, launch) = Bias::columns(0, 0, 130, 64).unwrap();
        assert_eq!(launch.blocks, 3);
    }
}
