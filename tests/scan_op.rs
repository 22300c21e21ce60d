//! The operators by themselves, kernel and function body, against their definitions in `f64`.

use std::path::Path;

use ssamba_contract::{
    Tensor,
    op::{Combine, Layout},
};
use ssamba_onnx::{conv_model, norm_model, scan_model};
use ssamba_tests::{compare::max_abs_error, hashed::hashed, python::StockSession, suite::no_card};

/// One problem of the operator.
#[derive(Clone, Copy, Debug)]
struct Problem {
    groups: usize,
    reverse: &'static [bool],
    combine: Combine,
    batch: usize,
    seq_len: usize,
    d_inner: usize,
    d_state: usize,
    /// Largest step before softplus: 2 is usual, 9 is hot.
    hot: f64,
    layout: Layout,
    /// The width of the rows of `Bm` and `Cm`, and where their first stream begins in either.
    columns: Option<(usize, [usize; 2])>,
}

impl Problem {
    /// u, delta, A, Bm, Cm, Dskip, z, delta_bias.
    fn operands(&self) -> [Tensor; 8] {
        let Self { groups, batch, seq_len, d_inner, d_state, hot, .. } = *self;
        let streams = self.reverse.len();
        let (first, rows, in_row) = match self.layout {
            Layout::Channels => (batch, seq_len, streams),
            Layout::Streams => (streams, batch * seq_len, 1),
        };
        let states = self.columns.map_or(in_row * d_state, |(width, _)| width);
        let random = |name: &str, shape: &[usize], scale| {
            let data = hashed(name, shape.iter().product(), scale);
            Tensor::new(shape, data).unwrap()
        };
        let a = hashed("A", streams * d_inner * d_state, 0.5);
        let a =
            a.iter().enumerate().map(|(i, x)| -((i % d_state + 1) as f32) * (1.0 + x)).collect();
        [
            random("u", &[first, rows, in_row * d_inner], 1.0),
            random("delta", &[first, rows, in_row * d_inner], hot),
            Tensor::new([streams * d_inner, d_state], a).unwrap(),
            random("B", &[first, rows, states], 1.0),
            random("C", &[first, rows, states], 1.0),
            random("D", &[streams * d_inner], 1.0),
            random("z", &[batch, seq_len, groups * d_inner], 3.0),
            random("delta_bias", &[streams * d_inner], 0.5),
        ]
    }

    /// The definition, in `f64`, one value at a time.
    fn definition(&self, operands: &[Tensor; 8], scale: f64) -> Vec<f32> {
        let Self { groups, batch, seq_len, d_inner, d_state, .. } = *self;
        let streams = self.reverse.len();
        let directions = streams / groups;
        let at = |operand: usize, index: usize| f64::from(operands[operand].data()[index]);
        let blocks = if self.combine == Combine::Sum { groups } else { streams };
        let in_row = if self.layout == Layout::Streams { 1 } else { streams };
        let (width, columns) = self.columns.unwrap_or((in_row * d_state, [0, 0]));
        let mut y = vec![0.0; batch * seq_len * blocks * d_inner];
        for b in 0..batch {
            for (stream, &reverse) in self.reverse.iter().enumerate() {
                for channel in 0..d_inner {
                    let wide = stream * d_inner + channel;
                    let mut h = vec![0.0; d_state];
                    for step in 0..seq_len {
                        let row = b * seq_len + if reverse { seq_len - 1 - step } else { step };
                        // The row that holds the stream, and which of its streams that is.
                        let (held, place) = match self.layout {
                            Layout::Channels => (row, stream),
                            Layout::Streams => (stream * batch * seq_len + row, 0),
                        };
                        let place_of_u = (held * in_row + place) * d_inner + channel;
                        let u = at(0, place_of_u);
                        let delta = at(1, place_of_u) + at(7, wide);
                        let dt = delta.max(0.0) + (-delta.abs()).exp().ln_1p();
                        let mut sum = at(5, wide) * u;
                        for (n, h) in h.iter_mut().enumerate() {
                            let narrow = held * width + place * d_state + n;
                            *h = (dt * at(2, wide * d_state + n)).exp() * *h
                                + dt * at(3, narrow + columns[0]) * u;
                            sum += at(4, narrow + columns[1]) * *h;
                        }
                        let mixer = stream / directions;
                        let z = at(6, (row * groups + mixer) * d_inner + channel);
                        let block = if self.combine == Combine::Sum { mixer } else { stream };
                        let out = (row * blocks + block) * d_inner + channel;
                        y[out] += scale * sum * z / (1.0 + (-z).exp());
                    }
                }
            }
        }
        y.into_iter().map(|y: f64| y as f32).collect()
    }
}

