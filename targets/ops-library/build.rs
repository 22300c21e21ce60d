//! ONNX Runtime closes a library with the last session that uses it. On ELF systems ours stays: threads of the
//! runtime may still be in it, and a library that is opened again would make its operators again.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let system = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if matches!(system.as_str(), "linux" | "android" | "freebsd") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
