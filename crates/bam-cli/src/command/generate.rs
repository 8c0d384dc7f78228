//! `bam generate`.

use crate::args::GenerateArgs;
use crate::runs;
use anyhow::Context;
use bam_lm::model::generate::{Generator, Sampling};
use std::io::{Read, Write};
use std::process::ExitCode;

pub fn run(args: &GenerateArgs) -> anyhow::Result<ExitCode> {
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
    }
    .checked()?;
    let model = runs::load_model(&args.model)?;
    let tokenizer = runs::load_tokenizer(&args.model, &model)?;
    let prompt = match &args.prompt {
        Some(prompt) => prompt.clone(),
        None => {
            let mut prompt = String::new();
            std::io::stdin()
                .read_to_string(&mut prompt)
                .context("standard input: expected UTF-8")?;
            prompt
        }
    };
    let bos = tokenizer.bos();
    let ids: Vec<i32> = bos
        .into_iter()
        .chain(tokenizer.encode(&prompt)?)
        .map(|id| id as i32)
        .collect();
    let mut out = std::io::stdout().lock();
    write!(out, "{prompt}")?;
    let mut text = tokenizer.stream_decoder();
    for token in Generator::new(&model, &ids, args.tokens, sampling, args.skip)? {
        let token = token? as u32;
        if Some(token) == tokenizer.eos() {
            break;
        }
        write!(out, "{}", text.push(token)?)?;
        out.flush()?;
    }
    writeln!(out, "{}", text.finish())?;
    Ok(ExitCode::SUCCESS)
}
