//! Log-likelihoods in lm-eval's files.

use super::export::{Export, Exports, Written};
use super::lm_eval;
use crate::loglikelihood::{LoglikelihoodEvaluation, Question, TaskScore};
use bam_record::{Loglikelihood, Record};

impl Export for LoglikelihoodEvaluation<'_> {
    fn export_cell(
        &self,
        (task, questions): &(&str, &[Question]),
        score: &TaskScore,
        exports: &mut Exports,
    ) -> Written {
        exports.lm_eval_samples("", task, |lines| {
            lines.loglikelihood(questions, &score.likelihoods)
        })
    }

    fn export_record(&self, record: &Record<Loglikelihood>, exports: &mut Exports) -> Written {
        exports.lm_eval_results("", |run, hashes| {
            lm_eval::loglikelihood(record, run, hashes)
        })
    }
}
