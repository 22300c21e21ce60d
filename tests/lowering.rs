//! What an exported graph looks like, without running it.

use std::collections::BTreeMap;

use ssamba_contract::{Card, Lowering};
use ssamba_model::{Published, Recipe};
use ssamba_onnx::{Attention, Options, Precision, inspect};
use ssamba_tests::{
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

/// Moderate: the nodes of a pair grow with the square root of the tokens.
#[test]
fn op_counts_of_the_keyword_model_in_chunks() {
    let options = Options { lowering: Lowering::Chunk, ..Options::default() };
    insta::assert_debug_snapshot!(ops(&exported(&options)));
}

#[test]
fn exporting_again_gives_the_same_bytes() {
    for lowering in [Lowering::Function, Lowering::Chunk] {
        let options = Options { embedding: true, lowering, ..Options::default() };
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
fn eight_bits_are_not_for_chunks() {
    let (checkpoint, recipe) = kws12().unwrap();
    let (precision, lowering) = (Precision::I8, Lowering::Chunk);
    let options = Options { precision, lowering, ..Options::default() };
    let error = Exported::new(&checkpoint, recipe, &options).err().unwrap();
    assert!(error.to_string().contains("TensorRT, which has no products in int8"), "{error}");
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

/// No tensor is flipped anywhere: nothing is there that could.
#[test]
fn nothing_is_flipped() {
    let ops = ops(&exported(&Options::default()));
    for op in ["ReverseSequence", "Gather", "Slice"] {
        assert!(!ops.contains_key(op), "{op}");
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
    let files: Vec<Exported> = files.into_iter().chain([ssast(None), int8]).collect();
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
    assert_eq!(card.labels[0], "yes");
    assert_eq!(inspection.inputs["fbank"], ["batch", "98", "128"]);
    assert_eq!(inspection.outputs["logits"], ["batch", "12"]);
    assert_eq!(inspection.functions, ["ssamba::ShortConv", "ssamba::SelectiveScan"]);
    assert_eq!((inspection.ir_version, inspection.opsets["ai.onnx"]), (10, 20));
}
