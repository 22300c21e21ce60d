//! Eight bits instead of 32: which constants, and how they come back.
//!
//! Lowerings do not know of it: what they store and multiply by goes through [`GraphBuilder`], which asks
//! the table [`STORED`] by name. A product in integers is
//!
//! ```text
//! q, s, z = DynamicQuantizeLinear(x)                      x = s * (q - z), unsigned, one scale for x
//! x @ W = MatMulInteger(q, W8, z) * (s * scale)           W = W8 * scale, signed, one scale a column
//! ```
//!
//! which ONNX Runtime fuses into one node, and which every runtime computes alike: sums of integers are
//! exact. Products of the same `x` share `q`. What leaves a scan or an MLP is many times larger in some
//! tokens than in others, which one scale would round away: there every token is divided by its largest
//! magnitude first, and the product multiplied by it.
//!
//! All else is stored in fewer bits and computed in `f32`, by `Cast` and `Mul` of constants: tract and
//! ONNX Runtime fold them away when they open a file. `DequantizeLinear` says the same, but of it and a
//! product ONNX Runtime makes a `MatMulNBits`, which on a CPU is slower than the product in `f32`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use half::f16;

use crate::{
    Precision,
    graph::{GraphBuilder, Value},
};

/// How a constant is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Eight bits, multiplied in integers by what comes in, which is rounded to eight bits too.
    Product,
    /// The same, with every token brought to one size first.
    TokenProduct,
    /// Eight bits, computed with in `f32`.
    Weight,
    /// Logarithms in eight bits, computed with in `f32`: what a scan's state decays by is never
    /// positive, and the same error is small or large beside it.
    Decay,
    /// Half precision, computed with in `f32`.
    Half,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Product => "int8 product",
            Self::TokenProduct => "int8 by token",
            Self::Weight => "int8 weight",
            Self::Decay => "int8 logarithm",
            Self::Half => "fp16 weight",
        })
    }
}

/// What is chosen or left as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Where it is, as in `pair3/in_proj`.
    pub name: String,
    /// How its matrix is stored.
    pub form: Form,
}

/// Which layers of a file in [`Precision::I8`] are stored in fewer bits; the others stay in `f32`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// All that can be.
    #[default]
    All,
    /// Those of these names.
    Only(BTreeSet<String>),
}

impl Selection {
    /// Whether it holds the layer of that name.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(name),
        }
    }
}

/// What small parameters of the whole network are together.
const VECTORS: &str = "vectors";

/// The end of a constant's name, the name of its layer, and how it is stored. Norms and heads are not
/// here, they stay as they are.
const STORED: [(&str, &str, Form); 18] = [
    ("in_proj_x/weight", "in_proj", Form::Product),
    ("in_proj_z/weight", "in_proj", Form::Product),
    ("out_proj.weight", "out_proj", Form::TokenProduct),
    ("x_proj.weight", "x_proj", Form::Weight),
    ("dt_proj.weight", "dt_proj", Form::Weight),
    ("conv1d.weight", "conv1d", Form::Weight),
    ("A", "A", Form::Decay),
    ("conv1d.bias", VECTORS, Form::Half),
    ("dt_proj.bias", VECTORS, Form::Half),
    ("D", VECTORS, Form::Half),
    ("patch_embed/positions", VECTORS, Form::Half),
    ("patch_embed/weight", "patch_embed", Form::Weight),
    ("q/weight", "qkv", Form::Product),
    ("k/weight", "qkv", Form::Product),
    ("v/weight", "qkv", Form::Product),
    ("proj/weight", "proj", Form::TokenProduct),
    ("fc1/weight", "fc1", Form::Product),
    ("fc2/weight", "fc2", Form::TokenProduct),
];

/// Values from which on the nodes that bring them back cost less than they save.
const WORTH: usize = 128;

/// Columns from which on a product by token takes less time than one in `f32`: the passes over `x` that
/// it costs are not narrower for a narrow product. One of fewer columns is in `f32`, its weight stored.
const WIDE: usize = 128;

/// A token is not divided by less.
const SMALLEST_TOKEN: f64 = 1e-30;

