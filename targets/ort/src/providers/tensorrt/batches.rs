//! How many clips a run may take, and what that makes of a graph's shapes.

use std::{fmt, str::FromStr};

use anyhow::ensure;
use ssamba_contract::{Card, Input, Lowering};

/// Clips that a run may take: engines are built for all of the range, and are fastest at `opt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batches {
    min: usize,
    opt: usize,
    max: usize,
}

/// A range of batches that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchesError {
    got: String,
}

impl std::error::Error for BatchesError {}

impl fmt::Display for BatchesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`, expected MIN,OPT,MAX from 1 on in this order, or one number", self.got)
    }
}

impl Batches {
    /// From `min` to `max`, best at `opt`.
    ///
    /// # Errors
    /// Unless 1 <= `min` <= `opt` <= `max`, and ONNX Runtime can count that far.
    pub fn new(min: usize, opt: usize, max: usize) -> Result<Self, BatchesError> {
        let counts = i32::try_from(max).is_ok();
        match counts && 1 <= min && min <= opt && opt <= max {
            true => Ok(Self { min, opt, max }),
            false => Err(BatchesError { got: format!("{min},{opt},{max}") }),
        }
    }

    pub(super) fn contains(self, batch: usize) -> bool {
        (self.min..=self.max).contains(&batch)
    }
}

/// One clip.
impl Default for Batches {
    fn default() -> Self {
        Self { min: 1, opt: 1, max: 1 }
    }
}

impl FromStr for Batches {
    type Err = BatchesError;

    fn from_str(text: &str) -> Result<Self, BatchesError> {
        let wrong = || BatchesError { got: text.to_owned() };
        let numbers = text.split(',').map(|part| part.trim().parse().map_err(|_| wrong()));
        let numbers: Vec<usize> = numbers.collect::<Result<_, _>>()?;
        match numbers[..] {
            [min, opt, max] => Self::new(min, opt, max).map_err(|_| wrong()),
            [batch] => Self::new(batch, batch, batch).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Batches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "{}", self.min),
            false => write!(f, "{} to {}", self.min, self.max),
        }
    }
}

/// What is to be done about the shapes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shapes {
    /// Nothing: every axis is fixed.
    AsFile,
    /// The batch is fixed to this, and with it the shapes of all nodes.
    Fixed(usize),
    /// The provider is given the input's smallest, best and largest shape.
    Range {
        /// As in `fbank:1x98x128`.
        min: String,
        /// Likewise.
        opt: String,
        /// Likewise.
        max: String,
    },
}

impl Shapes {
    /// # Errors
    /// When the file is for other batches, or cannot be run for a range of them: ONNX Runtime takes a
    /// range of shapes only if it is told those of the inputs of all engines, and in a file with our
    /// operators these are values from within the graph.
    pub(super) fn new(card: &Card, batches: Option<Batches>) -> anyhow::Result<Self> {
        if let Some(batch) = card.batch {
            ensure!(
                batches.is_none_or(|batches| (batches.min, batches.max) == (batch, batch)),
                "the file was exported with --batch {batch}, got a range of other batches"
            );
            return Ok(Self::AsFile);
        }
        let Batches { min, opt, max } = batches.unwrap_or_default();
        if min == max {
            return Ok(Self::Fixed(opt));
        }
        ensure!(
            card.lowering == Lowering::Chunk,
            "a range of batches takes a file in plain operators (export --lowering chunk), this \
             one takes one number"
        );
        ensure!(
            card.input == Input::Fbank,
            "a range of batches takes a file of filter banks (export --frontend fbank): clips have \
             any length"
        );
        let (n_frames, n_mels) = (card.front_end.n_frames, card.front_end.n_mels);
        let shape = |batch: usize| format!("{}:{batch}x{n_frames}x{n_mels}", card.input_name());
        Ok(Self::Range { min: shape(min), opt: shape(opt), max: shape(max) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssamba_contract::{FrontEnd, Order, Scores};

    fn card(lowering: Lowering, batch: Option<usize>) -> Card {
        Card {
            name: "a model".into(),
            labels: vec![],
            scores: Scores::Softmax,
            recipe: "none".into(),
            front_end: FrontEnd {
                sample_rate: 16_000,
                n_mels: 128,
                n_frames: 98,
                mean: 0.0,
                std: 1.0,
                order: Order::PadThenNormalise,
                subtract_clip_mean: false,
            },
            checkpoint_sha256: "none".into(),
            converter: "none".into(),
            network: String::new(),
            lowering,
            batch,
            precision: Default::default(),
            self_test: None,
            input: Default::default(),
        }
    }

    #[test]
    fn a_range_is_read_and_printed() {
        for (text, min, opt, max, printed) in
            [("1,8,32", 1, 8, 32, "1 to 32"), ("4", 4, 4, 4, "4"), (" 2 , 2,2", 2, 2, 2, "2")]
        {
            let batches: Batches = text.parse().unwrap();
            assert_eq!(batches, Batches { min, opt, max });
            assert_eq!(batches.to_string(), printed);
        }
        for text in ["", "0", "1,2", "2,1,3", "1,3,2", "1,2,3,4", "a", "-1", "1,1,2147483648"] {
            let error = text.parse::<Batches>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}`, expected MIN,OPT,MAX")), "{error}");
        }
    }

    #[test]
    fn one_batch_fixes_the_axis_and_a_range_becomes_profiles() {
        for lowering in [Lowering::Function, Lowering::Chunk] {
            let card = card(lowering, None);
            assert_eq!(Shapes::new(&card, None).unwrap(), Shapes::Fixed(1));
            assert_eq!(Shapes::new(&card, "8".parse().ok()).unwrap(), Shapes::Fixed(8));
        }
        let range = "1,8,32".parse().ok();
        let [min, opt, max] = ["fbank:1x98x128", "fbank:8x98x128", "fbank:32x98x128"];
        let expected = Shapes::Range { min: min.into(), opt: opt.into(), max: max.into() };
        assert_eq!(Shapes::new(&card(Lowering::Chunk, None), range).unwrap(), expected);
        let error = Shapes::new(&card(Lowering::Function, None), range).unwrap_err().to_string();
        assert!(error.contains("--lowering chunk"), "{error}");
    }

    #[test]
    fn a_file_for_one_batch_stays_as_it_is() {
        let card = card(Lowering::Chunk, Some(8));
        for batches in [None, "8".parse().ok()] {
            assert_eq!(Shapes::new(&card, batches).unwrap(), Shapes::AsFile);
        }
        for other in ["1", "1,8,8", "8,8,9"] {
            let error = Shapes::new(&card, other.parse().ok()).unwrap_err().to_string();
            assert!(error.contains("--batch 8"), "{error}");
        }
    }
}
