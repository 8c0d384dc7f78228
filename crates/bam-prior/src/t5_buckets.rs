//! The T5 prior: a log-weight per bucket of relative positions.

use serde::{Deserialize, Serialize};

use crate::error::{as_many, finite};
use crate::{Error, Parameter, PositionalPrior};

/// The lags that a bucket table tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Past lags only (decoder): every lag above 0 falls into bucket 0.
    Causal,
    /// Past lags in the lower half of the buckets, future lags in the upper half (encoder).
    Bidirectional,
}

/// `ln w(d) = t[bucket(d)]`: one log-weight per T5 bucket, in nats.
///
/// Source: T5 (Raffel et al., arXiv 1910.10683), `relative_position_bucket`. With `B` buckets for
/// one direction (all of them if causal, half if bidirectional), `E = ⌊B/2⌋` and `M` the maximum
/// distance, a distance `r < E` has a bucket of its own, and a larger one has
///
/// ```text
/// min(B − 1, E + ⌊ (B − E) · ln(r/E) / ln(M/E) ⌋)
/// ```
///
/// The last bucket extends to every larger distance: there is no maximum length, and no density
/// on the line. `M` is only where the last bucket would end. A lag between whole tokens takes the
/// bucket of the nearest whole lag.
///
/// An edge between buckets that falls on a whole distance opens the upper bucket, as the formula
/// says in exact arithmetic, whatever the rounding of the logarithms.
///
/// ```
/// use bam_prior::{Direction, T5Buckets};
///
/// let prior = T5Buckets::new(vec![0.0; 32], 128, Direction::Causal)?;
/// assert_eq!([0.0, -15.0, -16.0, -127.0, -1e6].map(|d| prior.bucket(d)), [0, 15, 16, 31, 31]);
/// # Ok::<(), bam_prior::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct T5Buckets {
    ln_weights: Vec<f64>,
    max_distance: usize,
    direction: Direction,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    ln_weights: Vec<f64>,
    max_distance: usize,
    direction: Direction,
}

impl TryFrom<Fields> for T5Buckets {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self, Error> {
        Self::new(fields.ln_weights, fields.max_distance, fields.direction)
    }
}

impl T5Buckets {
    /// The maximum distance of T5 itself, in tokens.
    pub const MAX_DISTANCE: usize = 128;

    /// The prior with log-weight `ln_weights[b]`, in nats, in bucket `b`; the number of buckets is
    /// the length of the table. T5 itself has 32 buckets and a maximum distance of 128 tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Count`] unless there are at least 2 buckets (4 and an even number of them if
    /// bidirectional) and the maximum distance is above half the buckets of one direction;
    /// [`Error::Value`] if a log-weight is not finite.
    pub fn new(
        ln_weights: Vec<f64>,
        max_distance: usize,
        direction: Direction,
    ) -> Result<Self, Error> {
        let buckets = ln_weights.len();
        let (fits, expected) = match direction {
            Direction::Causal => (buckets >= 2, "at least 2"),
            Direction::Bidirectional => (
                buckets >= 4 && buckets.is_multiple_of(2),
                "an even number of at least 4",
            ),
        };
        if !fits {
            return Err(Error::Count {
                what: "t5_buckets ln_weights".into(),
                expected: expected.into(),
                got: buckets,
            });
        }
        for (bucket, &ln_weight) in ln_weights.iter().enumerate() {
            finite(format!("t5_buckets ln_weights[{bucket}]"), ln_weight)?;
        }
        let prior = Self {
            ln_weights,
            max_distance,
            direction,
        };
        let exact = prior.exact_distances();
        if max_distance <= exact {
            return Err(Error::Count {
                what: "t5_buckets max_distance".into(),
                expected: format!("more than {exact}").into(),
                got: max_distance,
            });
        }
        Ok(prior)
    }

    /// The log-weights by bucket, in nats.
    pub fn ln_weights(&self) -> &[f64] {
        &self.ln_weights
    }

    /// The distance `M`, in tokens, at which the last bucket would end.
    pub fn max_distance(&self) -> usize {
        self.max_distance
    }

    /// The lags that the table tells apart.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The bucket of a lag, below the number of buckets.
    pub fn bucket(&self, lag: f64) -> usize {
        let lag = lag.round();
        let one_way = self.buckets_of_one_direction();
        match self.direction {
            Direction::Causal => self.bucket_of_distance((-lag).max(0.0)),
            Direction::Bidirectional if lag > 0.0 => one_way + self.bucket_of_distance(lag),
            Direction::Bidirectional => self.bucket_of_distance(-lag),
        }
    }

    fn bucket_of_distance(&self, distance: f64) -> usize {
        // An edge that is reached exactly may come out as k − 10⁻¹⁵.
        const TIE: f64 = 1e-12;
        let last = self.buckets_of_one_direction() - 1;
        let exact = self.exact_distances();
        if distance < exact as f64 {
            return distance as usize;
        }
        let coarse = (last + 1 - exact) as f64;
        let span = (self.max_distance as f64 / exact as f64).ln();
        let step = coarse * (distance / exact as f64).ln() / span;
        (exact + (step + TIE) as usize).min(last)
    }

    fn buckets_of_one_direction(&self) -> usize {
        match self.direction {
            Direction::Causal => self.ln_weights.len(),
            Direction::Bidirectional => self.ln_weights.len() / 2,
        }
    }

    /// The number of distances, from 0, that have a bucket of their own.
    fn exact_distances(&self) -> usize {
        self.buckets_of_one_direction() / 2
    }
}

impl PositionalPrior for T5Buckets {
    fn family(&self) -> &'static str {
        "t5_buckets"
    }

    fn parameters(&self) -> Vec<Parameter> {
        let named = |(b, &value)| Parameter::new(format!("ln_weight_{b}"), value);
        self.ln_weights.iter().enumerate().map(named).collect()
    }

    fn with_parameters(&self, values: &[f64]) -> Result<Self, Error> {
        let values = as_many("t5_buckets parameters", self.ln_weights.len(), values)?;
        Self::new(values.to_vec(), self.max_distance, self.direction)
    }

    fn ln_weight(&self, lag: f64) -> f64 {
        self.ln_weights[self.bucket(lag)]
    }

    fn ln_weight_gradient(&self, lag: f64) -> Vec<f64> {
        let mut gradient = vec![0.0; self.ln_weights.len()];
        gradient[self.bucket(lag)] = 1.0;
        gradient
    }

    fn ln_normaliser(&self) -> Option<f64> {
        None
    }
}
