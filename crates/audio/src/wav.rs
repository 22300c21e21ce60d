//! WAV files, decoded by `hound`.
//!
//! The chunks are walked here, because hound steps over no padding byte after a chunk of odd
//! length, refuses lengths that a streaming writer left open, and notices only while it reads that
//! samples are missing. It is then given a plain file: `fmt `, `data`, and nothing else.

use std::io::{Cursor, Read};
use std::path::Path;

use hound::{SampleFormat, WavReader};

use crate::{AudioError, Decoded};

const PCM: u16 = 1;
const IEEE_FLOAT: u16 = 3;
const EXTENSIBLE: u16 = 0xfffe;

/// Data lengths from here on, if the file is shorter, mean "until the end": a writer that cannot
/// go back to fill in the length leaves one of these (ffmpeg 0xffffffff, SoX 0x7ffff000, arecord
/// about 0x80000000).
const OPEN_LENGTH: u32 = 0x7fff_f000;

pub(crate) fn decode(path: &Path, bytes: &[u8]) -> Result<Decoded, AudioError> {
    let damaged = |what: &'static str| AudioError::damaged(path, "WAV", what);
    let chunks = Chunks::of(bytes).map_err(damaged)?;
    let format = Format::of(chunks.format).ok_or_else(|| damaged("the fmt chunk is cut off"))?;
    if !format.is_supported() {
        return Err(AudioError::unsupported(path, format.name()));
    }
    let data = chunks.samples(path, format.bytes_per_frame())?;
    if data.is_empty() {
        return Err(AudioError::NoSamples { path: path.into() });
    }

    let header = format
        .header(data.len())
        .ok_or_else(|| AudioError::unsupported(path, "more than 4 GiB of samples".to_owned()))?;
    let failed = |source| match source {
        hound::Error::Unsupported => AudioError::Unsupported {
            path: path.into(),
            what: format.name(),
            source: Some(source.into()),
        },
        _ => AudioError::damaged(path, "WAV", source),
    };
    let mut reader = WavReader::new(Cursor::new(header).chain(data)).map_err(failed)?;
    let spec = reader.spec();
    let interleaved: Result<Vec<f32>, hound::Error> = match spec.sample_format {
        SampleFormat::Float => reader.samples::<f32>().collect(),
        SampleFormat::Int => {
            let full_scale = f64::from(1_u32 << (spec.bits_per_sample - 1));
            let samples = reader.samples::<i32>();
            samples.map(|sample| Ok((f64::from(sample?) / full_scale) as f32)).collect()
        }
    };
    Ok(Decoded {
        sample_rate: spec.sample_rate,
        channels: usize::from(spec.channels),
        interleaved: interleaved.map_err(failed)?,
    })
}

/// The two chunks that matter.
struct Chunks<'a> {
    format: &'a [u8],
    /// All of the file behind the header of the data chunk.
    rest: &'a [u8],
    /// Length of the samples according to that header.
    declared: u32,
    /// Whether the whole file, by its own header, ends where the samples begin.
    ends_at_data: bool,
}

impl<'a> Chunks<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let riff_length = bytes.get(4..8).and_then(u32_at).ok_or("there is no data chunk")?;
        let mut format = None;
        let mut start = 12;
        loop {
            let header = bytes.get(start..).unwrap_or_default();
            let (Some(name), Some(length)) = (header.get(..4), header.get(4..8).and_then(u32_at))
            else {
                return Err("there is no data chunk");
            };
            let body = &header[8..];
            match name {
                b"data" => {
                    let format = format.ok_or("there is no fmt chunk before the data chunk")?;
                    let ends_at_data = u64::from(riff_length) <= start as u64;
                    return Ok(Self { format, rest: body, declared: length, ends_at_data });
                }
                b"fmt " => format = Some(&body[..body.len().min(length as usize)]),
                _ => {}
            }
            // Chunks begin at even positions.
            start = start.saturating_add(8 + length as usize + length as usize % 2);
        }
    }

    /// The bytes of the samples.
    ///
    /// A length that was left open, whether as a huge one or as 0 by a writer that never came back,
    /// takes in all whole frames up to the end of the file.
    fn samples(&self, path: &Path, bytes_per_frame: usize) -> Result<&'a [u8], AudioError> {
        let declared = self.declared as usize;
        if let Some(samples) = self.rest.get(..declared)
            && !(declared == 0 && self.ends_at_data)
        {
            return Ok(samples);
        }
        if declared == 0 || self.declared >= OPEN_LENGTH {
            let whole = self.rest.len() / bytes_per_frame * bytes_per_frame;
            return Ok(&self.rest[..whole]);
        }
        Err(AudioError::Truncated {
            path: path.into(),
            got: (self.rest.len() / bytes_per_frame) as u64,
            expected: Some((declared / bytes_per_frame) as u64),
        })
    }
}

