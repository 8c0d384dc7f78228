//! The page, and its questions about a token.

use super::app::App;
use super::error::ApiError;
use super::json;
use super::request::Inspect;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bam_lm::analysis::posterior::entropy_and_divergence;
use bam_lm::engine::scheduler::{Finish, Request, SequenceEvent};
use bam_prior::RowSummary;
use bam_record::RowPosterior;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// The page asks nobody but this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

pub async fn index() -> Response {
    file("text/html; charset=utf-8", include_str!("page/index.html"))
}

pub async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("page/style.css"))
}

pub async fn script() -> Response {
    file(
        "text/javascript; charset=utf-8",
        include_str!("page/script.js"),
    )
}

/// The most tokens that are looked into at once: a row of keys is held for every head.
const MOST_TOKENS: usize = 1 << 17;
/// Keys of a head that are named: as many as can have more than a tenth of its posterior, which the page
/// underlines.
const NAMED_KEYS: usize = 9;

/// The heads of every layer at the last of some tokens.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Inspection {
    keys: usize,
    layers: Vec<Layer>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Layer {
    heads: Vec<Head>,
}

/// A head's prior, likelihood and posterior over a row of keys.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Head {
    #[schemars(with = "Option<String>")]
    class: Option<bam_prior::Class>,
    ln_evidence: f64,
    /// The divergence of the posterior from the prior.
    kl: f64,
    /// Masses by distance, about evenly wide on a logarithmic axis.
    bins: Vec<Bin>,
    /// The heaviest keys.
    top: Vec<Key>,
}

/// Masses between two distances, both included.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Bin {
    from: usize,
    to: usize,
    prior: f64,
    likelihood: f64,
    posterior: f64,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Key {
    position: usize,
    lag: usize,
    prior: f64,
    likelihood: f64,
    posterior: f64,
}

const FIELD: &str = "tokens";

/// The row posterior of every head at the last of some tokens, by distance, and the keys that it looked at
/// most.
pub async fn inspect(
    State(app): State<Arc<App>>,
    body: Bytes,
) -> Result<Json<Inspection>, ApiError> {
    let Inspect { tokens } = json::parse(&body)?;
    drop(body);
    let tokens = app.check_tokens(FIELD, &tokens)?;
    let (keys, most) = (tokens.len(), app.longest_sequence().min(MOST_TOKENS));
    if keys == 0 {
        return Err(ApiError::expected(FIELD, "at least one", "none"));
    }
    if keys > most {
        let told = format!("{FIELD}: expected from 1 to {most} of them, got {keys}");
        return Err(ApiError::TooLong { field: FIELD, told });
    }
    let request = Request::Inspect { prompt: tokens };
    let mut sequences = app.submit(FIELD, vec![request])?;
    let events = sequences
        .first_mut()
        .ok_or(ApiError::failed("no sequence"))?;
    loop {
        match app.next(events).await? {
            SequenceEvent::Prompt {
                reused,
                row_posteriors,
                ..
            } => {
                app.metrics.prompt(keys, reused);
                let layers = row_posteriors.chunk_by(|a, b| a.layer == b.layer);
                let layers = layers.map(|layer| Layer {
                    heads: layer.iter().map(head).collect(),
                });
                let layers = layers.collect();
                return Ok(Json(Inspection { keys, layers }));
            }
            SequenceEvent::End(Finish::Failed(message)) => return Err(ApiError::failed(message)),
            SequenceEvent::Token { .. } | SequenceEvent::End(_) => {}
        }
    }
}

fn head(row: &RowPosterior) -> Head {
    let prior: Vec<f64> = row.ln_prior.iter().map(|x| f64::from(*x).exp()).collect();
    let by_distance: Vec<f64> = prior.iter().rev().copied().collect();
    let likelihood = softmax(row.content.iter().map(|x| row.temperature * f64::from(*x)));
    let posterior: Vec<f64> = row.posterior.iter().map(|x| f64::from(*x)).collect();
    let last = posterior.len() - 1;
    let mut bins = Vec::new();
    let mut from = 0;
    while from <= last {
        // Distances 0, 1, 2 … singly, then a fifth more each. The rest at the end is a part of the last bin
        // where it would be a narrower one: equal masses never seem to fall.
        let width = (from / 5).max(1);
        let left = last + 1 - from - width.min(last + 1 - from);
        let next = ((from + width) / 5).max(1);
        let to = if left < next { last + 1 } else { from + width };
        let keys = last + 1 - to..last + 1 - from;
        let mass = |of: &[f64]| of[keys.clone()].iter().sum();
        bins.push(Bin {
            from,
            to: to - 1,
            prior: mass(&prior),
            likelihood: mass(&likelihood),
            posterior: mass(&posterior),
        });
        from = to;
    }
    let mut heaviest: Vec<usize> = (0..=last).collect();
    heaviest.sort_by(|a, b| posterior[*b].total_cmp(&posterior[*a]));
    let top = heaviest.into_iter().take(NAMED_KEYS).map(|key| Key {
        position: row.first_key + key,
        lag: last - key,
        prior: prior[key],
        likelihood: likelihood[key],
        posterior: posterior[key],
    });
    Head {
        class: RowSummary::of_masses(&by_distance)
            .ok()
            .map(|row| row.class()),
        ln_evidence: row.ln_evidence,
        kl: entropy_and_divergence(row).1,
        bins,
        top: top.collect(),
    }
}

fn softmax(logits: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
    let largest = logits.clone().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.map(|x| (x - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn bins_hold_all_the_mass() {
        for keys in [1usize, 2, 5, 6, 7, 11, 12, 13, 63, 300, 301, 317] {
            let row = RowPosterior {
                layer: 0,
                head: 0,
                row: keys - 1,
                first_key: 0,
                ln_prior: vec![-(keys as f32).ln(); keys],
                content: (0..keys).map(|key| key as f32 / 10.0).collect(),
                temperature: 1.0,
                posterior: softmax((0..keys).map(|key| key as f64 / 10.0))
                    .into_iter()
                    .map(|x| x as f32)
                    .collect(),
                ln_evidence: 0.0,
            };
            let head = serde_json::to_value(head(&row)).unwrap();
            let bins = head["bins"].as_array().unwrap();
            for of in ["prior", "likelihood", "posterior"] {
                let mass: f64 = bins.iter().map(|bin| bin[of].as_f64().unwrap()).sum();
                assert!((mass - 1.0).abs() < 1e-5, "{keys} keys, {of}: {mass}");
            }
            assert_eq!(head["class"], "flat");
            // Bins join, the last one is the widest, and equal masses never fall.
            let end = |bin: &Value, of: &str| bin[of].as_u64().unwrap();
            assert_eq!((end(&bins[0], "from"), end(&bins[0], "to")), (0, 0));
            assert_eq!(end(&bins[bins.len() - 1], "to"), keys as u64 - 1);
            for pair in bins.windows(2) {
                assert_eq!(end(&pair[0], "to") + 1, end(&pair[1], "from"));
                let mass = |bin: &Value| bin["prior"].as_f64().unwrap();
                assert!(
                    mass(&pair[1]) > mass(&pair[0]) - 1e-9,
                    "{keys} keys: {pair:?}"
                );
            }
            // The posterior is the likelihood under a flat prior, and the last key is its heaviest.
            assert_eq!(head["top"][0]["lag"], 0);
            let near = |of: &str| bins[0][of].as_f64().unwrap();
            assert!((near("posterior") - near("likelihood")).abs() < 1e-5);
            assert!(keys < 7 || (near("posterior") - near("prior")).abs() > 0.01);
        }
    }
}
