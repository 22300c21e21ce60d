//! How large the values of a graph are, and the refusal of a graph that holds too much at once.
//!
//! A state space written down naively is `exp(dt * A)` and `dt * u * B` for the whole sequence,
//! `[batch, tokens, channels, states]`: sixteen times the size of everything else, and the reason why
//! such exports do not fit where they are to run. No lowering may write that.
//!
//! The shapes are those of one clip that fills the model's frames, so every axis is a number. There is a
//! rule for each operator that the lowerings write; one without a rule is an error, so that it cannot
//! be forgotten here.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, tensor_proto::DataType,
};
use ssamba_contract::op::contrib;

use crate::lower::front_end;

/// What must not be in one value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) seq_len: usize,
    pub(crate) d_inner: usize,
    pub(crate) d_state: usize,
    /// Values of a clip that may be in one tensor whatever they are.
    pub(crate) allowed: usize,
}

/// Tokens whose states may be in one tensor however short the sequence is: what the blocks of a loop
/// need.
const FEW_TOKENS: usize = 128;

/// States are at least this many times the channels, or they are not what fills the memory.
const FEW_STATES: usize = 8;

impl Limit {
    /// Whether a value of that shape holds channels *and* states of a whole sequence.
    fn broken_by(&self, shape: &[usize]) -> bool {
        let &Self { seq_len, d_inner, d_state, allowed } = self;
        let size: usize = shape.iter().product();
        let both = |(at, &axis): (usize, &usize)| {
            let others = shape.iter().enumerate().filter(|&(other, _)| other != at);
            axis % (d_inner * d_state) == 0
                || axis % d_inner == 0
                    && others.map(|(_, axis)| axis).any(|axis| axis % d_state == 0)
        };
        let spanned = seq_len.max(FEW_TOKENS) * d_inner * d_state.max(FEW_STATES);
        size >= spanned && size > allowed && shape.iter().enumerate().any(both)
    }
}

/// Follows the shapes of one clip through `graph`.
///
/// # Errors
/// Names the first value that breaks `limit`, and what cannot be followed.
pub(crate) fn check(
    graph: &GraphProto,
    functions: &[FunctionProto],
    inputs: &[(&str, Vec<usize>)],
    limit: Limit,
) -> Result<()> {
    let mut walk = Walk { functions, limit, shapes: BTreeMap::new(), integers: BTreeMap::new() };
    for (name, shape) in inputs {
        walk.shapes.insert((*name).into(), shape.clone());
    }
    walk.graph(graph)
}

struct Walk<'a> {
    functions: &'a [FunctionProto],
    limit: Limit,
    shapes: BTreeMap<String, Vec<usize>>,
    /// Values of what is computed with as a shape.
    integers: BTreeMap<String, Vec<i64>>,
}

