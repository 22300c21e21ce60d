//! The lowering in plain operators: held against what TensorRT says it takes, and its recurrence
//! against the definition in `f64`. TensorRT itself does not run here. Whether whole files compute what candle
//! does is in `parity.rs`.

#![expect(clippy::print_stdout, reason = "the figures are worth reading")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use onnx_protobuf::{
    ModelProto, NodeProto, ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataType,
    tensor_shape_proto::dimension, type_proto,
};
use protobuf::Message;
use ssamba_contract::{Input, Lowering, Tensor};
use ssamba_model::{Checkpoint, NormKind, Recipe};
use ssamba_onnx::{Options, Precision, recurrence_model};
use ssamba_tests::{
    compare::max_abs_error,
    hashed::{self, hashed},
    python::{self, StockSession},
    suite::{Exported, kws12, no_card, runtimes},
    tensorrt::Operators,
};

const CHUNKS: Options = Options {
    pair_fusion: true,
    embedding: false,
    attention: None,
    precision: Precision::F32,
    lowering: Lowering::Chunk,
    batch: None,
    input: Input::Fbank,
    gpu: false,
};

/// Element type and axes of a value; a free axis has no size.
#[derive(Clone, Debug, PartialEq)]
struct Fact {
    kind: &'static str,
    shape: Vec<Option<usize>>,
}

impl Fact {
    fn new(value: &ValueInfoProto) -> Self {
        let Some(type_proto::Value::TensorType(tensor)) = &value.type_.value else {
            panic!("{} is no tensor", value.name)
        };
        let axes = tensor.shape.dim.iter().map(|axis| match &axis.value {
            Some(dimension::Value::DimValue(size)) => Some(*size as usize),
            _ => None,
        });
        Self { kind: kind(tensor.elem_type), shape: axes.collect() }
    }

    /// Values of one clip.
    fn per_clip(&self) -> usize {
        self.shape.iter().flatten().product()
    }
}

/// An element type in the words of TensorRT's table.
fn kind(elem_type: i32) -> &'static str {
    match elem_type {
        t if t == DataType::FLOAT as i32 => "FP32",
        t if t == DataType::INT64 as i32 => "INT64",
        t if t == DataType::DOUBLE as i32 => "DOUBLE",
        _ => "another type",
    }
}

/// A file with the type and shape of every value, as the ONNX project infers them.
struct Graph {
    model: ModelProto,
    facts: BTreeMap<String, Fact>,
    constants: BTreeSet<String>,
}

impl Graph {
    fn read(path: &Path) -> Self {
        let copy = path.with_extension("inferred");
        let status = python::command("infer_shapes.py").args([path, &copy]).status().unwrap();
        assert!(status.success());
        let model = ModelProto::parse_from_bytes(&std::fs::read(copy).unwrap()).unwrap();
        let graph = &model.graph;
        let values = graph.input.iter().chain(&graph.output).chain(&graph.value_info);
        let mut facts: BTreeMap<String, Fact> =
            values.map(|value| (value.name.clone(), Fact::new(value))).collect();
        facts.extend(graph.initializer.iter().map(|tensor| {
            let shape = tensor.dims.iter().map(|&size| Some(size as usize)).collect();
            (tensor.name.clone(), Fact { kind: kind(tensor.data_type), shape })
        }));
        let constants = graph.initializer.iter().map(|tensor| tensor.name.clone()).collect();
        Self { model, facts, constants }
    }

    fn nodes(&self) -> &[NodeProto] {
        &self.model.graph.node
    }

    /// Values that nodes compute, the largest first.
    fn computed(&self) -> Vec<(&str, &Fact)> {
        let outputs = self.nodes().iter().flat_map(|node| &node.output);
        let mut values: Vec<_> =
            outputs.map(|name| (name.as_str(), &self.facts[name.as_str()])).collect();
        values.sort_by_key(|(_, fact)| std::cmp::Reverse(fact.per_clip()));
        values
    }
}

/// Hashed weights for a recipe.
fn hashed_model(d_model: usize, depth: usize, recipe: Recipe) -> (Checkpoint, Recipe) {
    let config = ssamba_model::Config { depth, ..hashed::published(d_model, 7) };
    let (rows, columns) = recipe.grid(&config).unwrap();
    (hashed::checkpoint(&config, NormKind::Layer, 1 + rows * columns), recipe)
}

fn speech_commands(depth: usize) -> (Checkpoint, Recipe) {
    hashed_model(192, depth, Recipe::built_in("speech-commands").unwrap())
}

