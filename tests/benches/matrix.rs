//! Lowerings against runtimes, on one second of speech: `. tests/env.sh; cargo bench --workspace --profile dev --bench matrix`.
//!
//! A cell holds the largest absolute error of the logits against candle behind the front end in `f64`, and
//! the shortest of several runs on one thread; or why there is nothing. The cases are written to
//! `target/matrix` for runtimes that are not in this process:
//!
//! - `cases.json` lists for each case its `name`, the `file`, the `input`'s name, `shape` and the file
//!   that holds its values (`data`, `f32`, little-endian), and the `logits` that candle gives;
//! - a runtime adds a column by writing `results/ANY.json`,
//!   `{"runtime": NAME, "cells": [{"case": NAME, "max_abs_error": X, "ms": X}, {"case": NAME, "reason": TEXT}]}`.
//!
//! Built as the tests are (`--profile dev`, whose assertions slow tract down), it needs no
//! second build of everything; without that option the times are those of a release.
//!
//! `-- --print` measures nothing and prints the table of all results that are there.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use serde_json::{Value, json};
use ssamba_contract::{Input, Lowering, Session, Tensor, io::LOGITS};
use ssamba_model::{Checkpoint, NormKind, Recipe};
use ssamba_onnx::Options;
use ssamba_ort::OrtSession;
use ssamba_tests::{
    compare::max_abs_error,
    hashed,
    python::StockSession,
    suite::{Exported, kws12, zoo},
};
use ssamba_tract::TractSession;

const LOWERINGS: [Lowering; 5] = [
    Lowering::Function,
    Lowering::Scan,
    Lowering::ScanBlock,
    Lowering::Chunk,
    Lowering::LinearAttention,
];

/// What runs here, in the order of the columns.
const RUNTIMES: [&str; 3] =
    ["tract", "ONNX Runtime, our operators", "stock ONNX Runtime in Python"];

fn main() {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "target", "matrix"].iter().collect();
    if !std::env::args().any(|argument| argument == "--print") {
        measure(&folder);
    }
    print(&folder);
}

