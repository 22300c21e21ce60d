//! `ssamba-edge bench efficiency`: time and memory over the number of tokens, as the paper has them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::Serialize;
use ssamba_contract::{Session, Tensor};
use ssamba_model_common::Published;
use ssamba_onnx::{Architecture, Attention};
use ssamba_ort::{Arena, Cuda, Gpu, OUT_OF_MEMORY, OrtSession};

use crate::{
    Answer,
    chart::{self, Curve, Panel, Scale},
    command,
    convert::write_whole,
    export::Precision,
    terminal,
};

/// Time and memory of the networks over the number of tokens, in ONNX Runtime. The weights are made
/// up: neither depends on them.
#[derive(clap::Args)]
pub struct Args {
    /// What runs them.
    #[arg(long, value_enum, default_value_t = Device::Cuda)]
    provider: Device,
    /// Number of the GPU.
    #[arg(long, value_name = "N", default_value_t = 0)]
    device: u32,
    /// Networks.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Network::Ssamba])]
    networks: Vec<Network>,
    /// Sizes of the networks.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Size::Tiny])]
    sizes: Vec<Size>,
    /// Patches of a clip, each a token; multiples of 8.
    #[arg(long, value_delimiter = ',', default_values_t = [512, 1_024, 2_048, 4_096, 8_192, 22_016])]
    tokens: Vec<usize>,
    /// Clips at a time.
    #[arg(long, value_delimiter = ',', default_values_t = [4])]
    batch: Vec<usize>,
    /// Clips of a batch that are run together; fewer take less memory [default: all].
    #[arg(long, value_name = "N")]
    micro_batch: Option<usize>,
    /// Of the layers.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Precision::Fp32])]
    precision: Vec<Precision>,
    /// Timed runs, after three that are not.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Capture each network as a CUDA graph.
    #[arg(long)]
    cuda_graph: bool,
    /// Two layers of a pair of SSAMBA one after the other: less memory, more kernels.
    #[arg(long)]
    no_pair_fusion: bool,
    /// ONNX Runtime's shared library [default: as for `run`].
    #[arg(long, value_name = "FILE")]
    ort_lib: Option<PathBuf>,
    /// Folder for `efficiency.json` and `efficiency.svg` [default: print alone].
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Device {
    /// ONNX Runtime on the CPU, one thread.
    Cpu,
    /// ONNX Runtime on an NVIDIA GPU.
    Cuda,
}

/// A network, and how its file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Network {
    /// Bidirectional Mamba.
    Ssamba,
    /// The transformer, its attention in standard operators.
    Ssast,
    /// The transformer, each attention one operator.
    SsastFused,
}

impl Network {
    fn name(self) -> &'static str {
        match self {
            Self::Ssamba => "ssamba",
            Self::Ssast => "ssast",
            Self::SsastFused => "ssast fused",
        }
    }

    fn architecture(self) -> Architecture {
        match self {
            Self::Ssamba => Architecture::Ssamba,
            Self::Ssast | Self::SsastFused => Architecture::Ssast,
        }
    }

    fn attention(self) -> Option<Attention> {
        match self {
            Self::Ssamba => None,
            Self::Ssast => Some(Attention::Plain),
            Self::SsastFused => Some(Attention::Fused),
        }
    }
}

/// [`Published`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Size {
    /// Tokens of 192 values.
    Tiny,
    /// Tokens of 384 values.
    Small,
    /// Tokens of 768 values.
    Base,
}

impl Size {
    fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Small => "small",
            Self::Base => "base",
        }
    }
}

impl From<Size> for Published {
    fn from(size: Size) -> Self {
        match size {
            Size::Tiny => Self::Tiny,
            Size::Small => Self::Small,
            Size::Base => Self::Base,
        }
    }
}

/// One network at one length.
#[derive(Clone, Copy, Debug)]
struct Case {
    network: Network,
    size: Size,
    precision: Precision,
    batch: usize,
    tokens: usize,
}

/// What was measured, on what, and how to do it again.
#[derive(Serialize)]
struct Report {
    command: String,
    machine: String,
    runtime: String,
    points: Vec<Point>,
}

/// One network at one length.
#[derive(Serialize)]
struct Point {
    network: &'static str,
    size: &'static str,
    precision: ssamba_contract::Precision,
    batch: usize,
    tokens: usize,
    /// Median and fastest of the timed runs, input and outputs on the device.
    median_ms: Option<f64>,
    min_ms: Option<f64>,
    /// Device memory that running adds to what the open file holds, of everything on the device.
    peak_mib: Option<f64>,
    /// The same of tensors alone, at the time when they take the most.
    tensors_mib: Option<f64>,
    /// Why there are no figures.
    failed: Option<String>,
}

/// Runs before the timed ones: the first plan, and those that a CUDA graph is captured from.
const WARM_UP: usize = 3;

