//! Averages over a text's rows, head by head: their posteriors beside their priors.

use super::posterior::{each_row_posterior, entropy_and_divergence};
use super::prior::curve_distances;
use crate::Error;
use crate::model::Transformer;
use bam_prior::RowSummary;
use bam_record::{Measured, MeasuredHead, RowPosterior};

/// Priors and posteriors on the tokens of a text, means over `rows` rows that stand evenly in its
/// second half, the last one among them: each sees at least half of the text.
///
/// # Errors
/// If there is no token or no row, or a token is outside the vocabulary.
pub fn measured(
    model: &Transformer,
    name: &str,
    tokens: &[i32],
    rows: usize,
) -> Result<Measured, Error> {
    let length = tokens.len();
    if length == 0 || rows == 0 {
        return Err(Error::Value {
            what: "text",
            expected: "at least 1 token and 1 row".into(),
            got: format!("{length} tokens and {rows} rows"),
        });
    }
    let half = length / 2;
    let rows = rows.min(length - half);
    let positions: Vec<usize> = (1..=rows)
        .map(|row| half + row * (length - half) / rows - 1)
        .collect();
    let heads = model.config().heads;
    let mut sums: Vec<Sums> = (0..model.config().layers * heads)
        .map(|_| Sums::new(length))
        .collect();
    each_row_posterior(model, tokens, &positions, |row| {
        sums[row.layer * heads + row.head].add(&row);
    })?;
    let of_heads = sums.iter().enumerate();
    let of_heads = of_heads.map(|(index, sums)| sums.head(index / heads, index % heads, rows));
    Ok(Measured {
        text: name.to_owned(),
        length,
        rows,
        heads: of_heads.collect::<Result<_, _>>()?,
    })
}

/// Sums over rows.
struct Sums {
    /// Masses by distance.
    prior: Vec<f64>,
    posterior: Vec<f64>,
    entropy: f64,
    divergence: f64,
    ln_evidence: f64,
}

impl Sums {
    fn new(length: usize) -> Self {
        Self {
            prior: vec![0.0; length],
            posterior: vec![0.0; length],
            entropy: 0.0,
            divergence: 0.0,
            ln_evidence: 0.0,
        }
    }

    fn add(&mut self, row: &RowPosterior) {
        for (sum, ln_prior) in self.prior.iter_mut().zip(row.ln_prior.iter().rev()) {
            *sum += f64::from(*ln_prior).exp();
        }
        for (sum, p) in self.posterior.iter_mut().zip(row.posterior.iter().rev()) {
            *sum += f64::from(*p);
        }
        let (entropy, divergence) = entropy_and_divergence(row);
        self.entropy += entropy;
        self.divergence += divergence;
        self.ln_evidence += row.ln_evidence;
    }

    fn head(&self, layer: usize, head: usize, rows: usize) -> Result<MeasuredHead, Error> {
        let prior = RowSummary::of_masses(&self.prior)?;
        let posterior = RowSummary::of_masses(&self.posterior)?;
        let lags = |row: &RowSummary| {
            let lags = row.mass_lags();
            [lags.p50, lags.p90, lags.p99].map(|lag| lag as f64)
        };
        let within = |distance: f64| {
            let r = distance as usize;
            (distance, prior.mass_within(r), posterior.mass_within(r))
        };
        Ok(MeasuredHead {
            layer,
            head,
            prior_mass_lags: lags(&prior),
            posterior_mass_lags: lags(&posterior),
            mean_distance: posterior.mean_distance(),
            entropy: self.entropy / rows as f64,
            divergence: self.divergence / rows as f64,
            ln_evidence: self.ln_evidence / rows as f64,
            masses: curve_distances(self.prior.len())
                .into_iter()
                .map(within)
                .collect(),
        })
    }
}
