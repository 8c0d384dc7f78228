//! `bam import`: models from elsewhere, as folders of ours.

use crate::args::{ImportAlilamaArgs, ImportCommand, ImportHfArgs, ImportLlama2cArgs};
use crate::{console, runs};
use bam_data::Tokenizer;
use bam_data::sha256_of;
use bam_lm::device::cpu;
use bam_lm::interop::import::{alilama, hf, llama2c};
use bam_lm::interop::reference::Case;
use bam_lm::model::Transformer;
use bam_lm::model::checkpoint::weights_sha256;
use bam_record::history::Event;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub fn run(command: &ImportCommand) -> anyhow::Result<ExitCode> {
    match command {
        ImportCommand::Hf(args) => import_hf(args),
        ImportCommand::Alilama(args) => import_alilama(args),
        ImportCommand::Llama2c(args) => import_llama2c(args),
        ImportCommand::Reference(args) => {
            let model = Case::open(&args.case)?.model(&cpu())?;
            write(&args.out, ("reference", &args.case), model, None, &[])
        }
    }
}

fn import_hf(args: &ImportHfArgs) -> anyhow::Result<ExitCode> {
    runs::ensure_new(&args.out)?;
    let options = hf::Options {
        position: args.position.clone(),
        train_length: args.train_length,
        ignored: args.ignore_key.clone(),
    };
    let tokenizer = hf::read_tokenizer(&args.folder)?;
    let model = hf::read_model(&args.folder, &options, &cpu())?;
    if tokenizer.is_none() {
        let folder = args.folder.display();
        console::note(&format!(
            "{folder}: no tokenizer.json, so the model has none"
        ));
    }
    let companions = match tokenizer {
        Some(_) => hf::companions(&args.folder)?,
        None => Vec::new(),
    };
    let from = ("hf", &*args.folder);
    write(&args.out, from, model, tokenizer.as_ref(), &companions)
}

fn import_alilama(args: &ImportAlilamaArgs) -> anyhow::Result<ExitCode> {
    runs::ensure_new(&args.out)?;
    let tokenizer = alilama::read_tokenizer(&args.tokenizer)?;
    let model = alilama::read_model(&args.weights, &cpu())?;
    write(
        &args.out,
        ("alilama", &args.weights),
        model,
        Some(&tokenizer),
        &[],
    )
}

fn import_llama2c(args: &ImportLlama2cArgs) -> anyhow::Result<ExitCode> {
    runs::ensure_new(&args.out)?;
    let model = llama2c::read_model(&args.weights, &cpu())?;
    write(&args.out, ("llama2c", &args.weights), model, None, &[])
}

/// Writes a model's folder, whole or not at all, with some files of the folder that it came from. Its history
/// begins with where it came from.
fn write(
    out: &Path,
    (what, from): (&str, &Path),
    model: Transformer,
    tokenizer: Option<&Tokenizer>,
    companions: &[PathBuf],
) -> anyhow::Result<ExitCode> {
    if let Some(tokenizer) = tokenizer {
        runs::ensure_fits("tokenizer", tokenizer, &model)?;
    }
    let name = from.file_name().unwrap_or_default().to_string_lossy();
    let weights = match from.is_file() {
        true => Some(sha256_of(&[from])?),
        false => weights_sha256(from).ok(),
    };
    let model = model.with_event(Event {
        what: format!("import {what}"),
        date: runs::now(),
        arguments: BTreeMap::from([("name".to_owned(), name.into_owned())]),
        from: weights,
        heads: Vec::new(),
    });
    runs::new_folder(out, |dir| {
        for name in companions {
            runs::copy(from, name, dir)?;
        }
        if let Some(tokenizer) = tokenizer {
            tokenizer.save_into(dir)?;
        }
        Ok(model.save(dir)?)
    })?;
    let config = model.config();
    console::note(&format!(
        "{}: {}, {} layers of {} heads, trained at {}",
        out.display(),
        config.encoding,
        config.layers,
        config.heads,
        config.train_length
    ));
    Ok(ExitCode::SUCCESS)
}