/// TensorRT's table and what it says under "restrictions", for every node of `graph`.
fn check_against_the_table(what: &str, graph: &Graph) {
    let table = Operators::read();
    let imports = &graph.model.opset_import;
    assert!(imports.iter().all(|import| import.domain.is_empty()), "{what}: a foreign domain");
    assert!((table.opsets[0]..=table.opsets[1]).contains(&imports[0].version), "{what}");
    assert!(graph.model.functions.is_empty(), "{what}: a function");
    let mut used = BTreeSet::new();
    for node in graph.nodes() {
        let (name, op) = (&node.name, node.op_type.as_str());
        used.insert(op);
        assert_eq!(node.domain, "", "{what}: {name} is of a foreign domain");
        assert!(!["If", "Loop", "Scan"].contains(&op), "{what}: {name} is control flow");
        let graphs = [AttributeType::GRAPH, AttributeType::GRAPHS];
        for attribute in &node.attribute {
            assert!(
                !graphs.map(Into::into).contains(&attribute.type_),
                "{what}: {name} has a body"
            );
        }
        let types = table.types.get(op).unwrap_or_else(|| panic!("{what}: {op} is not supported"));
        // Shapes, axes and bounds are integers, and constants; what flows is of the table's types.
        for (position, input) in node.input.iter().enumerate() {
            let fact = &graph.facts[input];
            match fact.kind {
                "INT64" => assert!(
                    position > 0 && graph.constants.contains(input),
                    "{what}: {name} computes with integers"
                ),
                kind => assert!(types.contains(kind), "{what}: {op} of {kind} in {name}"),
            }
        }
        for output in &node.output {
            assert_eq!(graph.facts[output].kind, "FP32", "{what}: {output}");
        }
        let constant = |position: usize| graph.constants.contains(&node.input[position]);
        if table.constant_axes.contains(op) {
            assert!((1..node.input.len()).all(constant), "{what}: {name} has free axes");
        }
        if table.first_output.contains(op) {
            assert_eq!(node.output.len(), 1, "{what}: {name}");
        }
        if op == "Conv" {
            assert!(constant(1) && constant(2), "{what}: {name} has computed weights");
        }
    }
    for (name, fact) in &graph.facts {
        assert!(["FP32", "INT64"].contains(&fact.kind), "{what}: {name} is {fact:?}");
        let fixed = fact.shape.iter().skip(1).all(Option::is_some);
        assert!(fixed, "{what}: {name} has a free axis beside the batch: {fact:?}");
        // TensorRT's tensors have up to eight axes.
        assert!(fact.shape.len() <= 8, "{what}: {name} is {fact:?}");
    }
    println!("{what}: {} nodes of {used:?}", graph.nodes().len());
}

#[test]
fn every_operator_is_in_tensorrt_s_table() {
    let (kws12, kws12_recipe) = kws12().unwrap();
    let (tiny, tiny_recipe) = speech_commands(24);
    for (what, checkpoint, recipe, options) in [
        ("kws12", &kws12, &kws12_recipe, Options { embedding: true, ..CHUNKS }),
        ("kws12 by layers", &kws12, &kws12_recipe, Options { pair_fusion: false, ..CHUNKS }),
        ("tiny, 145 tokens", &tiny, &tiny_recipe, CHUNKS),
    ] {
        let exported = Exported::new(checkpoint, recipe.clone(), &options).unwrap();
        check_against_the_table(what, &Graph::read(&exported.path()));
    }
    // Every head and norm.
    let options = Options { embedding: true, ..CHUNKS };
    for name in ["superb", "urban8k-dasl"] {
        let recipe = Recipe { norm: Some(NormKind::Rms), ..Recipe::built_in(name).unwrap() };
        let (checkpoint, recipe) = hashed_model(16, 2, recipe);
        let exported = Exported::new(&checkpoint, recipe, &options).unwrap();
        check_against_the_table(name, &Graph::read(&exported.path()));
    }
}

/// The check above means something: the file with functions does not pass it.
#[test]
#[should_panic(expected = "a foreign domain")]
fn the_file_with_functions_is_not_for_tensorrt_alone() {
    let (checkpoint, recipe) = kws12().unwrap();
    let exported = Exported::new(&checkpoint, recipe, &Options::default()).unwrap();
    check_against_the_table("functions", &Graph::read(&exported.path()));
}

