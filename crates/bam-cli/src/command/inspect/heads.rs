//! `bam inspect heads`.

use super::text_tokens::tokens_of;
use crate::args::{HeadsArgs, Length};
use crate::{console, runs};
use bam_data::atomic_file::write_atomically;
use bam_lm::analysis;
use bam_lm::model::encoding::Encoding;
use bam_report::page::heads_page;
use std::process::ExitCode;

/// Rows of a model that has not been asked about others: this many times its training length.
const TIMES: Length = Length::Times(500.0);
/// Tokens of a text that are read if nothing is said, in multiples of the training length.
const MOST: Length = Length::Times(16.0);

pub fn run(args: &HeadsArgs) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.html {
        runs::ensure_writable(path)?;
    }
    let model = runs::load_model(&args.model, &args.device.open()?)?;
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
    console::answer(args.json, &heads, || {
        let mut text = bam_report::inspection::heads(&encoding, &heads, args.curves);
        if !analysis::has_prior(&model) {
            text += "this encoding has no prior over distance: every head's is uniform\n";
        }
        if heads.measured.is_none() {
            text += beside_gates(&model.config().encoding);
        }
        if !model.history().is_empty() {
            let history = bam_report::surgery::history(model.history());
            text += &format!("\nhistory\n{history}");
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A line for models whose lags are not all that position says.
pub fn beside_gates(encoding: &Encoding) -> &'static str {
    match encoding.forgets() {
        true => {
            "forget gates are not in these numbers, for what they keep depends on the text: `bam inspect heads --text`, `inspect text`\n"
        }
        false => "",
    }
}
