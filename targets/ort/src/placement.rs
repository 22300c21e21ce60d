//! Where the nodes of a session ran, and for how long: what ONNX Runtime's profiler wrote, read.
//!
//! A profile is a list of events in the format of Chrome's traces. Those of category `Node` name the
//! node, its operator, its provider and the types of its outputs; a `model_run` is around the nodes of
//! one run. Times are microseconds of the CPU: of a node on a GPU, those of its launch.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Deserialize;

/// Nodes of a session, with the provider that ran each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    runs: usize,
    nodes: Vec<PlacedNode>,
}

/// A node that ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedNode {
    /// Its name, once ONNX Runtime has optimised the graph.
    pub name: String,
    /// Type of its operator; `TRTKernel` for a part of the graph that became an engine of TensorRT.
    pub op_type: String,
    /// Who ran it, in our words: `cpu`, `cuda`, `tensorrt`, or as ONNX Runtime calls another.
    pub provider: String,
    /// Whether all its outputs are integers or truth values: shapes and indices.
    pub shape_arithmetic: bool,
    /// How often it ran in the timed runs: more than once in each when it is in a loop.
    pub executions: usize,
    /// Time in the timed runs together, without that of the nodes in its body.
    pub time: Duration,
}

/// All nodes of one operator on one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedOp {
    /// Type of the operator.
    pub op_type: String,
    /// Who ran them.
    pub provider: String,
    /// How many nodes.
    pub nodes: usize,
    /// How often they ran in the timed runs.
    pub executions: usize,
    /// Time in the timed runs together.
    pub time: Duration,
}

impl Placement {
    /// Reads a profile. Where there are several runs the first is not timed: it plans.
    ///
    /// # Errors
    /// When the text is no profile.
    pub fn parse(profile: &str) -> Result<Self> {
        let events: Vec<Event> =
            serde_json::from_str(profile).context("ONNX Runtime's profile cannot be read")?;
        let mut runs: Vec<_> = events.iter().filter(|event| event.name == "model_run").collect();
        runs.sort_by_key(|run| run.ts);
        let timed_from = if runs.len() > 1 { runs[0].end() } else { 0 };
        let mut nodes: Vec<_> = events.iter().filter(|event| event.cat == "Node").collect();
        // What is around others comes first.
        nodes.sort_by_key(|node| (node.tid, node.ts, u64::MAX - node.dur));
        let mut placement =
            Self { runs: runs.len() - usize::from(runs.len() > 1), ..Self::default() };
        let mut places = HashMap::new();
        // Nodes with a body that is running, with their places in the list.
        let mut open: Vec<(&Event, usize)> = Vec::new();
        for event in nodes {
            while open
                .last()
                .is_some_and(|(around, _)| around.tid != event.tid || around.end() <= event.ts)
            {
                open.pop();
            }
            let around = open.last().map(|&(_, place)| place);
            let key = (around, event.name.as_str(), event.args.node_index.as_str());
            let place = *places.entry(key).or_insert_with(|| {
                placement.nodes.push(event.node());
                placement.nodes.len() - 1
            });
            if event.ts >= timed_from {
                let time = Duration::from_micros(event.dur);
                placement.nodes[place].executions += 1;
                placement.nodes[place].time += time;
                if let Some(around) = around {
                    let around = &mut placement.nodes[around];
                    around.time = around.time.saturating_sub(time);
                }
            }
            if ["Scan", "Loop", "If"].contains(&event.args.op_name.as_str()) {
                open.push((event, place));
            }
        }
        Ok(placement)
    }

    /// How many runs were timed.
    pub fn runs(&self) -> usize {
        self.runs
    }

    /// The nodes, in the order in which they first ran.
    pub fn nodes(&self) -> &[PlacedNode] {
        &self.nodes
    }

