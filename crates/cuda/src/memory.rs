//! Memory of a device.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cudarc::driver::result;

use crate::{Device, device::readable};

/// Values on a device, for as long as this lives.
#[derive(Debug)]
pub struct Memory {
    device: Arc<Device>,
    address: u64,
    len: usize,
}

impl Memory {
    /// Room for so many values, which hold anything.
    ///
    /// # Errors
    /// When the device has no such room.
    pub fn new(device: &Arc<Device>, len: usize) -> Result<Self> {
        device.bind()?;
        let bytes = len.max(1) * size_of::<f32>();
        // SAFETY: the context is bound to this thread.
        #[expect(unsafe_code, reason = "a C interface")]
        let address = unsafe { result::malloc_sync(bytes) }
            .map_err(readable)
            .with_context(|| format!("no room for {} MiB on the GPU", bytes >> 20))?;
        Ok(Self { device: device.clone(), address, len })
    }

    /// Its first value's address, aligned to 256 bytes.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How many values there is room for.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no room at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts values in place, from the value `first` on, after all that was launched before on the default
    /// stream.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn write(&mut self, first: usize, values: &[f32]) -> Result<()> {
        let address = self.range(first, values.len())?;
        // SAFETY: the range is within this memory, which is borrowed alone.
        #[expect(unsafe_code, reason = "the device is addressed")]
        unsafe {
            self.device.write(address, values)
        }
    }

    /// Reads values, from the value `first` on, after all that was launched before on the default
    /// stream.
    ///
    /// # Errors
    /// When there are fewer, or a launch before failed.
    pub fn read(&self, first: usize, values: &mut [f32]) -> Result<()> {
        let address = self.range(first, values.len())?;
        // SAFETY: the range is within this memory.
        #[expect(unsafe_code, reason = "the device is addressed")]
        unsafe {
            self.device.read(address, values)
        }
    }

    /// Copies values within this memory, on the default stream.
    ///
    /// # Errors
    /// When the ranges are not within it, or overlap.
    pub fn copy_within(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        let (source, target) = (self.range(from, len)?, self.range(to, len)?);
        ensure!(from.abs_diff(to) >= len, "a copy on the GPU onto itself");
        self.device.bind()?;
        // SAFETY: both ranges are within this memory, and do not overlap.
        #[expect(unsafe_code, reason = "the device is addressed")]
        unsafe {
            result::memcpy_dtod_sync(target, source, len * size_of::<f32>()).map_err(readable)
        }
    }

    /// Makes values zero, on the default stream.
    ///
    /// # Errors
    /// When the range is not within this memory.
    pub fn zero(&mut self, first: usize, len: usize) -> Result<()> {
        let address = self.range(first, len)?;
        self.device.bind()?;
        // SAFETY: the range is within this memory.
        #[expect(unsafe_code, reason = "the device is addressed")]
        unsafe {
            result::memset_d8_sync(address, 0, len * size_of::<f32>()).map_err(readable)
        }
    }

    fn range(&self, first: usize, len: usize) -> Result<u64> {
        ensure!(
            first.checked_add(len).is_some_and(|end| end <= self.len),
            "{len} values from {first} on, of {} on the GPU",
            self.len
        );
        Ok(self.address + (first * size_of::<f32>()) as u64)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: it was taken in `new`, and is given back once.
            #[expect(unsafe_code, reason = "a C interface")]
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}
