//! The first sessions of a process: a file of its own, since they are first only once.

#[expect(dead_code, reason = "the suite uses the rest")]
#[path = "suite/support.rs"]
mod support;

use std::{sync::Barrier, thread::scope};

use ssamba_ort::{Options, OrtSession, library};
use support::{Files, micro_model};

#[test]
fn the_first_files_open_on_many_threads_at_a_time() {
    let library = std::env::var_os("ORT_DYLIB_PATH");
    assert!(library.is_some(), "needs ONNX Runtime: run `tests/run`, or set ORT_DYLIB_PATH");
    library::load(None).unwrap();
    let files = Files::new();
    let path = files.model(&micro_model());
    const THREADS: usize = 8;
    let together = Barrier::new(THREADS);
    scope(|scope| {
        let open = || {
            together.wait();
            OrtSession::open(&path, &Options { threads: Some(1), ..Options::default() }).map(drop)
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(open)).collect();
        for thread in threads {
            thread.join().unwrap().unwrap();
        }
    });
}
