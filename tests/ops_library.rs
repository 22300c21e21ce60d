//! The library of operators in a program that is not ours: stock ONNX Runtime in Python.

#![expect(clippy::print_stdout, reason = "what was measured")]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use ssamba_model::{Checkpoint, NormKind, Recipe};
use ssamba_onnx::Options;
use ssamba_ops as _;
use ssamba_tests::{
    hashed, python,
    suite::{Exported, kws12},
};

/// The shared library that cargo built with this test, beside it, unless `SSAMBA_OPS_LIBRARY` names
/// another.
fn library() -> PathBuf {
    if let Some(named) = std::env::var_os("SSAMBA_OPS_LIBRARY") {
        return named.into();
    }
    let test = std::env::current_exe().unwrap();
    let name =
        format!("{}ssamba_ops{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let library = test.with_file_name(name);
    assert!(library.exists(), "cargo builds `{}` with the crate", library.display());
    library
}

/// What `ops_library.py` says of a file.
fn report(model: &Path, runs: usize) -> Value {
    let output = python::command("ops_library.py")
        .arg(model)
        .arg(library())
        .arg(runs.to_string())
        .output()
        .expect("python3 is needed: run the suite by tests/run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Tiny at 145 tokens.
fn tiny() -> (Checkpoint, Recipe) {
    let recipe = Recipe::built_in("speech-commands").unwrap();
    let config = hashed::published(192, 7);
    (hashed::checkpoint(&config, NormKind::Layer, 145), recipe)
}

/// A node for each of the pairs instead of the loop of the function bodies, and the same numbers.
fn check((checkpoint, recipe): (Checkpoint, Recipe), options: &Options, tolerance: f64) {
    let pairs = ssamba_onnx::Weights::load(&checkpoint, None).unwrap().sizes().depth / 2;
    let exported = Exported::new(&checkpoint, recipe, options).unwrap();
    let report = report(&exported.path(), 0);
    println!("{report}");
    for op in ["SelectiveScan", "ShortConv"] {
        assert_eq!(report["ops_without"][op], 0, "{report}");
        assert_eq!(report["ops_with"][op], pairs, "{report}");
    }
    let nodes = |form: &str| report[form].as_u64().unwrap();
    assert!(nodes("nodes_with") * 5 < nodes("nodes_without"), "{report}");
    let error = report["max_abs_error"].as_f64().unwrap();
    // Two programs for the same numbers never agree in every bit.
    assert!(error > 0.0 && error <= tolerance, "{report}");
}

#[test]
fn stock_onnx_runtime_takes_the_kernels_of_the_library() {
    check(kws12().unwrap(), &Options::default(), 1e-4);
    check(tiny(), &Options::default(), 1e-4);
}

#[test]
fn half_precision_is_in_the_library_too() {
    let precision = ssamba_contract::Precision::F16;
    check(kws12().unwrap(), &Options { precision, ..Options::default() }, 5e-3);
}

/// What the header takes from ONNX Runtime's own, which is not in its Python package.
const RUNTIME_HEADER: &str = "\
#define ORT_API_CALL
typedef struct OrtStatus OrtStatus;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtApiBase OrtApiBase;
";

#[test]
fn a_c_program_links_against_header_and_library() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let program = "#include <ssamba_ops.h>\n\
        typedef OrtStatus *(*function)(OrtSessionOptions *, const OrtApiBase *);\n\
        int main(void) { function ours = RegisterCustomOps; return ours == 0; }\n";
    std::fs::write(file("onnxruntime_c_api.h"), RUNTIME_HEADER).unwrap();
    std::fs::write(file("program.c"), program).unwrap();
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../targets/ops-library/include");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output = Command::new(compiler)
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I", include, "-I"])
        .args([folder.path(), &file("program.c"), &library()])
        .arg("-o")
        .arg(file("program"))
        .output()
        .expect("a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "a measurement"]
fn how_much_faster_the_kernels_are() {
    for (name, (checkpoint, recipe)) in [("kws12", kws12().unwrap()), ("tiny, 145 tokens", tiny())]
    {
        let exported = Exported::new(&checkpoint, recipe, &Options::default()).unwrap();
        let report = report(&exported.path(), 40);
        let number = |name: &str| report[name].as_f64().unwrap();
        let (without, with) = (number("ms_without"), number("ms_with"));
        println!("{name:<18} {without:.1} ms without, {with:.1} ms with: {:.2} x", without / with);
    }
}
