//! The operator in ONNX Runtime, through files of one node.

use crate::{
    options,
    support::{Files, Problem, float, int, ints, message, micro_model, negating_body, string},
};
use anyhow::Result;
use ssamba_contract::{Session, io::LOGITS, op::attribute};
use ssamba_ort::{Options, OrtSession};

fn open(model: &onnx_protobuf::ModelProto, options: &Options) -> Result<OrtSession> {
    OrtSession::open(Files::new().model(model), options)
}

fn run(problem: &Problem, options: &Options) -> Vec<f32> {
    let mut session = open(&problem.model(|_| {}), options).unwrap();
    let outputs = session.run(&problem.fbank()).unwrap();
    outputs.get(LOGITS).unwrap().data().to_vec()
}

/// All that the operator defines.
pub fn every_problem() -> Vec<Problem> {
    [Problem::all(), wide_rows(), Problem::by_stream()].concat()
}

/// `Bm` and `Cm` in rows that hold more.
fn wide_rows() -> Vec<Problem> {
    let mut problems = Vec::new();
    for (width, columns) in [(136, [8, 72]), (133, [69, 3]), (64, [0, 0])] {
        for d_inner in [5, 6] {
            let columns = Some((width, columns));
            problems.push(Problem { d_inner, columns, ..Problem::new(2, 35, &[0, 1, 1, 0]) });
        }
    }
    problems
}

#[test]
fn every_problem_has_the_answer_of_the_definition() {
    for problem in every_problem() {
        problem.assert_answered_by(&run(&problem, &options()));
    }
}

#[test]
fn absent_attributes_take_the_defaults_of_the_operator() {
    let problem = Problem::new(2, 9, &[0, 1]);
    let mut session = open(&problem.model(|node| node.attribute.clear()), &options()).unwrap();
    let outputs = session.run(&problem.fbank()).unwrap();
    problem.assert_answered_by(outputs.get(LOGITS).unwrap().data());
}

#[test]
fn threads_do_not_change_a_bit() {
    let problem = Problem { d_inner: 70, ..Problem::new(3, 65, &[0, 1, 1, 0]) };
    let [one, two] =
        [1, 2].map(|threads| run(&problem, &Options { threads: Some(threads), ..options() }));
    assert_eq!(one, two);
    problem.assert_answered_by(&one);
}

#[test]
fn a_node_of_another_domain_is_refused_by_name() {
    let model = Problem::new(1, 2, &[0, 1]).model(|node| node.domain = "other".into());
    let message = message(open(&model, &options()));
    assert!(message.contains("other") && message.contains("SelectiveScan"), "{message}");
}

#[test]
fn an_undefined_attribute_is_named() {
    let cases = [
        (int(attribute::GROUPS, 3), "`groups` is 3 with 2 streams"),
        (string(attribute::GATE, "relu"), "`gate` is `relu`"),
        (string(attribute::COMBINE, "max"), "`combine` is `max`"),
        (int(attribute::DELTA_SOFTPLUS, 7), "`delta_softplus` is 7"),
        (ints(attribute::COLUMNS, &[4]), "`columns` is [4]"),
        (string(attribute::LAYOUT, "rows"), "`layout` is `rows`"),
        (float(attribute::GROUPS, 1.0), "`groups` is of another type, expected an int"),
        (int(attribute::SCALE, 1), "`scale` is of another type, expected a float"),
    ];
    for (attribute, needle) in cases {
        let model = Problem::new(1, 2, &[0, 1]).model(|node| {
            node.attribute.retain(|other| other.name != attribute.name);
            node.attribute.push(attribute.clone());
        });
        let message = message(open(&model, &options()));
        assert!(message.contains(needle) && message.contains("node `scan`"), "{message}");
    }
}

#[test]
fn an_operand_of_a_wrong_shape_is_named() {
    let problem = Problem::new(2, 4, &[0, 1]);
    // `z` in the place of `Cm`, and the other way round.
    let model = problem.model(|node| node.input.swap(4, 6));
    let mut session = open(&model, &options()).unwrap();
    let message = message(session.run(&problem.fbank()));
    assert!(message.contains("operand `Cm` has shape [2, 4, 5], expected [2, 4, 32]"), "{message}");
}

#[test]
fn the_shape_of_the_output_is_known_before_the_first_run() {
    let mut model = micro_model();
    let graph = model.graph.as_mut().unwrap();
    // What the graph declares of its outputs would tell as well.
    graph.output.retain(|output| output.name == LOGITS);
    let head = graph.initializer.iter_mut().find(|weight| weight.name == "head_weight").unwrap();
    assert_eq!(head.dims, [4, 3]);
    head.dims = vec![2, 6];
    let message = message(open(&model, &options()));
    assert!(message.contains("Incompatible dimensions"), "{message}");
}

#[test]
fn our_kernel_goes_before_the_function_body_of_the_file() {
    let problem = Problem { groups: 2, reverse: vec![0, 1], ..Problem::new(1, 3, &[0, 1]) };
    let mut model = problem.model(|_| {});
    model.functions.push(negating_body());
    let run = |use_op| {
        let mut session = open(&model, &Options { use_op, ..options() }).unwrap();
        session.run(&problem.fbank()).unwrap().get(LOGITS).unwrap().data().to_vec()
    };
    problem.assert_answered_by(&run(true));
    let negated: Vec<f32> = problem.fbank().data().iter().map(|u| -u).collect();
    assert_eq!(run(false), negated);
}