/// Networks with the number of runs of which the shortest counts.
fn networks() -> [(&'static str, usize, (Checkpoint, Recipe)); 2] {
    let recipe = Recipe::built_in("speech-commands").unwrap();
    let config = hashed::published(192, 35);
    let (rows, columns) = recipe.grid(&config).unwrap();
    let tiny = (hashed::checkpoint(&config, NormKind::Layer, 1 + rows * columns), recipe);
    [("kws12, 49 tokens", 40, kws12().unwrap()), ("tiny, 145 tokens", 12, tiny)]
}

fn measure(folder: &Path) {
    fs::create_dir_all(folder.join("results")).unwrap();
    let speech = ssamba_audio::read(&zoo("kws12").join("yes.wav"), 16_000).unwrap().samples;
    let speech = Tensor::new([1, speech.len()], speech).unwrap();
    let mut cases = Vec::new();
    let mut columns: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (network, rounds, (checkpoint, recipe)) in networks() {
        for input in [Input::Fbank, Input::Waveform] {
            for lowering in LOWERINGS {
                let options = Options { lowering, input, ..Options::default() };
                let exported = Exported::new(&checkpoint, recipe.clone(), &options).unwrap();
                let given = match input {
                    Input::Fbank => exported.fbank(&speech).unwrap(),
                    Input::Waveform => speech.clone(),
                };
                let logits = exported.reference(&given).unwrap().remove(0).1;
                let name = format!("{network}: {lowering}, {input}");
                let stem = name.replace([',', ':'], "").replace(' ', "-");
                let (file, data) = (format!("{stem}.onnx"), format!("{stem}.f32"));
                fs::copy(exported.path(), folder.join(&file)).unwrap();
                let bytes = given.data().iter().flat_map(|value| value.to_le_bytes());
                fs::write(folder.join(&data), bytes.collect::<Vec<u8>>()).unwrap();
                cases.push(json!({
                    "name": name,
                    "file": file,
                    "input": exported.card.input_name(),
                    "shape": given.shape(),
                    "data": data,
                    "logits": logits.data(),
                }));
                for (runtime, cell) in run(&exported, &given, &logits, rounds) {
                    let mut cell = cell;
                    cell["case"] = json!(name);
                    columns.entry(runtime).or_default().push(cell);
                }
            }
        }
    }
    write(&folder.join("cases.json"), &json!(cases));
    for (index, runtime) in RUNTIMES.into_iter().enumerate() {
        let column = json!({"runtime": runtime, "cells": columns[runtime]});
        // First in the order of names.
        write(&folder.join("results").join(format!("{index}.json")), &column);
    }
}

fn write(path: &Path, value: &Value) {
    fs::write(path, serde_json::to_string_pretty(value).unwrap() + "\n").unwrap();
}

/// A cell of every runtime, which take turns.
fn run(
    exported: &Exported,
    input: &Tensor,
    logits: &Tensor,
    rounds: usize,
) -> Vec<(&'static str, Value)> {
    let path = exported.path();
    let one = ssamba_tract::Options { threads: Some(1) };
    let tract: Result<Box<dyn Session>, String> = match exported.card.beyond_tract() {
        Some(reason) => Err(reason.into()),
        None => Ok(Box::new(TractSession::open(&path, &one).unwrap())),
    };
    let one = ssamba_ort::Options { threads: Some(1), ..Default::default() };
    let ort = OrtSession::open(&path, &one).unwrap();
    let stock = StockSession::open(&path, exported.card.clone()).unwrap();
    let mut sessions = [tract, Ok(Box::new(ort)), Ok(Box::new(stock))];
    let mut cells: Vec<(f32, f64)> = vec![(0.0, f64::INFINITY); sessions.len()];
    for round in 0..=rounds {
        for (session, (error, best)) in sessions.iter_mut().zip(&mut cells) {
            let Ok(session) = session else { continue };
            let start = Instant::now();
            let outputs = session.run(input).unwrap();
            let time = start.elapsed().as_secs_f64() * 1e3;
            // The first round plans and warms up.
            if round > 0 {
                *best = best.min(time);
            }
            *error = error.max(max_abs_error(outputs.get(LOGITS).unwrap().data(), logits.data()));
        }
    }
    let cell = |(session, (error, ms)): (Result<_, String>, (f32, f64))| match session {
        Ok(_) => json!({"max_abs_error": error, "ms": ms}),
        Err(reason) => json!({"reason": reason}),
    };
    RUNTIMES.into_iter().zip(sessions.into_iter().zip(cells).map(cell)).collect()
}

fn print(folder: &Path) {
    let read = |path: &Path| -> Value {
        let text = fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("{}: {error}; measure first", path.display()));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let cases = read(&folder.join("cases.json"));
    let files = fs::read_dir(folder.join("results")).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<PathBuf> = files.collect();
    files.sort();
    let columns: Vec<Value> = files.iter().map(|path| read(path)).collect();
    let names: Vec<&str> =
        columns.iter().map(|column| column["runtime"].as_str().unwrap_or("?")).collect();
    println!("| max abs error of the logits, ms | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(names.len()));
    let mut reasons: Vec<&str> = Vec::new();
    for case in cases.as_array().unwrap() {
        let mut row = format!("| {} |", case["name"].as_str().unwrap());
        for column in &columns {
            let cells = column["cells"].as_array().map_or(&[][..], Vec::as_slice);
            let cell = cells.iter().find(|cell| cell["case"] == case["name"]);
            row += &match cell {
                None => " not measured |".into(),
                Some(cell) => match (cell["reason"].as_str(), cell["max_abs_error"].as_f64()) {
                    (Some(reason), _) => {
                        let known = reasons.iter().position(|known| *known == reason);
                        let index = known.unwrap_or_else(|| {
                            reasons.push(reason);
                            reasons.len() - 1
                        });
                        format!(" not supported ({}) |", index + 1)
                    }
                    (None, Some(error)) => {
                        let ms = cell["ms"].as_f64().unwrap_or(f64::NAN);
                        format!(" {error:.1e}, {ms:.1} |")
                    }
                    (None, None) => " no number |".into(),
                },
            };
        }
        println!("{row}");
    }
    for (index, reason) in reasons.iter().enumerate() {
        println!("\n({}) {reason}", index + 1);
    }
}
