//! `ssamba-edge bench detect`: misses and false alarms of the keyword spotter over a long stream.

mod score;
mod stream;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use hound::{SampleFormat, WavSpec, WavWriter};
use serde::Serialize;
use ssamba_kws::{SAMPLE_RATE, Settings, Spotter, is_background};

use self::{
    score::{Outcome, Point, Posteriors, Rates, Said, Task, choose, rounded, thresholds},
    stream::{Layout, Noises, to_i16},
};
use crate::{
    Answer, audio,
    chart::{self, Curve, Panel, Scale},
    clips::{self, Clip},
    convert::write_whole,
    spotting::{Chosen, SettingsArgs},
    terminal,
};

/// Misses and false alarms of the keyword spotter over a long stream: labelled clips at random
/// pauses over noise, known by their seed.
///
/// An event between the start of a keyword's clip and the tolerance after its end that names the
/// keyword is a hit, the first time. Every other event is a false alarm.
#[derive(clap::Args)]
pub struct Args {
    /// File written by `ssamba-edge export`, or its folder for `ssamba-kws`.
    model: PathBuf,
    /// Folder of clips, a folder a label; labels that the model does not know, and those between
    /// underscores, must not fire.
    clips: PathBuf,
    /// CSV table of the clips with the columns `path` (from the folder), `label` and `split`.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Clips of this split alone.
    #[arg(long, value_name = "NAME", requires = "manifest")]
    split: Option<String>,
    /// Recording of noise, or folder of them; may be repeated.
    #[arg(long, value_name = "PATH", required = true)]
    noise: Vec<PathBuf>,
    /// Signal-to-noise ratios in dB of a keyword of median level; each is a stream.
    #[arg(long, value_name = "DB", value_delimiter = ',', default_values_t = [20.0, 10.0], allow_negative_numbers = true)]
    snr: Vec<f32>,
    /// Shortest and longest pause between clips, in ms.
    #[arg(long, value_name = "MIN,MAX", default_value = "1000,6000", value_parser = pause)]
    pause: (u32, u32),
    /// Seed of the order of the clips, the pauses and the noise.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How late an event may come after the end of a clip, in ms.
    #[arg(long, value_name = "MS", default_value_t = 500)]
    tolerance: u32,
    /// Choose thresholds, for all labels and for each, that keep to N false alarms an hour:
    /// `export --target embedded --detect` takes them.
    #[arg(long, value_name = "N")]
    false_alarms: Option<f64>,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Write the stream, of one signal-to-noise ratio, as a 16-bit WAV file, and its clips as CSV
    /// beside it.
    #[arg(long, value_name = "FILE.wav")]
    write: Option<PathBuf>,
    /// Folder for `detect.json` and `detect.svg` [default: print alone].
    #[arg(short, long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

/// What was measured, on what, and how to do it again.
#[derive(Serialize)]
struct Report {
    command: String,
    model: String,
    checkpoint_sha256: String,
    clips: Clips,
    noise: Vec<String>,
    seed: u64,
    hours: f64,
    tolerance_ms: u32,
    settings: Settings,
    streams: Vec<Stream>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chosen: Option<Chosen<Vec<Rates>>>,
}

/// The clips of every stream.
#[derive(Serialize)]
struct Clips {
    keywords: usize,
    /// Must not fire.
    others: usize,
    by_label: BTreeMap<String, usize>,
}

/// One signal-to-noise ratio.
#[derive(Serialize)]
struct Stream {
    snr_db: f32,
    /// One threshold for all labels.
    curve: Vec<Point>,
    /// With the settings.
    at_settings: Rates,
    labels: Vec<Label>,
}

/// One keyword, with the settings.
#[derive(Serialize)]
struct Label {
    label: String,
    words: usize,
    misses: usize,
    false_alarms: usize,
}

pub fn run(args: &Args) -> Result<Answer> {
    check(args)?;
    let settings = args.settings.over(Settings::of(&args.model)?)?;
    let mut spotter = Spotter::open(&args.model, &settings)?;
    let labels = spotter.labels().to_vec();
    let class_of = |label: &str| {
        labels.iter().position(|known| known == label).filter(|_| !is_background(label))
    };

    let clips = match &args.manifest {
        Some(table) => clips::of_manifest(table, &args.clips, clips::LABEL, args.split.as_deref())?,
        None => clips::of_folder(&args.clips)?,
    };
    let counted = count(&clips, |label| class_of(label).is_some());
    ensure!(
        counted.keywords > 0,
        "{}: no clip has a label of the model, one of {}",
        args.clips.display(),
        labels.join(", ")
    );
    let noise_files = audio::collect(&args.noise)?;
    let noises = Noises::read(&noise_files)?;
    let samples = |ms: u32| (ms * (SAMPLE_RATE / 1000)) as usize;
    let layout =
        Layout::new(clips, (samples(args.pause.0), samples(args.pause.1)), args.seed, |label| {
            class_of(label).is_some()
        })?;
    let hours = stream::seconds(layout.samples) / 3600.0;
    terminal::note(format!(
        "{} clips of keywords, {} that must not fire, {hours:.2} h a stream",
        counted.keywords, counted.others
    ));

    let said: Vec<Said> = layout
        .clips
        .iter()
        .map(|placed| Said {
            class: class_of(&placed.clip.label),
            start_s: placed.start_s(),
            end_s: placed.end_s(),
        })
        .collect();
    let task = Task {
        labels: &labels,
        clips: &said,
        tolerance_s: f64::from(args.tolerance) / 1000.0,
        hours,
    };
    let mut posteriors = Vec::new();
    for &snr in &args.snr {
        let noise = noises.bed(layout.level / 10_f32.powf(snr / 20.0), args.seed);
        let mut heard = Posteriors::default();
        let mut wav = args.write.as_deref().map(Wav::create).transpose()?;
        spotter.reset();
        layout.each(noise, |piece| {
            spotter.feed_windows(piece, |window| {
                heard.scores.extend_from_slice(window.scores);
                heard.ends.push((window.frame, window.time_s));
            })?;
            wav.as_mut().map_or(Ok(()), |wav| wav.push(piece))
        })?;
        if let Some(wav) = wav {
            wav.finish(&layout)?;
        }
        posteriors.push(heard);
    }

    let swept = sweep(&task, &settings, &posteriors)?;
    let streams = streams(args, &task, &settings, &swept, &posteriors)?;
    let card = spotter.card();
    let mut report = Report {
        command: command(args),
        model: card.name.clone(),
        checkpoint_sha256: card.checkpoint_sha256.clone(),
        clips: counted,
        noise: noise_files.iter().map(|path| name(path)).collect(),
        seed: args.seed,
        hours: rounded(hours),
        tolerance_ms: args.tolerance,
        settings: settings.clone(),
        streams,
        chosen: None,
    };
    if let Some(budget) = args.false_alarms {
        report.chosen = Some(chosen(budget, &task, &settings, &swept, &posteriors)?);
    }
    print(&report)?;
    if let Some(folder) = &args.output {
        write(folder, &report)?;
    }
    Ok(Answer::Yes)
}

/// Two numbers.
fn pause(text: &str) -> Result<(u32, u32)> {
    let pair = text.split_once(',').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    pair.context("expected two whole numbers, as in 1000,6000")
}

/// What makes no sense whatever the model is.
fn check(args: &Args) -> Result<()> {
    const LONGEST_MS: u32 = 600_000;
    let pause = args.pause;
    ensure!(
        pause.0 <= pause.1 && pause.1 <= LONGEST_MS,
        "--pause {},{}, expected the shorter first and at most {LONGEST_MS}",
        pause.0,
        pause.1
    );
    ensure!(
        args.tolerance <= pause.0,
        "--tolerance {}, expected at most the shortest pause, {} ms: an event must belong to one clip",
        args.tolerance,
        pause.0
    );
    if let Some(odd) = args.snr.iter().find(|snr| !(-60.0..=120.0).contains(*snr)) {
        bail!("--snr {odd}, expected -60 to 120 dB");
    }
    if let Some(odd) = args.false_alarms.filter(|n| !(0.0..=1e6).contains(n)) {
        bail!("--false-alarms {odd}, expected a number of them an hour");
    }
    ensure!(
        args.write.is_none() || args.snr.len() == 1,
        "--write takes one stream: name one --snr"
    );
    Ok(())
}

/// Outcomes of all streams at each threshold.
fn sweep(
    task: &Task<'_>,
    settings: &Settings,
    posteriors: &[Posteriors],
) -> Result<Vec<(f32, Vec<Outcome>)>> {
    let at = |threshold| {
        let settings = Settings { threshold, thresholds: BTreeMap::new(), ..settings.clone() };
        let outcomes = posteriors.iter().map(|heard| task.detect(&settings, heard));
        Ok((threshold, outcomes.collect::<Result<_>>()?))
    };
    thresholds(settings.threshold).into_iter().map(at).collect()
}

fn streams(
    args: &Args,
    task: &Task<'_>,
    settings: &Settings,
    swept: &[(f32, Vec<Outcome>)],
    posteriors: &[Posteriors],
) -> Result<Vec<Stream>> {
    let streams = args.snr.iter().zip(posteriors).enumerate().map(|(index, (&snr_db, heard))| {
        let curve = swept.iter().map(|(threshold, outcomes)| Point {
            threshold: *threshold,
            rates: outcomes[index].rates(task.hours),
        });
        let outcome = task.detect(settings, heard)?;
        let labels = (0..task.labels.len()).filter(|&class| !is_background(&task.labels[class]));
        Ok(Stream {
            snr_db,
            curve: curve.collect(),
            at_settings: outcome.rates(task.hours),
            labels: labels
                .map(|class| Label {
                    label: task.labels[class].clone(),
                    words: outcome.words[class],
                    misses: outcome.words[class] - outcome.hits[class],
                    false_alarms: outcome.false_alarms[class],
                })
                .collect(),
        })
    });
    streams.collect()
}

/// Thresholds that keep to a budget, and what they make of each stream.
fn chosen(
    budget: f64,
    task: &Task<'_>,
    settings: &Settings,
    swept: &[(f32, Vec<Outcome>)],
    posteriors: &[Posteriors],
) -> Result<Chosen<Vec<Rates>>> {
    let hours = task.hours * posteriors.len() as f64;
    let (threshold, mut thresholds) = choose(swept, task.labels, hours, budget);
    let threshold = threshold.with_context(|| {
        format!("no threshold keeps to {budget} false alarms an hour: allow for more")
    })?;
    let rates = |thresholds: &BTreeMap<String, f32>| {
        let thresholds = thresholds.clone();
        let settings = Settings { threshold, thresholds, ..settings.clone() };
        let rates =
            posteriors.iter().map(|heard| Ok(task.detect(&settings, heard)?.rates(task.hours)));
        rates.collect::<Result<Vec<_>>>()
    };
    let of = |rates: &[Rates], figure: fn(&Rates) -> usize| rates.iter().map(figure).sum::<usize>();
    let at_threshold = rates(&BTreeMap::new())?;
    let mut at_thresholds = rates(&thresholds)?;
    // Shares of few alarms are coarse, and labels get in each other's way: what is not better is not
    // taken.
    let kept = of(&at_thresholds, |rates| rates.misses) <= of(&at_threshold, |rates| rates.misses)
        && of(&at_thresholds, |rates| rates.false_alarms) as f64 <= budget * hours;
    if !kept {
        thresholds.clear();
        at_thresholds.clone_from(&at_threshold);
    }
    Ok(Chosen { false_alarms_per_hour: budget, threshold, thresholds, at_threshold, at_thresholds })
}

fn count(clips: &[Clip], is_keyword: impl Fn(&str) -> bool) -> Clips {
    let mut by_label = BTreeMap::new();
    for clip in clips {
        *by_label.entry(clip.label.clone()).or_default() += 1;
    }
    let keywords = clips.iter().filter(|clip| is_keyword(&clip.label)).count();
    Clips { keywords, others: clips.len() - keywords, by_label }
}

/// The last part of a path.
fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The command to measure the same again; files go by their names, folders they lie in are no part
/// of it.
fn command(args: &Args) -> String {
    let snr: Vec<String> = args.snr.iter().map(f32::to_string).collect();
    let mut words = format!("ssamba-edge bench detect {} {}", name(&args.model), name(&args.clips));
    if let Some(table) = &args.manifest {
        words += &format!(" --manifest {}", name(table));
    }
    if let Some(split) = &args.split {
        words += &format!(" --split {split}");
    }
    for noise in &args.noise {
        words += &format!(" --noise {}", name(noise));
    }
    words += &format!(
        " --snr {} --pause {},{} --seed {} --tolerance {}",
        snr.join(","),
        args.pause.0,
        args.pause.1,
        args.seed,
        args.tolerance
    );
    words += &args.settings.words();
    if let Some(budget) = args.false_alarms {
        words += &format!(" --false-alarms {budget}");
    }
    words
}

fn print(report: &Report) -> Result<()> {
    terminal::say(format!(
        "{:>6}  {:<20} {:>8} {:>14} {:>12}",
        "SNR", "threshold", "missed", "false alarms/h", "latency"
    ))?;
    let line = |snr: f32, threshold: &str, rates: &Rates| {
        let latency = rates.median_latency_s.map_or("-".into(), |s| format!("{:.0} ms", s * 1e3));
        terminal::say(format!(
            "{snr:>3} dB  {threshold:<20} {:>6.1} % {:>14.1} {latency:>12}",
            rates.miss_rate * 100.0,
            rates.false_alarms_per_hour
        ))
    };
    for (index, stream) in report.streams.iter().enumerate() {
        let set = match report.settings.thresholds.is_empty() {
            true => format!("{} (set)", report.settings.threshold),
            false => "as set".into(),
        };
        line(stream.snr_db, &set, &stream.at_settings)?;
        if let Some(chosen) = &report.chosen {
            let all = format!("{} (chosen)", chosen.threshold);
            line(stream.snr_db, &all, &chosen.at_threshold[index])?;
            line(stream.snr_db, "by label (chosen)", &chosen.at_thresholds[index])?;
        }
    }
    Ok(())
}

fn write(folder: &Path, report: &Report) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let json = folder.join("detect.json");
    let mut bytes = serde_json::to_vec_pretty(report)?;
    bytes.push(b'\n');
    write_whole(&json, &bytes)?;
    terminal::note(format!("wrote {}", json.display()));
    let svg = folder.join("detect.svg");
    write_whole(&svg, chart(report).as_bytes())?;
    terminal::note(format!("wrote {}", svg.display()));
    Ok(())
}

