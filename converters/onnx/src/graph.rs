//! A graph under construction: typed over onnx-protobuf's plain structs, nothing traced.
//!
//! Names are paths, `pair3/in_proj/MatMul`, made from the open scopes, so that the same model
//! always gives the same bytes and a profile reads like the network.

use std::collections::BTreeMap;

use half::f16;
use onnx_protobuf::{
    AttributeProto, GraphProto, NodeProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataType,
    tensor_shape_proto::Dimension, tensor_shape_proto::dimension, type_proto,
};
use protobuf::MessageField;

use crate::{Precision, quantize::Quantizer};

/// The name of a tensor in the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value(String);

impl Value {
    /// A value that exists already: a graph input or a formal parameter.
    pub(crate) fn named(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

/// An attribute's value.
#[derive(Clone, Debug)]
pub(crate) enum Attribute {
    Int(i64),
    Ints(Vec<i64>),
    Float(f32),
    /// The float attribute of that name of the function whose body the node is in.
    FloatOfFunction(&'static str),
    Text(&'static str),
    Tensor(TensorProto),
    Graph(GraphProto),
}

impl Attribute {
    pub(crate) fn named(self, name: &str) -> AttributeProto {
        let mut proto = AttributeProto { name: name.into(), ..Default::default() };
        proto.type_ = match self {
            Self::Int(value) => {
                proto.i = value;
                AttributeType::INT
            }
            Self::Ints(values) => {
                proto.ints = values;
                AttributeType::INTS
            }
            Self::Float(value) => {
                proto.f = value;
                AttributeType::FLOAT
            }
            Self::FloatOfFunction(name) => {
                proto.ref_attr_name = name.into();
                AttributeType::FLOAT
            }
            Self::Text(value) => {
                proto.s = value.into();
                AttributeType::STRING
            }
            Self::Tensor(value) => {
                proto.t = MessageField::some(value);
                AttributeType::TENSOR
            }
            Self::Graph(value) => {
                proto.g = MessageField::some(value);
                AttributeType::GRAPH
            }
        }
        .into();
        proto
    }
}

/// Where constants go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Constants {
    /// Into the graph's initializers.
    Initializers,
    /// Into `Constant` nodes: a function has no initializers.
    Nodes,
}

/// Of the values that flow; eight bits are for those that [`quantize`](crate::quantize) makes.
fn data_type(precision: Precision) -> DataType {
    match precision {
        Precision::F32 | Precision::I8 => DataType::FLOAT,
        Precision::F16 => DataType::FLOAT16,
    }
}

/// Nodes and constants, in order.
#[derive(Debug)]
pub(crate) struct GraphBuilder {
    constants: Constants,
    scopes: Vec<String>,
    /// Scopes of the whole graph: that of the node whose body it is.
    root: Vec<String>,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    /// Types of values that cannot be inferred.
    declared: Vec<ValueInfoProto>,
    /// Integer constants by content: shapes and axes recur.
    shared: BTreeMap<Vec<i64>, Value>,
    /// How often a name was wanted, to tell namesakes apart.
    taken: BTreeMap<String, usize>,
    /// What is written in fewer bits.
    pub(crate) quantizer: Quantizer,
}

impl GraphBuilder {
    pub(crate) fn new(constants: Constants) -> Self {
        Self {
            quantizer: Quantizer::default(),
            constants,
            scopes: Vec::new(),
            root: Vec::new(),
            declared: Vec::new(),
            nodes: Vec::new(),
            initializers: Vec::new(),
            shared: BTreeMap::new(),
            taken: BTreeMap::new(),
        }
    }

    /// The body of a node to come in the open scopes: no name of it is one outside.
    pub(crate) fn nested(&self, leaf: &str) -> Self {
        let mut root = self.scopes.clone();
        root.push(leaf.into());
        Self { scopes: root.clone(), root, ..Self::new(Constants::Initializers) }
    }

    /// A value of the open scopes that exists already: a formal parameter of a body.
    pub(crate) fn named(&self, leaf: &str) -> Value {
        Value(self.path(leaf))
    }

    /// Tells the shape of a value of `f32` where the node's operator is not the standard's.
    pub(crate) fn declare(&mut self, value: &Value, axes: &[Axis]) {
        self.declared.push(float_value(value.name(), axes));
    }

    /// Builds inside a named scope.
    pub(crate) fn scope<T>(
        &mut self,
        name: impl Into<String>,
        build: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.scopes.push(name.into());
        let built = build(self);
        self.scopes.pop();
        built
    }

    /// The name of `leaf` in the open scopes.
    fn path(&self, leaf: &str) -> String {
        let mut name = self.scopes.join("/");
        if !name.is_empty() {
            name.push('/');
        }
        name.push_str(leaf);
        name
    }

    fn fresh(&mut self, leaf: &str) -> String {
        let name = self.path(leaf);
        let count = self.taken.entry(name.clone()).or_default();
        *count += 1;
        match *count {
            1 => name,
            n => format!("{name}_{n}"),
        }
    }

    fn constant(&mut self, leaf: &str, mut tensor: TensorProto) -> Value {
        let name = self.fresh(leaf);
        match self.constants {
            Constants::Initializers => {
                tensor.name.clone_from(&name);
                self.initializers.push(tensor);
            }
            Constants::Nodes => self.nodes.push(NodeProto {
                name: name.clone(),
                op_type: "Constant".into(),
                output: vec![name.clone()],
                attribute: vec![Attribute::Tensor(tensor).named("value")],
                ..Default::default()
            }),
        }
        Value(name)
    }

    /// A constant of `f32` values in row-major order, rounded once from `f64`.
    pub(crate) fn floats(&mut self, leaf: &str, shape: &[usize], data: &[f64]) -> Value {
        self.numbers(leaf, shape, data, Precision::F32)
    }

    /// A constant of values of that precision in row-major order, rounded once from `f64`; of fewer
    /// bits where the quantizer says so.
    pub(crate) fn numbers(
        &mut self,
        leaf: &str,
        shape: &[usize],
        data: &[f64],
        precision: Precision,
    ) -> Value {
        let path = self.path(leaf);
        match self.quantizer.form(&path, shape, data) {
            Some(form) => self.quantized(form, leaf, shape, data),
            None => self.rounded(leaf, shape, data, precision),
        }
    }

    /// A constant of values of that precision, whatever the quantizer says.
    pub(crate) fn rounded(
        &mut self,
        leaf: &str,
        shape: &[usize],
        data: &[f64],
        precision: Precision,
    ) -> Value {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len(), "{leaf}");
        let tensor = TensorProto {
            dims: shape.iter().map(|&size| size as i64).collect(),
            data_type: data_type(precision) as i32,
            raw_data: match precision {
                Precision::F32 | Precision::I8 => {
                    data.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect()
                }
                Precision::F16 => {
                    data.iter().flat_map(|&value| f16::from_f64(value).to_le_bytes()).collect()
                }
            },
            ..Default::default()
        };
        self.constant(leaf, tensor)
    }

    /// A constant of signed bytes in row-major order.
    pub(crate) fn bytes(&mut self, leaf: &str, shape: &[usize], data: &[i8]) -> Value {
        let tensor = TensorProto {
            dims: shape.iter().map(|&size| size as i64).collect(),
            data_type: DataType::INT8 as i32,
            raw_data: data.iter().map(|value| value.cast_unsigned()).collect(),
            ..Default::default()
        };
        self.constant(leaf, tensor)
    }

    /// The values in that precision.
    pub(crate) fn cast(&mut self, x: &Value, precision: Precision) -> Value {
        let to = Attribute::Int(i64::from(data_type(precision) as i32));
        self.node("Cast", &[x], &[("to", to)])
    }

    /// A constant vector of integers; the same content is stored once.
    pub(crate) fn integers(&mut self, data: &[i64]) -> Value {
        if let Some(value) = self.shared.get(data) {
            return value.clone();
        }
        let tensor = TensorProto {
            dims: vec![data.len() as i64],
            data_type: DataType::INT64 as i32,
            raw_data: data.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ..Default::default()
        };
        let scopes = std::mem::replace(&mut self.scopes, self.root.clone());
        let words: Vec<String> =
            data.iter().map(|value| value.to_string().replace('-', "m")).collect();
        let value = self.constant(&format!("ints_{}", words.join("_")), tensor);
        self.scopes = scopes;
        self.shared.insert(data.to_vec(), value.clone());
        value
    }

    /// A node of the default domain with one output.
    pub(crate) fn node(
        &mut self,
        op: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute)],
    ) -> Value {
        let mut outputs = self.node_in("", op, inputs, attributes, 1);
        outputs.remove(0)
    }

