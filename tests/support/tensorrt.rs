//! What TensorRT's ONNX parser says it takes: `tensorrt_operators.txt`.

use std::collections::{BTreeMap, BTreeSet};

const TABLE: &str = include_str!("tensorrt_operators.txt");

/// The table, read.
#[derive(Clone, Debug)]
pub struct Operators {
    /// Lowest and highest operator set.
    pub opsets: [i64; 2],
    /// Element types of an operator, in the table's words.
    pub types: BTreeMap<&'static str, BTreeSet<&'static str>>,
    /// Operators whose inputs after the first have to be constants.
    pub constant_axes: BTreeSet<&'static str>,
    /// Operators of which only the first output is supported.
    pub first_output: BTreeSet<&'static str>,
}

impl Operators {
    /// Reads the table.
    ///
    /// # Panics
    /// When a line of it is not as the others.
    pub fn read() -> Self {
        let mut read = Self {
            opsets: [0; 2],
            types: BTreeMap::new(),
            constant_axes: BTreeSet::new(),
            first_output: BTreeSet::new(),
        };
        let lines = TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            if let Some(range) = line.strip_prefix("opset ") {
                let range: Vec<i64> = range.split(' ').map(|end| end.parse().unwrap()).collect();
                read.opsets = range.try_into().unwrap();
                continue;
            }
            let (what, operators) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
            let operators = operators.split(' ');
            match what {
                "constant axes" => read.constant_axes.extend(operators),
                "first output alone" => read.first_output.extend(operators),
                types => operators.for_each(|operator| {
                    let known = read.types.insert(operator, types.split(' ').collect());
                    assert!(known.is_none(), "{operator} is there twice");
                }),
            }
        }
        read
    }
}