/// Largest magnitude of a weight in a product. Processors without VNNI add two products of an unsigned
/// and a signed byte in 16 bits, which this fits whatever comes in; 127 would saturate there.
const PRODUCT_LIMIT: f64 = 64.0;

/// Largest magnitude of a weight that is only stored.
const WEIGHT_LIMIT: f64 = 127.0;

/// What a graph under construction stores in fewer bits.
#[derive(Debug, Default)]
pub(crate) struct Quantizer {
    /// `None` where everything stays as it is.
    selection: Option<Selection>,
    layers: Vec<Layer>,
    /// The constants that products multiply by, by name.
    products: BTreeMap<String, Factor>,
    /// What `DynamicQuantizeLinear` made of a value, by name.
    inputs: BTreeMap<String, [Value; 3]>,
}

/// A constant of a product.
#[derive(Clone, Debug)]
pub(crate) struct Factor {
    scales: Value,
    by_token: bool,
}

impl Quantizer {
    pub(crate) fn new(selection: &Selection) -> Self {
        Self { selection: Some(selection.clone()), ..Self::default() }
    }

    /// Every layer that could be stored in fewer bits, chosen or not, in the order of the graph.
    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// How the constant of that name is stored, `None` where as it is.
    pub(crate) fn form(&mut self, path: &str, shape: &[usize], data: &[f64]) -> Option<Form> {
        let selection = self.selection.as_ref()?;
        let (name, form) = match layer_of(path)? {
            (name, Form::TokenProduct) if shape.last().is_none_or(|&columns| columns < WIDE) => {
                (name, Form::Weight)
            }
            layer => layer,
        };
        let fits = |value: &f64| match form {
            Form::Product | Form::TokenProduct | Form::Weight => value.is_finite(),
            Form::Decay => value.is_finite() && *value < 0.0,
            Form::Half => value.abs() <= f64::from(f16::MAX),
        };
        // Weights that are damaged stay so, for whoever runs the file to be told.
        if data.len() < WORTH || !data.iter().all(fits) {
            return None;
        }
        let chosen = selection.contains(&name);
        if self.layers.iter().all(|layer| layer.name != name) {
            self.layers.push(Layer { name, form });
        }
        chosen.then_some(form)
    }

    pub(crate) fn factor(&self, weight: &Value) -> Option<Factor> {
        self.products.get(weight.name()).cloned()
    }
}

/// The layer that a constant belongs to; the streams of a mixer are one layer.
fn layer_of(path: &str) -> Option<(String, Form)> {
    let stem = |end: &str| match path.strip_suffix(end)? {
        "" => Some(""),
        stem => stem.strip_suffix('/'),
    };
    let mut stored = STORED.iter();
    let (stem, &(_, layer, form)) =
        stored.find_map(|entry| stem(entry.0).map(|stem| (stem, entry)))?;
    if layer == VECTORS {
        return Some((layer.into(), form));
    }
    let scopes = stem.split('/').filter(|scope| !scope.is_empty());
    let name = scopes.chain([layer]).collect::<Vec<_>>().join("/");
    Some((name, form))
}

