//! Where the streams of a call lie in what has rows for each of them.

/// How rows of streams lie. `width` is what a stream has of a row, B the batch, L the tokens, S the
/// streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Side by side in a row: `[B, L, S * width]`.
    #[default]
    Channels,
    /// One after the other: `[S, B * L, width]`.
    Streams,
}

impl Layout {
    /// The row of a stream's first token in a clip; that of the next token follows it.
    pub(crate) fn first_row(
        self,
        [batch, seq_len]: [usize; 2],
        clip: usize,
        stream: usize,
    ) -> usize {
        match self {
            Self::Channels => clip * seq_len,
            Self::Streams => (stream * batch + clip) * seq_len,
        }
    }

    /// How many streams are in a row.
    pub(crate) fn streams_of_row(self, streams: usize) -> usize {
        match self {
            Self::Channels => streams,
            Self::Streams => 1,
        }
    }

    /// Which of the streams of its row a stream is.
    pub(crate) fn place_in_row(self, stream: usize) -> usize {
        match self {
            Self::Channels => stream,
            Self::Streams => 0,
        }
    }
}
