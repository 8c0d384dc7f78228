//! `bam export`.

use crate::args::{ExportCommand, ExportGgufArgs, ExportHfArgs};
use crate::{console, runs};
use bam_data::atomic_file::write_atomically;
use bam_data::{ChatTemplates, Tokenizer};
use bam_lm::device::cpu;
use bam_lm::interop::export::{hf, llama_cpp};
use bam_lm::model::checkpoint::CONFIG_FILE;
use serde_json::{Map, Value};
use std::path::Path;
use std::process::ExitCode;

pub fn run(command: &ExportCommand) -> anyhow::Result<ExitCode> {
    match command {
        ExportCommand::Hf(args) => to_transformers(args),
        ExportCommand::Gguf(args) => to_llama_cpp(args),
    }
}

fn to_transformers(args: &ExportHfArgs) -> anyhow::Result<ExitCode> {
    runs::ensure_new(&args.out)?;
    let model = runs::load_model(&args.model, &cpu())?;
    let tokenizer = match args.model.join("tokenizer.json").exists() {
        true => Some(runs::load_tokenizer(&args.model, &model)?),
        false => None,
    };
    let fields = hf::config_fields(&model, tokenizer.as_ref())?;
    runs::new_folder(&args.out, |dir| {
        runs::copy_companions(&args.model, dir)?;
        for (name, code) in hf::CODE {
            write_atomically(&dir.join(name), code.as_bytes())?;
        }
        if let Some(tokenizer) = &tokenizer {
            type Settle = fn(&Tokenizer, Map<String, Value>) -> Map<String, Value>;
            for (name, settle) in [
                ("tokenizer_config.json", hf::tokenizer_config as Settle),
                ("special_tokens_map.json", hf::special_tokens),
                ("generation_config.json", hf::generation_config),
            ] {
                let path = dir.join(name);
                // What the model came with says more, for example a chat template.
                let mut own = match path.exists() {
                    true => runs::read_object(&path)?,
                    false => Map::new(),
                };
                for token in hf::without_strangers(tokenizer, &mut own) {
                    console::note(&format!(
                        "{name}: left out {token:?}, which the vocabulary does not have"
                    ));
                }
                runs::write_json(&path, &settle(tokenizer, own))?;
            }
        }
        runs::save_model(&model, &args.model, dir)?;
        let path = dir.join(CONFIG_FILE);
        let mut config = runs::read_object(&path)?;
        config.extend(fields);
        runs::write_json(&path, &config)
    })?;
    if tokenizer.is_none() {
        console::note(&format!(
            "{}: no tokenizer.json, so the export has none",
            args.model.display()
        ));
    }
    console::note(&format!(
        "AutoModelForCausalLM.from_pretrained({:?}, trust_remote_code=True)",
        shown(&args.out)
    ));
    Ok(ExitCode::SUCCESS)
}

fn to_llama_cpp(args: &ExportGgufArgs) -> anyhow::Result<ExitCode> {
    runs::ensure_writable(&args.out)?;
    anyhow::ensure!(
        args.replace || !args.out.exists(),
        "{}: expected a new file, or --replace, got one that is there",
        args.out.display()
    );
    let model = runs::load_model(&args.model, &cpu())?;
    let tokenizer = runs::load_tokenizer(&args.model, &model)?;
    let folder = args.model.canonicalize().ok();
    let folder = folder.and_then(|path| path.file_name().map(|name| name.to_os_string()));
    let name = match (&args.name, &folder) {
        (Some(name), _) => name.clone(),
        (None, Some(folder)) => folder.to_string_lossy().into_owned(),
        (None, None) => "bam".into(),
    };
    let templates = ChatTemplates::read(&args.model)?;
    let file = llama_cpp::gguf(&model, &tokenizer, &templates, &name)?;
    write_atomically(&args.out, &file.bytes())?;
    console::note(&shown(&args.out));
    Ok(ExitCode::SUCCESS)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