/// Miss rate over false alarms an hour; none of those, which has no place on the axis, is drawn as
/// half a one in the whole stream.
fn chart(report: &Report) -> String {
    let place = |rates: &Rates| {
        ((rates.false_alarms as f64).max(0.5) / report.hours, rates.miss_rate * 100.0)
    };
    let curves = report.streams.iter().map(|stream| Curve {
        name: format!("{} dB; ring: threshold {}", stream.snr_db, report.settings.threshold),
        points: stream.curve.iter().rev().map(|point| place(&point.rates)).collect(),
        marked: stream
            .curve
            .iter()
            .find(|point| point.threshold == report.settings.threshold)
            .map(|point| place(&point.rates)),
    });
    chart::svg(&[Panel {
        title: format!("% of words missed · {}, {:.2} h", report.model, report.hours),
        x_label: "false alarms an hour",
        x: Scale::Powers(10.0),
        y: Scale::Steps(10.0),
        curves: curves.collect(),
    }])
}

/// A stream on its way to disk: a 16-bit mono WAV file.
struct Wav {
    path: PathBuf,
    writer: WavWriter<BufWriter<File>>,
}

impl Wav {
    fn create(path: &Path) -> Result<Self> {
        let spec = WavSpec {
            channels: 1,
            sample_rate: SAMPLE_RATE,
            bits_per_sample: 16,
            sample_format: SampleFormat::Int,
        };
        let writer = WavWriter::create(path, spec)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path: path.into(), writer })
    }

    fn push(&mut self, samples: &[f32]) -> Result<()> {
        for &sample in samples {
            let written = self.writer.write_sample(to_i16(sample));
            written.with_context(|| format!("cannot write {}", self.path.display()))?;
        }
        Ok(())
    }

    /// Closes the file, and writes which clip is where beside it.
    fn finish(self, layout: &Layout) -> Result<()> {
        let at = || format!("cannot write {}", self.path.display());
        self.writer.finalize().with_context(at)?;
        let mut table = String::from("start_s,end_s,label,clip\n");
        for placed in &layout.clips {
            table += &format!(
                "{},{},{},{}\n",
                placed.start_s(),
                placed.end_s(),
                placed.clip.label,
                name(&placed.clip.path)
            );
        }
        let beside = self.path.with_extension("csv");
        write_whole(&beside, table.as_bytes())?;
        terminal::note(format!("wrote {} and {}", self.path.display(), beside.display()));
        Ok(())
    }
}
