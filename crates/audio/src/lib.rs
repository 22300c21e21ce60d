//! Audio files to mono f32 waveforms.
