//! A longer stream takes no more memory. Alone in its file: other tests would be counted too.
#![cfg(target_os = "linux")]

mod support;

use std::fs;

use ssamba_kws::Settings;

use crate::support::{Exported, events, stream};

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_longer_stream_takes_no_more_memory() {
    /// Far below what 60 s of windows (30 MB), frames (3 MB) or samples (4 MB) would add.
    const SLACK: u64 = 1024;
    let exported = Exported::new();
    let mut spotter = exported.spotter(&Settings::default());
    let stream = stream();
    let mut heard = events(&mut spotter, &stream).len();
    let before = resident();
    for _ in 0..9 {
        heard += events(&mut spotter, &stream).len();
    }
    let after = resident();
    assert_eq!(heard, 30);
    assert!(after <= before + SLACK, "{before} KiB grew to {after} KiB");
}
