//! The norm of the residual in ONNX Runtime, through files of one node.

use ssamba_contract::{Outputs, Session, op::attribute};
use ssamba_ort::OrtSession;

use crate::{
    norm_problem::NormProblem,
    options,
    support::{Files, float, int, message},
};

fn run(problem: &NormProblem) -> Outputs {
    let path = Files::new();
    let path = path.model(&problem.model(|_| {}));
    OrtSession::open(path, &options()).unwrap().run(&problem.fbank()).unwrap()
}

#[test]
fn every_problem_has_the_answer_of_the_definition() {
    for problem in NormProblem::all() {
        problem.assert_answered_by(&run(&problem));
    }
}

#[test]
fn an_absent_epsilon_takes_the_default_of_the_operator() {
    let problem = NormProblem::new(2, 3, 8, false);
    let files = Files::new();
    let path = files.model(&problem.model(|node| node.attribute.clear()));
    let outputs = OrtSession::open(path, &options()).unwrap().run(&problem.fbank()).unwrap();
    problem.assert_answered_by(&outputs);
}

#[test]
fn an_undefined_attribute_is_named() {
    let cases = [
        (float(attribute::EPSILON, -1.0), "`epsilon` is -1, expected a number"),
        (int(attribute::EPSILON, 1), "`epsilon` is of another type, expected a float"),
    ];
    for (attribute, needle) in cases {
        let files = Files::new();
        let path = files.model(
            &NormProblem::new(1, 2, 8, false)
                .model(|node| node.attribute = vec![attribute.clone()]),
        );
        let message = message(OrtSession::open(path, &options()));
        assert!(message.contains(needle) && message.contains("node `norm`"), "{message}");
    }
}

#[test]
fn an_operand_of_a_wrong_shape_is_named() {
    let problem = NormProblem { updates: (3, 4), ..NormProblem::new(2, 4, 8, false) };
    let files = Files::new();
    let path = files.model(&problem.model(|_| {}));
    let mut session = OrtSession::open(path, &options()).unwrap();
    let message = message(session.run(&problem.fbank()));
    assert!(
        message.contains("operand `update` has shape [3, 4, 8], expected [2 or 1, 4 or 1, 8]"),
        "{message}"
    );
}
