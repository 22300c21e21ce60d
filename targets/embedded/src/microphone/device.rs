//! Which devices there are, and what is wrong with one.

use anyhow::{Context, Result, anyhow, bail, ensure};
use cpal::{
    Device, DeviceId, ErrorKind, Host, SupportedStreamConfigRange,
    traits::{DeviceTrait, HostTrait},
};

/// A device that may be listened to.
struct Listed {
    device: Device,
    /// Unique.
    id: String,
    /// For people; several devices may have it.
    name: String,
}

/// ALSA's device that gives silence: no microphone, though it can be asked for.
const SILENCE: &str = "null";

/// One line for each device that may be listened to: its identifier, a tab, its name.
///
/// # Errors
/// When there is none.
pub fn list() -> Result<String> {
    quieten();
    let devices = devices(&host()?)?;
    ensure!(!devices.is_empty(), "there is no microphone");
    Ok(devices.iter().map(|Listed { id, name, .. }| format!("{id}\t{name}\n")).collect())
}

/// The device with this identifier or name, or the system's default one, and what to call it.
///
/// # Errors
/// When there is none, or several have the name; says which there are.
pub fn find(wanted: Option<&str>) -> Result<(Device, String)> {
    quieten();
    let host = host()?;
    let Some(wanted) = wanted else {
        let device = host.default_input_device();
        let device =
            device.with_context(|| format!("no default microphone, {}", others(&host, "")))?;
        return Ok((device, "the default microphone".into()));
    };
    let by_id = host.device_by_id(&DeviceId::new(host.id(), wanted));
    if let Some(device) = by_id.filter(DeviceTrait::supports_input) {
        return Ok((device, format!("the microphone `{wanted}`")));
    }
    let mut named = devices(&host)?;
    named.retain(|listed| listed.name == wanted);
    ensure!(
        named.len() < 2,
        "{} microphones are called `{wanted}`, choose with --microphone=DEVICE one of {}",
        named.len(),
        enumerated(&named)
    );
    match named.pop() {
        Some(Listed { device, .. }) => Ok((device, format!("the microphone `{wanted}`"))),
        None => bail!("no microphone `{wanted}`, {}", others(&host, wanted)),
    }
}

/// What a device can be heard as.
///
/// # Errors
/// When it cannot be opened.
pub fn offers(device: &Device, name: &str) -> Result<Vec<SupportedStreamConfigRange>> {
    match device.supported_input_configs() {
        Ok(offers) => Ok(offers.collect()),
        Err(error) => {
            let id = device.id().map(|id| id.id().to_owned()).unwrap_or_default();
            Err(anyhow!("{name}: {}, {}", said(&error), others(&host()?, &id)))
        }
    }
}

/// What is wrong with a device, in our words where cpal has several sentences.
pub fn said(error: &cpal::Error) -> String {
    match error.kind() {
        ErrorKind::DeviceNotAvailable => "it is not connected, or not any more".into(),
        ErrorKind::DeviceBusy => "another program is using it".into(),
        ErrorKind::PermissionDenied => "this user has no permission to use it".into(),
        ErrorKind::UnsupportedOperation => "it cannot be listened to".into(),
        ErrorKind::StreamInvalidated => "its rate or format has changed, start again".into(),
        _ => error.to_string().trim_end_matches('.').into(),
    }
}

/// The system's way to sound devices.
fn host() -> Result<Host> {
    let id = cpal::ALL_HOSTS.first().context("no sound devices on a system of this kind")?;
    cpal::host_from_id(*id).map_err(|error| anyhow!("no sound devices: {}", said(&error)))
}

fn devices(host: &Host) -> Result<Vec<Listed>> {
    let devices = host.input_devices();
    let devices = devices.map_err(|error| anyhow!("no sound devices: {}", said(&error)))?;
    // One that goes away meanwhile is left out.
    let listed = |device: Device| {
        let id = device.id().ok()?.id().to_owned();
        let name = device.description().ok()?.name().to_owned();
        (id != SILENCE).then_some(Listed { device, id, name })
    };
    Ok(devices.filter_map(listed).collect())
}

/// Which devices there are but this one, as the end of a sentence.
fn others(host: &Host, but: &str) -> String {
    let mut others = devices(host).unwrap_or_default();
    others.retain(|listed| listed.id != but);
    if others.is_empty() {
        return "and there is no other".into();
    }
    format!("choose with --microphone=DEVICE one of {}", enumerated(&others))
}

fn enumerated(devices: &[Listed]) -> String {
    let each: Vec<String> =
        devices.iter().map(|Listed { id, name, .. }| format!("{id} ({name})")).collect();
    each.join(", ")
}

/// From now on ALSA writes nothing to stderr from this thread: what is wrong is in its answers too.
#[cfg(target_os = "linux")]
pub fn quieten() {
    // Where this fails, the user reads more lines.
    let _ = alsa::Output::local_error_handler();
}

#[cfg(not(target_os = "linux"))]
pub fn quieten() {}
