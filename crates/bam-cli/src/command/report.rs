//! `bam report`.

use crate::args::ReportArgs;
use crate::{console, runs};
use anyhow::ensure;
use bam_data::atomic_file::write_atomically;
use bam_record::RunRecords;
use bam_report::page::{PageNotes, page};
use std::path::PathBuf;
use std::process::ExitCode;

pub fn run(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    runs::ensure_writable(&args.out)?;
    let mut all = Vec::new();
    for dir in &args.runs {
        let records = runs::read_records(dir)?;
        ensure!(
            records != RunRecords::default(),
            "{}: expected records (metrics.jsonl, passkey.json, …), got none",
            dir.display()
        );
        let name = match records.evaluations().into_iter().next() {
            Some((_, record)) => record.name,
            None => dir
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        };
        all.push((name, records));
    }
    let named = all.iter().map(|(name, _)| name.as_str());
    let names = runs::told_apart(named.zip(args.runs.iter().map(PathBuf::as_path)));
    let records = all.into_iter().map(|(_, records)| records);
    let all: Vec<(String, RunRecords)> = names.into_iter().zip(records).collect();
    let html = page(&args.title, &all, &PageNotes::default());
    write_atomically(&args.out, html.as_bytes())?;
    console::note(&format!("{}", args.out.display()));
    Ok(ExitCode::SUCCESS)
}
