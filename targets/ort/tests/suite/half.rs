//! Sequences in half precision on the CPU: what is computed is what the kernel of single precision
//! computes from the rounded operands, rounded.

use onnx_protobuf::{ModelProto, NodeProto};
use ssamba_contract::{
    Session, Tensor,
    io::LOGITS,
    op::{self, short_conv},
};
use ssamba_ort::OrtSession;

use crate::{
    conv_problem::ConvProblem,
    options,
    selective_scan::every_problem,
    support::{Files, int},
};

/// ONNX's numbers for `float` and `float16`.
pub const FLOAT: i64 = 1;
pub const FLOAT16: i64 = 10;

/// A node that converts a value to the element type of that number.
pub fn cast(from: &str, to: &str, element: i64) -> NodeProto {
    NodeProto {
        name: format!("{to}/cast"),
        op_type: "Cast".into(),
        input: vec![from.into()],
        output: vec![to.into()],
        attribute: vec![int("to", element)],
        ..Default::default()
    }
}

/// The model with the sequences of its one node rounded to half precision, and left there if `half`.
fn rounded(mut model: ModelProto, parameters: &[bool], half: bool) -> ModelProto {
    let graph = model.graph.mut_or_insert_default();
    let mut node = graph.node.remove(0);
    for (input, _) in node.input.iter_mut().zip(parameters).filter(|(_, parameter)| !**parameter) {
        if input.is_empty() {
            continue;
        }
        let narrow = format!("{input}_half");
        graph.node.push(cast(input, &narrow, FLOAT16));
        *input = narrow;
        if !half {
            let wide = format!("{input}_wide");
            graph.node.push(cast(input, &wide, FLOAT));
            *input = wide;
        }
    }
    node.output = vec!["y".into()];
    graph.node.push(node);
    if !half {
        graph.node.push(cast("y", "y_half", FLOAT16));
    }
    graph.node.push(cast(if half { "y" } else { "y_half" }, LOGITS, FLOAT));
    model
}

fn run(model: &ModelProto, fbank: &Tensor) -> Vec<f32> {
    let mut session = OrtSession::open(Files::new().model(model), &options()).unwrap();
    session.run(fbank).unwrap().get(LOGITS).unwrap().data().to_vec()
}

#[test]
fn a_scan_has_the_bits_of_single_precision_between_its_roundings() {
    for problem in every_problem() {
        let form = |half| rounded(problem.model(|_| {}), &op::PARAMETERS, half);
        let [half, single] = [true, false].map(|half| run(&form(half), &problem.fbank()));
        assert_eq!(half, single, "{problem:?}");
        assert!(half.iter().any(|&value| value != 0.0));
    }
}

#[test]
fn a_convolution_has_the_bits_of_single_precision_between_its_roundings() {
    for problem in ConvProblem::all() {
        let form = |half| rounded(problem.model(|_| {}), &short_conv::PARAMETERS, half);
        let [half, single] = [true, false].map(|half| run(&form(half), &problem.fbank()));
        assert_eq!(half, single, "{problem:?}");
        assert!(half.iter().any(|&value| value != 0.0));
    }
}
