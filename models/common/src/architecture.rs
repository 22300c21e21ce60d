//! The two networks, told apart by the names in a checkpoint.

use std::fmt;

use anyhow::{Result, bail};

use crate::Checkpoint;

/// A kind of network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Bidirectional Mamba.
    Ssamba,
    /// Transformer.
    Ssast,
}

impl Architecture {
    const ALL: [Self; 2] = [Self::Ssamba, Self::Ssast];

    /// What the names of its layers, and of no other network's, start with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Ssamba => "v.layers.",
            Self::Ssast => "v.blocks.",
        }
    }

    /// The network whose names `checkpoint` holds; `asked` decides where it holds those of both.
    ///
    /// # Errors
    /// When there are names of both or of neither network, or none of the one asked for.
    pub fn of(checkpoint: &Checkpoint, asked: Option<Self>) -> Result<Self> {
        let at = checkpoint.path.display();
        let holds =
            |kind: &Self| checkpoint.tensors.keys().any(|name| name.starts_with(kind.prefix()));
        let found: Vec<Self> = Self::ALL.into_iter().filter(holds).collect();
        match (asked, found.as_slice()) {
            (Some(asked), found) if found.contains(&asked) => Ok(asked),
            (Some(asked), &[other]) => bail!(
                "{at}: the names are those of {other} (`{}*`), not of {asked} as asked",
                other.prefix()
            ),
            (None, &[kind]) => Ok(kind),
            (None, &[_, _]) => bail!(
                "{at}: there are names of ssamba (`v.layers.*`) and of ssast (`v.blocks.*`), pass --arch"
            ),
            _ => bail!(
                "{at}: not an SSAMBA or SSAST checkpoint, or not a whole one: among its {} names there is no \
                 `v.layers.*` and no `v.blocks.*`",
                checkpoint.tensors.len()
            ),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ssamba => "ssamba",
            Self::Ssast => "ssast",
        })
    }
}
