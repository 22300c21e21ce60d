//! The CUDA provider: the operator on the device, judged by its definition and by the CPU.

use crate::{
    conv_problem::ConvProblem,
    norm_problem::NormProblem,
    options,
    selective_scan::every_problem,
    support::{Files, Problem, message, micro_fbank, micro_model, negating_body},
};
use onnx_protobuf::ModelProto;
use ssamba_contract::{Session, Tensor, io::LOGITS};
use ssamba_ort::{Cuda, Options, OrtSession, Provider};

/// Absolute and relative difference between the two providers over any number of tokens.
const AGREEMENT: f32 = 1e-4;

fn cuda() -> Options {
    Options { provider: Provider::Cuda(Cuda::default()), ..options() }
}

fn run(model: &ModelProto, fbank: &Tensor, options: &Options) -> Vec<f32> {
    let mut session = OrtSession::open(Files::new().model(model), options).unwrap();
    session.run(fbank).unwrap().get(LOGITS).unwrap().data().to_vec()
}

fn assert_agree(left: &[f32], right: &[f32]) {
    assert_eq!(left.len(), right.len());
    for (index, (left, right)) in left.iter().zip(right).enumerate() {
        let bound = AGREEMENT * (1.0 + right.abs());
        assert!((left - right).abs() <= bound, "value {index}: {left} and {right}");
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn every_problem_has_the_answer_of_the_definition() {
    for problem in every_problem() {
        problem.assert_answered_by(&run(&problem.model(|_| {}), &problem.fbank(), &cuda()));
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn every_convolution_has_the_answer_of_the_definition() {
    for seq_len in [1, 31, 33, 100] {
        for (d_inner, taps) in [(8, 4), (12, 16), (9, 4)] {
            let problem =
                ConvProblem { d_inner, taps, ..ConvProblem::new(2, seq_len, &[0, 1, 1, 0]) };
            problem.assert_answered_by(&run(&problem.model(|_| {}), &problem.fbank(), &cuda()));
        }
    }
    for problem in ConvProblem::all() {
        problem.assert_answered_by(&run(&problem.model(|_| {}), &problem.fbank(), &cuda()));
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn every_norm_has_the_answer_of_the_definition() {
    // More rows than warps run at once, too.
    let many = NormProblem::new(2, 10_000, 192, true);
    for problem in NormProblem::all().into_iter().chain([many]) {
        let files = Files::new();
        let path = files.model(&problem.model(|_| {}));
        let mut session = OrtSession::open(path, &cuda()).unwrap();
        problem.assert_answered_by(&session.run(&problem.fbank()).unwrap());
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn any_number_of_states_and_channels_is_right() {
    for (d_state, d_inner) in [(1, 128), (15, 129), (16, 130), (16, 30), (17, 2), (32, 7)] {
        let problem = Problem { d_state, d_inner, ..Problem::new(2, 65, &[0, 1, 1, 0]) };
        problem.assert_answered_by(&run(&problem.model(|_| {}), &problem.fbank(), &cuda()));
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn chunks_of_every_length_give_what_the_cpu_gives() {
    for seq_len in [32, 33, 513, 2_048, 22_016, 150_000] {
        let problem = Problem { d_inner: 10, ..Problem::new(1, seq_len, &[0, 1, 1, 0]) };
        let (model, fbank) = (problem.model(|_| {}), problem.fbank());
        assert_agree(&run(&model, &fbank, &cuda()), &run(&model, &fbank, &options()));
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn a_repeated_run_gives_the_same_bits() {
    let problem = Problem { d_inner: 70, ..Problem::new(3, 513, &[0, 1, 1, 0]) };
    let (model, fbank) = (problem.model(|_| {}), problem.fbank());
    let first = run(&model, &fbank, &cuda());
    let mut session = OrtSession::open(Files::new().model(&model), &cuda()).unwrap();
    for _ in 0..3 {
        assert_eq!(session.run(&fbank).unwrap().get(LOGITS).unwrap().data(), first);
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn a_whole_model_gives_what_the_cpu_gives() {
    let fbank = micro_fbank(3);
    let session = OrtSession::open(Files::new().model(&micro_model()), &cuda()).unwrap();
    assert_eq!(session.provider(), "cuda");
    let [gpu, cpu] = [cuda(), options()].map(|options| run(&micro_model(), &fbank, &options));
    assert_agree(&gpu, &cpu);
}

#[test]
#[ignore = "needs a CUDA device"]
fn all_nodes_but_shape_arithmetic_run_on_the_device() {
    let options = Options { profile: true, ..cuda() };
    let mut session = OrtSession::open(Files::new().model(&micro_model()), &options).unwrap();
    for _ in 0..2 {
        session.run(&micro_fbank(1)).unwrap();
    }
    let placement = session.placement().unwrap();
    let op = |name| placement.ops().into_iter().find(|op| op.op_type == name).unwrap();
    assert_eq!((op("SelectiveScan").provider, placement.runs()), ("cuda".into(), 1));
    assert!(placement.elsewhere("cuda").is_empty(), "{:?}", placement.elsewhere("cuda"));
}

#[test]
#[ignore = "needs a CUDA device"]
fn our_kernel_goes_before_the_function_body_of_the_file() {
    let problem = Problem { groups: 2, reverse: vec![0, 1], ..Problem::new(1, 3, &[0, 1]) };
    let mut model = problem.model(|_| {});
    model.functions.push(negating_body());
    problem.assert_answered_by(&run(&model, &problem.fbank(), &cuda()));
}

#[test]
#[ignore = "needs a CUDA device"]
fn an_operand_of_a_wrong_shape_is_named() {
    let problem = Problem::new(2, 4, &[0, 1]);
    let model = problem.model(|node| node.input.swap(4, 6));
    let mut session = OrtSession::open(Files::new().model(&model), &cuda()).unwrap();
    let message = message(session.run(&problem.fbank()));
    assert!(message.contains("operand `Cm` has shape [2, 4, 5], expected [2, 4, 32]"), "{message}");
}

#[test]
#[ignore = "needs a CUDA device"]
fn a_device_that_is_not_there_is_named() {
    let device = Cuda { device: 99, ..Cuda::default() };
    let options = Options { provider: Provider::Cuda(device), ..options() };
    let message = message(OrtSession::open(Files::new().model(&micro_model()), &options));
    assert!(message.contains("99"), "{message}");
}

#[test]
fn the_provider_runs_or_what_it_lacks_is_named() {
    match OrtSession::open(Files::new().model(&micro_model()), &cuda()) {
        Ok(session) => assert_eq!(session.provider(), "cuda"),
        Err(error) => {
            let message = format!("{error:#}");
            let lacking = ["onnxruntime-gpu", "libcu", "nvcuda", "nvrtc"];
            assert!(lacking.iter().any(|library| message.contains(library)), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }
}
