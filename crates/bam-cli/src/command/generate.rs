//! `bam generate`.

use crate::args::GenerateArgs;
use crate::{console, runs};
use anyhow::{Context, anyhow};
use bam_lm::engine::generate::{Generator, Sampling};
use bam_lm::model::{KvCache, Transformer};
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
    let model = runs::load_model(&args.model, &args.device.open()?)?;
    let tokenizer = runs::load_tokenizer(&args.model, &model)?;
    let prompt = match &args.prompt {
        Some(prompt) => prompt.clone(),
        None => {
            let mut prompt = Vec::new();
            let read = std::io::stdin().read_to_end(&mut prompt);
            read.context("standard input: could not read it")?;
            let prompt = bam_data::text_of(&prompt);
            let prompt = prompt.map_err(|got| anyhow!("standard input: expected UTF-8, got {got}"));
            prompt?.to_owned()
        }
    };
    let bos = tokenizer.bos();
    let ids: Vec<i32> = bos
        .into_iter()
        .chain(tokenizer.encode(&prompt)?)
        .map(|id| id as i32)
        .collect();
    let room = ids.len().saturating_add(args.tokens);
    let cache = match args.certified_cache {
        None => model.cache(1, room)?,
        Some(epsilon) => certified_cache(&model, room, epsilon)?,
    };
    let cache = cache.with_skipping(args.skip);
    let mut out = std::io::stdout().lock();
    write!(out, "{prompt}")?;
    let mut text = tokenizer.stream_decoder();
    for token in Generator::with_cache(&model, &ids, cache, sampling)? {
        let token = token? as u32;
        if tokenizer.is_end(token) {
            break;
        }
        write!(out, "{}", text.push(token)?)?;
        out.flush()?;
    }
    writeln!(out, "{}", text.finish())?;
    Ok(ExitCode::SUCCESS)
}

/// A cache with horizons, and a note of what it keeps.
fn certified_cache(model: &Transformer, room: usize, epsilon: f64) -> anyhow::Result<KvCache> {
    let horizons = model.horizons(room, epsilon)?;
    let [kept, all] = [Some(&horizons), None].map(|h| model.config().cached_keys(room, h));
    console::note(&format!(
        "certified cache: keeps at most {:.0} % of the keys and values of {room} tokens",
        100.0 * kept as f64 / all as f64
    ));
    Ok(model.certified_cache(1, room, &horizons)?)
}