    /// The nodes by operator and provider, what took longest first.
    pub fn ops(&self) -> Vec<PlacedOp> {
        let mut ops = BTreeMap::new();
        for node in &self.nodes {
            let op: &mut PlacedOp =
                ops.entry((&node.op_type, &node.provider)).or_insert_with(|| PlacedOp {
                    op_type: node.op_type.clone(),
                    provider: node.provider.clone(),
                    nodes: 0,
                    executions: 0,
                    time: Duration::ZERO,
                });
            op.nodes += 1;
            op.executions += node.executions;
            op.time += node.time;
        }
        let mut ops: Vec<_> = ops.into_values().collect();
        ops.sort_by_key(|op| std::cmp::Reverse(op.time));
        ops
    }

    /// The nodes that another than `provider` ran, shape arithmetic aside: ONNX Runtime keeps that on
    /// the CPU, where shapes are.
    pub fn elsewhere(&self, provider: &str) -> Vec<&PlacedNode> {
        self.nodes
            .iter()
            .filter(|node| node.provider != provider && !node.shape_arithmetic)
            .collect()
    }
}

/// An event of a profile; those of other kinds lack what they have no use for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    cat: String,
    name: String,
    tid: i64,
    /// Start, and how long: microseconds.
    ts: u64,
    dur: u64,
    args: Args,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    op_name: String,
    provider: String,
    node_index: String,
    /// Element type and shape of each output.
    output_type_shape: Vec<BTreeMap<String, serde_json::Value>>,
}

impl Event {
    fn end(&self) -> u64 {
        self.ts + self.dur
    }

    fn node(&self) -> PlacedNode {
        let name = self.name.strip_suffix("_kernel_time").unwrap_or(&self.name);
        let op_type = match self.args.op_name.split_once('_') {
            // The rest is of the file and of the place in it.
            Some(("TRTKernel", _)) => "TRTKernel",
            _ => &self.args.op_name,
        };
        let provider = match self.args.provider.as_str() {
            "CPUExecutionProvider" => "cpu",
            "CUDAExecutionProvider" => "cuda",
            "TensorrtExecutionProvider" => "tensorrt",
            other => other,
        };
        let outputs = &self.args.output_type_shape;
        let whole = |ty: &String| ["int", "uint", "bool"].iter().any(|kind| ty.starts_with(kind));
        PlacedNode {
            name: name.to_owned(),
            op_type: op_type.to_owned(),
            provider: provider.to_owned(),
            shape_arithmetic: !outputs.is_empty()
                && outputs.iter().flat_map(BTreeMap::keys).all(whole),
            executions: 0,
            time: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two runs of kws12 without our operators in ONNX Runtime 1.32 on a CPU, cut to the first events
    /// of the process and, of each run, a `Scan`, two steps of its body and three nodes around it; of
    /// each event, what is read here and an entry more.
    const PROFILE: &str = include_str!("placement_sample.json");

    fn micros(node: &PlacedNode) -> u128 {
        node.time.as_micros()
    }

    #[test]
    fn a_real_profile_is_read() {
        let placement = Placement::parse(PROFILE).unwrap();
        assert_eq!(placement.runs(), 1);
        assert!(placement.nodes().iter().all(|node| node.provider == "cpu"));
        let node = |op_type| placement.nodes().iter().find(|node| node.op_type == op_type).unwrap();
        let scan = node("Scan");
        let body: Vec<_> = placement.nodes().iter().filter(|node| node.executions == 2).collect();
        assert_eq!(scan.executions, 1);
        assert_eq!(body.len(), 12, "{body:?}");
        assert!(node("Shape").shape_arithmetic && !scan.shape_arithmetic);
    }

    /// One event; times in microseconds.
    fn event(name: &str, op: &str, provider: &str, ty: &str, ts: u64, dur: u64) -> String {
        format!(
            r#"{{"cat": "Node", "tid": 1, "ts": {ts}, "dur": {dur}, "name": "{name}_kernel_time",
                "args": {{"op_name": "{op}", "provider": "{provider}", "node_index": "0",
                "output_type_shape": [{{"{ty}": [1]}}]}}}}"#
        )
    }

    fn placement(events: &[String]) -> Placement {
        Placement::parse(&format!("[{}]", events.join(","))).unwrap()
    }

