//! `ssamba-edge verify`: does a file compute what its checkpoint does, in every runtime?

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use ssamba_contract::{
    Card, Input, Outputs, Precision, Session, Tensor, front_end::frame_length, io::LOGITS,
};

use crate::{
    Answer, audio,
    convert::{CandleSession, RecipeArgs, Source},
    listen::Reader,
    provider::{Provider, RuntimeArgs},
    terminal,
};

/// Check that a file computes what its checkpoint does, in every runtime that is here.
#[derive(clap::Args)]
pub struct Args {
    /// File written by `ssamba-edge export`.
    model: PathBuf,
    /// Audio to compare on [default: seeded noise].
    audio: Vec<PathBuf>,
    /// The checkpoint that it was exported from.
    #[arg(long, value_name = "CHECKPOINT")]
    against: PathBuf,
    /// Runtimes, separated by commas [default: all that are here].
    #[arg(long, value_enum, value_delimiter = ',')]
    provider: Vec<Provider>,
    /// Largest absolute difference allowed in any output [default: 1e-4, with the front end inside
    /// 1e-3, in half precision 2e-2, in eight bits 0.3].
    #[arg(long, value_name = "X")]
    atol: Option<f32>,
    #[command(flatten)]
    recipe: RecipeArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

/// What `f32` arithmetic in another order may cost.
pub const ATOL: f32 = 1e-4;
/// What the same front end in `f32` may cost.
const WAVEFORM_ATOL: f32 = 1e-3;
/// What half precision may cost.
const HALF_ATOL: f32 = 2e-2;
/// What eight bits may cost.
const INT8_ATOL: f32 = 0.3;

/// Largest absolute difference of a file's outputs from candle's behind the front end in `f64`.
pub fn tolerance(precision: Precision, input: Input) -> f32 {
    match (precision, input) {
        (Precision::F32, Input::Fbank) => ATOL,
        (Precision::F32, Input::Waveform) => WAVEFORM_ATOL,
        (Precision::F16, _) => HALF_ATOL,
        (Precision::I8, _) => INT8_ATOL,
    }
}

/// One runtime against the reference.
#[derive(Clone, Debug)]
pub struct Agreement {
    pub provider: String,
    pub max_abs_error: f32,
    /// Clips whose best class is the reference's, of all clips; `None` without classes.
    pub same_top: Option<usize>,
    pub clips: usize,
}

impl Agreement {
    pub fn holds(&self, atol: f32) -> bool {
        self.max_abs_error <= atol && self.same_top.is_none_or(|same| same == self.clips)
    }
}

pub fn run(args: &Args) -> Result<Answer> {
    if let Some(atol) = args.atol {
        ensure!(atol >= 0.0, "--atol is {atol}, expected a number that is not negative");
    }
    let (mut sessions, missing) = open(&args.model, &args.provider, &args.runtime)?;
    let card = match sessions.first() {
        Some(session) => session.card().clone(),
        None => bail!("no runtime to verify with: {}", missing.join("; ")),
    };
    let source = Source::read(&args.against, &args.recipe, Some(&card.recipe))?;
    if !same_origin(&card, &source)? {
        return Ok(Answer::No);
    }
    let atol = args.atol.unwrap_or(tolerance(card.precision, card.input));
    let inputs = inputs(&card, &args.audio)?;
    let reference = CandleSession::new(source.network, card);
    let agreements = compare(reference, &mut sessions, &inputs)?;
    print(&agreements, atol)?;
    for reason in &missing {
        terminal::note(format!("not compared: {reason}"));
    }
    let holds = agreements.iter().all(|agreement| agreement.holds(atol));
    Ok(if holds { Answer::Yes } else { Answer::No })
}

type Sessions = Vec<Box<dyn Session>>;

/// Opens what was asked for; what was not asked for by name and is not here is reported instead.
pub fn open(
    model: &Path,
    wanted: &[Provider],
    args: &RuntimeArgs,
) -> Result<(Sessions, Vec<String>)> {
    args.check(wanted)?;
    let mut sessions = Sessions::new();
    let mut missing = Vec::new();
    if wanted.is_empty() {
        for provider in Provider::all() {
            // What is not here is skipped, and said; what is here has to work.
            match provider.absent(args) {
                Some(reason) => missing.push(format!("{}: {reason}", provider.name())),
                None => match beyond(provider, model) {
                    Some(reason) => missing.push(format!("{}: {reason}", provider.name())),
                    None => sessions.push(provider.open(model, args)?),
                },
            }
        }
    }
    for provider in wanted {
        sessions.push(provider.open(model, args)?);
    }
    Ok((sessions, missing))
}

/// Why this provider is not for files of this kind.
fn beyond(provider: Provider, model: &Path) -> Option<&'static str> {
    // What cannot be read is for the runtimes to say.
    let file = ssamba_onnx::inspect(model).ok()?;
    let card = Card::from_metadata(&file.metadata).ok()?;
    card.beyond_tract().filter(|_| provider == Provider::Tract)
}