/// Nothing spans tokens, channels and states; the states of one position in every chunk are all
/// that has `d_state` and `d_inner` at once.
#[test]
fn no_value_is_larger_than_the_chunks_need() {
    let long = "frames = 896\nmean = -4.0\nstd = 4.5\nstride = [5, 10]\n";
    let long = hashed_model(192, 2, Recipe::parse(long, "long").unwrap());
    for ((checkpoint, recipe), tokens, len, count) in
        [(speech_commands(2), 145, 12, 13), (long, 2048, 45, 46)]
    {
        let exported = Exported::new(&checkpoint, recipe, &CHUNKS).unwrap();
        assert_eq!(exported.network.seq_len(), tokens);
        let graph = Graph::read(&exported.path());
        let (streams, d_state, d_inner) = (4, 16, 384);
        let states = streams * count * d_state * d_inner;
        // The convolution's input: every stream with three tokens of padding before it.
        let sequence = streams * (len * count + 3) * d_inner;
        let computed = graph.computed();
        let (name, largest) = computed[0];
        println!(
            "{tokens} tokens: the largest value is {name} {:?}, {:.2} MB a clip; states {:.2} MB, \
             all of them at once would be {:.0} MB",
            largest.shape,
            4e-6 * largest.per_clip() as f64,
            4e-6 * states as f64,
            4e-6 * (streams * tokens * d_state * d_inner) as f64
        );
        assert_eq!(largest.per_clip(), states.max(sequence), "{tokens} tokens");
        for (name, fact) in computed {
            let axes: Vec<usize> = fact.shape.iter().skip(1).flatten().copied().collect();
            if let [.., state, channel] = axes[..]
                && (state, channel) == (d_state, d_inner)
            {
                assert!(fact.per_clip() <= states, "{name} is {fact:?}");
            }
        }
    }
}

/// One problem of the recurrence.
#[derive(Clone, Copy, Debug)]
struct Problem {
    batch: usize,
    seq_len: usize,
    d_inner: usize,
    /// Largest step.
    hottest: f64,
    /// Largest decay rate.
    steepest: f64,
}

const STREAMS: usize = 4;
const STATES: usize = 16;

impl Problem {
    /// u, dt, Bm, Cm, A. Every seventh step is zero; the others reach from small to the hottest.
    fn operands(&self) -> [Tensor; 5] {
        let Self { batch, seq_len, d_inner, hottest, steepest } = *self;
        let random = |name: &str, width: usize| {
            let shape = [batch, STREAMS, seq_len, width];
            Tensor::new(shape, hashed(name, shape.iter().product(), 1.0)).unwrap()
        };
        let dt = random("dt", d_inner);
        let steps = dt.data().iter().enumerate().map(|(i, x)| match i % 7 {
            0 => 0.0,
            _ => (hottest * f64::from(x.abs()).powi(3)) as f32,
        });
        let dt = Tensor::new(dt.shape(), steps.collect()).unwrap();
        let a = (0..STREAMS * STATES * d_inner).map(|i| {
            let rate = 1 + i / d_inner % STATES;
            (-steepest * rate as f64 / STATES as f64) as f32
        });
        let a = Tensor::new([STREAMS, 1, STATES, d_inner], a.collect()).unwrap();
        [random("u", d_inner), dt, random("B", STATES), random("C", STATES), a]
    }

    /// The definition, in `f64`, one value at a time.
    fn definition(&self, operands: &[Tensor; 5]) -> Vec<f64> {
        let Self { batch, seq_len, d_inner, .. } = *self;
        let at = |operand: usize, index: usize| f64::from(operands[operand].data()[index]);
        let mut y = vec![0.0; batch * STREAMS * seq_len * d_inner];
        for walk in 0..batch * STREAMS {
            for channel in 0..d_inner {
                let mut h = [0.0; STATES];
                for row in walk * seq_len..(walk + 1) * seq_len {
                    let wide = row * d_inner + channel;
                    let (u, dt) = (at(0, wide), at(1, wide));
                    for (n, h) in h.iter_mut().enumerate() {
                        let a = at(4, (walk % STREAMS * STATES + n) * d_inner + channel);
                        *h = (dt * a).exp() * *h + dt * u * at(2, row * STATES + n);
                        y[wide] += at(3, row * STATES + n) * *h;
                    }
                }
            }
        }
        y
    }
}

/// `|got - want| / |want|`, over all values.
fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(&mut got.iter().zip(want).map(|(got, want)| f64::from(*got) - want));
    error / norm(&mut want.iter().copied())
}