impl Walk<'_> {
    fn graph(&mut self, graph: &GraphProto) -> Result<()> {
        for tensor in &graph.initializer {
            self.constant(&tensor.name, tensor);
        }
        self.nodes(&graph.node)
    }

    fn nodes(&mut self, nodes: &[NodeProto]) -> Result<()> {
        for node in nodes {
            let shapes = self
                .outputs(node)
                .with_context(|| format!("node `{}` ({})", node.name, node.op_type))?;
            // The front end has no states, but frequencies in numbers that look like them.
            let elsewhere = node.name.split('/').next() == Some(front_end::SCOPE);
            for (name, shape) in node.output.iter().zip(shapes) {
                if !elsewhere && self.limit.broken_by(&shape) {
                    let megabytes = 4e-6 * shape.iter().product::<usize>() as f64;
                    bail!(
                        "`{name}` would hold the states of the whole sequence at once, {shape:?} \
                         ({megabytes:.0} MB a clip): the lowering is at fault, no file is written"
                    );
                }
                self.shapes.insert(name.clone(), shape);
            }
        }
        Ok(())
    }

    fn constant(&mut self, name: &str, tensor: &TensorProto) {
        let shape = tensor.dims.iter().map(|&size| size as usize).collect();
        self.shapes.insert(name.into(), shape);
        if tensor.data_type == DataType::INT64 as i32 {
            let bytes = tensor.raw_data.as_chunks::<8>().0;
            let values = bytes.iter().map(|bytes| i64::from_le_bytes(*bytes));
            self.integers.insert(name.into(), values.collect());
        }
    }

    fn shape(&self, node: &NodeProto, input: usize) -> Result<Vec<usize>> {
        let name = node.input.get(input).context("an input is missing")?;
        self.shapes.get(name).cloned().with_context(|| format!("`{name}` is not known"))
    }

    fn integers(&self, node: &NodeProto, input: usize) -> Result<Vec<i64>> {
        let name = node.input.get(input).context("an input is missing")?;
        self.integers.get(name).cloned().with_context(|| format!("`{name}` is not a constant"))
    }

    /// Shapes of a node's outputs, in order.
    fn outputs(&mut self, node: &NodeProto) -> Result<Vec<Vec<usize>>> {
        if let Some(function) = self
            .functions
            .iter()
            .find(|function| (&function.domain, &function.name) == (&node.domain, &node.op_type))
        {
            return self.call(function, node);
        }
        if node.domain == contrib::DOMAIN {
            return self.contrib(node);
        }
        let one = match node.op_type.as_str() {
            "Cast" | "CastLike" | "Exp" | "Gelu" | "Identity" | "LayerNormalization" | "Log"
            | "Neg" | "Abs" | "Sigmoid" | "Softmax" | "Softplus" | "Sqrt" => self.shape(node, 0)?,
            "Add" | "Div" | "Max" | "Mul" | "Sub" => {
                broadcast(&self.shape(node, 0)?, &self.shape(node, 1)?)?
            }
            "MatMul" | "MatMulInteger" => product(&self.shape(node, 0)?, &self.shape(node, 1)?)?,
            "Constant" => {
                let value = attribute(node, "value").context("no value")?;
                self.constant(&node.output[0], &value.t);
                self.shapes[&node.output[0]].clone()
            }
            "Shape" => {
                let shape = self.shape(node, 0)?;
                let (start, end) = (integer(node, "start", 0), integer(node, "end", i64::MAX));
                let end = (end as usize).min(shape.len());
                let part: Vec<i64> = shape[start as usize..end].iter().map(|&n| n as i64).collect();
                let rank = vec![part.len()];
                self.integers.insert(node.output[0].clone(), part);
                rank
            }
            "ConstantOfShape" => {
                self.integers(node, 0)?.into_iter().map(|size| size as usize).collect()
            }
            "Transpose" => {
                let shape = self.shape(node, 0)?;
                let perm = &attribute(node, "perm").context("no perm")?.ints;
                perm.iter().map(|&axis| shape[axis as usize]).collect()
            }
            "Reshape" => reshaped(&self.shape(node, 0)?, &self.integers(node, 1)?)?,
            "Unsqueeze" => {
                let mut shape = self.shape(node, 0)?;
                for axis in self.integers(node, 1)? {
                    shape.insert(at(axis, shape.len() + 1)?, 1);
                }
                shape
            }
            "Squeeze" => self.reduced(node, 1, false)?,
            "ReduceMax" | "ReduceMean" | "ReduceSum" => {
                self.reduced(node, 1, integer(node, "keepdims", 1) == 1)?
            }
            "Concat" => {
                let axis = integer(node, "axis", 0);
                let mut shape = self.shape(node, 0)?;
                let axis = at(axis, shape.len())?;
                for input in 1..node.input.len() {
                    shape[axis] += self.shape(node, input)?[axis];
                }
                let values = node.input.iter().map(|name| self.integers.get(name).cloned());
                if let Some(values) = values.collect::<Option<Vec<_>>>() {
                    self.integers.insert(node.output[0].clone(), values.concat());
                }
                shape
            }
            "Split" => {
                let shape = self.shape(node, 0)?;
                let axis = at(integer(node, "axis", 0), shape.len())?;
                let pieces = self.integers(node, 1)?.into_iter().map(|size| {
                    let mut piece = shape.clone();
                    piece[axis] = size as usize;
                    piece
                });
                return Ok(pieces.collect());
            }
            "Slice" => self.sliced(node)?,
            "Gather" => {
                let mut shape = self.shape(node, 0)?;
                let axis = at(integer(node, "axis", 0), shape.len())?;
                shape.splice(axis..=axis, self.shape(node, 1)?);
                shape
            }
            "Pad" => {
                let (mut shape, pads) = (self.shape(node, 0)?, self.integers(node, 1)?);
                let rank = shape.len();
                for (axis, size) in shape.iter_mut().enumerate() {
                    *size += (pads[axis] + pads[rank + axis]) as usize;
                }
                shape
            }
            "Conv" => self.convolved(node)?,
            "DynamicQuantizeLinear" => {
                return Ok(vec![self.shape(node, 0)?, Vec::new(), Vec::new()]);
            }
            "Scan" => return self.scan(node),
            other => bail!("there is no rule for {other}"),
        };
        Ok(vec![one])
    }

    /// The body of a function on the shapes of its arguments.
    fn call(&mut self, function: &FunctionProto, node: &NodeProto) -> Result<Vec<Vec<usize>>> {
        let mut inner = Walk {
            functions: self.functions,
            limit: self.limit,
            shapes: BTreeMap::new(),
            integers: BTreeMap::new(),
        };
        for (index, formal) in function.input.iter().enumerate() {
            inner.shapes.insert(formal.clone(), self.shape(node, index)?);
        }
        inner.nodes(&function.node)?;
        Ok(function.output.iter().map(|name| inner.shapes[name].clone()).collect())
    }

    fn contrib(&self, node: &NodeProto) -> Result<Vec<Vec<usize>>> {
        match node.op_type.as_str() {
            contrib::LINEAR_ATTENTION => {
                let (key, value) = (self.shape(node, 1)?, self.shape(node, 2)?);
                let state = vec![value[0], value[2], key[2], 1];
                Ok(vec![value, state])
            }
            contrib::MULTI_HEAD_ATTENTION => Ok(vec![self.shape(node, 0)?]),
            other => bail!("there is no rule for {other}"),
        }
    }

    fn reduced(&self, node: &NodeProto, axes: usize, keep: bool) -> Result<Vec<usize>> {
        let mut shape = self.shape(node, 0)?;
        let mut axes = self.integers(node, axes)?;
        axes.iter_mut().try_for_each(|axis| {
            *axis = at(*axis, shape.len())? as i64;
            anyhow::Ok(())
        })?;
        axes.sort_unstable();
        for axis in axes.into_iter().rev() {
            match keep {
                true => shape[axis as usize] = 1,
                false => drop(shape.remove(axis as usize)),
            }
        }
        Ok(shape)
    }

    fn sliced(&self, node: &NodeProto) -> Result<Vec<usize>> {
        let mut shape = self.shape(node, 0)?;
        let [starts, ends, axes] = [1, 2, 3].map(|input| self.integers(node, input));
        let (starts, ends, axes) = (starts?, ends?, axes?);
        let steps = match node.input.len() {
            5 => self.integers(node, 4)?,
            _ => vec![1; starts.len()],
        };
        for (((start, end), axis), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
            let axis = at(axis, shape.len())?;
            let size = shape[axis] as i64;
            let from_start =
                |index: i64| if index < 0 { index.saturating_add(size) } else { index };
            let taken = match step > 0 {
                true => from_start(end).clamp(0, size) - from_start(start).clamp(0, size),
                false => {
                    from_start(start).clamp(-1, size - 1) - from_start(end).clamp(-1, size - 1)
                }
            };
            shape[axis] = (taken.max(0) as usize).div_ceil(step.unsigned_abs() as usize);
        }
        Ok(shape)
    }

    fn convolved(&self, node: &NodeProto) -> Result<Vec<usize>> {
        let (image, kernel) = (self.shape(node, 0)?, self.shape(node, 1)?);
        let spatial = image.len() - 2;
        let ints = |name: &str, default: i64, count: usize| match attribute(node, name) {
            Some(attribute) => attribute.ints.clone(),
            None => vec![default; count],
        };
        let (strides, pads) = (ints("strides", 1, spatial), ints("pads", 0, 2 * spatial));
        let mut shape = vec![image[0], kernel[0]];
        for axis in 0..spatial {
            let padded = image[2 + axis] + (pads[axis] + pads[spatial + axis]) as usize;
            let rest = padded.checked_sub(kernel[2 + axis]).context("less than one kernel")?;
            shape.push(1 + rest / strides[axis] as usize);
        }
        Ok(shape)
    }

    /// The body once, on a slice of every sequence.
    fn scan(&mut self, node: &NodeProto) -> Result<Vec<Vec<usize>>> {
        let body = &attribute(node, "body").context("no body")?.g;
        let sequences = integer(node, "num_scan_inputs", 0) as usize;
        let states = node.input.len() - sequences;
        let axes = |name: &str| attribute(node, name).map(|axes| axes.ints.clone());
        let (inputs, outputs) = (axes("scan_input_axes"), axes("scan_output_axes"));
        let (inputs, outputs) = (inputs.context("no axes")?, outputs.context("no axes")?);
        let mut length = 0;
        for (index, formal) in body.input.iter().enumerate() {
            let mut shape = self.shape(node, index)?;
            if let Some(sequence) = index.checked_sub(states) {
                length = shape.remove(inputs[sequence] as usize);
            }
            self.shapes.insert(formal.name.clone(), shape);
        }
        self.graph(body)?;
        // What the loop stacks is a value of the graph.
        let results = body.output.iter().enumerate().map(|(index, result)| {
            let mut shape = self.shapes.get(&result.name).context("no result")?.clone();
            if let Some(sequence) = index.checked_sub(states) {
                shape.insert(outputs[sequence] as usize, length);
            }
            Ok(shape)
        });
        results.collect()
    }
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

