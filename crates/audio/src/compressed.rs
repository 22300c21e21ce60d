//! FLAC, OGG Vorbis and MP3, decoded by `symphonia`.

use std::io::{Cursor, ErrorKind};
use std::path::Path;

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::errors::Error;
use symphonia::core::formats::TrackType;
use symphonia::core::formats::probe::Hint;
use symphonia::core::io::MediaSourceStream;

use crate::{AudioError, Decoded};

/// Decodes the first audio track. What an encoder adds at both ends is removed where the file says
/// how much it is, so that the sound begins where it began before.
///
/// `format` is what the first bytes announce, for messages.
pub(crate) fn decode(
    path: &Path,
    format: &'static str,
    bytes: &[u8],
) -> Result<Decoded, AudioError> {
    let no_decoder = match format {
        "OGG" => "OGG that is not Vorbis".to_owned(),
        _ => format!("an unusual kind of {format}"),
    };
    let failed = |source: Error| match source {
        Error::Unsupported(_) => AudioError::Unsupported {
            path: path.into(),
            what: no_decoder.clone(),
            source: Some(source.into()),
        },
        _ => AudioError::damaged(path, format, source),
    };

    let stream = MediaSourceStream::new(Box::new(Cursor::new(bytes)), Default::default());
    let mut reader = symphonia::default::get_probe()
        .probe(&Hint::new(), stream, Default::default(), Default::default())
        .map_err(failed)?;
    let Some(track) = reader.default_track(TrackType::Audio) else {
        return Err(AudioError::unsupported(path, no_decoder));
    };
    let (track_id, expected) = (track.id, track.num_frames);
    let Some(CodecParameters::Audio(parameters)) = &track.codec_params else {
        return Err(AudioError::unsupported(path, no_decoder));
    };
    let options = AudioDecoderOptions::default().gapless(true).verify(true);
    let mut decoder = symphonia::default::get_codecs()
        .make_audio_decoder(parameters, &options)
        .map_err(failed)?;

    let mut decoded = Decoded { sample_rate: 0, channels: 0, interleaved: Vec::new() };
    let mut packet_samples = Vec::new();
    let mut is_cut = last_page_is_cut(bytes);
    loop {
        let packet = match reader.next_packet() {
            Ok(Some(packet)) if packet.track_id == track_id => packet,
            Ok(Some(_)) => continue,
            Ok(None) => break,
            Err(Error::IoError(source)) if source.kind() == ErrorKind::UnexpectedEof => {
                is_cut = true;
                break;
            }
            Err(Error::ResetRequired) => {
                let what = format!("several {format} streams one after the other");
                return Err(AudioError::unsupported(path, what));
            }
            Err(source) => return Err(failed(source)),
        };
        let buffer = decoder.decode(&packet).map_err(failed)?;
        let (sample_rate, channels) = (buffer.spec().rate(), buffer.spec().channels().count());
        if decoded.channels == 0 {
            (decoded.sample_rate, decoded.channels) = (sample_rate, channels);
        } else if (decoded.sample_rate, decoded.channels) != (sample_rate, channels) {
            let what = format!("{format} whose sample rate or channels change on the way");
            return Err(AudioError::unsupported(path, what));
        }
        buffer.copy_to_vec_interleaved(&mut packet_samples);
        decoded.interleaved.extend_from_slice(&packet_samples);
    }

    let got = decoded.interleaved.len().checked_div(decoded.channels).unwrap_or(0) as u64;
    if is_cut || expected.is_some_and(|expected| got < expected) {
        // What a file cut off within its last page announces is where the page before it ends.
        let expected = expected.filter(|&expected| got < expected);
        return Err(AudioError::Truncated { path: path.into(), got, expected });
    }
    if got == 0 {
        return Err(AudioError::NoSamples { path: path.into() });
    }
    if decoder.finalize().verify_ok == Some(false) {
        return Err(AudioError::damaged(
            path,
            format,
            "the checksum of the samples does not match",
        ));
    }
    Ok(decoded)
}

/// Whether an OGG file ends within a page. Its decoder does not tell: it takes the last whole page
/// for the end of the stream. Other formats have no pages.
fn last_page_is_cut(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while rest.starts_with(b"OggS") {
        // A header of 27 bytes, the last of which counts the lengths that follow it.
        let lengths = rest.get(26).and_then(|&count| rest.get(27..27 + usize::from(count)));
        let page = lengths.map(|lengths| {
            27 + lengths.len() + lengths.iter().map(|&length| usize::from(length)).sum::<usize>()
        });
        match page.and_then(|page| rest.get(page..)) {
            Some(behind) => rest = behind,
            None => return true,
        }
    }
    false
}
