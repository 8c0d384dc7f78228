//! `bam doctor`.

use crate::args::DoctorArgs;
use crate::command::inspect::beside_gates;
use crate::console;
use bam_lm::analysis::doctor::examine;
use bam_lm::model::checkpoint::{read_files, weights_path};
use std::process::ExitCode;

pub fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let (config, tensors) = read_files(&args.model)?;
    let length = args.length.tokens(config.train_length);
    let path = weights_path(&args.model);
    let device = args.device.open()?;
    let checkup = examine(&config, tensors, &path, length, &device)?;
    console::answer(args.json, &checkup, || {
        let encoding = &config.encoding;
        let checkup = bam_report::inspection::checkup(&encoding.to_string(), &checkup);
        checkup + beside_gates(encoding)
    })?;
    let wrong = |head: &bam_record::HeadCheckup| head.verdict == "error";
    match checkup.heads.iter().any(wrong) || !checkup.broken.is_empty() {
        true => Ok(ExitCode::FAILURE),
        false => Ok(ExitCode::SUCCESS),
    }
}