#[test]
fn the_recurrence_is_its_definition_on_usual_and_hot_steps() {
    let folder = tempfile::tempdir().unwrap();
    let usual = Problem { batch: 1, seq_len: 145, d_inner: 13, hottest: 1.5, steepest: 16.0 };
    let lengths = [1, 2, 3, 15, 16, 17, 65, 145, 513, 2048];
    let problems = lengths
        .into_iter()
        .flat_map(|seq_len| {
            [(1, 1.5, 16.0), (3, 9.0, 50.0)].map(|(batch, hottest, steepest)| Problem {
                batch,
                seq_len,
                hottest,
                steepest,
                ..usual
            })
        })
        // Memories that last for the whole sequence, and steps that are all zero.
        .chain([
            Problem { hottest: 1e-3, steepest: 1.0, seq_len: 2048, ..usual },
            Problem { hottest: 0.0, ..usual },
            Problem { d_inner: 384, ..usual },
        ]);
    // Longer than a segment of `LinearAttention`: what is handed on lasts.
    let long = Problem { hottest: 1e-3, steepest: 1.0, seq_len: 4_500, ..usual };
    let chunks = problems.map(|problem| (Lowering::Chunk, problem));
    let others = [Lowering::Scan, Lowering::ScanBlock].into_iter().flat_map(|lowering| {
        [Problem { seq_len: 513, ..usual }, Problem { hottest: 1e-3, steepest: 1.0, ..usual }]
            .map(|problem| (lowering, problem))
    });
    let segments = [usual, long].map(|problem| (Lowering::LinearAttention, problem));
    for (lowering, problem) in chunks.chain(others).chain(segments) {
        let Problem { seq_len, d_inner, hottest, .. } = problem;
        let model = folder.path().join("recurrence.onnx");
        let bytes = recurrence_model(lowering, STREAMS, seq_len, d_inner, STATES).unwrap();
        std::fs::write(&model, bytes).unwrap();
        let operands = problem.operands();
        let inputs: Vec<&Tensor> = operands.iter().collect();
        let outputs = StockSession::open(&model, no_card()).unwrap().run_raw(&inputs).unwrap();
        let got = outputs[0].1.data();
        let want = problem.definition(&operands);
        let rounded: Vec<f32> = want.iter().map(|&y| y as f32).collect();
        let largest = max_abs_error(got, &rounded);
        if hottest == 0.0 {
            assert_eq!(largest, 0.0, "{problem:?}");
            continue;
        }
        let error = relative_error(got, &want);
        println!("{lowering} {problem:?}: relative {error:.1e}, largest {largest:.1e}");
        // A state that keeps everything is a sum of all tokens, and rounds as one.
        let allowed = match (hottest < 0.01, lowering) {
            // Added up one token after the other.
            (true, Lowering::LinearAttention) => 5e-6,
            (true, _) => 5e-7,
            (false, _) => 2e-7,
        };
        assert!(
            error <= allowed && largest <= 1e-5,
            "{lowering}, {problem:?}: {error:e}, {largest:e}"
        );
    }
}

#[test]
fn a_fixed_batch_is_fixed_everywhere_and_asked_for() {
    let (checkpoint, recipe) = kws12().unwrap();
    let lowerings =
        [Lowering::Function, Lowering::ScanBlock, Lowering::Chunk, Lowering::LinearAttention];
    for lowering in lowerings {
        let options = Options { lowering, batch: Some(2), ..CHUNKS };
        let exported = Exported::new(&checkpoint, recipe.clone(), &options).unwrap();
        if lowering == Lowering::Chunk {
            let graph = Graph::read(&exported.path());
            check_against_the_table("two clips", &graph);
            let free = graph.facts.iter().find(|(_, fact)| fact.shape.contains(&None));
            assert_eq!(free, None);
        }
        let card = exported.card.clone();
        let clips = |batch: usize| {
            let shape = [batch, card.front_end.n_frames, card.front_end.n_mels];
            Tensor::new(shape, hashed("x", shape.iter().product(), 1.0)).unwrap()
        };
        let reference = exported.reference(&clips(2)).unwrap();
        for session in &mut runtimes(&exported.path(), &card).unwrap() {
            let outputs = session.run(&clips(2)).unwrap();
            let error =
                max_abs_error(outputs.get(reference[0].0).unwrap().data(), reference[0].1.data());
            assert!(error <= ssamba_tests::compare::NETWORK, "{}: {error:e}", session.provider());
            if session.provider() != "stock ONNX Runtime in Python" {
                assert_eq!(session.card(), &card);
                let error = format!("{:#}", session.run(&clips(1)).unwrap_err());
                assert!(error.contains("expected [2, 98, 128]"), "{error}");
            }
        }
    }
}
