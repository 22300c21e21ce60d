//! In place of the microphone, in a program that was built without it.

use anyhow::{Result, bail};

/// A device that can be listened to: here there is none.
pub enum Microphone {}

/// Says how to get a program that can listen.
pub fn find(_wanted: Option<&str>) -> Result<Microphone> {
    bail!(
        "this program was built without `microphone`: build it with --features microphone, or pipe a recorder into it, \
         see --help"
    )
}

/// Says how to get a program that can listen.
pub fn list() -> Result<String> {
    find(None).map(|microphone| match microphone {})
}

impl Microphone {
    /// Cannot be called.
    pub fn each(self, _body: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
        match self {}
    }
}
