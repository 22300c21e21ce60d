//! The split of a call into tasks: blocks of channels of one mixer in one batch.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::{output::Output, pool::Pool};

/// Channels `first..first + width` of one mixer in one batch.
///
/// Two different blocks of a call are disjoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) batch: usize,
    pub(crate) group: usize,
    pub(crate) first: usize,
    pub(crate) width: usize,
}

/// All channels of all mixers of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks {
    pub(crate) batch: usize,
    pub(crate) groups: usize,
    pub(crate) d_inner: usize,
}

/// The pool came back with tasks still to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unfinished {
    pub(crate) finished: usize,
    pub(crate) tasks: usize,
}

impl Blocks {
    /// Deals blocks of at most `width` channels to the pool; each runs at most once.
    pub(crate) fn run(
        &self,
        out: &mut [f32],
        pool: &dyn Pool,
        width: usize,
        kernel: impl Fn(Block, &Output<'_>) + Sync,
    ) -> Result<(), Unfinished> {
        if out.is_empty() {
            return Ok(());
        }
        let blocks = self.d_inner.div_ceil(width);
        let tasks = self.batch * self.groups * blocks;
        let out = Output::new(out);
        // `Pool` is a safe trait: that no task runs twice, at the same time even, is enforced here.
        let started: Vec<AtomicBool> = (0..tasks).map(|_| AtomicBool::new(false)).collect();
        let finished = AtomicUsize::new(0);
        pool.run(tasks, &|task| {
            if started.get(task).is_none_or(|started| started.swap(true, Ordering::Relaxed)) {
                return;
            }
            let first = task % blocks * width;
            let mixer = task / blocks;
            let block = Block {
                batch: mixer / self.groups,
                group: mixer % self.groups,
                first,
                width: width.min(self.d_inner - first),
            };
            kernel(block, &out);
            finished.fetch_add(1, Ordering::Release);
        });
        match finished.load(Ordering::Acquire) {
            finished if finished < tasks => Err(Unfinished { finished, tasks }),
            _ => Ok(()),
        }
    }
}

/// Whether so many streams are one or two for each of `groups` mixers.
pub(crate) fn one_or_two_per_group(groups: usize, streams: usize) -> bool {
    groups > 0 && streams.is_multiple_of(groups) && matches!(streams / groups, 1 | 2)
}

/// The product, or `usize::MAX`, which is the length of no slice, where it does not fit.
pub(crate) fn product(sizes: &[usize]) -> usize {
    if sizes.contains(&0) {
        return 0;
    }
    sizes.iter().fold(1, |product: usize, &size| product.saturating_mul(size))
}
