//! The arena that a session's tensors live in.

use std::{
    ffi::{CStr, CString, c_char},
    ptr,
};

use anyhow::{Context, Result, bail};
use ort::{
    AsPointer,
    environment::Environment,
    memory::{Allocator, MemoryInfo},
    sys,
};

use super::bound::device_memory;
use crate::{Arena, Cuda, message::readable};

/// Bytes that a tensor may leave unused of the piece of the arena that it is in. A larger rest becomes a
/// piece of its own; what ONNX Runtime does by itself is to waste up to 128 MiB a tensor.
const REST: usize = 1 << 20;

/// An arena of a device's memory, which sessions that are opened meanwhile take theirs from, and keep.
/// The environment knows one at a time, and no longer than this value lives.
pub(crate) struct OfferedArena<'e> {
    environment: &'e Environment,
    memory: MemoryInfo<'static>,
}

impl<'e> OfferedArena<'e> {
    pub(crate) fn new(environment: &'e Environment, cuda: &Cuda) -> Result<Self> {
        let growth = match cuda.arena {
            Arena::NextPowerOfTwo => 0,
            Arena::SameAsRequested => 1,
        };
        // No limit is told as 0.
        let settings = [
            (c"max_mem", cuda.memory_limit.unwrap_or_default()),
            (c"arena_extend_strategy", growth),
            (c"max_dead_bytes_per_chunk", REST),
        ];
        let keys = settings.map(|(key, _)| key.as_ptr());
        let values = settings.map(|(_, value)| value);
        let number = CString::new(cuda.device.to_string())?;
        let memory = device_memory(cuda.device)?;
        // SAFETY: keys and values are of one length and outlive the calls, names end with a zero, and a
        // status is an error to be freed or null.
        #[expect(unsafe_code, reason = "`ort` does not have these functions")]
        unsafe {
            let mut configuration = ptr::null_mut();
            let status = (ort::api().CreateArenaCfgV2)(
                keys.as_ptr(),
                values.as_ptr(),
                settings.len(),
                &mut configuration,
            );
            ort::Error::result_from_status(status).map_err(readable)?;
            let (key, number) = (c"device_id".as_ptr(), number.as_ptr());
            let status = (ort::api().CreateAndRegisterAllocatorV2)(
                environment.ptr().cast_mut(),
                c"CUDAExecutionProvider".as_ptr(),
                memory.ptr(),
                configuration,
                &key,
                &number,
                1,
            );
            (ort::api().ReleaseArenaCfg)(configuration);
            ort::Error::result_from_status(status).map_err(readable)?;
        }
        Ok(Self { environment, memory })
    }
}

impl Drop for OfferedArena<'_> {
    fn drop(&mut self) {
        // SAFETY: it was registered in this environment, which lives.
        #[expect(unsafe_code, reason = "`ort` does not have this function")]
        unsafe {
            let status = (ort::api().UnregisterAllocator)(
                self.environment.ptr().cast_mut(),
                self.memory.ptr(),
            );
            // The next session would be told that there is one already.
            drop(ort::Error::result_from_status(status));
        }
    }
}

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
