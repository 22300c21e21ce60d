//! What an exported graph looks like, without running it.

use std::collections::BTreeMap;

use onnx_protobuf::{Message, ModelProto, NodeProto};
use ssamba_contract::{Card, Input, Lowering};
use ssamba_model::{Published, Recipe};
use ssamba_onnx::{Attention, Options, Precision, inspect};
use ssamba_tests::{
    compare::{NETWORK, max_abs_error},
    hashed, python,
    suite::{Exported, kws12},
};

fn exported(options: &Options) -> Exported {
    let (checkpoint, recipe) = kws12().unwrap();
    Exported::new(&checkpoint, recipe, options).unwrap()
}

fn ops(exported: &Exported) -> BTreeMap<String, usize> {
    inspect(&exported.path()).unwrap().ops
}

#[test]
fn a_pair_of_layers_has_one_scan_and_one_convolution_and_so_has_a_layer_without_fusion() {
    let fused = ops(&exported(&Options::default()));
    let layers = ops(&exported(&Options { pair_fusion: false, ..Options::default() }));
    for op in ["ssamba::ShortConv", "ssamba::SelectiveScan"] {
        assert_eq!((fused[op], layers[op]), (6, 12), "{op}");
    }
    // The patch embedding's.
    assert_eq!((fused["Conv"], layers["Conv"]), (1, 1));
    // One norm a pair, two final ones, one of the head.
    assert_eq!((fused["LayerNormalization"], layers["LayerNormalization"]), (9, 15));
}

#[test]
fn op_counts_of_the_keyword_model() {
    insta::assert_debug_snapshot!(ops(&exported(&Options::default())));
}

fn lowered(lowering: Lowering) -> Exported {
    exported(&Options { lowering, ..Options::default() })
}

/// Moderate: the nodes of a pair grow with the square root of the tokens.
#[test]
fn op_counts_of_the_keyword_model_in_chunks() {
    insta::assert_debug_snapshot!(ops(&lowered(Lowering::Chunk)));
}

#[test]
fn op_counts_of_the_keyword_model_as_loops_over_tokens() {
    insta::assert_debug_snapshot!(ops(&lowered(Lowering::Scan)));
}

/// What is in a body is not counted: the graph is that of a loop over tokens but for its shapes.
#[test]
fn op_counts_of_the_keyword_model_as_loops_over_blocks() {
    insta::assert_debug_snapshot!(ops(&lowered(Lowering::ScanBlock)));
}

#[test]
fn op_counts_of_the_keyword_model_as_linear_attention() {
    insta::assert_debug_snapshot!(ops(&lowered(Lowering::LinearAttention)));
}

#[test]
fn op_counts_of_the_keyword_model_that_takes_a_waveform() {
    let options = Options { input: Input::Waveform, ..Options::default() };
    insta::assert_debug_snapshot!(ops(&exported(&options)));
}

const LOWERINGS: [Lowering; 5] = [
    Lowering::Function,
    Lowering::Scan,
    Lowering::ScanBlock,
    Lowering::Chunk,
    Lowering::LinearAttention,
];

/// Standard operators are all that there is, but for the one that names itself.
#[test]
fn the_other_lowerings_have_no_functions_and_no_operators_of_ours() {
    for lowering in LOWERINGS {
        let inspection = inspect(&lowered(lowering).path()).unwrap();
        let domains: Vec<&str> = inspection.opsets.keys().map(String::as_str).collect();
        let (expected, functions): (&[&str], usize) = match lowering {
            Lowering::Function => (&["ai.onnx", "ssamba"], 2),
            Lowering::LinearAttention => (&["ai.onnx", "com.microsoft"], 0),
            _ => (&["ai.onnx"], 0),
        };
        assert_eq!((domains, inspection.functions.len()), (expected.to_vec(), functions));
        let loops = [Lowering::Scan, Lowering::ScanBlock].contains(&lowering);
        assert_eq!(inspection.ops.get("Scan"), loops.then_some(&6), "{lowering}");
        let written = (inspection.ir_version, inspection.opsets["ai.onnx"]);
        assert_eq!(written, (ssamba_onnx::IR_VERSION, ssamba_onnx::OPSET));
    }
}

