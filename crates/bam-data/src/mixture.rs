use std::sync::Arc;

use super::{DataError, Row, RowSource, permutation::Permutation};

/// Rows from several sources in fixed proportions.
///
/// Every 1024 rows hold exactly as many of each source as its weight says, in an order drawn from the
/// seed, and each source is asked for its rows 0, 1, 2, … one after another. So a source's epochs stay
/// whole, proportions are exact over any long stretch, and any row is found at once.
#[derive(Clone)]
pub struct Mixture {
    parts: Vec<Part>,
    length: usize,
    seed: u64,
}

#[derive(Clone)]
struct Part {
    source: Arc<dyn RowSource>,
    /// Slots of each block that are this source's: `start..start + rows`.
    start: u64,
    rows: u64,
}

/// Rows after which the proportions are exact.
const BLOCK: u64 = 1024;

impl Mixture {
    /// Weights are relative, and are rounded to parts of 1024.
    ///
    /// # Errors
    ///
    /// For no sources, sources of different lengths, or a weight that is not positive, not finite, or so
    /// small that its source would never be asked.
    pub fn new(sources: Vec<(Arc<dyn RowSource>, f64)>, seed: u64) -> Result<Self, DataError> {
        let error = |reason: String| DataError::Mixture { reason };
        let Some((first, _)) = sources.first() else {
            return Err(error("expected at least one source, got none".to_owned()));
        };
        let length = first.length();
        if let Some((other, _)) = sources.iter().find(|(source, _)| source.length() != length) {
            return Err(error(format!(
                "expected rows of the same length, got {length} and {}",
                other.length()
            )));
        }
        let weights: Vec<f64> = sources.iter().map(|(_, weight)| *weight).collect();
        let quotas = quotas(&weights).map_err(error)?;
        let mut start = 0;
        let parts = sources
            .into_iter()
            .zip(quotas)
            .map(|((source, _), rows)| {
                let part = Part {
                    source,
                    start,
                    rows,
                };
                start += rows;
                part
            })
            .collect();
        Ok(Self {
            parts,
            length,
            seed,
        })
    }

    /// Rows of each source in every 1024, in the order the sources were given.
    #[must_use]
    pub fn proportions(&self) -> Vec<u64> {
        self.parts.iter().map(|part| part.rows).collect()
    }

    /// The source that row `index` comes from, and its number among that source's rows.
    #[must_use]
    pub fn origin(&self, index: u64) -> (usize, u64) {
        let (block, within) = (index / BLOCK, index % BLOCK);
        let order = Permutation::new(BLOCK, self.seed, block);
        let slot = order.apply(within);
        let number = self
            .parts
            .partition_point(|part| part.start + part.rows <= slot);
        let part = &self.parts[number];
        let slots = part.start..part.start + part.rows;
        let earlier = (0..within)
            .filter(|&before| slots.contains(&order.apply(before)))
            .count();
        (number, block * part.rows + earlier as u64)
    }
}

impl RowSource for Mixture {
    fn length(&self) -> usize {
        self.length
    }

    fn row(&self, index: u64) -> Result<Row, DataError> {
        let (source, row) = self.origin(index);
        self.parts[source].source.row(row)
    }
}

/// Slots of a block for each weight, by largest remainder.
fn quotas(weights: &[f64]) -> Result<Vec<u64>, String> {
    for weight in weights {
        if !(*weight > 0.0 && weight.is_finite()) {
            return Err(format!(
                "expected positive and finite weights, got {weight}"
            ));
        }
    }
    // Scaled first, so that the sum of large weights stays finite.
    let largest = weights.iter().copied().fold(0.0, f64::max);
    let sum: f64 = weights.iter().map(|weight| weight / largest).sum();
    let exact: Vec<f64> = weights
        .iter()
        .map(|weight| weight / largest / sum * BLOCK as f64)
        .collect();
    let mut quotas: Vec<u64> = exact.iter().map(|share| share.floor() as u64).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()));
    let missing = BLOCK.saturating_sub(quotas.iter().sum());
    for &source in by_remainder.iter().cycle().take(missing as usize) {
        quotas[source] += 1;
    }
    match quotas.iter().position(|&rows| rows == 0) {
        Some(source) => Err(format!(
            "expected every weight to be at least a part in {BLOCK}, got {} of {}",
            weights[source],
            weights.iter().sum::<f64>()
        )),
        None => Ok(quotas),
    }
}
