//! Results in the files of other programs: lm-eval's results, RULER's and BABILong's tables.
//!
//! Pure functions too: the time is an argument.

pub mod babilong;
pub mod export;
pub mod lm_eval;
pub mod loglikelihood;
pub mod ruler;
pub mod run;
pub mod staged_files;
#[cfg(test)]
mod tests;
