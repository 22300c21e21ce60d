//! An output that tasks write side by side.

use std::marker::PhantomData;

/// A mutable slice, to be shared by tasks whose parts of it are disjoint but strided, which
/// `chunks_mut` cannot express.
pub(crate) struct Output<'a> {
    start: *mut f32,
    len: usize,
    slice: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer stands for an exclusive borrow of `f32`s, which may move between threads. The
// only access through it is `part`, whose caller rules out overlap.
#[expect(unsafe_code, reason = "disjoint parts are written from several threads")]
unsafe impl Send for Output<'_> {}

// SAFETY: as for `Send`.
#[expect(unsafe_code, reason = "disjoint parts are written from several threads")]
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    pub(crate) fn new(out: &'a mut [f32]) -> Self {
        Self { start: out.as_mut_ptr(), len: out.len(), slice: PhantomData }
    }

    /// The values `start..start + len`.
    ///
    /// # Safety
    /// The range lies within the slice, and no other part that overlaps it is alive, on this thread
    /// or another.
    #[expect(unsafe_code, reason = "the caller rules out overlap")]
    #[inline(always)]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &'a mut [f32] {
        debug_assert!(start + len <= self.len);
        // SAFETY: the caller keeps the range inside the slice, whose borrow lasts for `'a`, and apart
        // from all other parts.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
