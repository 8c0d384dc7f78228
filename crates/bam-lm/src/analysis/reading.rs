//! A text token by token: where heads look from each.

use super::posterior::{NEAR, each_row_posterior, glance};
use crate::Error;
use crate::model::Transformer;
use bam_data::Tokenizer;
use bam_record::{Glance, ReadToken, Reading};

/// The heads that a [`reading`] is about: all where nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadChoice {
    /// Only those of this layer.
    pub layer: Option<usize>,
    /// Only those of this number.
    pub head: Option<usize>,
}

impl HeadChoice {
    fn of(self, model: &Transformer) -> Result<Vec<(usize, usize)>, Error> {
        let config = model.config();
        let chosen = |what, choice: Option<usize>, count: usize| match choice {
            None => Ok(0..count),
            Some(index) if index < count => Ok(index..index + 1),
            Some(index) => Err(Error::Value {
                what,
                expected: format!("from 0 to {}", count - 1),
                got: index.to_string(),
            }),
        };
        let heads = chosen("head", self.head, config.heads)?;
        let layers = chosen("layer", self.layer, config.layers)?;
        Ok(layers
            .flat_map(|layer| heads.clone().map(move |head| (layer, head)))
            .collect())
    }
}

/// A text's tokens, each with where the chosen heads look from it.
///
/// # Errors
/// If there is no such head, no token, or a token is outside the vocabulary.
pub fn reading(
    model: &Transformer,
    tokenizer: &Tokenizer,
    name: &str,
    tokens: &[i32],
    choice: HeadChoice,
) -> Result<Reading, Error> {
    let heads = choice.of(model)?;
    let texts = spelled(tokenizer, tokens)?;
    let rows: Vec<usize> = (0..tokens.len()).collect();
    let mut glances: Vec<Vec<Option<Glance>>> = vec![vec![None; heads.len()]; tokens.len()];
    each_row_posterior(model, tokens, &rows, |row| {
        let place = heads.binary_search(&(row.layer, row.head));
        if let Ok(place) = place {
            glances[row.row][place] = Some(glance(&row));
        }
    })?;
    let tokens = tokens.iter().zip(texts).zip(glances);
    Ok(Reading {
        text: name.to_owned(),
        near: NEAR,
        heads,
        tokens: tokens
            .map(|((token, text), glances)| {
                let heads: Vec<Glance> = glances.into_iter().flatten().collect();
                ReadToken {
                    token: *token,
                    text,
                    mean: mean(&heads),
                    heads,
                }
            })
            .collect(),
    })
}

fn mean(glances: &[Glance]) -> Glance {
    let of = |value: fn(&Glance) -> f64| {
        glances.iter().map(value).sum::<f64>() / glances.len().max(1) as f64
    };
    Glance {
        ln_evidence: of(|glance| glance.ln_evidence),
        mean_distance: of(|glance| glance.mean_distance),
        near_mass: of(|glance| glance.near_mass),
    }
}

/// Each token's part of the text; the spelling of those that have none, such as `</s>`.
fn spelled(tokenizer: &Tokenizer, tokens: &[i32]) -> Result<Vec<String>, Error> {
    let mut decoder = tokenizer.stream_decoder();
    let mut texts = Vec::with_capacity(tokens.len());
    for &token in tokens {
        let token = token as u32;
        let special = tokenizer.bos() == Some(token) || tokenizer.is_end(token);
        let text = decoder.push(token)?;
        texts.push(match special {
            true => tokenizer.spelling(token).unwrap_or_default(),
            false => text,
        });
    }
    if let Some(last) = texts.last_mut() {
        *last += &decoder.finish();
    }
    Ok(texts)
}
