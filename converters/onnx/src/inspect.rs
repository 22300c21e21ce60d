//! What is in an `.onnx` file, without running it.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, anyhow};
use onnx_protobuf::{ModelProto, ValueInfoProto, tensor_shape_proto::dimension, type_proto};
use protobuf::Message;
use serde::Serialize;

/// Contents of a file.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Version of the file format.
    pub ir_version: i64,
    /// Operator sets by domain; the default domain is `ai.onnx`.
    pub opsets: BTreeMap<String, i64>,
    /// Program and version that wrote the file.
    pub producer: String,
    /// Inputs with their axes; free axes by name.
    pub inputs: BTreeMap<String, Vec<String>>,
    /// Outputs likewise.
    pub outputs: BTreeMap<String, Vec<String>>,
    /// Nodes of the graph by type, with the domain where it is not the default one.
    pub ops: BTreeMap<String, usize>,
    /// Model-local functions.
    pub functions: Vec<String>,
    /// Values in initializers.
    pub parameters: u64,
    /// All metadata entries.
    pub metadata: BTreeMap<String, String>,
}

/// Reads a file.
///
/// # Errors
/// When it is missing or no ONNX file.
pub fn inspect(path: &Path) -> Result<Inspection> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let model = ModelProto::parse_from_bytes(&bytes)
        .ok()
        .filter(|model| model.ir_version > 0 && model.graph.is_some())
        .ok_or_else(|| anyhow!("{}: not an ONNX file", path.display()))?;
    let graph = model.graph.unwrap_or_default();
    let mut ops = BTreeMap::new();
    for node in &graph.node {
        let name = match node.domain.as_str() {
            "" | "ai.onnx" => node.op_type.clone(),
            domain => format!("{domain}::{}", node.op_type),
        };
        *ops.entry(name).or_default() += 1;
    }
    let elements = |dims: &[i64]| dims.iter().map(|&size| size.max(0) as u64).product::<u64>();
    let floats = |tensor: &&onnx_protobuf::TensorProto| {
        tensor.data_type == onnx_protobuf::tensor_proto::DataType::FLOAT as i32
    };
    Ok(Inspection {
        ir_version: model.ir_version,
        opsets: model
            .opset_import
            .iter()
            .map(|opset| {
                let domain = if opset.domain.is_empty() { "ai.onnx" } else { &opset.domain };
                (domain.to_owned(), opset.version)
            })
            .collect(),
        producer: format!("{} {}", model.producer_name, model.producer_version).trim().into(),
        inputs: graph.input.iter().map(axes).collect(),
        outputs: graph.output.iter().map(axes).collect(),
        ops,
        functions: model.functions.iter().map(|f| format!("{}::{}", f.domain, f.name)).collect(),
        parameters: graph.initializer.iter().filter(floats).map(|t| elements(&t.dims)).sum(),
        metadata: model.metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect(),
    })
}

fn axes(value: &ValueInfoProto) -> (String, Vec<String>) {
    let shape = match value.type_.as_ref().and_then(|kind| kind.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => tensor.shape.as_ref(),
        _ => None,
    };
    let axes = shape.map_or_else(Vec::new, |shape| {
        shape
            .dim
            .iter()
            .map(|axis| match &axis.value {
                Some(dimension::Value::DimValue(size)) => size.to_string(),
                Some(dimension::Value::DimParam(name)) => name.clone(),
                _ => "?".into(),
            })
            .collect()
    });
    (value.name.clone(), axes)
}
