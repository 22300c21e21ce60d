//! `ssamba-edge bench`: measurements that anyone can repeat.

#[cfg(feature = "embedded")]
mod detect;
#[cfg(feature = "cuda")]
mod efficiency;

use anyhow::Result;

use crate::Answer;

/// Measure, and write the figures down with the command that made them.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(clap::Subcommand)]
enum Bench {
    #[cfg(feature = "cuda")]
    Efficiency(efficiency::Args),
    #[cfg(feature = "embedded")]
    Detect(detect::Args),
}

pub fn run(args: &Args) -> Result<Answer> {
    match &args.bench {
        #[cfg(feature = "cuda")]
        Bench::Efficiency(args) => efficiency::run(args),
        #[cfg(feature = "embedded")]
        Bench::Detect(args) => detect::run(args),
    }
}
