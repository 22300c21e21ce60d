//! The attributes that say which streams a node has.

use super::{OpError, attribute};

/// Mixers and the walks of their streams, checked: one or two streams per mixer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Streams {
    groups: usize,
    reverse: Vec<bool>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { groups: 1, reverse: vec![false, true] }
    }
}

impl Streams {
    /// Checks [`attribute::GROUPS`] and [`attribute::REVERSE`] of a node of type `operator`.
    pub(super) fn from_raw(
        operator: &'static str,
        groups: Option<i64>,
        reverse: Option<Vec<i64>>,
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
        let fits = |&groups: &usize| {
            groups > 0 && reverse.len() % groups == 0 && matches!(reverse.len() / groups, 1 | 2)
        };
        match usize::try_from(groups).ok().filter(fits) {
            Some(groups) => Ok(Self { groups, reverse }),
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

    pub(super) fn directions(&self) -> usize {
        self.reverse.len() / self.groups
    }
}