fn function_body(model: &Path, operands: &[Tensor]) -> Vec<f32> {
    let operands: Vec<&Tensor> = operands.iter().collect();
    let mut outputs = StockSession::open(model, no_card()).unwrap().run_raw(&operands).unwrap();
    assert_eq!(outputs.len(), 1);
    outputs.remove(0).1.data().to_vec()
}

fn kernel(problem: &Problem, operands: &[Tensor; 8], scale: f32) -> Vec<f32> {
    let [u, delta, a, b, c, d_skip, z, delta_bias] = operands.each_ref().map(Tensor::data);
    let scan = ssamba_scan::Scan {
        batch: problem.batch,
        seq_len: problem.seq_len,
        d_inner: problem.d_inner,
        d_state: problem.d_state,
        groups: problem.groups,
        reverse: problem.reverse,
        delta_softplus: true,
        combine: match problem.combine {
            Combine::Sum => ssamba_scan::Combine::Sum,
            Combine::None => ssamba_scan::Combine::None,
        },
        scale,
        layout: in_kernel(problem.layout),
        columns: problem.columns.map(|(width, [b, c])| ssamba_scan::Columns { width, b, c }),
        u,
        delta,
        a,
        b,
        c,
        d_skip: Some(d_skip),
        z: Some(z),
        delta_bias: Some(delta_bias),
    };
    let mut out = vec![0.0; scan.output_len()];
    ssamba_scan::selective_scan(&scan, &mut out, &ssamba_scan::Inline).unwrap();
    out
}

fn in_kernel(layout: Layout) -> ssamba_scan::Layout {
    match layout {
        Layout::Channels => ssamba_scan::Layout::Channels,
        Layout::Streams => ssamba_scan::Layout::Streams,
    }
}

const FORWARD: &[bool] = &[false];
const REVERSE: &[bool] = &[true];
const BOTH: &[bool] = &[false, true];
const SWAPPED: &[bool] = &[true, false];
const PAIR: &[bool] = &[false, true, false, true];
const CROSSED: &[bool] = &[false, true, true, false];

#[test]
fn kernel_and_function_body_compute_the_definition() {
    let folder = tempfile::tempdir().unwrap();
    let lengths = [1, 2, 15, 16, 17, 65, 145, 513];
    let by_length = lengths.iter().flat_map(|&seq_len| {
        [(1, BOTH, 8), (2, PAIR, 13)].map(|(groups, reverse, d_inner)| Problem {
            groups,
            reverse,
            combine: Combine::Sum,
            batch: 2,
            seq_len,
            d_inner,
            d_state: 16,
            hot: 2.0,
            layout: Layout::Channels,
            columns: None,
        })
    });
    let usual = Problem {
        groups: 1,
        reverse: BOTH,
        combine: Combine::Sum,
        batch: 3,
        seq_len: 33,
        d_inner: 8,
        d_state: 16,
        hot: 2.0,
        layout: Layout::Channels,
        columns: None,
    };
    let special = [
        Problem { d_inner: 1, ..usual },
        Problem { d_inner: 384, batch: 1, seq_len: 145, ..usual },
        Problem { hot: 9.0, ..usual },
        Problem { reverse: FORWARD, ..usual },
        Problem { reverse: REVERSE, ..usual },
        Problem { reverse: SWAPPED, ..usual },
        Problem { groups: 2, reverse: BOTH, ..usual },
        Problem { groups: 2, reverse: CROSSED, ..usual },
        Problem { combine: Combine::None, ..usual },
        Problem { combine: Combine::None, reverse: FORWARD, ..usual },
        Problem { combine: Combine::None, groups: 2, reverse: CROSSED, ..usual },
        Problem { d_state: 1, ..usual },
        Problem { d_state: 5, ..usual },
        Problem { d_state: 32, ..usual },
    ];
    let problems: Vec<Problem> = by_length.chain(special).collect();
    let by_stream = problems.iter().enumerate().map(|(index, &problem)| {
        let columns = Some((3 * problem.d_state + 4, [4, problem.d_state + 4]));
        let columns = columns.filter(|_| index % 2 == 0);
        Problem { layout: Layout::Streams, columns, ..problem }
    });
    let wide = Problem { columns: Some((71, [39, 2])), ..usual };
    for problem in problems.iter().copied().chain(by_stream).chain([wide]) {
        let Problem { groups, reverse, combine, d_inner, d_state, layout, columns, .. } = problem;
        let scale = 0.5;
        let model = folder.path().join("scan.onnx");
        let bytes =
            scan_model(groups, reverse, combine, scale, d_inner, d_state, layout, columns).unwrap();
        std::fs::write(&model, bytes).unwrap();
        let operands = problem.operands();
        let want = problem.definition(&operands, f64::from(scale));
        // Errors of a sum are judged by the size of what it sums up to.
        let size = want.iter().fold(1.0_f32, |max, y| max.max(y.abs()));
        for (who, got) in [
            ("kernel", kernel(&problem, &operands, scale)),
            ("function body", function_body(&model, &operands)),
        ] {
            let error = max_abs_error(&got, &want) / size;
            assert!(error <= 2e-6, "{who} on {problem:?}: {error:e}");
        }
    }
}

