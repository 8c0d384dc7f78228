//! The text that is looked at, as tokens.

use crate::args::Length;
use crate::runs;
use anyhow::ensure;
use bam_data::Tokenizer;
use bam_lm::model::Transformer;
use std::path::Path;

/// A text's name and its first tokens, after the one that begins a document where there is one. As
/// many as were asked for, else at most `most`.
pub fn tokens_of(
    path: &Path,
    tokenizer: &Tokenizer,
    model: &Transformer,
    asked: Option<Length>,
    most: Length,
) -> anyhow::Result<(String, Vec<i32>)> {
    let text = runs::read_text(path)?;
    let encoded = tokenizer.encode(&text)?;
    let mut tokens: Vec<i32> = tokenizer
        .bos()
        .into_iter()
        .chain(encoded)
        .map(|id| id as i32)
        .collect();
    let train_length = model.config().train_length;
    let length = match asked {
        Some(length) => length.tokens(train_length),
        None => most.tokens(train_length).min(tokens.len()),
    };
    ensure!(
        (1..=tokens.len()).contains(&length),
        "{}: expected a length from 1 to its {} tokens, got {length}",
        path.display(),
        tokens.len()
    );
    tokens.truncate(length);
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok((name.into_owned(), tokens))
}
