//! The convolution in ONNX Runtime, through files of one node.

use anyhow::Result;
use ssamba_contract::{Session, io::LOGITS, op::attribute};
use ssamba_ort::{Options, OrtSession};

use crate::{
    conv_problem::ConvProblem,
    options,
    support::{Files, float, int, message, string},
};

fn open(model: &onnx_protobuf::ModelProto, options: &Options) -> Result<OrtSession> {
    OrtSession::open(Files::new().model(model), options)
}

fn run(problem: &ConvProblem, options: &Options) -> Vec<f32> {
    let mut session = open(&problem.model(|_| {}), options).unwrap();
    let outputs = session.run(&problem.fbank()).unwrap();
    outputs.get(LOGITS).unwrap().data().to_vec()
}

#[test]
fn every_problem_has_the_answer_of_the_definition() {
    for problem in ConvProblem::all() {
        problem.assert_answered_by(&run(&problem, &options()));
    }
}

#[test]
fn absent_attributes_take_the_defaults_of_the_operator() {
    let problem = ConvProblem::new(2, 9, &[0, 1]);
    let mut session = open(&problem.model(|node| node.attribute.clear()), &options()).unwrap();
    let outputs = session.run(&problem.fbank()).unwrap();
    problem.assert_answered_by(outputs.get(LOGITS).unwrap().data());
}

#[test]
fn threads_do_not_change_a_bit() {
    let problem = ConvProblem { d_inner: 70, ..ConvProblem::new(3, 65, &[0, 1, 1, 0]) };
    let [one, two] =
        [1, 2].map(|threads| run(&problem, &Options { threads: Some(threads), ..options() }));
    assert_eq!(one, two);
    problem.assert_answered_by(&one);
}

#[test]
fn an_undefined_attribute_is_named() {
    let cases = [
        (int(attribute::GROUPS, 3), "`groups` is 3 with 2 streams"),
        (string(attribute::ACTIVATION, "relu"), "`activation` is `relu`"),
        (float(attribute::GROUPS, 1.0), "`groups` is of another type, expected an int"),
    ];
    for (attribute, needle) in cases {
        let model = ConvProblem::new(1, 2, &[0, 1]).model(|node| {
            node.attribute.retain(|other| other.name != attribute.name);
            node.attribute.push(attribute.clone());
        });
        let message = message(open(&model, &options()));
        assert!(message.contains(needle) && message.contains("node `conv`"), "{message}");
    }
}

#[test]
fn an_operand_of_a_wrong_shape_is_named() {
    let problem = ConvProblem::new(2, 4, &[0, 1]);
    let model = problem.model(|node| node.input.swap(1, 2));
    let mut session = open(&model, &options()).unwrap();
    let message = message(session.run(&problem.fbank()));
    assert!(
        message.contains("operand `weight` has shape [10], expected [10, 1 to 16]"),
        "{message}"
    );
}
