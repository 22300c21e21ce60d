//! What ONNX Runtime's arena says of itself.

use std::{
    ffi::{CStr, c_char},
    ptr,
};

use anyhow::{Context, Result, bail};
use ort::{AsPointer, memory::Allocator, sys};

use crate::message::readable;

/// Bytes of an arena of device memory that tensors are in, weights among them. What the arena holds on
/// top, for later or in pieces that nothing fits, is not counted; neither is what lies outside it, such
/// as code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaUse {
    /// Now.
    pub now: usize,
    /// At most, since the file was opened.
    pub most: usize,
}

impl ArenaUse {
    pub(crate) fn of(allocator: &Allocator) -> Result<Self> {
        let stats = Stats::of(allocator)?;
        Ok(Self { now: stats.bytes(c"InUse")?, most: stats.bytes(c"MaxInUse")? })
    }
}

/// Names and values, which are released in the end.
struct Stats(*mut sys::OrtKeyValuePairs);

impl Stats {
    fn of(allocator: &Allocator) -> Result<Self> {
        let mut stats = Self(ptr::null_mut());
        // SAFETY: the allocator lives, and a status is an error to be freed or null.
        #[expect(unsafe_code, reason = "`ort` does not have this function")]
        unsafe {
            let status = (ort::api().AllocatorGetStats)(allocator.ptr(), &mut stats.0);
            ort::Error::result_from_status(status).map_err(readable)?;
        }
        if stats.0.is_null() {
            bail!("the arena of the device keeps no statistics");
        }
        Ok(stats)
    }

    fn bytes(&self, name: &CStr) -> Result<usize> {
        // SAFETY: the pairs live, and with them their values, which end with a zero.
        #[expect(unsafe_code, reason = "`ort` does not have this function")]
        let value = unsafe {
            let value: *const c_char = (ort::api().GetKeyValue)(self.0, name.as_ptr());
            if value.is_null() { None } else { Some(CStr::from_ptr(value)) }
        };
        let value = value.and_then(|value| value.to_str().ok()?.parse().ok());
        value.with_context(|| format!("the arena's statistics hold no {}", name.to_string_lossy()))
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        // SAFETY: they are released once, and may be null.
        #[expect(unsafe_code, reason = "`ort` does not have this function")]
        unsafe {
            (ort::api().ReleaseKeyValuePairs)(self.0);
        }
    }
}
