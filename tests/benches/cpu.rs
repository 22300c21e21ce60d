//! Time of one clip on the CPU, as ratios within one run: `. tests/env.sh; cargo bench --workspace --bench cpu`.
//!
//! For each network: ONNX Runtime with our operators, tract, ONNX Runtime with the function bodies, and the
//! first two on the file in eight bits, all on one thread, beside the *floor*: the same graph in ONNX Runtime, with our convolution, and with
//! every scan replaced by a sum that keeps its operands alive. Minimum and median of interleaved rounds.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::{path::Path, time::Instant};

use onnx_protobuf::{AttributeProto, ModelProto, NodeProto, attribute_proto::AttributeType};
use protobuf::Message;
use ssamba_contract::{Session, Tensor, op};
use ssamba_model::{Checkpoint, NormKind, Recipe};
use ssamba_onnx::{Options, Precision};
use ssamba_ort::OrtSession;
use ssamba_tests::{
    hashed,
    suite::{Exported, kws12},
};
use ssamba_tract::TractSession;

fn main() {
    // Cargo passes `--bench`; anything else is a network to run alone.
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let tiny = |recipe: &str| {
        let recipe = Recipe::built_in(recipe).unwrap();
        let config = hashed::published(192, 35);
        let (rows, columns) = recipe.grid(&config).unwrap();
        (hashed::checkpoint(&config, NormKind::Layer, 1 + rows * columns), recipe)
    };
    let networks: [(&str, usize, (Checkpoint, Recipe)); 3] = [
        ("kws12", 300, kws12().unwrap()),
        ("tiny-145", 40, tiny("speech-commands")),
        ("tiny-1213", 30, tiny("audioset")),
    ];
    println!(
        "{:<10} {:<24} {:>9} {:>9} {:>9}",
        "network", "runtime, 1 thread", "min ms", "median", "x floor"
    );
    for (name, rounds, (checkpoint, recipe)) in networks {
        if only.as_deref().is_none_or(|only| only == name) {
            measure(name, rounds, &checkpoint, recipe);
        }
    }
}

fn measure(name: &str, rounds: usize, checkpoint: &Checkpoint, recipe: Recipe) {
    let exported = Exported::new(checkpoint, recipe.clone(), &Options::default()).unwrap();
    let options = Options { precision: Precision::I8, ..Options::default() };
    let eight = Exported::new(checkpoint, recipe, &options).unwrap();
    let floor = exported.path().with_file_name("floor.onnx");
    cut_out_scans(&exported.path(), &floor);
    let one = |use_op| ssamba_ort::Options { threads: Some(1), use_op, ..Default::default() };
    let ort = |path: &Path, use_op| OrtSession::open(path, &one(use_op)).unwrap();
    let tract = ssamba_tract::Options { threads: Some(1) };
    let mut sessions: Vec<(&str, Box<dyn Session>)> = vec![
        ("floor", Box::new(ort(&floor, true))),
        ("ONNX Runtime, operator", Box::new(ort(&exported.path(), true))),
        ("ONNX Runtime, int8", Box::new(ort(&eight.path(), true))),
        ("tract", Box::new(TractSession::open(exported.path(), &tract).unwrap())),
        ("tract, int8", Box::new(TractSession::open(eight.path(), &tract).unwrap())),
        ("ONNX Runtime, stock", Box::new(ort(&exported.path(), false))),
    ];
    let front_end = &exported.card.front_end;
    let shape = [1, front_end.n_frames, front_end.n_mels];
    let input = Tensor::new(shape, hashed::hashed("x", shape.iter().product(), 1.0)).unwrap();

    let mut times = vec![Vec::with_capacity(rounds); sessions.len()];
    for round in 0..=rounds {
        for ((_, session), times) in sessions.iter_mut().zip(&mut times) {
            let start = Instant::now();
            session.run(&input).unwrap();
            // The first round plans and warms up.
            if round > 0 {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
    let floor = times[0][0];
    for ((runtime, _), times) in sessions.iter().zip(&times) {
        let (min, median) = (times[0], times[rounds / 2]);
        println!("{name:<10} {runtime:<24} {min:>9.2} {median:>9.2} {:>9.2}", min / floor);
    }
}

/// Replaces every scan by the sum of half of its streams, with B and C reduced to one value a token: all
/// projections still have to be computed. For one clip, with streams one after the other.
fn cut_out_scans(from: &Path, to: &Path) {
    let mut model = ModelProto::parse_from_bytes(&std::fs::read(from).unwrap()).unwrap();
    model.functions.retain(|function| function.name != op::SELECTIVE_SCAN);
    let graph = model.graph.as_mut().unwrap();
    let (mut nodes, mut width) = (Vec::new(), 0);
    for node in std::mem::take(&mut graph.node) {
        if node.domain != op::DOMAIN || node.op_type != op::SELECTIVE_SCAN {
            nodes.push(node);
            continue;
        }
        let [u, delta, _, b, c, d_skip, z, _] = node.input.as_slice() else {
            panic!("eight operands")
        };
        let channels = graph.initializer.iter().find(|tensor| tensor.name == *d_skip).unwrap();
        width = channels.dims[0] / 2;
        let mut plain = |op_type: &str, inputs: &[&str], outputs: &[String], attribute| {
            nodes.push(NodeProto {
                name: format!("{op_type}/{}", outputs[0]),
                op_type: op_type.into(),
                input: inputs.iter().map(ToString::to_string).collect(),
                output: outputs.to_vec(),
                attribute,
                ..Default::default()
            });
            outputs[0].clone()
        };
        let part = |operand: &str| format!("{}/{operand}", node.name);
        let mut half = |operand: &str, value: &str| {
            let outputs = [part(operand), part(&format!("{operand}_rest"))];
            let half =
                plain("Split", &[value], &outputs, vec![int("axis", 0), int("num_outputs", 2)]);
            // Whatever lies where: as many values in the shape of `z`.
            let shaped = part(&format!("{operand}_shaped"));
            plain("Reshape", &[&half, "floor/shape"], &[shaped], Vec::new())
        };
        let (u, delta) = (half("u", u), half("delta", delta));
        let mut total = |operand: &str, value: &str| {
            plain("ReduceSum", &[value, "floor/axes"], &[part(operand)], Vec::new())
        };
        let (b, c) = (total("b", b), total("c", c));
        plain("Sum", &[&u, &delta, z, &b, &c], &node.output, Vec::new());
    }
    graph.node = nodes;
    for (name, values) in [("floor/axes", vec![0, 2]), ("floor/shape", vec![1, -1, width])] {
        graph.initializer.push(onnx_protobuf::TensorProto {
            name: name.into(),
            dims: vec![values.len() as i64],
            data_type: onnx_protobuf::tensor_proto::DataType::INT64 as i32,
            raw_data: values.into_iter().flat_map(i64::to_le_bytes).collect(),
            ..Default::default()
        });
    }
    std::fs::write(to, model.write_to_bytes().unwrap()).unwrap();
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        type_: AttributeType::INT.into(),
        i: value,
        ..Default::default()
    }
}
