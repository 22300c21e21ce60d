//! Exported files in tract, through the public door.

#[path = "../../../ort/tests/suite/conv_problem.rs"]
mod conv_problem;
mod selective_scan;
mod session;
mod short_conv;
#[path = "../../../ort/tests/suite/support.rs"]
mod support;