/// One problem of the convolution, on two clips.
#[derive(Clone, Copy, Debug)]
struct ConvProblem {
    groups: usize,
    reverse: &'static [bool],
    seq_len: usize,
    d_inner: usize,
    taps: usize,
    layout: Layout,
}

const CLIPS: usize = 2;

impl ConvProblem {
    /// x, weight, bias.
    fn operands(&self) -> [Tensor; 3] {
        let channels = self.reverse.len() * self.d_inner;
        [
            ("x", vec![CLIPS, self.seq_len, self.groups * self.d_inner]),
            ("weight", vec![channels, self.taps]),
            ("bias", vec![channels]),
        ]
        .map(|(name, shape)| {
            let data = hashed(name, shape.iter().product(), 2.0);
            Tensor::new(shape, data).unwrap()
        })
    }

    /// The definition, in `f64`, one value at a time.
    fn definition(&self, [x, weight, bias]: &[Tensor; 3]) -> Vec<f32> {
        let Self { groups, reverse, seq_len, d_inner, taps, layout } = *self;
        let channels = reverse.len() * d_inner;
        let value = |index: usize| {
            let (row, channel) = match layout {
                Layout::Channels => (index / channels, index % channels),
                Layout::Streams => {
                    let (row, d) = (index / d_inner, index % d_inner);
                    let rows = CLIPS * seq_len;
                    (row % rows, row / rows * d_inner + d)
                }
            };
            let (clip, token) = (row / seq_len, row % seq_len);
            let stream = channel / d_inner;
            let block = stream / (reverse.len() / groups);
            let mut sum = f64::from(bias.data()[channel]);
            for k in 0..taps {
                let back = taps - 1 - k;
                let met = match reverse[stream] {
                    true => Some(token + back).filter(|&met| met < seq_len),
                    false => token.checked_sub(back),
                };
                if let Some(met) = met {
                    let x = x.row(clip)[(met * groups + block) * d_inner + channel % d_inner];
                    sum += f64::from(weight.row(channel)[k]) * f64::from(x);
                }
            }
            (sum / (1.0 + (-sum).exp())) as f32
        };
        (0..CLIPS * seq_len * channels).map(value).collect()
    }

    fn kernel(&self, operands: &[Tensor; 3]) -> Vec<f32> {
        let [x, weight, bias] = operands.each_ref().map(Tensor::data);
        let conv = ssamba_scan::ShortConv {
            batch: CLIPS,
            seq_len: self.seq_len,
            d_inner: self.d_inner,
            taps: self.taps,
            groups: self.groups,
            reverse: self.reverse,
            activation: ssamba_scan::Activation::Silu,
            layout: in_kernel(self.layout),
            x,
            weight,
            bias: Some(bias),
        };
        let mut out = vec![0.0; conv.output_len()];
        ssamba_scan::short_conv(&conv, &mut out, &ssamba_scan::Inline).unwrap();
        out
    }
}

