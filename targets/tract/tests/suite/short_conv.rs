//! The convolution in tract, through files of one node.

use anyhow::Result;
use onnx_protobuf::ModelProto;
use ssamba_contract::{Session, io::LOGITS, op::attribute};
use ssamba_tract::{Options, TractSession};

use crate::{
    conv_problem::ConvProblem,
    support::{Files, int, message, string},
};

fn open(model: &ModelProto, threads: usize) -> Result<TractSession> {
    TractSession::open(Files::new().model(model), &Options { threads: Some(threads) })
}

fn run(model: &ModelProto, problem: &ConvProblem, threads: usize) -> Result<Vec<f32>> {
    let outputs = open(model, threads)?.run(&problem.fbank())?;
    Ok(outputs.get(LOGITS).unwrap().data().to_vec())
}

#[test]
fn every_problem_has_the_answer_of_the_definition() {
    for problem in ConvProblem::all() {
        problem.assert_answered_by(&run(&problem.model(|_| {}), &problem, 1).unwrap());
    }
}

#[test]
fn absent_attributes_take_the_defaults_of_the_operator() {
    let problem = ConvProblem::new(2, 9, &[0, 1]);
    let model = problem.model(|node| node.attribute.clear());
    problem.assert_answered_by(&run(&model, &problem, 1).unwrap());
}

#[test]
fn threads_do_not_change_a_bit() {
    let problem = ConvProblem { d_inner: 70, ..ConvProblem::new(3, 65, &[0, 1, 1, 0]) };
    let [one, two] = [1, 2].map(|threads| run(&problem.model(|_| {}), &problem, threads).unwrap());
    assert_eq!(one, two);
    problem.assert_answered_by(&one);
}

#[test]
fn a_node_of_another_domain_is_refused_by_name() {
    let model = ConvProblem::new(1, 2, &[0, 1]).model(|node| node.domain = "other".into());
    let message = message(open(&model, 1));
    let needle = "node `conv` is a ShortConv of the domain `other`, expected `ssamba`";
    assert!(message.contains(needle), "{message}");
}

#[test]
fn what_the_operator_does_not_define_is_named() {
    let cases = [
        (int(attribute::GROUPS, 3), "`groups` is 3 with 2 streams"),
        (string(attribute::ACTIVATION, "relu"), "`activation` is `relu`"),
    ];
    let problem = ConvProblem::new(2, 4, &[0, 1]);
    for (attribute, needle) in cases {
        let model = problem.model(|node| {
            node.attribute.retain(|other| other.name != attribute.name);
            node.attribute.push(attribute.clone());
        });
        let message = message(open(&model, 1));
        assert!(message.contains(needle), "{message}");
    }
    let swapped = message(run(&problem.model(|node| node.input.swap(1, 2)), &problem, 1));
    assert!(
        swapped.contains("operand `weight` has shape [10], expected [10, 1 to 16]"),
        "{swapped}"
    );
    let missing = message(open(&problem.model(|node| node.input[1].clear()), 1));
    assert!(missing.contains("operand `weight` is missing"), "{missing}");
}
