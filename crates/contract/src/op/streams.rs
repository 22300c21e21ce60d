//! The attributes that say which streams a node has, and where they lie.

use super::{OpError, attribute};

/// How the streams of a node lie in what has rows for each of them: B batch, L tokens, S streams, and
/// `width` what a stream has of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Side by side in the channels, `[B, L, S * width]`.
    #[default]
    Channels,
    /// One after the other, `[S, B * L, width]`: a product with `[S, width, ..]` is one for each stream.
    Streams,
}

impl Layout {
    /// The attribute's value in a file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Channels => "channels",
            Self::Streams => "streams",
        }
    }
}

/// Mixers, the walks of their streams and how these lie, checked: one or two streams per mixer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Streams {
    groups: usize,
    reverse: Vec<bool>,
    layout: Layout,
}

impl Default for Streams {
    fn default() -> Self {
        Self { groups: 1, reverse: vec![false, true], layout: Layout::default() }
    }
}

impl Streams {
    /// Checks [`attribute::GROUPS`], [`attribute::REVERSE`] and [`attribute::LAYOUT`] of a node of type
    /// `operator`.
    pub(super) fn from_raw(
        operator: &'static str,
        groups: Option<i64>,
        reverse: Option<Vec<i64>>,
        layout: Option<String>,
    ) -> Result<Self, OpError> {
        let invalid = |name, got, expected| OpError::Attribute { operator, name, got, expected };
        let flag = |value| match value {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(invalid(attribute::REVERSE, other.to_string(), "0 or 1")),
        };
        let groups = groups.unwrap_or(1);
        let reverse = match reverse {
            Some(flags) => flags.into_iter().map(flag).collect::<Result<Vec<_>, _>>()?,
            None => Self::default().reverse,
        };
        let layout = match layout.as_deref() {
            None | Some("channels") => Layout::Channels,
            Some("streams") => Layout::Streams,
            Some(other) => {
                let expected = "`channels` or `streams`";
                return Err(invalid(attribute::LAYOUT, format!("`{other}`"), expected));
            }
        };
        let fits = |&groups: &usize| {
            groups > 0 && reverse.len() % groups == 0 && matches!(reverse.len() / groups, 1 | 2)
        };
        match usize::try_from(groups).ok().filter(fits) {
            Some(groups) => Ok(Self { groups, reverse, layout }),
            None => Err(invalid(
                attribute::GROUPS,
                format!("{groups} with {} streams in `reverse`", reverse.len()),
                "one or two streams per group",
            )),
        }
    }

    pub(super) fn groups(&self) -> usize {
        self.groups
    }

    pub(super) fn reverse(&self) -> &[bool] {
        &self.reverse
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    pub(super) fn directions(&self) -> usize {
        self.reverse.len() / self.groups
    }
}