#[test]
fn kernel_and_function_body_of_the_convolution_compute_the_definition() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::Channels;
    let usual = ConvProblem { groups: 1, reverse: BOTH, seq_len: 17, d_inner: 13, taps: 4, layout };
    let by_length = [1, 2, 3, 4, 5, 145].map(|seq_len| ConvProblem { seq_len, ..usual });
    let by_taps = [1, 3, 7, 16].map(|taps| ConvProblem { taps, ..usual });
    let by_layout = [(1, FORWARD), (1, REVERSE), (1, SWAPPED), (2, BOTH), (2, PAIR), (2, CROSSED)]
        .map(|(groups, reverse)| ConvProblem { groups, reverse, ..usual });
    let published = ConvProblem { groups: 2, reverse: PAIR, d_inner: 384, ..usual };
    let problems = by_length.into_iter().chain(by_taps).chain(by_layout).chain([published]);
    let problems =
        problems.flat_map(|problem| [problem, ConvProblem { layout: Layout::Streams, ..problem }]);
    for problem in problems {
        let ConvProblem { groups, reverse, d_inner, taps, layout, .. } = problem;
        let model = folder.path().join("conv.onnx");
        std::fs::write(&model, conv_model(groups, reverse, d_inner, taps, layout).unwrap())
            .unwrap();
        let operands = problem.operands();
        let want = problem.definition(&operands);
        let size = want.iter().fold(1.0_f32, |max, u| max.max(u.abs()));
        for (who, got) in [
            ("kernel", problem.kernel(&operands)),
            ("function body", function_body(&model, &operands)),
        ] {
            let error = max_abs_error(&got, &want) / size;
            assert!(error <= 2e-6, "{who} on {problem:?}: {error:e}");
        }
    }
}

/// The body, on residuals as small as they get and updates of fewer axes; the kernels are judged where
/// they are.
#[test]
fn the_function_body_of_the_norm_computes_the_definition() {
    let folder = tempfile::tempdir().unwrap();
    let (batch, seq_len, d_model) = (CLIPS, 5, 24);
    for (clips, tokens) in [(batch, seq_len), (1, seq_len), (1, 1)] {
        for (epsilon, size) in [(1e-5, 1.0), (1e-12, 1e-4)] {
            let model = folder.path().join("norm.onnx");
            std::fs::write(&model, norm_model(d_model, epsilon).unwrap()).unwrap();
            let operands = [
                ("x", vec![batch, seq_len, d_model], size),
                ("update", vec![clips, tokens, d_model], size),
                ("weight", vec![d_model], 2.0),
                ("bias", vec![d_model], 1.0),
            ]
            .map(|(name, shape, scale)| {
                let data = hashed(name, shape.iter().product(), scale);
                Tensor::new(shape, data).unwrap()
            });
            let [x, update, weight, bias] = operands.each_ref().map(Tensor::data);
            let (mut y, mut sums) = (Vec::new(), Vec::new());
            for (row, x) in x.chunks_exact(d_model).enumerate() {
                let (clip, token) = (row / seq_len % clips, row % seq_len % tokens);
                let update = &update[(clip * tokens + token) * d_model..];
                let sum: Vec<f32> = x.iter().zip(update).map(|(x, update)| x + update).collect();
                let wide: Vec<f64> = sum.iter().copied().map(f64::from).collect();
                let mean = wide.iter().sum::<f64>() / d_model as f64;
                let squares = wide.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
                let scale = (squares / d_model as f64 + f64::from(epsilon)).sqrt().recip();
                let affine = wide.iter().zip(weight.iter().zip(bias));
                y.extend(affine.map(|(value, (&weight, &bias))| {
                    ((value - mean) * scale * f64::from(weight) + f64::from(bias)) as f32
                }));
                sums.extend(sum);
            }
            let operands: Vec<&Tensor> = operands.iter().collect();
            let mut session = StockSession::open(&model, no_card()).unwrap();
            let outputs = session.run_raw(&operands).unwrap();
            let names: Vec<&str> = outputs.iter().map(|(name, _)| &name[..]).collect();
            assert_eq!(names, ["y", "sum"]);
            assert_eq!(outputs[1].1.data(), sums);
            let error = max_abs_error(outputs[0].1.data(), &y);
            assert!(error <= 1e-5, "{clips} clips, {tokens} tokens, {epsilon:e}: {error:e}");
        }
    }
}
