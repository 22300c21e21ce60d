//! Which of the forms that a device offers is heard.

use cpal::{
    BufferSize, SampleFormat, SampleRate, StreamConfig, SupportedBufferSize,
    SupportedStreamConfigRange,
};
use ssamba_kws::SAMPLE_RATE;

/// Formats whose samples are numbers, the best first: sixteen bits are what models learn from.
const FORMATS: [SampleFormat; 12] = [
    SampleFormat::I16,
    SampleFormat::F32,
    SampleFormat::I32,
    SampleFormat::I24,
    SampleFormat::U32,
    SampleFormat::U24,
    SampleFormat::U16,
    SampleFormat::F64,
    SampleFormat::I64,
    SampleFormat::U64,
    SampleFormat::I8,
    SampleFormat::U8,
];

/// Sound that the device hands over at once, in ms. The driver keeps a second piece meanwhile.
const PIECE_MS: u32 = 50;

/// The form nearest to 16 kHz, mono, 16 bits, in that order; `None` where none has numbers for samples. A higher rate
/// goes before a lower one, which lacks what the network hears.
pub fn choose(offers: &[SupportedStreamConfigRange]) -> Option<(StreamConfig, SampleFormat)> {
    let (_, rate, offer) = offers
        .iter()
        .filter(|offer| offer.channels() > 0)
        .filter_map(|offer| {
            let format = FORMATS.iter().position(|&format| format == offer.sample_format())?;
            let rate = SAMPLE_RATE.clamp(offer.min_sample_rate(), offer.max_sample_rate());
            let rank = (rate < SAMPLE_RATE, rate.abs_diff(SAMPLE_RATE), offer.channels(), format);
            (rate > 0).then_some((rank, rate, offer))
        })
        .min_by_key(|(rank, ..)| *rank)?;
    let config = StreamConfig {
        channels: offer.channels(),
        sample_rate: rate,
        buffer_size: piece(rate, *offer.buffer_size()),
    };
    Some((config, offer.sample_format()))
}

fn piece(rate: SampleRate, offered: SupportedBufferSize) -> BufferSize {
    match offered {
        SupportedBufferSize::Range { min, max } if min <= max => {
            BufferSize::Fixed((rate * PIECE_MS / 1000).clamp(min, max))
        }
        _ => BufferSize::Default,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(channels: u16, rates: (u32, u32), format: SampleFormat) -> SupportedStreamConfigRange {
        let buffer_size = SupportedBufferSize::Range { min: 64, max: 1024 };
        SupportedStreamConfigRange::new(channels, rates.0, rates.1, buffer_size, format)
    }

    fn chosen(offers: &[SupportedStreamConfigRange]) -> Option<(u32, u16, SampleFormat)> {
        choose(offers).map(|(config, format)| (config.sample_rate, config.channels, format))
    }

    #[test]
    fn the_rate_goes_before_the_channels_and_these_before_the_format() {
        use SampleFormat::{F32, I16, I32};
        let any = (4_000, 192_000);
        let offers = [
            offer(2, any, F32),
            offer(1, any, F32),
            offer(1, any, I16),
            offer(2, any, I16),
            offer(1, (48_000, 48_000), I16),
        ];
        assert_eq!(chosen(&offers), Some((16_000, 1, I16)));
        assert_eq!(chosen(&offers[..2]), Some((16_000, 1, F32)));
        let high = [offer(1, (44_100, 48_000), I16), offer(2, (16_000, 16_000), I32)];
        assert_eq!(chosen(&high), Some((16_000, 2, I32)));
        assert_eq!(chosen(&high[..1]), Some((44_100, 1, I16)));
    }

    #[test]
    fn a_higher_rate_goes_before_a_lower_one() {
        let format = SampleFormat::I16;
        let offers = [
            offer(1, (8_000, 8_000), format),
            offer(2, (96_000, 96_000), format),
            offer(2, (48_000, 48_000), format),
            offer(1, (11_025, 11_025), format),
        ];
        assert_eq!(chosen(&offers), Some((48_000, 2, format)));
        assert_eq!(chosen(&[offers[0], offers[3]]), Some((11_025, 1, format)));
    }

    #[test]
    fn samples_that_are_no_numbers_are_not_heard() {
        let dsd = offer(1, (16_000, 16_000), SampleFormat::DsdU8);
        assert_eq!(chosen(&[dsd]), None);
        assert_eq!(chosen(&[]), None);
        let other = offer(2, (48_000, 48_000), SampleFormat::U8);
        assert_eq!(chosen(&[dsd, other]), Some((48_000, 2, SampleFormat::U8)));
    }

    #[test]
    fn a_piece_is_as_long_as_the_device_allows() {
        let range = |min, max| SupportedBufferSize::Range { min, max };
        assert_eq!(piece(16_000, range(1, 100_000)), BufferSize::Fixed(800));
        assert_eq!(piece(48_000, range(1, 1024)), BufferSize::Fixed(1024));
        assert_eq!(piece(16_000, range(4096, 8192)), BufferSize::Fixed(4096));
        assert_eq!(piece(16_000, range(2, 1)), BufferSize::Default);
        assert_eq!(piece(16_000, SupportedBufferSize::Unknown), BufferSize::Default);
    }
}