    /// A node with `outputs` outputs.
    pub(crate) fn node_in(
        &mut self,
        domain: &str,
        op: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute)],
        outputs: usize,
    ) -> Vec<Value> {
        let name = self.fresh(op);
        let outputs: Vec<String> = match outputs {
            1 => vec![name.clone()],
            n => (0..n).map(|index| format!("{name}.{index}")).collect(),
        };
        self.nodes.push(NodeProto {
            name,
            op_type: op.into(),
            domain: domain.into(),
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            output: outputs.clone(),
            attribute: attributes.iter().map(|(name, value)| value.clone().named(name)).collect(),
            ..Default::default()
        });
        outputs.into_iter().map(Value).collect()
    }

    /// Gives a value the name of a graph or function output.
    pub(crate) fn output(&mut self, value: &Value, name: &str) {
        self.nodes.push(NodeProto {
            name: format!("output/{name}"),
            op_type: "Identity".into(),
            input: vec![value.0.clone()],
            output: vec![name.into()],
            ..Default::default()
        });
    }

    /// Nodes and constants; the caller declares inputs and outputs.
    pub(crate) fn into_graph(self) -> GraphProto {
        GraphProto {
            node: self.nodes,
            initializer: self.initializers,
            value_info: self.declared,
            ..Default::default()
        }
    }

    // Shorthands for the nodes that the lowerings use most.

    pub(crate) fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Add", &[a, b], &[])
    }

    pub(crate) fn mul(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Mul", &[a, b], &[])
    }

    /// A product; in integers where `b` is a constant that the quantizer stored for it.
    pub(crate) fn matmul(&mut self, a: &Value, b: &Value) -> Value {
        match self.quantizer.factor(b) {
            Some(factor) => self.integer_product(a, b, &factor),
            None => self.node("MatMul", &[a, b], &[]),
        }
    }

    /// x * sigmoid(x)
    pub(crate) fn silu(&mut self, x: &Value) -> Value {
        let gate = self.node("Sigmoid", &[x], &[]);
        self.mul(x, &gate)
    }

    pub(crate) fn transpose(&mut self, x: &Value, perm: &[i64]) -> Value {
        self.node("Transpose", &[x], &[("perm", Attribute::Ints(perm.to_vec()))])
    }

    /// A 0 keeps the size of that axis.
    pub(crate) fn reshape(&mut self, x: &Value, shape: &[i64]) -> Value {
        let shape = self.integers(shape);
        self.node("Reshape", &[x, &shape], &[])
    }

    /// Zeros, `[..before, batch, ..after]` for the batch of `x`.
    pub(crate) fn zeros(&mut self, x: &Value, before: &[i64], after: &[i64]) -> Value {
        let ends = [("start", Attribute::Int(0)), ("end", Attribute::Int(1))];
        let batch = self.node("Shape", &[x], &ends);
        let after = self.integers(after);
        let mut parts = vec![batch, after];
        if !before.is_empty() {
            parts.insert(0, self.integers(before));
        }
        let shape = self.concat(&parts, 0);
        let zero = TensorProto {
            dims: vec![1],
            data_type: DataType::FLOAT as i32,
            raw_data: 0_f32.to_le_bytes().into(),
            ..Default::default()
        };
        self.node("ConstantOfShape", &[&shape], &[("value", Attribute::Tensor(zero))])
    }

    /// Entries `start..end` of `axis`.
    pub(crate) fn slice(&mut self, x: &Value, axis: usize, start: usize, end: usize) -> Value {
        let [start, end, axis] = [start, end, axis].map(|value| self.integers(&[value as i64]));
        self.node("Slice", &[x, &start, &end, &axis], &[])
    }

    pub(crate) fn concat(&mut self, values: &[Value], axis: i64) -> Value {
        match values {
            [one] => one.clone(),
            many => {
                let many: Vec<&Value> = many.iter().collect();
                self.node("Concat", &many, &[("axis", Attribute::Int(axis))])
            }
        }
    }

    /// Cuts `axis` into pieces of the given sizes.
    pub(crate) fn split(&mut self, x: &Value, axis: i64, sizes: &[usize]) -> Vec<Value> {
        if sizes.len() == 1 {
            return vec![x.clone()];
        }
        let pieces = sizes.len();
        let sizes: Vec<i64> = sizes.iter().map(|&size| size as i64).collect();
        let sizes = self.integers(&sizes);
        self.node_in("", "Split", &[x, &sizes], &[("axis", Attribute::Int(axis))], pieces)
    }
}

/// An axis of a graph input or output.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Axis {
    /// Free, with a name.
    Named(&'static str),
    /// Free, without a name: inside a loop body a name would have to be unified by every runtime.
    Unknown,
    /// Fixed.
    Fixed(usize),
}

/// A graph input or output of `f32` values.
pub(crate) fn float_value(name: &str, axes: &[Axis]) -> ValueInfoProto {
    let dim = axes
        .iter()
        .map(|axis| Dimension {
            value: match axis {
                Axis::Named(name) => Some(dimension::Value::DimParam((*name).into())),
                Axis::Unknown => None,
                Axis::Fixed(size) => Some(dimension::Value::DimValue(*size as i64)),
            },
            ..Default::default()
        })
        .collect();
    let tensor = type_proto::Tensor {
        elem_type: DataType::FLOAT as i32,
        shape: MessageField::some(TensorShapeProto { dim, ..Default::default() }),
        ..Default::default()
    };
    ValueInfoProto {
        name: name.into(),
        type_: MessageField::some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}
