//! Samples and lengths that need not be asked.

use crate::args::number::share;
use bam_eval::stopping::Stopping;
use clap::Args;

#[derive(Args, Debug)]
pub struct EndsArgs {
    /// Stop, task by task, after this many lengths in a row without a right answer
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    patience: Option<u32>,
    /// Stop asking at a length once its accuracy is certain to lie below or above each of these shares, for example
    /// 0.5,0.9: a sequential test at 95 %, after every ten samples
    #[arg(long, value_delimiter = ',', value_name = "SHARES", value_parser = share)]
    decide: Vec<f64>,
}

impl EndsArgs {
    pub fn patience(&self) -> Option<usize> {
        self.patience.map(|lengths| lengths as usize)
    }

    pub fn stopping(&self) -> Result<Option<Stopping>, bam_lm::Error> {
        Stopping::unless_empty(&self.decide, Stopping::BATCH)
    }
}