fn integer(node: &NodeProto, name: &str, default: i64) -> i64 {
    attribute(node, name).map_or(default, |attribute| attribute.i)
}

/// An axis counted from the start.
fn at(axis: i64, rank: usize) -> Result<usize> {
    let axis = if axis < 0 { axis + rank as i64 } else { axis };
    ensure!((0..rank as i64).contains(&axis), "there is no axis {axis} of {rank}");
    Ok(axis as usize)
}

fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], axis: usize| {
        (axis + shape.len()).checked_sub(rank).map_or(1, |index| shape[index])
    };
    (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (1, size) | (size, 1) => Ok(size),
            (left, right) if left == right => Ok(left),
            _ => bail!("{a:?} and {b:?} do not go together"),
        })
        .collect()
}

fn product(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let ([outer_a @ .., rows, inner], [outer_b @ .., depth, columns]) = (a, b) else {
        bail!("{a:?} and {b:?} are not matrices")
    };
    ensure!(inner == depth, "{a:?} and {b:?} do not multiply");
    let mut shape = broadcast(outer_a, outer_b)?;
    shape.extend([*rows, *columns]);
    Ok(shape)
}

fn reshaped(shape: &[usize], wanted: &[i64]) -> Result<Vec<usize>> {
    let size: usize = shape.iter().product();
    let mut new: Vec<usize> = Vec::new();
    for (axis, &wanted) in wanted.iter().enumerate() {
        new.push(match wanted {
            0 => *shape.get(axis).context("a size to keep that is not there")?,
            -1 => 1,
            size => size as usize,
        });
    }
    if let Some(free) = wanted.iter().position(|&wanted| wanted == -1) {
        new[free] = size / new.iter().product::<usize>().max(1);
    }
    ensure!(new.iter().product::<usize>() == size, "{shape:?} is not {wanted:?}");
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::{Constants, GraphBuilder, Value},
        lower::{
            scan::Blocks,
            walks::{Operands, Walks},
        },
    };

    const TINY: Limit = Limit { seq_len: 145, d_inner: 384, d_state: 16, allowed: 0 };

    fn refusal(graph: GraphProto, inputs: &[(&str, Vec<usize>)], limit: Limit) -> Option<String> {
        check(&graph, &[], inputs, limit).err().map(|error| format!("{error:#}"))
    }

    /// What everybody writes first: the decays of all tokens.
    #[test]
    fn the_naive_state_space_is_refused() {
        let mut g = GraphBuilder::new(Constants::Initializers);
        let a = g.floats("A", &[384, 16], &[-1.0; 384 * 16]);
        let axis = g.integers(&[-1]);
        let dt = g.node("Unsqueeze", &[&Value::named("dt"), &axis], &[]);
        let exponent = g.mul(&dt, &a);
        let decay = g.node("Exp", &[&exponent], &[]);
        g.output(&decay, "decay");
        let graph = g.into_graph();
        let tokens = |seq_len| [("dt", vec![1, seq_len, 384])];
        let message = refusal(graph.clone(), &tokens(145), TINY).unwrap();
        assert!(
            message.starts_with(
                "`Mul` would hold the states of the whole sequence at once, [1, 145, 384, 16]"
            ),
            "{message}"
        );
        // A few of the tokens are no sequence.
        assert_eq!(refusal(graph.clone(), &tokens(16), TINY), None);
        // Flattened it is the same.
        let mut flat = GraphBuilder::new(Constants::Initializers);
        let flattened = flat.reshape(&Value::named("decay"), &[0, 145, 384 * 16]);
        flat.output(&flattened, "flat");
        let inputs = [("decay", vec![1, 145 * 384 * 16])];
        assert!(refusal(flat.into_graph(), &inputs, TINY).is_some());
        // What a target says that it can bind may be there.
        assert_eq!(refusal(graph, &tokens(145), Limit { allowed: 145 * 384 * 16, ..TINY }), None);
    }

    /// A loop is no excuse: one block of all tokens does not pass, blocks of 16 do.
    #[test]
    fn a_block_as_long_as_the_sequence_is_refused() {
        let walks = Walks { streams: 4, d_inner: 384, d_state: 16 };
        let seq_len = 144;
        let lowered = |blocks: Blocks| {
            let mut g = GraphBuilder::new(Constants::Initializers);
            let [u, dt, b, c] = ["u", "dt", "b", "c"].map(Value::named);
            let a = g.floats("A", &[4, 1, 16, 384], &[-1.0; 4 * 16 * 384]);
            let y = blocks.lower(&mut g, walks, &Operands { u, dt, b, c, a });
            g.output(&y, "y");
            g.into_graph()
        };
        let wide = vec![1, 4, seq_len, 384];
        let narrow = vec![1, 4, seq_len, 16];
        let inputs = [("u", wide.clone()), ("dt", wide), ("b", narrow.clone()), ("c", narrow)];
        let limit = Limit { seq_len, ..TINY };
        let message = refusal(lowered(Blocks::of(seq_len, seq_len)), &inputs, limit).unwrap();
        assert!(message.contains("`block/Mul` would hold the states"), "{message}");
        assert_eq!(refusal(lowered(Blocks::new(seq_len)), &inputs, limit), None);
    }

    #[test]
    fn an_operator_without_a_rule_is_named() {
        let mut g = GraphBuilder::new(Constants::Initializers);
        let y = g.node("CumSum", &[&Value::named("x")], &[]);
        g.output(&y, "y");
        let message = refusal(g.into_graph(), &[("x", vec![1, 2])], TINY).unwrap();
        assert_eq!(message, "node `CumSum` (CumSum): there is no rule for CumSum");
    }
}