/// A matrix in signed bytes: `value = byte * scale`, zero stays zero.
#[derive(Debug, PartialEq)]
struct Quantized {
    bytes: Vec<i8>,
    /// One a column, or one a row.
    scales: Vec<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lines {
    Rows,
    Columns,
}

impl Quantized {
    /// The scales are rounded to `f32` first, so that the bytes are those of the scales in the file.
    fn new(data: &[f64], columns: usize, lines: Lines, limit: f64) -> Self {
        let line = |index: usize| match lines {
            Lines::Rows => index / columns,
            Lines::Columns => index % columns,
        };
        let count = match lines {
            Lines::Rows => data.len() / columns,
            Lines::Columns => columns,
        };
        let mut largest = vec![0.0_f64; count];
        for (index, value) in data.iter().enumerate() {
            largest[line(index)] = largest[line(index)].max(value.abs());
        }
        let scales: Vec<f64> = largest
            .into_iter()
            .map(|largest| match (largest / limit) as f32 {
                // Nothing but zeros, or what `f32` cannot tell from them.
                scale if scale < f32::MIN_POSITIVE => 1.0,
                scale => f64::from(scale),
            })
            .collect();
        let byte = |(index, value): (usize, &f64)| {
            (value / scales[line(index)]).round_ties_even().clamp(-limit, limit) as i8
        };
        Self { bytes: data.iter().enumerate().map(byte).collect(), scales }
    }
}

/// Logarithms of what is negative, in signed bytes: `value = -exp(byte * scale + centre)`, scale and
/// centre one a column.
#[derive(Debug, PartialEq)]
struct Logarithms {
    bytes: Vec<i8>,
    scales: Vec<f64>,
    centres: Vec<f64>,
}

impl Logarithms {
    fn new(data: &[f64], columns: usize) -> Self {
        let logs: Vec<f64> = data.iter().map(|value| (-value).ln()).collect();
        let mut range = vec![(f64::INFINITY, f64::NEG_INFINITY); columns];
        for row in logs.chunks_exact(columns) {
            for ((least, most), value) in range.iter_mut().zip(row) {
                (*least, *most) = (least.min(*value), most.max(*value));
            }
        }
        let centres: Vec<f64> =
            range.iter().map(|(least, most)| f64::from((least.midpoint(*most)) as f32)).collect();
        let distances: Vec<f64> = logs
            .chunks_exact(columns)
            .flat_map(|row| row.iter().zip(&centres).map(|(log, centre)| log - centre))
            .collect();
        let Quantized { bytes, scales } =
            Quantized::new(&distances, columns, Lines::Columns, WEIGHT_LIMIT);
        Self { bytes, scales, centres }
    }
}

impl GraphBuilder {
    /// A constant in that form, as what the lowering computes with.
    pub(crate) fn quantized(
        &mut self,
        form: Form,
        leaf: &str,
        shape: &[usize],
        data: &[f64],
    ) -> Value {
        let (&rows, rest) = shape.split_first().unwrap_or((&1, &[]));
        let columns: usize = rest.iter().product();
        let part = |what: &str| format!("{leaf}.{what}");
        match form {
            Form::Product | Form::TokenProduct => {
                let matrix = Quantized::new(data, columns, Lines::Columns, PRODUCT_LIMIT);
                let weight = self.bytes(leaf, shape, &matrix.bytes);
                let scales = self.single(&part("scale"), rest, &matrix.scales);
                let factor = Factor { scales, by_token: form == Form::TokenProduct };
                self.quantizer.products.insert(weight.name().into(), factor);
                weight
            }
            Form::Weight => {
                // Of a stack each matrix has scales of its own.
                let (count, rows, rest) = match *shape {
                    [count, rows, columns] => (Some(count), rows, vec![columns]),
                    _ => (None, rows, rest.to_vec()),
                };
                let columns = rest.iter().product();
                // The fewer scales.
                let (lines, shape_of_scales) = match rows <= columns {
                    true => (Lines::Rows, [&[rows], &*vec![1; rest.len()]].concat()),
                    false if count.is_some() => (Lines::Columns, [&[1], &*rest].concat()),
                    false => (Lines::Columns, rest),
                };
                let matrices = data.chunks_exact(rows * columns);
                let matrices =
                    matrices.map(|data| Quantized::new(data, columns, lines, WEIGHT_LIMIT));
                let (mut bytes, mut scales) = (Vec::new(), Vec::new());
                for matrix in matrices {
                    bytes.extend(matrix.bytes);
                    scales.extend(matrix.scales);
                }
                let bytes = self.bytes(leaf, shape, &bytes);
                let shape_of_scales = count.into_iter().chain(shape_of_scales).collect::<Vec<_>>();
                let scales = self.single(&part("scale"), &shape_of_scales, &scales);
                self.scope(leaf, |g| {
                    let values = g.cast(&bytes, Precision::F32);
                    g.mul(&values, &scales)
                })
            }
            Form::Decay => {
                let logs = Logarithms::new(data, columns);
                let bytes = self.bytes(leaf, shape, &logs.bytes);
                let scales = self.single(&part("scale"), rest, &logs.scales);
                let centres = self.single(&part("centre"), rest, &logs.centres);
                self.scope(leaf, |g| {
                    let values = g.cast(&bytes, Precision::F32);
                    let values = g.mul(&values, &scales);
                    let values = g.add(&values, &centres);
                    let values = g.node("Exp", &[&values], &[]);
                    g.node("Neg", &[&values], &[])
                })
            }
            Form::Half => {
                let values = self.rounded(leaf, shape, data, Precision::F16);
                self.scope(leaf, |g| g.cast(&values, Precision::F32))
            }
        }
    }

