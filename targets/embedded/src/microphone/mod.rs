//! A live stream from a sound device.
//!
//! The device's thread never waits: it hands mono samples to a queue of fixed size ([`queue`]), and
//! the network takes them out at its own pace, at the model's rate ([`resample`]).

mod config;
mod device;
mod queue;
mod resample;
mod sample;

use std::{
    cmp::Ordering,
    io::{self, Write},
    process,
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use cpal::{
    Device, ErrorKind, SampleFormat, Stream, StreamConfig,
    traits::{DeviceTrait, StreamTrait},
};
use ssamba_kws::SAMPLE_RATE;

pub use self::device::list;
use self::{
    queue::{Sender, Signal},
    resample::Resampler,
    sample::{Scaled, mono},
};

/// Sound that the queue holds, in seconds.
const QUEUED_S: u32 = 2;
/// A device that says nothing for so long is lost, whether its driver says so or not.
const PATIENCE: Duration = Duration::from_secs(10);
/// From one look at the state of the device to the next while it gives no samples.
const POLL: Duration = Duration::from_secs(1);
/// What a driver may take to close the stream; the program does not wait longer for it.
const CLOSING: Duration = Duration::from_secs(1);

/// A device that can be listened to.
pub struct Microphone {
    device: Device,
    /// For people.
    name: String,
    config: StreamConfig,
    format: SampleFormat,
}

/// The device with this identifier or name, or the system's default one.
///
/// # Errors
/// When there is none, several have the name, or it offers nothing that can be heard.
pub fn find(wanted: Option<&str>) -> Result<Microphone> {
    let (device, name) = device::find(wanted)?;
    let offers = device::offers(&device, &name)?;
    let (config, format) = config::choose(&offers).with_context(|| {
        format!("{name} offers no samples that are numbers, choose another; see --list-microphones")
    })?;
    Ok(Microphone { device, name, config, format })
}

impl Microphone {
    /// Hands on the samples at [`SAMPLE_RATE`] as they come, until Ctrl-C.
    ///
    /// # Errors
    /// When the device cannot be opened or goes away, or `body` fails.
    pub fn each(self, mut body: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let rate = self.config.sample_rate;
        let mut resampler = Resampler::new(rate)?;
        let (sender, receiver) = queue::new(rate * QUEUED_S, rate);
        let signal = receiver.signal();
        stop_at_ctrl_c(signal.clone())?;
        let stream = self.open(sender, signal)?;
        say(&format!("listening to {}; Ctrl-C ends", self.described()));
        let ended = receiver.each(PATIENCE, say, |samples| resampler.push(samples, &mut body));
        close(stream);
        ended.with_context(|| self.name.clone())
    }

    /// What is heard, for people.
    fn described(&self) -> String {
        let Self { name, config, format, .. } = self;
        let StreamConfig { channels, sample_rate: rate, .. } = *config;
        let channels = if channels == 1 { "mono".into() } else { format!("{channels} channels") };
        let resampled = match rate.cmp(&SAMPLE_RATE) {
            Ordering::Equal => String::new(),
            Ordering::Greater => format!(", resampled to {SAMPLE_RATE} Hz"),
            Ordering::Less => {
                format!(", resampled to {SAMPLE_RATE} Hz and silent above {} Hz", rate / 2)
            }
        };
        format!("{name}, {rate} Hz, {channels}, {format}{resampled}")
    }

    fn open(&self, sender: Sender, signal: Signal) -> Result<Stream> {
        match self.format {
            SampleFormat::I8 => self.open_as::<i8>(sender, signal),
            SampleFormat::I16 => self.open_as::<i16>(sender, signal),
            SampleFormat::I24 => self.open_as::<cpal::I24>(sender, signal),
            SampleFormat::I32 => self.open_as::<i32>(sender, signal),
            SampleFormat::I64 => self.open_as::<i64>(sender, signal),
            SampleFormat::U8 => self.open_as::<u8>(sender, signal),
            SampleFormat::U16 => self.open_as::<u16>(sender, signal),
            SampleFormat::U24 => self.open_as::<cpal::U24>(sender, signal),
            SampleFormat::U32 => self.open_as::<u32>(sender, signal),
            SampleFormat::U64 => self.open_as::<u64>(sender, signal),
            SampleFormat::F32 => self.open_as::<f32>(sender, signal),
            SampleFormat::F64 => self.open_as::<f64>(sender, signal),
            format => bail!("{}: samples of the format {format} are no numbers", self.name),
        }
    }

    fn open_as<T: Scaled>(&self, mut sender: Sender, signal: Signal) -> Result<Stream> {
        let channels = usize::from(self.config.channels);
        let on_samples = move |interleaved: &[T], _: &_| sender.push(mono(interleaved, channels));
        let on_error = move |error: cpal::Error| match error.kind() {
            ErrorKind::Xrun => signal.overrun(),
            // The sound goes on.
            ErrorKind::DeviceChanged | ErrorKind::RealtimeDenied => {}
            _ => signal.fail(device::said(&error)),
        };
        let stream = self.device.build_input_stream(self.config, on_samples, on_error, Some(POLL));
        stream
            .and_then(|stream| stream.play().map(|()| stream))
            .map_err(|error| anyhow!("{}: {}", self.name, device::said(&error)))
    }
}

/// The first Ctrl-C ends the stream, the second the program.
fn stop_at_ctrl_c(signal: Signal) -> Result<()> {
    ctrlc::set_handler(move || {
        if !signal.stop() {
            process::exit(130);
        }
    })
    .context("cannot listen for Ctrl-C")
}

/// Closes the stream, unless its driver hangs: it must not keep a program that is at its end.
fn close(stream: Stream) {
    let (closing, closed) = mpsc::channel::<()>();
    thread::spawn(move || {
        drop(stream);
        drop(closing);
    });
    // An error is what tells: nothing is ever sent.
    let _ = closed.recv_timeout(CLOSING);
}

/// A line for people. A closed stderr leaves nobody to tell.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
