//! `bam inspect heads`.

use super::{TIMES, tokens_of};
use crate::args::{HeadsArgs, Length};
use crate::{console, runs};
use bam_data::atomic_file::write_atomically;
use bam_lm::analysis;
use bam_report::page::heads_page;
use std::io::Write;
use std::process::ExitCode;

/// Tokens of a text that are read if nothing is said, in multiples of the training length.
const MOST: Length = Length::Times(16.0);

pub fn run(args: &HeadsArgs) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.html {
        runs::ensure_writable(path)?;
    }
    let model = runs::load_model(&args.model)?;
    let measured = match &args.text {
        None => None,
        Some(path) => {
            let tokenizer = runs::load_tokenizer(&args.model, &model)?;
            let (name, tokens) = tokens_of(path, &tokenizer, &model, args.length, MOST)?;
            let rows = args.rows as usize;
            Some(analysis::measured::measured(&model, &name, &tokens, rows)?)
        }
    };
    let keys = match (args.keys, &measured) {
        (Some(keys), _) => keys.tokens(model.config().train_length),
        (None, Some(measured)) => measured.length,
        (None, None) => TIMES.tokens(model.config().train_length),
    };
    let mut heads = analysis::heads(&model, keys)?;
    heads.measured = measured;
    let encoding = model.config().encoding.to_string();
    if let Some(path) = &args.html {
        write_atomically(path, heads_page(&encoding, &heads).as_bytes())?;
        console::note(&format!("{}", path.display()));
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&heads)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = bam_report::inspection::heads(&encoding, &heads, args.curves);
    write!(out, "{text}")?;
    if !analysis::has_prior(&model) {
        writeln!(
            out,
            "this encoding has no prior over distance: every head's is uniform"
        )?;
    }
    if !model.history().is_empty() {
        let history = bam_report::surgery::history(model.history());
        write!(out, "\nhistory\n{history}")?;
    }
    Ok(ExitCode::SUCCESS)
}
