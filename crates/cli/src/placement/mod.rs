//! Which provider runs which node: the table of `inspect --placement`, the contract of
//! `run --require`.

#[cfg(feature = "convert")]
pub mod table;

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use ssamba_contract::{Session, Tensor};
use ssamba_ort::{OrtSession, Placement};

use crate::provider::{Provider, RuntimeArgs};

/// A provider of ONNX Runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Required {
    /// The CPU.
    Cpu,
    /// CUDA kernels.
    Cuda,
    /// Engines of TensorRT.
    #[value(name = "tensorrt")]
    TensorRt,
}

impl Required {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        }
    }
}

/// How many nodes a sentence names.
const NAMED: usize = 5;

/// Opens `model`, runs it on zeros as often as said, and asks who ran what.
pub fn observe(
    provider: Provider,
    model: &Path,
    args: &RuntimeArgs,
    runs: usize,
) -> Result<(OrtSession, Placement)> {
    let mut session = provider.open_ort(model, args, true)?;
    let card = session.card();
    let shape = card.window_shape(card.batch.unwrap_or(1));
    let zeros = vec![0.0; shape.iter().product()];
    let zeros = Tensor::new(shape, zeros)?;
    for _ in 0..runs {
        session.run(&zeros)?;
    }
    let placement = session.placement()?;
    Ok((session, placement))
}

/// One sentence that names nodes, if any that is no shape arithmetic ran elsewhere.
pub fn breach(placement: &Placement, required: Required) -> Option<String> {
    let elsewhere = placement.elsewhere(required.name());
    let named: Vec<String> = elsewhere
        .iter()
        .take(NAMED)
        .map(|node| format!("{} ({}) on {}", node.name, node.op_type, node.provider))
        .collect();
    let more = match elsewhere.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!elsewhere.is_empty()).then(|| {
        format!(
            "{} of {} nodes did not run on {}: {}{more}",
            elsewhere.len(),
            placement.nodes().len(),
            required.name(),
            named.join(", ")
        )
    })
}

/// What runs beside TensorRT's engines, in a few words.
pub fn beside_engines(placement: &Placement) -> String {
    let ops = placement.ops();
    let of = |engines: bool| ops.iter().filter(move |op| (op.provider == "tensorrt") == engines);
    let engines: usize = of(true).map(|op| op.nodes).sum();
    let rest: Vec<String> =
        of(false).map(|op| format!("{} {} on {}", op.nodes, op.op_type, op.provider)).collect();
    let engines =
        format!("tensorrt: {engines} {}", if engines == 1 { "engine" } else { "engines" });
    match rest.is_empty() {
        true => format!("{engines} and nothing beside"),
        false => format!("{engines}, and beside {}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(nodes: &[(&str, &str, &str)]) -> Placement {
        let events: Vec<String> = nodes
            .iter()
            .map(|(name, op, provider)| {
                format!(
                    r#"{{"cat": "Node", "name": "{name}_kernel_time", "args": {{"op_name": "{op}",
                    "provider": "{provider}", "output_type_shape": [{{"float": [1]}}]}}}}"#
                )
            })
            .collect();
        Placement::parse(&format!("[{}]", events.join(","))).unwrap()
    }

    #[test]
    fn a_breach_is_one_sentence_that_names_nodes() {
        let cuda = ("a", "Add", "CUDAExecutionProvider");
        assert_eq!(breach(&placement(&[cuda]), Required::Cuda), None);
        let two = placement(&[cuda, ("b", "Mul", "CPUExecutionProvider")]);
        assert_eq!(
            breach(&two, Required::Cuda).unwrap(),
            "1 of 2 nodes did not run on cuda: b (Mul) on cpu"
        );
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let many = placement(&names.map(|name| (name, "Add", "CPUExecutionProvider")));
        let sentence = breach(&many, Required::TensorRt).unwrap();
        assert!(sentence.ends_with("e (Add) on cpu and 2 more"), "{sentence}");
    }

    #[test]
    fn what_stays_beside_engines_is_counted() {
        let engine = ("e", "TRTKernel_graph_a_1_0", "TensorrtExecutionProvider");
        let scan = ("s", "SelectiveScan", "CUDAExecutionProvider");
        let other = ("t", "SelectiveScan", "CUDAExecutionProvider");
        assert_eq!(
            beside_engines(&placement(&[engine, scan, other])),
            "tensorrt: 1 engine, and beside 2 SelectiveScan on cuda"
        );
        assert_eq!(
            beside_engines(&placement(&[engine, ("f", "TRTKernel_graph_a_1_1", engine.2)])),
            "tensorrt: 2 engines and nothing beside"
        );
    }
}
