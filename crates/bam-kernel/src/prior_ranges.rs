//! What skipping knows of a prior: the smallest and largest log-weight in every stretch of lags.

use crate::rounding::raised;

/// Lags whose log-weights share a range.
const LAGS: usize = 64;

/// The smallest and largest log-weight of every head in every block of lags.
///
/// A call finds them by itself. A prior that serves many calls, as in decoding, has them found once:
/// [`LogWeights::with_ranges`](crate::LogWeights::with_ranges).
#[derive(Clone, Debug)]
pub struct PriorRanges {
    blocks: usize,
    lags: usize,
    ranges: Vec<(f32, f32)>,
}

impl PriorRanges {
    /// `ln_weights` is `[heads, lags]`, as in [`LogWeights`](crate::LogWeights).
    #[must_use]
    pub fn new(ln_weights: &[f32], lags: usize) -> Self {
        let range = |block: &[f32]| {
            let start = (f32::INFINITY, f32::NEG_INFINITY);
            block.iter().fold(start, |(low, high), w| {
                // A NaN makes the range NaN, which no comparison takes for small.
                (-raised(-low, -w), raised(high, *w))
            })
        };
        let ranges = ln_weights
            .chunks_exact(lags)
            .flat_map(|head| head.chunks(LAGS).map(range))
            .collect();
        Self {
            blocks: lags.div_ceil(LAGS),
            lags,
            ranges,
        }
    }

    /// `[heads, lags]`.
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.ranges.len() / self.blocks, self.lags]
    }

    /// Smallest and largest over the columns `first..=last`, or over more.
    pub(crate) fn over(&self, head: usize, first: i64, last: i64) -> (f64, f64) {
        let block = |column: i64| column.clamp(0, self.lags as i64 - 1) as usize / LAGS;
        let ranges = &self.ranges[head * self.blocks..][..self.blocks];
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for (block_low, block_high) in &ranges[block(first)..=block(last.max(first))] {
            if block_low.is_nan() {
                return (f64::NAN, f64::NAN);
            }
            low = low.min(f64::from(*block_low));
            high = high.max(f64::from(*block_high));
        }
        (low, high)
    }
}