pub fn run(args: &Args) -> Result<Answer> {
    ensure!(
        !args.cuda_graph || args.provider == Device::Cuda,
        "--cuda-graph takes --provider cuda"
    );
    ensure!(
        args.provider == Device::Cpu || !args.precision.contains(&Precision::Int8),
        "--precision int8 takes --provider cpu"
    );
    let rows = ssamba_onnx::Network::ROWS;
    if let Some(odd) = args.tokens.iter().find(|&&n| n == 0 || !n.is_multiple_of(rows)) {
        bail!("--tokens {odd}, expected positive multiples of {rows}");
    }
    let together = |batch: usize| args.micro_batch.unwrap_or(batch);
    if let Some(odd) =
        args.batch.iter().find(|&&n| !n.is_multiple_of(together(n).max(1)) || together(n) == 0)
    {
        bail!("{odd} clips cannot be run {} at a time", together(*odd));
    }
    let machine = match args.provider {
        Device::Cuda => Gpu::query(args.device)?.name,
        Device::Cpu => "CPU, one thread".into(),
    };
    let mut report = Report {
        command: command::again(std::env::args().skip(1), &["-o", "--output", "--ort-lib"]),
        machine,
        runtime: String::new(),
        points: Vec::new(),
    };
    terminal::note(format!(
        "{:<11} {:<6} {:<5} {:>5} {:>7} {:>10} {:>10} {:>10} {:>11}",
        "network", "size", "", "batch", "tokens", "median ms", "min ms", "peak MiB", "tensors MiB"
    ));
    for curve in curves(args) {
        for &tokens in &args.tokens {
            let point = measure(args, Case { tokens, ..curve }, &mut report.runtime);
            terminal::note(line(&point));
            let failed = point.failed.is_some();
            report.points.push(point);
            // What is longer needs more.
            if failed {
                break;
            }
        }
    }
    if let Some(folder) = &args.output {
        write(folder, &report)?;
    }
    let failed = report.points.iter().all(|point| point.failed.is_some());
    Ok(if failed { Answer::Failed } else { Answer::Yes })
}

/// Everything that was asked for, of no length yet.
fn curves(args: &Args) -> Vec<Case> {
    let mut curves = Vec::new();
    for &network in &args.networks {
        for &size in &args.sizes {
            for &precision in &args.precision {
                for &batch in &args.batch {
                    curves.push(Case { network, size, precision, batch, tokens: 0 });
                }
            }
        }
    }
    curves
}

fn line(point: &Point) -> String {
    let figure = |value: Option<f64>| value.map_or_else(|| "-".into(), |v| format!("{v:.2}"));
    let Point { network, size, precision, batch, tokens, .. } = point;
    let precision = precision.to_string();
    let figures = format!(
        "{network:<11} {size:<6} {precision:<5} {batch:>5} {tokens:>7} {:>10} {:>10} {:>10} {:>11}",
        figure(point.median_ms),
        figure(point.min_ms),
        figure(point.peak_mib),
        figure(point.tensors_mib)
    );
    match &point.failed {
        Some(reason) => format!("{figures}  {reason}"),
        None => figures,
    }
}

fn measure(args: &Args, case: Case, runtime: &mut String) -> Point {
    let Case { network, size, precision, batch, tokens } = case;
    let mut point = Point {
        network: network.name(),
        size: size.name(),
        precision: precision.into(),
        batch,
        tokens,
        median_ms: None,
        min_ms: None,
        peak_mib: None,
        tensors_mib: None,
        failed: None,
    };
    let mut figures = || -> Result<Figures> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("model.onnx");
        let model = ssamba_onnx::Network::hashed(network.architecture(), size.into(), tokens)?;
        let card = ssamba_onnx::card(&model, "bench", "")?;
        let options = ssamba_onnx::Options {
            pair_fusion: !args.no_pair_fusion,
            attention: network.attention(),
            precision: precision.into(),
            gpu: matches!(args.provider, Device::Cuda),
            ..Default::default()
        };
        std::fs::write(&path, ssamba_onnx::export(&model, &card, &options)?)?;
        drop(model);
        let together = args.micro_batch.unwrap_or(batch);
        let shape = [together, card.front_end.n_frames, card.front_end.n_mels];
        let data = (0..shape.iter().product()).map(|i: usize| (i % 251) as f32 / 125.0 - 1.0);
        let fbank = Tensor::new(shape, data.collect())?;
        let mut session = open(args, &path)?;
        *runtime = format!("ONNX Runtime {}", session.library().version());
        time(args, &mut session, &fbank, batch / together)
    };
    match figures() {
        Ok(Figures { mut times, memory }) => {
            times.sort_by(f64::total_cmp);
            point.min_ms = times.first().copied();
            point.median_ms = times.get(times.len() / 2).copied();
            point.peak_mib = memory.map(|memory| memory.device);
            point.tensors_mib = memory.map(|memory| memory.tensors);
        }
        Err(error) => point.failed = Some(reason(&error)),
    }
    point
}

