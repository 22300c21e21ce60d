//! `ssamba-edge bench`: measurements that anyone can repeat.

mod chart;
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
    Efficiency(efficiency::Args),
}

pub fn run(args: &Args) -> Result<Answer> {
    match &args.bench {
        Bench::Efficiency(args) => efficiency::run(args),
    }
}
