//! `bam import`: models from elsewhere, as folders of ours.

use crate::args::{ImportAlilamaArgs, ImportCommand, ImportHfArgs, ImportLlama2cArgs};
use crate::console;
use anyhow::{Context, ensure};
use bam_lm::data::Tokenizer;
use bam_lm::import::{alilama, hf, llama2c};
use bam_lm::model::Transformer;
use bam_lm::reference::Case;
use burn::tensor::Device;
use std::path::Path;
use std::process::ExitCode;

pub fn run(command: &ImportCommand) -> anyhow::Result<ExitCode> {
    match command {
        ImportCommand::Hf(args) => import_hf(args),
        ImportCommand::Alilama(args) => import_alilama(args),
        ImportCommand::Llama2c(args) => import_llama2c(args),
        ImportCommand::Reference(args) => {
            let model = Case::open(&args.case)?.model(&Device::flex())?;
            write(&args.out, &model, None)
        }
    }
}

fn import_hf(args: &ImportHfArgs) -> anyhow::Result<ExitCode> {
    check_new(&args.out)?;
    let options = hf::Options {
        position: args.position.clone(),
        train_length: args.train_length,
        ignored: args.ignore_key.clone(),
    };
    let tokenizer = hf::read_tokenizer(&args.folder)?;
    let model = hf::read_model(&args.folder, &options, &Device::flex())?;
    if tokenizer.is_none() {
        let folder = args.folder.display();
        console::note(&format!(
            "{folder}: no tokenizer.json, so the model has none"
        ));
    }
    write(&args.out, &model, tokenizer.as_ref())
}

fn import_alilama(args: &ImportAlilamaArgs) -> anyhow::Result<ExitCode> {
    check_new(&args.out)?;
    let tokenizer = alilama::read_tokenizer(&args.tokenizer)?;
    let model = alilama::read_model(&args.weights, &Device::flex())?;
    write(&args.out, &model, Some(&tokenizer))
}

fn import_llama2c(args: &ImportLlama2cArgs) -> anyhow::Result<ExitCode> {
    check_new(&args.out)?;
    let model = llama2c::read_model(&args.weights, &Device::flex())?;
    write(&args.out, &model, None)
}

/// A folder that does not exist or holds nothing.
pub fn check_new(out: &Path) -> anyhow::Result<()> {
    let occupied = std::fs::read_dir(out).is_ok_and(|mut files| files.next().is_some());
    ensure!(
        !occupied,
        "{}: expected a new folder, got one that is not empty",
        out.display()
    );
    Ok(())
}

/// Writes a model's folder, whole or not at all.
fn write(
    out: &Path,
    model: &Transformer,
    tokenizer: Option<&Tokenizer>,
) -> anyhow::Result<ExitCode> {
    check_new(out)?;
    if let Some(tokenizer) = tokenizer {
        let (tokens, rows) = (tokenizer.vocabulary_size(), model.config().vocabulary);
        ensure!(
            tokens <= rows,
            "tokenizer: expected at most the model's {rows} tokens, got {tokens}"
        );
    }
    std::fs::create_dir_all(out)
        .with_context(|| format!("{}: could not create it", out.display()))?;
    let written = tokenizer
        .map_or(Ok(()), |of| of.save(&out.join("tokenizer.json")))
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(model.save(out)?));
    written.inspect_err(|_| {
        // It was new or empty.
        let _ = std::fs::remove_dir_all(out);
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