    fn single(&mut self, leaf: &str, shape: &[usize], data: &[f64]) -> Value {
        self.rounded(leaf, shape, data, Precision::F32)
    }

    /// `x` times `weight`, a constant of a product.
    pub(crate) fn integer_product(&mut self, x: &Value, weight: &Value, factor: &Factor) -> Value {
        if !factor.by_token {
            return self.one_scale_product(x, weight, &factor.scales);
        }
        let magnitudes = self.node("Abs", &[x], &[]);
        let axes = self.integers(&[-1]);
        let largest = self.node("ReduceMax", &[&magnitudes, &axes], &[]);
        let smallest = self.single("smallest", &[], &[SMALLEST_TOKEN]);
        let size = self.node("Max", &[&largest, &smallest], &[]);
        let x = self.node("Div", &[x, &size], &[]);
        let product = self.one_scale_product(&x, weight, &factor.scales);
        self.mul(&product, &size)
    }

    fn one_scale_product(&mut self, x: &Value, weight: &Value, scales: &Value) -> Value {
        let [bytes, scale, zero] = match self.quantizer.inputs.get(x.name()) {
            Some(quantized) => quantized.clone(),
            None => {
                let made = self.node_in("", "DynamicQuantizeLinear", &[x], &[], 3);
                let made: [Value; 3] = made.try_into().unwrap_or_else(|_| unreachable!());
                self.quantizer.inputs.insert(x.name().into(), made.clone());
                made
            }
        };
        let sums = self.node("MatMulInteger", &[&bytes, weight, &zero], &[]);
        let sums = self.cast(&sums, Precision::F32);
        let scales = self.mul(&scale, scales);
        self.mul(&sums, &scales)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Constants;

    #[test]
    fn every_column_has_its_own_scale_and_keeps_its_zeros() {
        let data = [1.0, -0.001, 0.0, 0.5, 0.0, 0.0, -0.25, 0.001, 0.0];
        let matrix = Quantized::new(&data, 3, Lines::Columns, PRODUCT_LIMIT);
        assert_eq!(matrix.bytes, [64, -64, 0, 32, 0, 0, -16, 64, 0]);
        assert_eq!(matrix.scales[0], 1.0 / 64.0);
        assert_eq!(matrix.scales[1], f64::from((0.001 / 64.0) as f32));
        assert_eq!(matrix.scales[2], 1.0, "a column of zeros");
        let rows = Quantized::new(&data, 3, Lines::Rows, WEIGHT_LIMIT);
        assert_eq!(rows.bytes, [127, 0, 0, 127, 0, 0, -127, 1, 0]);
    }

    #[test]
    fn no_value_is_off_by_more_than_half_a_step() {
        let data: Vec<f64> =
            (0..4_000).map(|i| f64::from(i * 7919 % 4001 - 2000) / 777.0).collect();
        for (lines, limit) in [(Lines::Rows, WEIGHT_LIMIT), (Lines::Columns, PRODUCT_LIMIT)] {
            let matrix = Quantized::new(&data, 40, lines, limit);
            for (index, value) in data.iter().enumerate() {
                let scale = matrix.scales[match lines {
                    Lines::Rows => index / 40,
                    Lines::Columns => index % 40,
                }];
                let back = f64::from(matrix.bytes[index]) * scale;
                assert!((back - value).abs() <= 0.5001 * scale, "{lines:?} {index}");
            }
        }
    }

    #[test]
    fn a_pair_of_products_fits_into_sixteen_bits() {
        let largest = Quantized::new(&[3.0, -3.0], 1, Lines::Columns, PRODUCT_LIMIT).bytes;
        assert_eq!(largest, [64, -64]);
        assert!(largest.iter().all(|&w| i16::try_from(2 * 255 * i32::from(w)).is_ok()));
    }

    #[test]
    fn what_is_next_to_nothing_is_nothing() {
        let matrix = Quantized::new(&[1e-60, 0.0], 1, Lines::Columns, PRODUCT_LIMIT);
        assert_eq!((matrix.bytes, matrix.scales), (vec![0, 0], vec![1.0]));
    }

    #[test]
    fn decays_keep_their_size_whether_large_or_small() {
        let data: Vec<f64> =
            (0..512).map(|i| -f64::from(1 + i % 16) * (f64::from(i) / 128.0 - 2.0).exp()).collect();
        let logs = Logarithms::new(&data, 16);
        let back = |logs: &Logarithms, index: usize| {
            let column = index % logs.scales.len();
            let log = f64::from(logs.bytes[index]) * logs.scales[column] + logs.centres[column];
            -log.exp()
        };
        for (index, value) in data.iter().enumerate() {
            assert!((back(&logs, index) / value - 1.0).abs() < 0.01, "{index}");
        }
        let same = Logarithms::new(&[-2.0; 4], 2);
        assert!((back(&same, 3) + 2.0).abs() < 1e-6, "a column of one value");
    }

    #[test]
    fn layers_are_named_for_where_they_are() {
        let layer = |path: &str| layer_of(path).map(|(name, _)| name);
        assert_eq!(layer("pair0/in_proj_z/weight").unwrap(), "pair0/in_proj");
        assert_eq!(layer("pair3/first/x_proj.weight").unwrap(), "pair3/first/x_proj");
        assert_eq!(layer("pair3/D").unwrap(), VECTORS);
        assert_eq!(layer("pair3/A").unwrap(), "pair3/A");
        assert_eq!(layer("patch_embed/weight").unwrap(), "patch_embed");
        for path in ["head/weight", "pair0/norm/weight", "pair0/LAMBDA", "pool/weight"] {
            assert_eq!(layer(path), None, "{path}");
        }
    }

    #[test]
    fn every_matrix_of_a_stack_has_its_own_scales() {
        let data: Vec<f64> = (0..2 * 96).map(|i| f64::from(i % 7 - 3)).collect();
        // The second matrix is a hundred times the first.
        let data: Vec<f64> =
            data.iter().enumerate().map(|(i, x)| if i < 96 { *x } else { 100.0 * x }).collect();
        for (shape, scales) in [([2, 24, 4], [2, 1, 4]), ([2, 4, 24], [2, 4, 1])] {
            let mut g = GraphBuilder::new(Constants::Initializers);
            g.quantized(Form::Weight, "x_proj.weight", &shape, &data);
            let graph = g.into_graph();
            let [bytes, scale] = [0, 1].map(|index| &graph.initializer[index]);
            assert_eq!(bytes.dims, shape.map(|size| size as i64));
            assert_eq!(scale.dims, scales.map(|size| size as i64));
            let [small, large] = [0, 1].map(|half| &bytes.raw_data[half * 96..(half + 1) * 96]);
            assert!(small.contains(&127), "as fine as the other");
            assert!(large.contains(&127));
        }
    }

    #[test]
    fn damaged_weights_stay_as_they_are() {
        let mut quantizer = Quantizer::new(&Selection::All);
        let shape = [1, WORTH];
        let mut data = vec![-1.0; WORTH];
        assert_eq!(quantizer.form("pair0/A", &shape, &data), Some(Form::Decay));
        let out = "pair0/out_proj.weight";
        assert_eq!(quantizer.form(out, &shape, &data), Some(Form::TokenProduct));
        assert_eq!(quantizer.form(out, &[2, WIDE / 2], &data), Some(Form::Weight), "too narrow");
        data[7] = f64::NAN;
        for path in ["pair1/A", "pair1/out_proj.weight", "pair1/D"] {
            assert_eq!(quantizer.form(path, &shape, &data), None, "{path}");
        }
        assert_eq!(quantizer.layers().len(), 2);
        assert_eq!(quantizer.form("pair1/A", &[1, 1], &[-1.0]), None, "not worth it");
    }
}
