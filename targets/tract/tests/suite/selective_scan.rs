//! The operator in tract, through files of one node.

use anyhow::Result;
use onnx_protobuf::ModelProto;
use ssamba_contract::{Session, io::LOGITS, op::attribute};
use ssamba_tract::{Options, TractSession};

use crate::support::{Files, Problem, float, int, ints, message, negating_body, string};

fn open(model: &ModelProto, threads: usize) -> Result<TractSession> {
    TractSession::open(Files::new().model(model), &Options { threads: Some(threads) })
}

fn run(model: &ModelProto, problem: &Problem, threads: usize) -> Result<Vec<f32>> {
    let outputs = open(model, threads)?.run(&problem.fbank())?;
    Ok(outputs.get(LOGITS).unwrap().data().to_vec())
}

#[test]
fn every_problem_has_the_answer_of_the_definition() {
    for problem in [Problem::all(), Problem::by_stream()].concat() {
        problem.assert_answered_by(&run(&problem.model(|_| {}), &problem, 1).unwrap());
    }
}

#[test]
fn absent_attributes_take_the_defaults_of_the_operator() {
    let problem = Problem::new(2, 9, &[0, 1]);
    let model = problem.model(|node| node.attribute.clear());
    problem.assert_answered_by(&run(&model, &problem, 1).unwrap());
}

#[test]
fn threads_do_not_change_a_bit() {
    let problem = Problem { d_inner: 70, ..Problem::new(3, 65, &[0, 1, 1, 0]) };
    let [one, two] = [1, 2].map(|threads| run(&problem.model(|_| {}), &problem, threads).unwrap());
    assert_eq!(one, two);
    problem.assert_answered_by(&one);
}

#[test]
fn a_node_of_another_domain_is_refused_by_name() {
    let model = Problem::new(1, 2, &[0, 1]).model(|node| node.domain = "other".into());
    let message = message(open(&model, 1));
    let needle = "node `scan` is a SelectiveScan of the domain `other`, expected `ssamba`";
    assert!(message.contains(needle), "{message}");
}

#[test]
fn an_undefined_attribute_is_named() {
    let cases = [
        (int(attribute::GROUPS, 3), "`groups` is 3 with 2 streams"),
        (string(attribute::GATE, "relu"), "`gate` is `relu`"),
        (string(attribute::COMBINE, "max"), "`combine` is `max`"),
        (int(attribute::DELTA_SOFTPLUS, 7), "`delta_softplus` is 7"),
        (float(attribute::GROUPS, 1.0), "attribute 'groups': expected int"),
        (int(attribute::SCALE, 1), "attribute 'scale': expected float"),
        (ints(attribute::COLUMNS, &[4]), "`columns` is [4]"),
        (string(attribute::LAYOUT, "rows"), "`layout` is `rows`"),
    ];
    for (attribute, needle) in cases {
        let model = Problem::new(1, 2, &[0, 1]).model(|node| {
            node.attribute.retain(|other| other.name != attribute.name);
            node.attribute.push(attribute.clone());
        });
        let message = message(open(&model, 1));
        assert!(message.contains(needle), "{message}");
    }
}

#[test]
fn an_operand_that_is_missing_or_of_a_wrong_shape_is_named() {
    let problem = Problem::new(2, 4, &[0, 1]);
    // `z` in the place of `Cm`, and the other way round.
    let swapped = problem.model(|node| node.input.swap(4, 6));
    let swapped = message(run(&swapped, &problem, 1));
    assert!(swapped.contains("operand `Cm` has shape [2, 4, 5], expected [2, 4, 32]"), "{swapped}");
    let missing = problem.model(|node| node.input[3].clear());
    let missing = message(open(&missing, 1));
    assert!(missing.contains("operand `Bm` is missing"), "{missing}");
}

#[test]
fn our_operator_goes_before_the_function_body_of_the_file() {
    let problem = Problem::new(1, 3, &[0, 1]);
    let mut model = problem.model(|_| {});
    model.functions.push(negating_body());
    problem.assert_answered_by(&run(&model, &problem, 1).unwrap());
}
