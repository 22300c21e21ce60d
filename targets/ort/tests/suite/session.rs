//! Files in ONNX Runtime: what opens, what does not, and what runs.

use std::path::PathBuf;

use crate::{
    options,
    support::{Files, MICRO, card, garbage, message, micro_fbank, micro_model},
};
use ssamba_contract::{
    Session, Tensor,
    io::{EMBEDDING, LOGITS},
};
use ssamba_ort::{
    Options, OrtSession,
    library::{self, Origin},
};

fn open(files: &Files) -> OrtSession {
    OrtSession::open(files.model(&micro_model()), &options()).unwrap()
}

#[test]
fn a_batch_gives_what_its_clips_give_alone() {
    let mut session = open(&Files::new());
    let batch = micro_fbank(3);
    let together = session.run(&batch).unwrap();
    assert_eq!(together.iter().map(|(name, _)| name).collect::<Vec<_>>(), [LOGITS, EMBEDDING]);
    assert_eq!(together.get(LOGITS).unwrap().shape(), [3, 3]);
    for clip in 0..3 {
        let fbank = Tensor::new([1, MICRO.0, MICRO.1], batch.row(clip).to_vec()).unwrap();
        let alone = session.run(&fbank).unwrap();
        for (left, right) in
            alone.get(LOGITS).unwrap().row(0).iter().zip(together.get(LOGITS).unwrap().row(clip))
        {
            assert!((left - right).abs() < 1e-5, "{left} and {right}");
        }
    }
}

#[test]
fn the_card_and_the_library_are_told() {
    let session = open(&Files::new());
    assert_eq!(session.card(), &card(MICRO.0, MICRO.1));
    assert_eq!(session.provider(), "cpu");
    let library = session.library();
    assert_eq!(library.origin(), Origin::Variable);
    assert!(library.version().starts_with("1."), "{library}");
    assert!(library.to_string().contains(library.version()), "{library}");
}

#[test]
fn sessions_of_one_process_share_a_library_and_another_one_is_refused() {
    let files = Files::new();
    let (mut left, mut right) = (open(&files), open(&files));
    let fbank = micro_fbank(1);
    let outputs = [&mut left, &mut right].map(|session| session.run(&fbank).unwrap());
    assert_eq!(outputs[0].get(LOGITS), outputs[1].get(LOGITS));

    let path = files.model(&micro_model());
    let with = |library: PathBuf| {
        OrtSession::open(&path, &Options { library: Some(library), ..options() })
    };
    assert!(with(left.library().path().to_owned()).is_ok());
    let message = message(with("another.so".into()));
    assert!(message.contains("`another.so`") && message.contains("already uses"), "{message}");
    assert_eq!(library::load(None).unwrap(), *left.library());
}

#[test]
fn an_input_of_another_shape_is_refused() {
    let mut session = open(&Files::new());
    for shape in [[1, 6, 9], [1, 7, 8], [0, 6, 8]] {
        let fbank = Tensor::new(shape, vec![0.0; shape.iter().product()]).unwrap();
        let message = message(session.run(&fbank));
        assert!(
            message
                .starts_with(&format!("cpu: `fbank` has shape {shape:?}, expected [batch, 6, 8]")),
            "{message}"
        );
    }
    assert!(session.run(&Tensor::new([6, 8], vec![0.0; 48]).unwrap()).is_err());
}

#[test]
fn a_file_that_is_no_model_is_an_error_with_its_name() {
    let files = Files::new();
    for (name, bytes) in garbage() {
        let message = message(OrtSession::open(files.bytes(name, &bytes), &options()));
        assert!(message.contains(name) && !message.contains('\n'), "{message}");
    }
    let message = message(OrtSession::open("nowhere.onnx", &options()));
    assert!(message.contains("`nowhere.onnx`"), "{message}");
}

#[test]
fn a_model_without_our_card_is_not_ours() {
    let mut model = micro_model();
    model.metadata_props.clear();
    let message = message(OrtSession::open(Files::new().model(&model), &options()));
    assert!(message.contains("was not written by `ssamba-edge export`"), "{message}");
}

#[test]
fn a_card_that_contradicts_the_graph_is_an_error() {
    let mut model = micro_model();
    let entry = model.metadata_props.iter_mut().find(|entry| entry.key == "ssamba.n_mels");
    entry.unwrap().value = "128".into();
    let message = message(OrtSession::open(Files::new().model(&model), &options()));
    assert!(message.contains("its card says f32 of shape [batch, 6, 128]"), "{message}");
}

#[test]
fn the_profile_tells_who_ran_each_node() {
    let options = Options { profile: true, ..options() };
    let mut session = OrtSession::open(Files::new().model(&micro_model()), &options).unwrap();
    let first = session.run(&micro_fbank(1)).unwrap();
    for _ in 0..3 {
        session.run(&micro_fbank(1)).unwrap();
    }
    let placement = session.placement().unwrap();
    assert_eq!(placement.runs(), 3);
    assert!(placement.ops().iter().any(|op| op.op_type == "SelectiveScan"));
    for node in placement.nodes() {
        assert!(node.provider == "cpu" && !node.name.is_empty(), "{node:?}");
        assert_eq!(node.executions, 3, "{node:?}");
    }
    assert!(placement.elsewhere("cpu").is_empty());
    assert!(placement.elsewhere("cuda").len() > 1);
    // It can still run, and has no more to tell.
    let again = session.run(&micro_fbank(1)).unwrap();
    assert_eq!(again.get(LOGITS), first.get(LOGITS));
    let message = message(session.placement());
    assert!(message.contains("no profile is being written"), "{message}");
}

#[test]
fn no_threads_is_an_error() {
    let path = Files::new();
    let options = Options { threads: Some(0), ..options() };
    let message = message(OrtSession::open(path.model(&micro_model()), &options));
    assert!(message.contains("expected at least 1"), "{message}");
}