/// Whether the file says that it came from this checkpoint and this recipe.
fn same_origin(card: &Card, source: &Source) -> Result<bool> {
    if card.checkpoint_sha256 != source.sha256 {
        terminal::note(format!(
            "the file was exported from another checkpoint: its card says sha256 {}, this one has {}",
            card.checkpoint_sha256, source.sha256
        ));
        return Ok(false);
    }
    let ours = source.card(&card.name)?;
    if (&ours.labels, ours.scores) != (&card.labels, card.scores) {
        terminal::note(format!(
            "the file was exported with other labels: its card says {:?} ({:?}), this recipe {:?} ({:?}); pass the same --labels",
            card.labels, card.scores, ours.labels, ours.scores
        ));
        return Ok(false);
    }
    if (&ours.network, &ours.front_end) != (&card.network, &card.front_end) {
        terminal::note(format!(
            "the file was exported with another recipe: its card says `{}` and {:?}, this one gives `{}` and {:?}",
            card.network, card.front_end, ours.network, ours.front_end
        ));
        return Ok(false);
    }
    Ok(true)
}

/// Network inputs: the clips, or seeded noise.
pub fn inputs(card: &Card, arguments: &[PathBuf]) -> Result<Vec<Tensor>> {
    if arguments.is_empty() {
        return (1..=3).map(|seed| noise(card, seed)).collect();
    }
    let mut reader = Reader::new(card)?;
    audio::collect(arguments)?.iter().map(|file| Ok(reader.read(file)?.input)).collect()
}

/// Uniform values in [-1, 1), the range of a normalised filter bank and of a waveform, from
/// splitmix64. Waveforms fill the model's frames exactly, half of them, or are half as long again.
fn noise(card: &Card, seed: u64) -> Result<Tensor> {
    let mut shape = card.window_shape(1);
    if card.input == Input::Waveform {
        let frame = frame_length(card.front_end.sample_rate);
        shape[1] = match seed % 3 {
            1 => shape[1],
            2 => (shape[1] / 2).max(frame),
            _ => shape[1] * 3 / 2,
        };
    }
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let data = (0..shape.iter().product()).map(|_| uniform()).collect();
    Ok(Tensor::new(shape, data)?)
}

/// Runs every input everywhere.
pub fn compare(
    mut reference: CandleSession,
    sessions: &mut [Box<dyn Session>],
    inputs: &[Tensor],
) -> Result<Vec<Agreement>> {
    let wanted = inputs.iter().map(|input| reference.run(input)).collect::<Result<Vec<_>>>()?;
    let mut agreements = Vec::new();
    for session in sessions {
        let provider = session.provider().to_owned();
        let mut agreement =
            Agreement { provider, max_abs_error: 0.0, same_top: Some(0), clips: inputs.len() };
        for (input, wanted) in inputs.iter().zip(&wanted) {
            let got = session.run(input)?;
            agreement.max_abs_error = agreement
                .max_abs_error
                .max(difference(&got, wanted).context(agreement.provider.clone())?);
            agreement.same_top = match (agreement.same_top, got.get(LOGITS), wanted.get(LOGITS)) {
                (Some(same), Some(got), Some(wanted)) => {
                    Some(same + usize::from(best(got) == best(wanted)))
                }
                _ => None,
            };
        }
        agreements.push(agreement);
    }
    Ok(agreements)
}

/// Largest absolute difference over the outputs of the graph; NaN counts as infinite.
fn difference(got: &Outputs, wanted: &Outputs) -> Result<f32> {
    let mut max = 0.0_f32;
    for (name, got) in got.iter() {
        let wanted = wanted.get(name).with_context(|| format!("the reference has no `{name}`"))?;
        ensure!(
            got.shape() == wanted.shape(),
            "`{name}` has shape {:?}, the reference {:?}",
            got.shape(),
            wanted.shape()
        );
        for (got, wanted) in got.data().iter().zip(wanted.data()) {
            let error = (got - wanted).abs();
            max = max.max(if error.is_nan() { f32::INFINITY } else { error });
        }
    }
    Ok(max)
}

fn best(logits: &Tensor) -> Option<usize> {
    let values = logits.row(0).iter().enumerate();
    values.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(index, _)| index)
}

pub fn print(agreements: &[Agreement], atol: f32) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(
        stdout,
        "{:<10} {:>13} {:>11}  (candle is the reference)",
        "provider", "max abs error", "same top-1"
    )?;
    for agreement in agreements {
        let same = match agreement.same_top {
            Some(same) => format!("{same}/{}", agreement.clips),
            None => "-".into(),
        };
        let verdict = match agreement.holds(atol) {
            true => format!("within {atol:e}"),
            false => format!("DRIFTS: more than {atol:e}, or another label"),
        };
        writeln!(
            stdout,
            "{:<10} {:>13.1e} {same:>11}  {verdict}",
            agreement.provider, agreement.max_abs_error
        )?;
    }
    Ok(())
}