    fn run(ts: u64, dur: u64) -> String {
        format!(r#"{{"cat": "Session", "name": "model_run", "tid": 1, "ts": {ts}, "dur": {dur}}}"#)
    }

    const CPU: &str = "CPUExecutionProvider";
    const CUDA: &str = "CUDAExecutionProvider";

    #[test]
    fn the_first_of_several_runs_is_not_timed() {
        let add = |ts, dur| event("add", "Add", CPU, "float", ts, dur);
        let one = placement(&[add(1, 5), run(0, 10)]);
        assert_eq!((one.runs(), micros(&one.nodes()[0])), (1, 5));
        let three = [add(1, 5), run(0, 10), add(12, 2), run(11, 4), add(16, 3), run(15, 5)];
        let three = placement(&three);
        let [node] = three.nodes() else { panic!("{three:?}") };
        assert_eq!((three.runs(), node.executions, micros(node)), (2, 2, 5));
    }

    #[test]
    fn a_loop_is_not_charged_with_its_body() {
        let step = |ts| event("mul", "Mul", CPU, "float", ts, 3);
        let scan = |name: &str, ts| event(name, "Scan", CPU, "float", ts, 10);
        let events =
            [step(0), step(4), scan("a", 0), step(11), scan("b", 10), step(21), run(0, 30)];
        let placement = placement(&events);
        let of = |name: &str| -> Vec<_> {
            let nodes = placement.nodes().iter().filter(|node| node.name == name);
            nodes.map(|node| (node.executions, micros(node))).collect()
        };
        assert_eq!((of("a"), of("b")), (vec![(1, 4)], vec![(1, 7)]));
        assert_eq!(of("mul"), [(2, 6), (1, 3), (1, 3)], "a node in each body, and one in none");
        let ops: Vec<_> =
            placement.ops().into_iter().map(|op| (op.op_type, op.nodes, op.executions)).collect();
        assert_eq!(ops, [("Mul".into(), 3, 4), ("Scan".into(), 2, 2)]);
    }

    #[test]
    fn what_ran_elsewhere_is_named_unless_it_computes_shapes() {
        let placement = placement(&[
            event("scan", "SelectiveScan", CUDA, "float", 0, 1),
            event("shape", "Shape", CPU, "int64", 1, 1),
            event("less", "Less", CPU, "bool", 2, 1),
            event("fill", "ConstantOfShape", CPU, "float16", 3, 1),
            event(
                "engine",
                "TRTKernel_graph_kws12_1_0",
                "TensorrtExecutionProvider",
                "float",
                4,
                1,
            ),
            event("other", "Add", "XnnpackExecutionProvider", "float", 5, 1),
        ]);
        let elsewhere = |provider| -> Vec<_> {
            placement.elsewhere(provider).iter().map(|node| node.name.as_str()).collect()
        };
        assert_eq!(elsewhere("cuda"), ["fill", "engine", "other"]);
        assert_eq!(elsewhere("tensorrt"), ["scan", "fill", "other"]);
        assert_eq!(elsewhere("cpu"), ["scan", "engine", "other"]);
        let op = |name| placement.ops().into_iter().find(|op| op.provider == name).unwrap().op_type;
        assert_eq!((op("tensorrt"), op("cuda")), ("TRTKernel".into(), "SelectiveScan".into()));
        assert_eq!(op("XnnpackExecutionProvider"), "Add");
    }

    #[test]
    fn a_node_whose_outputs_are_unknown_is_not_taken_for_shape_arithmetic() {
        let bare = r#"[{"cat": "Node", "name": "n_kernel_time", "args": {"op_name": "Shape",
            "provider": "CPUExecutionProvider"}}]"#;
        assert_eq!(Placement::parse(bare).unwrap().elsewhere("cuda").len(), 1);
    }

    #[test]
    fn what_is_no_profile_is_an_error() {
        for text in ["", "{}", "[1]", r#"[{"ts": -1}]"#, "[{"] {
            let error = Placement::parse(text).unwrap_err();
            assert_eq!(error.to_string(), "ONNX Runtime's profile cannot be read");
        }
    }
}
