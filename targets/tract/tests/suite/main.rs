//! Exported files in tract, through the public door.

mod selective_scan;
mod session;
#[path = "../../../ort/tests/suite/support.rs"]
mod support;
