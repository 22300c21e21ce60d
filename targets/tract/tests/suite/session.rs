//! Files in tract: what opens, what does not, and what runs.

use ssamba_contract::{
    Session, Tensor,
    io::{EMBEDDING, LOGITS},
};
use ssamba_tract::{Options, TractSession};

use crate::support::{Files, MICRO, card, garbage, message, micro_fbank, micro_model};

fn open(files: &Files) -> TractSession {
    TractSession::open(files.model(&micro_model()), &Options::default()).unwrap()
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
fn half_precision_is_refused_on_opening() {
    let mut model = micro_model();
    let entry = model.metadata_props.iter_mut().find(|entry| entry.key == "ssamba.precision");
    entry.unwrap().value = "fp16".into();
    let message = message(TractSession::open(Files::new().model(&model), &Options::default()));
    assert!(message.contains("(fp16)") && message.contains("--precision fp32"), "{message}");
}

#[test]
fn the_card_is_told() {
    let session = open(&Files::new());
    assert_eq!(session.card(), &card(MICRO.0, MICRO.1));
    assert_eq!(session.provider(), "tract");
}

#[test]
fn sessions_and_runs_of_one_process_agree_to_the_bit() {
    let files = Files::new();
    let (mut left, mut right) = (open(&files), open(&files));
    let fbank = micro_fbank(2);
    let first = left.run(&fbank).unwrap();
    for outputs in [left.run(&fbank).unwrap(), right.run(&fbank).unwrap()] {
        assert_eq!(outputs.get(LOGITS), first.get(LOGITS));
    }
}

#[test]
fn an_input_of_another_shape_is_refused() {
    let mut session = open(&Files::new());
    for shape in [[1, 6, 9], [1, 7, 8], [0, 6, 8]] {
        let fbank = Tensor::new(shape, vec![0.0; shape.iter().product()]).unwrap();
        let message = message(session.run(&fbank));
        assert!(
            message.starts_with(&format!(
                "tract: `fbank` has shape {shape:?}, expected [batch, 6, 8]"
            )),
            "{message}"
        );
    }
    assert!(session.run(&Tensor::new([6, 8], vec![0.0; 48]).unwrap()).is_err());
}

#[test]
fn a_file_that_is_no_model_is_an_error_with_its_name() {
    let files = Files::new();
    for (name, bytes) in garbage() {
        let message = message(TractSession::open(files.bytes(name, &bytes), &Options::default()));
        assert!(message.contains(name) && !message.contains('\n'), "{message}");
    }
    let message = message(TractSession::open("nowhere.onnx", &Options::default()));
    assert!(message.contains("`nowhere.onnx`"), "{message}");
}

#[test]
fn a_graph_that_makes_tract_panic_is_an_error() {
    let mut model = micro_model();
    model.graph.as_mut().unwrap().output[0].name = "nothing makes this".into();
    let message = message(TractSession::open(Files::new().model(&model), &Options::default()));
    assert!(message.contains("not well formed"), "{message}");
}

#[test]
fn a_node_that_tract_does_not_know_is_named() {
    let mut model = micro_model();
    model.graph.as_mut().unwrap().node[0].op_type = "Imaginary".into();
    let mut session = TractSession::open(Files::new().model(&model), &Options::default()).unwrap();
    let message = message(session.run(&micro_fbank(1)));
    assert!(message.contains("Imaginary") && !message.contains('\n'), "{message}");
}

#[test]
fn an_operator_that_onnx_runtime_alone_has_is_refused_on_opening() {
    let mut model = micro_model();
    let node = &mut model.graph.as_mut().unwrap().node[0];
    (node.domain, node.op_type) = ("com.microsoft".into(), "MultiHeadAttention".into());
    let message = message(TractSession::open(Files::new().model(&model), &Options::default()));
    assert!(
        message.ends_with(
            "it holds `com.microsoft::MultiHeadAttention`, which ONNX Runtime alone has: run it there, or \
             export with plain attention"
        ),
        "{message}"
    );
}

#[test]
fn a_model_without_our_card_is_not_ours() {
    let mut model = micro_model();
    model.metadata_props.clear();
    let message = message(TractSession::open(Files::new().model(&model), &Options::default()));
    assert!(message.contains("was not written by `ssamba-edge export`"), "{message}");
}

#[test]
fn a_card_that_contradicts_the_graph_is_an_error() {
    let mut model = micro_model();
    let entry = model.metadata_props.iter_mut().find(|entry| entry.key == "ssamba.n_mels");
    entry.unwrap().value = "128".into();
    let message = message(TractSession::open(Files::new().model(&model), &Options::default()));
    assert!(message.contains("its card says f32 of shape [batch, 6, 128]"), "{message}");
}

/// Archives from before the operators had an attribute for it hold no layout.
#[test]
fn an_archive_that_says_nothing_of_the_layout_runs() {
    let files = Files::new();
    let mut file = open(&files);
    let mut bytes = file.pack().unwrap();
    let said = b", layout = \"channels\", columns = []";
    let places: Vec<usize> =
        (0..bytes.len() - said.len()).filter(|&at| bytes[at..].starts_with(said)).collect();
    assert_eq!(places.len(), 1);
    bytes[places[0]..][..said.len()].fill(b' ');
    let path = files.bytes("old.nnef.tar", &bytes);
    let card = card(MICRO.0, MICRO.1);
    let mut pack = TractSession::open_pack(path, card, &Options::default()).unwrap();
    let fbank = micro_fbank(1);
    let (old, new) = (pack.run(&fbank).unwrap(), file.run(&fbank).unwrap());
    assert_eq!(old.get(LOGITS), new.get(LOGITS));
}

#[test]
fn no_threads_is_an_error() {
    let path = Files::new().model(&micro_model());
    let message = message(TractSession::open(path, &Options { threads: Some(0) }));
    assert!(message.contains("expected at least 1"), "{message}");
}
