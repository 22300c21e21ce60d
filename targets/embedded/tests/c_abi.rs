//! The example in C, compiled against the header and the static library, run on the stream.
#![cfg(unix)]

mod support;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use ssamba_contract::{SelfTest, Session, self_test};
use ssamba_tract::{Options, TractSession};

use crate::support::{Exported, assert_words, printed, stream};

/// The static library that cargo built with the crate for this test: beside the test itself, under
/// a name with a hash or without. The newest is of this build.
fn static_library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let beside = fs::read_dir(test.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let ours = beside.filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("libssamba_kws") && name.ends_with(".a")
    });
    ours.max_by_key(|path| fs::metadata(path).and_then(|data| data.modified()).unwrap())
        .expect("cargo builds the static library with the crate")
}

/// Compiles a program in C against header and library.
fn compile(source: &Path, output: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let compiled = Command::new(compiler)
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"])
        .arg(root.join("include"))
        .arg(source)
        .arg(static_library())
        .args(["-lpthread", "-ldl", "-lm", "-o"])
        .arg(output)
        .output()
        .expect("a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
}

#[test]
fn the_example_hears_the_words() {
    let exported = Exported::new();
    let (listen, raw) = (exported.beside("listen"), exported.beside("stream.raw"));
    compile(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/listen.c"), &listen);
    let bytes: Vec<u8> = stream().iter().flat_map(|sample| sample.to_ne_bytes()).collect();
    fs::write(&raw, bytes).unwrap();

    let output =
        Command::new(&listen).arg(exported.model()).stdin(File::open(&raw).unwrap()).output();
    let text = printed(&output.unwrap());
    assert_words(text.lines().map(|line| {
        let mut words = line.split(' ');
        let time_s = words.next().unwrap().parse().unwrap();
        (words.next().unwrap(), time_s)
    }));

    let output = Command::new(&listen).arg("none.onnx").stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.starts_with("error: cannot open `none.onnx` in tract: No such"), "{stderr}");
}

#[test]
fn wrong_calls_are_answered_not_fatal() {
    let exported = Exported::new();
    let (source, program) = (exported.beside("wrong.c"), exported.beside("wrong"));
    fs::write(&source, WRONG_CALLS).unwrap();
    compile(&source, &program);
    let output = Command::new(&program).arg(exported.model()).output().unwrap();
    assert_eq!(printed(&output), "done\n");
}

#[test]
fn the_self_test_says_yes_and_no() {
    let exported = Exported::new();
    let mut session = TractSession::open(exported.model(), &Options::default()).unwrap();
    let input = self_test::input(session.card()).unwrap();
    let right = SelfTest::new(session.run(&input).unwrap().iter(), 1e-4).unwrap();
    let mut wrong = right.clone();
    wrong.values[2] += 1.0;
    let (source, program) = (exported.beside("self_test.c"), exported.beside("self_test"));
    fs::write(&source, SELF_TEST).unwrap();
    compile(&source, &program);
    for (test, answer) in
        [(Some(right), "0 0.00\n"), (Some(wrong), "2 1.00\n"), (None, "-2 -1.00\n")]
    {
        let exported = Exported::with_self_test(test);
        let output = Command::new(&program).arg(exported.model()).output().unwrap();
        assert_eq!(printed(&output), answer);
    }
}

const SELF_TEST: &str = r#"
#include <stdio.h>
#include "ssamba_kws.h"

int main(int argc, char **argv) {
    float error = -1;
    ssamba_kws *kws = ssamba_kws_open(argv[argc - 1], NULL, NULL, 0);
    int code = ssamba_kws_selftest(kws, &error);
    if (ssamba_kws_selftest(NULL, NULL) != SSAMBA_KWS_ARGUMENT) return 1;
    if (ssamba_kws_selftest(kws, NULL) != code) return 1;
    printf("%d %.2f\n", code, error);
    ssamba_kws_close(kws);
    return 0;
}
"#;

const WRONG_CALLS: &str = r#"
#include <stdio.h>
#include <string.h>
#include "ssamba_kws.h"

#define CHECK(x) do { if (!(x)) { printf("line %d: %s\n", __LINE__, #x); return 1; } } while (0)

int main(int argc, char **argv) {
    char error[16];
    int16_t samples[1600] = {0};
    ssamba_kws_event event;
    ssamba_kws_settings settings = {0};
    CHECK(argc == 2);
    CHECK(ssamba_kws_open(NULL, NULL, NULL, 0) == NULL);
    memset(error, 'x', sizeof error);
    CHECK(ssamba_kws_open("none.onnx", NULL, error, sizeof error) == NULL);
    CHECK(strcmp(error, "cannot open `no") == 0);
    settings.hop_ms = 7;
    CHECK(ssamba_kws_open(argv[1], &settings, error, sizeof error) == NULL);
    CHECK(strcmp(error, "a hop of 7 ms, ") == 0);
    settings.hop_ms = 0;
    ssamba_kws *kws = ssamba_kws_open(argv[1], &settings, error, sizeof error);
    CHECK(kws != NULL);
    CHECK(ssamba_kws_feed(NULL, samples, 1600) == SSAMBA_KWS_ARGUMENT);
    CHECK(ssamba_kws_feed(kws, NULL, 1) == SSAMBA_KWS_ARGUMENT);
    CHECK(ssamba_kws_feed(kws, NULL, 0) == SSAMBA_KWS_OK);
    CHECK(ssamba_kws_feed(kws, samples, 1600) == SSAMBA_KWS_OK);
    CHECK(ssamba_kws_poll(NULL, &event) == SSAMBA_KWS_ARGUMENT);
    CHECK(ssamba_kws_poll(kws, NULL) == SSAMBA_KWS_ARGUMENT);
    CHECK(ssamba_kws_poll(kws, &event) == SSAMBA_KWS_OK);
    CHECK(ssamba_kws_reset(NULL) == SSAMBA_KWS_ARGUMENT);
    CHECK(ssamba_kws_reset(kws) == SSAMBA_KWS_OK);
    ssamba_kws_close(kws);
    ssamba_kws_close(NULL);
    puts("done");
    return 0;
}
"#;
