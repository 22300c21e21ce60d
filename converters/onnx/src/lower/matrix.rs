//! Parameters in `f64`, for folding: every constant of the file is rounded to `f32` once.

use anyhow::Result;
use candle_core::{DType, Tensor};

/// A row-major matrix.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) data: Vec<f64>,
}

/// Values of a tensor in row-major order.
pub(crate) fn vector(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

impl Matrix {
    /// The transpose of a linear layer's weight: `[out, in]` becomes `[in, out]`, as MatMul wants it.
    pub(crate) fn transposed(weight: &Tensor) -> Result<Self> {
        let (columns, rows) = weight.dims2()?;
        Ok(Self { rows, columns, data: vector(&weight.t()?.contiguous()?)? })
    }

    /// Columns side by side.
    pub(crate) fn beside(parts: &[Self]) -> Self {
        let rows = parts.first().map_or(0, |part| part.rows);
        let data = (0..rows).flat_map(|row| parts.iter().flat_map(move |part| part.row(row)));
        Self {
            rows,
            columns: parts.iter().map(|part| part.columns).sum(),
            data: data.copied().collect(),
        }
    }

    /// Rows below each other.
    pub(crate) fn below(parts: &[Self]) -> Self {
        Self {
            rows: parts.iter().map(|part| part.rows).sum(),
            columns: parts.first().map_or(0, |part| part.columns),
            data: parts.iter().flat_map(|part| &part.data).copied().collect(),
        }
    }

    /// Nothing but zeros.
    pub(crate) fn zeros(rows: usize, columns: usize) -> Self {
        Self { rows, columns, data: vec![0.0; rows * columns] }
    }

    /// One after the other along the diagonal, zero elsewhere.
    pub(crate) fn diagonal(parts: &[Self]) -> Self {
        let rows = parts.iter().map(|part| part.rows).sum();
        let columns = parts.iter().map(|part| part.columns).sum();
        let mut data = vec![0.0; rows * columns];
        let (mut top, mut left) = (0, 0);
        for part in parts {
            for row in 0..part.rows {
                let start = (top + row) * columns + left;
                data[start..start + part.columns].copy_from_slice(part.row(row));
            }
            top += part.rows;
            left += part.columns;
        }
        Self { rows, columns, data }
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.data[row * self.columns..(row + 1) * self.columns]
    }

    /// Columns `start..start + count`.
    pub(crate) fn columns(&self, start: usize, count: usize) -> Self {
        let data = (0..self.rows).flat_map(|row| &self.row(row)[start..start + count]);
        Self { rows: self.rows, columns: count, data: data.copied().collect() }
    }

    /// Every row times its factor.
    pub(crate) fn scale_rows(mut self, factors: &[f64]) -> Self {
        for (row, factor) in self.data.chunks_exact_mut(self.columns).zip(factors) {
            row.iter_mut().for_each(|value| *value *= factor);
        }
        self
    }

    /// The same row added to every row, so that the rows add up to `sums`.
    pub(crate) fn shift_rows_to_sum(mut self, sums: &[f64]) -> Self {
        let rows = self.rows as f64;
        let now = self.apply(&vec![1.0; self.rows]);
        let shift: Vec<f64> = sums.iter().zip(now).map(|(sum, now)| (sum - now) / rows).collect();
        for row in self.data.chunks_exact_mut(self.columns) {
            row.iter_mut().zip(&shift).for_each(|(value, shift)| *value += shift);
        }
        self
    }

    /// Everything times one factor.
    pub(crate) fn scale(mut self, factor: f64) -> Self {
        self.data.iter_mut().for_each(|value| *value *= factor);
        self
    }

    /// `vector` times the matrix.
    pub(crate) fn apply(&self, vector: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.columns];
        for (row, factor) in self.data.chunks_exact(self.columns).zip(vector) {
            out.iter_mut().zip(row).for_each(|(out, value)| *out += factor * value);
        }
        out
    }

    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }
}