/// Why there are no figures; where memory ran out does not matter.
fn reason(error: &anyhow::Error) -> String {
    let chain = format!("{error:#}");
    match chain.rfind(OUT_OF_MEMORY) {
        Some(start) => chain[start..].into(),
        None => chain,
    }
}

fn open(args: &Args, path: &Path) -> Result<OrtSession> {
    let provider = match args.provider {
        Device::Cpu => ssamba_ort::Provider::Cpu,
        Device::Cuda => ssamba_ort::Provider::Cuda(Cuda {
            device: args.device,
            arena: Arena::SameAsRequested,
            cuda_graph: args.cuda_graph,
            ..Default::default()
        }),
    };
    let threads = (args.provider == Device::Cpu).then_some(1);
    let library = args.ort_lib.clone();
    OrtSession::open(
        path,
        &ssamba_ort::Options { provider, threads, library, ..Default::default() },
    )
}

/// What a case took.
struct Figures {
    /// Milliseconds of each timed run.
    times: Vec<f64>,
    /// On a device that is not the CPU.
    memory: Option<Memory>,
}

/// MiB more than with the file open.
#[derive(Clone, Copy)]
struct Memory {
    /// In use on the device.
    device: f64,
    /// In tensors, at most.
    tensors: f64,
}

/// Times runs of `parts` inputs.
fn time(args: &Args, session: &mut OrtSession, fbank: &Tensor, parts: usize) -> Result<Figures> {
    let on_device = args.provider == Device::Cuda;
    let in_use = || Gpu::query(args.device).map(|gpu| gpu.memory_in_use);
    let before = match on_device {
        true => Some((in_use()?, session.arena_use()?.now)),
        false => None,
    };
    if on_device {
        session.write(fbank)?;
    }
    let mut times = Vec::new();
    for run in 0..WARM_UP + usize::from(args.runs) {
        let start = Instant::now();
        for _ in 0..parts {
            match on_device {
                true => session.run_written()?,
                false => drop(session.run(fbank)?),
            }
        }
        if run >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let mib = |now: usize, before: usize| now.saturating_sub(before) as f64 / f64::from(1 << 20);
    let memory = match before {
        Some((device, tensors)) => Some(Memory {
            device: mib(in_use()?, device),
            tensors: mib(session.arena_use()?.most, tensors),
        }),
        None => None,
    };
    if on_device {
        let outputs = session.read()?;
        let finite = outputs.iter().all(|(_, tensor)| tensor.data().iter().all(|x| x.is_finite()));
        ensure!(finite, "the outputs are not finite");
    }
    Ok(Figures { times, memory })
}

fn write(folder: &Path, report: &Report) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    let json = folder.join("efficiency.json");
    write_whole(&json, &serde_json::to_vec_pretty(report)?)?;
    terminal::note(format!("wrote {}", json.display()));
    let svg = folder.join("efficiency.svg");
    write_whole(&svg, chart(&report.machine, &report.points).as_bytes())?;
    terminal::note(format!("wrote {}", svg.display()));
    Ok(())
}

/// Time and memory over tokens; memory is left out where none was measured.
fn chart(machine: &str, points: &[Point]) -> String {
    type Figure = fn(&Point) -> Option<f64>;
    let mut curves: BTreeMap<String, Vec<&Point>> = BTreeMap::new();
    for point in points.iter().filter(|point| point.median_ms.is_some()) {
        let Point { network, size, precision, batch, .. } = point;
        let name = format!("{network} {size} {precision}, batch {batch}");
        curves.entry(name).or_default().push(point);
    }
    let figures: [(&str, Figure); 2] =
        [("ms, median", |point| point.median_ms), ("MiB over the weights", |point| point.peak_mib)];
    let panels = figures.into_iter().filter_map(|(title, figure)| {
        let place = |point: &&Point| {
            figure(point).filter(|&value| value > 0.0).map(|value| (point.tokens as f64, value))
        };
        let curves: Vec<Curve> = curves
            .iter()
            .map(|(name, points)| Curve {
                name: name.clone(),
                points: points.iter().filter_map(place).collect(),
                marked: None,
            })
            .collect();
        curves.iter().any(|curve| !curve.points.is_empty()).then(|| Panel {
            title: format!("{title} · {machine}"),
            x_label: "tokens",
            x: Scale::Powers(2.0),
            y: Scale::Powers(10.0),
            curves,
        })
    });
    chart::svg(&panels.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::{Point, chart};

    #[test]
    fn a_chart_has_what_was_measured() {
        let point = |tokens, median_ms| Point {
            network: "ssamba",
            size: "tiny",
            precision: ssamba_contract::Precision::F16,
            batch: 4,
            tokens,
            median_ms,
            min_ms: None,
            tensors_mib: None,
            peak_mib: None,
            failed: None,
        };
        let svg = chart("a", &[point(512, Some(1.5)), point(1_024, Some(3.0)), point(2_048, None)]);
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("ssamba tiny fp16, batch 4") && !svg.contains("MiB"), "{svg}");
    }
}