/// The fmt chunk, in the shortest form that says the same.
struct Format {
    /// 16 bytes, or 40 in the extensible form.
    chunk: Vec<u8>,
}

impl Format {
    fn of(chunk: &[u8]) -> Option<Self> {
        let tag = u16_at(chunk, 0)?;
        let mut chunk = chunk.get(..if tag == EXTENSIBLE { 40 } else { 16 })?.to_vec();
        if tag == EXTENSIBLE {
            // Further bytes are of no use, and valid bits are the upper ones of each sample (what
            // hound calls 24 bits in 4 bytes is the lower ones): samples are read whole.
            chunk[16..18].copy_from_slice(&22_u16.to_le_bytes());
            chunk[18..20].copy_from_slice(&0_u16.to_le_bytes());
        }
        Some(Self { chunk })
    }

    /// The encoding of the samples; the extensible form keeps it in the first bytes of a GUID.
    fn tag(&self) -> u16 {
        let tag = u16_at(&self.chunk, 0).unwrap_or_default();
        if tag == EXTENSIBLE { u16_at(&self.chunk, 24).unwrap_or_default() } else { tag }
    }

    fn bits(&self) -> u16 {
        u16_at(&self.chunk, 14).unwrap_or_default()
    }

    /// At least 1, so that one can divide by it; hound refuses 0 itself.
    fn bytes_per_frame(&self) -> usize {
        usize::from(u16_at(&self.chunk, 12).unwrap_or_default()).max(1)
    }

    fn is_supported(&self) -> bool {
        match self.tag() {
            PCM => matches!(self.bits(), 8 | 16 | 24 | 32),
            IEEE_FLOAT => self.bits() == 32,
            _ => false,
        }
    }

    fn name(&self) -> String {
        match self.tag() {
            PCM => format!("{}-bit integer samples", self.bits()),
            IEEE_FLOAT => format!("{}-bit float samples", self.bits()),
            2 | 0x11 => "ADPCM samples".to_owned(),
            6 => "A-law samples".to_owned(),
            7 => "mu-law samples".to_owned(),
            0x55 => "MP3 inside WAV".to_owned(),
            tag => format!("samples of WAV format {tag:#06x}"),
        }
    }

    /// A file up to the first of `data_length` bytes of samples. `None` where 32 bits cannot hold
    /// the length.
    fn header(&self, data_length: usize) -> Option<Vec<u8>> {
        let data_length = u32::try_from(data_length).ok()?;
        let format_length = self.chunk.len() as u32;
        let riff_length = (4 + 8 + format_length + 8).checked_add(data_length)?;
        let mut header = Vec::with_capacity(72);
        header.extend(b"RIFF");
        header.extend(riff_length.to_le_bytes());
        header.extend(b"WAVEfmt ");
        header.extend(format_length.to_le_bytes());
        header.extend(&self.chunk);
        header.extend(b"data");
        header.extend(data_length.to_le_bytes());
        Some(header)
    }
}

fn u16_at(bytes: &[u8], start: usize) -> Option<u16> {
    let bytes = bytes.get(start..start + 2)?.try_into().ok()?;
    Some(u16::from_le_bytes(bytes))
}

fn u32_at(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}
