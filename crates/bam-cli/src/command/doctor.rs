//! `bam doctor`.

use crate::args::DoctorArgs;
use bam_lm::analysis::doctor::examine;
use bam_lm::model::checkpoint::{WEIGHTS_FILE, place, read_files};
use burn::tensor::Device;
use std::io::Write;
use std::process::ExitCode;

pub fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let (config, tensors) = read_files(&args.model)?;
    let length = args.length.tokens(config.train_length);
    let path = place(&args.model, WEIGHTS_FILE);
    let checkup = examine(&config, tensors, &path, length, &Device::flex())?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&checkup)?)?;
    } else {
        let encoding = config.encoding.to_string();
        write!(
            out,
            "{}",
            bam_report::inspection::checkup(&encoding, &checkup)
        )?;
    }
    let wrong = |head: &bam_record::HeadCheckup| head.verdict == "error";
    match checkup.heads.iter().any(wrong) || !checkup.broken.is_empty() {
        true => Ok(ExitCode::FAILURE),
        false => Ok(ExitCode::SUCCESS),
    }
}