/// With nothing of ours in the process: tract as anybody would use it.
#[test]
fn tract_alone_runs_loops_over_blocks() {
    use tract_onnx::prelude::{
        Datum, Framework, InferenceFact, InferenceModelExt, IntoRunnable, Tensor, tvec,
    };
    for input in [Input::Fbank, Input::Waveform] {
        let exported =
            exported(&Options { lowering: Lowering::ScanBlock, input, ..Options::default() });
        let input = exported.input(1);
        let fact = InferenceFact::dt_shape(f32::datum_type(), input.shape());
        let model = tract_onnx::onnx().model_for_path(exported.path()).unwrap();
        let model = model.with_input_fact(0, fact).unwrap().into_optimized().unwrap();
        let tensor = Tensor::from_shape(input.shape(), input.data()).unwrap();
        let outputs = model.into_runnable().unwrap().run(tvec!(tensor.into())).unwrap();
        let got = outputs[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec();
        let (name, want) = exported.reference(&input).unwrap().remove(0);
        let error = max_abs_error(&got, want.data());
        assert!(name == "logits" && error <= NETWORK, "{error:e}");
    }
}

/// What tract does not take it refuses in a sentence, instead of never coming back.
#[test]
fn tract_says_which_lowerings_are_not_for_it() {
    for (lowering, words) in [
        (Lowering::Scan, "it loops over single tokens"),
        (
            Lowering::LinearAttention,
            "`com.microsoft::LinearAttention`, which ONNX Runtime alone has",
        ),
    ] {
        let exported = lowered(lowering);
        let opened = ssamba_tract::TractSession::open(exported.path(), &Default::default());
        let error = format!("{:#}", opened.err().unwrap());
        let way_out = error.ends_with("export with --lowering scan-block");
        assert!(error.contains(words) && way_out, "{error}");
    }
}

#[test]
fn exporting_again_gives_the_same_bytes() {
    let inputs = [Input::Fbank, Input::Waveform];
    for (lowering, input) in LOWERINGS.into_iter().flat_map(|l| inputs.map(|input| (l, input))) {
        let options = Options { embedding: true, lowering, input, ..Options::default() };
        let read = || std::fs::read(exported(&options).path()).unwrap();
        assert!(read() == read());
    }
}

#[test]
fn eight_bits_take_at_most_three_tenths_of_the_bytes() {
    let size = |precision| {
        let exported = exported(&Options { precision, ..Options::default() });
        std::fs::metadata(exported.path()).unwrap().len() as f64
    };
    let share = size(Precision::I8) / size(Precision::F32);
    assert!(share <= 0.30, "{share}");
}

#[test]
fn op_counts_of_the_keyword_model_in_eight_bits() {
    let options = Options { precision: Precision::I8, ..Options::default() };
    insta::assert_debug_snapshot!(ops(&exported(&options)));
}

#[test]
fn eight_bits_are_not_for_what_is_not_for_a_cpu() {
    let (checkpoint, recipe) = kws12().unwrap();
    for (lowering, words) in [
        (Lowering::Chunk, "TensorRT, which has no products in int8"),
        (Lowering::LinearAttention, "`linear-attention` is for GPUs, and int8 for CPUs"),
    ] {
        let options = Options { precision: Precision::I8, lowering, ..Options::default() };
        let error = Exported::new(&checkpoint, recipe.clone(), &options).err().unwrap();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_transformer_has_no_recurrence_to_lower() {
    let config = ssamba_ssast::Config {
        depth: 2,
        ..ssamba_ssast::Config::published(Published::Tiny, Some(7))
    };
    let recipe = Recipe::built_in("speech-commands").unwrap();
    let options = Options { lowering: Lowering::ScanBlock, ..Options::default() };
    let error = Exported::new(&hashed::ssast(&config, 146), recipe, &options).err().unwrap();
    assert!(error.to_string().contains("no recurrence to lower as `scan-block`"), "{error}");
}

fn ssast(attention: Option<Attention>) -> Exported {
    let config = ssamba_ssast::Config {
        depth: 2,
        ..ssamba_ssast::Config::published(Published::Tiny, Some(7))
    };
    let recipe = Recipe::built_in("speech-commands").unwrap();
    let options = Options { attention, ..Options::default() };
    Exported::new(&hashed::ssast(&config, 146), recipe, &options).unwrap()
}

#[test]
fn plain_attention_is_the_default_and_needs_the_standard_operators_alone() {
    let inspection = inspect(&ssast(None).path()).unwrap();
    assert_eq!(inspection.opsets.into_iter().collect::<Vec<_>>(), [("ai.onnx".into(), 20)]);
    assert_eq!(inspection.functions, [""; 0]);
    let plain = ssast(Some(Attention::Plain));
    assert!(std::fs::read(plain.path()).unwrap() == std::fs::read(ssast(None).path()).unwrap());
}

#[test]
fn op_counts_of_a_transformer() {
    insta::assert_debug_snapshot!(ops(&ssast(None)));
}

#[test]
fn fused_attention_is_one_node_a_block() {
    let fused = ssast(Some(Attention::Fused));
    let inspection = inspect(&fused.path()).unwrap();
    assert_eq!(inspection.ops["com.microsoft::MultiHeadAttention"], 2);
    assert!(!inspection.ops.contains_key("Softmax"));
    assert_eq!((inspection.opsets.len(), inspection.opsets["com.microsoft"]), (2, 1));
    assert_eq!(Card::from_metadata(&inspection.metadata).unwrap(), fused.card);
}

#[test]
fn an_ssamba_has_no_attention_to_choose() {
    let (checkpoint, recipe) = kws12().unwrap();
    let options = Options { attention: Some(Attention::Plain), ..Options::default() };
    let error = Exported::new(&checkpoint, recipe, &options).err().unwrap();
    assert_eq!(error.to_string(), "SSAMBA has no attention to lower as `plain`, only SSAST has");
}

/// No tensor is flipped anywhere: nothing is there that could, and slices have no steps.
#[test]
fn nothing_is_flipped() {
    let exported = exported(&Options::default());
    let ops = ops(&exported);
    for op in ["ReverseSequence", "Gather"] {
        assert!(!ops.contains_key(op), "{op}");
    }
    let bytes = std::fs::read(exported.path()).unwrap();
    let graph = ModelProto::parse_from_bytes(&bytes).unwrap().graph;
    let slices: Vec<_> = graph.node.iter().filter(|node| node.op_type == "Slice").collect();
    assert_eq!(slices.len(), 6, "one a pair");
    assert!(slices.iter().all(|slice| slice.input.len() == 4));
}

/// Streams lie as the projections want them: nothing is put together, and in single precision for a GPU
/// they lie side by side.
#[test]
fn streams_lie_one_after_the_other_for_a_cpu() {
    let layouts = |exported: &Exported| {
        let bytes = std::fs::read(exported.path()).unwrap();
        let graph = ModelProto::parse_from_bytes(&bytes).unwrap().graph;
        let ours = graph.node.iter().filter(|node| node.domain == "ssamba");
        let layout = |node: &NodeProto| {
            let mut attributes = node.attribute.iter();
            attributes.find(|attribute| attribute.name == "layout").map(|layout| layout.s.clone())
        };
        ours.map(layout).collect::<Vec<_>>()
    };
    for precision in [Precision::F32, Precision::I8] {
        let exported = exported(&Options { precision, ..Options::default() });
        assert_eq!(layouts(&exported), vec![Some(b"streams".to_vec()); 12]);
        let ops = ops(&exported);
        assert!(!ops.contains_key("Split") && !ops.contains_key("Concat"), "{ops:?}");
    }
    for options in [
        Options { gpu: true, ..Options::default() },
        Options { precision: Precision::F16, ..Options::default() },
    ] {
        let layouts = layouts(&exported(&options));
        assert!(layouts.iter().all(Option::is_none), "{layouts:?}");
    }
}

#[test]
fn the_onnx_project_s_checker_passes() {
    let (checkpoint, recipe) = kws12().unwrap();
    let files: Vec<Exported> = [(true, false), (true, true), (false, false)]
        .into_iter()
        .map(|(pair_fusion, embedding)| {
            let options = Options { pair_fusion, embedding, ..Options::default() };
            Exported::new(&checkpoint, recipe.clone(), &options).unwrap()
        })
        .collect();
    let int8 = exported(&Options { precision: Precision::I8, ..Options::default() });
    let inputs = [Input::Fbank, Input::Waveform];
    let lowered = LOWERINGS.into_iter().flat_map(|l| inputs.map(|input| (l, input))).map(
        |(lowering, input)| {
            exported(&Options { lowering, input, embedding: true, ..Options::default() })
        },
    );
    let files: Vec<Exported> =
        files.into_iter().chain([ssast(None), int8]).chain(lowered).collect();
    let status =
        python::command("check_model.py").args(files.iter().map(Exported::path)).status().unwrap();
    assert!(status.success());
}

#[test]
fn the_file_carries_its_card() {
    let exported = exported(&Options::default());
    let inspection = inspect(&exported.path()).unwrap();
    let card = Card::from_metadata(&inspection.metadata).unwrap();
    assert_eq!(card, exported.card);
    assert_eq!(card.labels[0], "_silence_");
    assert_eq!(inspection.inputs["fbank"], ["batch", "98", "128"]);
    assert_eq!(inspection.outputs["logits"], ["batch", "12"]);
    assert_eq!(inspection.functions, ["ssamba::ShortConv", "ssamba::SelectiveScan"]);
    assert_eq!((inspection.ir_version, inspection.opsets["ai.onnx"]), (10, 20));
}
