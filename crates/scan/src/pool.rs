//! Who runs the tasks of a scan.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, scope};

/// Runs independent tasks, in any order and on any threads.
///
/// A runtime with threads of its own implements this over them.
///
/// Everything takes it as `&dyn Pool`: a generic function is compiled in the crate that calls it, with
/// that crate's settings, and a program that is optimised for size then has kernels that are too.
pub trait Pool {
    /// Calls `task` once with each of `0..tasks` and returns when all calls have.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));
}

/// This thread, one task after the other.
#[derive(Clone, Copy, Debug)]
pub struct Inline;

impl Pool for Inline {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}

/// So many threads, this one included, started anew for every scan.
///
/// Threads that the system refuses to start are done without.
#[derive(Clone, Copy, Debug)]
pub struct Threads(pub NonZeroUsize);

/// Updates of a state, or products with a tap, that take several times as long as starting a thread.
const WORTH_A_THREAD: usize = 1 << 20;

impl Threads {
    /// As many of them as it pays to start for `work`, updates of a state or products with a tap.
    pub fn worth(self, work: usize) -> Self {
        let most = NonZeroUsize::new(work / WORTH_A_THREAD).unwrap_or(NonZeroUsize::MIN);
        Self(self.0.min(most))
    }
}

impl Pool for Threads {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let extra = self.0.get().min(tasks).saturating_sub(1);
        if extra == 0 {
            return Inline.run(tasks, task);
        }
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= tasks {
                    return;
                }
                task(index);
            }
        };
        scope(|scope| {
            for _ in 0..extra {
                if Builder::new().spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_started_for_enough_work_alone() {
        let four = Threads(NonZeroUsize::new(4).unwrap());
        let started = |work| four.worth(work).0.get();
        assert_eq!([0, 2_000_000, 2 << 20, usize::MAX].map(started), [1, 1, 2, 4]);
    }
    use std::collections::HashSet;
    use std::sync::Mutex;
    use std::thread;

    fn calls(pool: &dyn Pool, tasks: usize) -> (Vec<usize>, HashSet<thread::ThreadId>) {
        let seen = Mutex::new((Vec::new(), HashSet::new()));
        pool.run(tasks, &|index| {
            let mut seen = seen.lock().unwrap();
            seen.0.push(index);
            seen.1.insert(thread::current().id());
        });
        let (mut indices, threads) = seen.into_inner().unwrap();
        indices.sort_unstable();
        (indices, threads)
    }

    #[test]
    fn every_task_runs_once() {
        for tasks in [0, 1, 2, 7, 100] {
            let all: Vec<usize> = (0..tasks).collect();
            assert_eq!(calls(&Inline, tasks).0, all);
            for n in [1, 2, 5] {
                assert_eq!(calls(&Threads(NonZeroUsize::new(n).unwrap()), tasks).0, all);
            }
        }
    }

    #[test]
    fn one_task_or_one_thread_stays_on_the_calling_thread() {
        let here = HashSet::from([thread::current().id()]);
        assert_eq!(calls(&Threads(NonZeroUsize::MIN), 9).1, here);
        assert_eq!(calls(&Threads(NonZeroUsize::new(4).unwrap()), 1).1, here);
    }
}
