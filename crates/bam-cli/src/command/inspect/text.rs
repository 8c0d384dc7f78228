//! `bam inspect text`.

use super::text_tokens::tokens_of;
use crate::args::{ColourArg, Length, TextArgs};
use crate::{console, runs};
use bam_data::atomic_file::write_atomically;
use bam_lm::analysis::reading::{HeadChoice, reading};
use bam_report::page::reading_page;
use std::io::IsTerminal;
use std::process::ExitCode;

/// Tokens that are read if nothing is said.
const MOST: Length = Length::Tokens(512);

pub fn run(args: &TextArgs) -> anyhow::Result<ExitCode> {
    if let Some(path) = &args.html {
        runs::ensure_writable(path)?;
    }
    let model = runs::load_model(&args.model, &args.device.open()?)?;
    let tokenizer = runs::load_tokenizer(&args.model, &model)?;
    let (name, tokens) = tokens_of(&args.text, &tokenizer, &model, args.length, MOST)?;
    let choice = HeadChoice {
        layer: args.layer,
        head: args.head,
    };
    let reading = reading(&model, &tokenizer, &name, &tokens, choice)?;
    let encoding = model.config().encoding.to_string();
    if let Some(path) = &args.html {
        write_atomically(path, reading_page(&encoding, &reading).as_bytes())?;
        console::note(&format!("{}", path.display()));
    }
    let coloured = match args.color {
        ColourArg::Always => true,
        ColourArg::Never => false,
        ColourArg::Auto => std::io::stdout().is_terminal() && !console::no_color(),
    };
    if args.json || args.html.is_none() || coloured {
        console::answer(args.json, &reading, || match coloured {
            true => bam_report::inspection::coloured(&encoding, &reading),
            false => bam_report::inspection::listed(&encoding, &reading),
        })?;
    }
    Ok(ExitCode::SUCCESS)
}
