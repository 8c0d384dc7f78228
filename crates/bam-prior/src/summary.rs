//! A prior's mass on a row of keys: mass lags, quantiles, entropy, class.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::within;
use crate::{Error, PositionalPrior};

/// The side of a row that a prior favours, compared with the uniform prior on the same row.
///
/// For a row of `n` keys let `F(r)` be the prior mass of the `r + 1` nearest keys and
/// `U(r) = (r + 1)/n` their uniform share. The gain `max_r (F − U)` and the loss `max_r (U − F)` are
/// the two one-sided Kolmogorov–Smirnov distances to the uniform prior. The first that holds:
///
/// 1. **Local**: the gain is at least 5 % and not less than the loss. Some window of nearest keys
///    holds clearly more mass than it would uniformly.
/// 2. **Anti-local**: the loss is at least 5 %, or some window of nearest keys holds at most half
///    its uniform share.
/// 3. **Flat**: neither.
///
/// The two sides are measured differently because they are different: concentration moves mass,
/// whereas suppressing the nearest keys of a long row moves hardly any and still hides them, so it
/// is judged by the share that they keep. Nothing depends on the family or on the unit of lag: on
/// long rows a linear log-weight is local for a slope times `n` above 0.40 (eight ALiBi heads on
/// any row of at least 103 keys), and a power-law weight `|d|^(−s)` for `s` above 0.13, on rows of
/// any length.
///
/// A window prior whose location lies in the nearer half of the row is local, in the farther half
/// anti-local.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Near keys hold clearly more than their uniform share.
    Local,
    /// Nearly uniform.
    Flat,
    /// Near keys hold clearly less than their uniform share.
    AntiLocal,
}

impl Class {
    /// The gain or loss of mass, against the uniform prior, from which a row is not flat.
    pub const MATERIAL_MASS: f64 = 0.05;
    /// The part of its uniform share at or below which a window of nearest keys is suppressed.
    pub const SUPPRESSED_SHARE: f64 = 0.5;

    fn of(masses: &CumulativeMass) -> Self {
        let (mut gain, mut loss, mut share) = (0_f64, 0_f64, 1_f64);
        let keys = masses.0.len() as f64;
        for (r, mass) in masses.fractions().enumerate() {
            let uniform = (r + 1) as f64 / keys;
            gain = gain.max(mass - uniform);
            loss = loss.max(uniform - mass);
            share = share.min(mass / uniform);
        }
        if gain >= Self::MATERIAL_MASS && gain >= loss {
            Self::Local
        } else if loss >= Self::MATERIAL_MASS || share <= Self::SUPPRESSED_SHARE {
            Self::AntiLocal
        } else {
            Self::Flat
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Local => "local",
            Self::Flat => "flat",
            Self::AntiLocal => "anti-local",
        })
    }
}

/// Smallest distances, in tokens, within which 50, 90 and 99 % of the prior mass lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MassLags {
    /// Half of the mass lies at this distance or nearer.
    pub p50: usize,
    /// 90 % of the mass lies at this distance or nearer.
    pub p90: usize,
    /// 99 % of the mass lies at this distance or nearer.
    pub p99: usize,
}

/// The prior of one causal row: the newest query of `n` keys, at distances `0..n`.
///
/// The log-weights are shifted by their maximum before they are exponentiated, so weights may
/// underflow (to no mass) but never all of them, and no result is NaN. Time and memory are linear
/// in the number of keys. Serialises as a record of its numbers, without the masses by key.
///
/// ```
/// use bam_prior::{Class, RowSummary, Uniform};
///
/// let row = RowSummary::new(&Uniform, 1000)?;
/// assert_eq!(row.mass_lags().p90, 899);
/// assert!((row.entropy() - 1000_f64.ln()).abs() < 1e-12);
/// assert_eq!(row.class(), Class::Flat);
/// # Ok::<(), bam_prior::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RowSummary {
    keys: usize,
    class: Class,
    mass_lags: MassLags,
    mean_distance: f64,
    entropy: f64,
    #[serde(skip)]
    masses: CumulativeMass,
}

impl RowSummary {
    /// The summary of a prior over a row of `keys` keys.
    ///
    /// # Errors
    ///
    /// [`Error::Count`] for a row without keys.
    pub fn new<P: PositionalPrior + ?Sized>(prior: &P, keys: usize) -> Result<Self, Error> {
        if keys == 0 {
            return Err(Error::Count {
                what: "row keys".into(),
                expected: "at least 1".into(),
                got: 0,
            });
        }
        Ok(Self::of(
            (0..keys).map(|r| prior.ln_weight(-(r as f64))).collect(),
        ))
    }

    /// The summary of any distribution over a row, such as a posterior: `masses[r]` is the mass of
    /// the key at distance `r`, up to a factor.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless all are finite, none is below 0, and one is above.
    pub fn of_masses(masses: &[f64]) -> Result<Self, Error> {
        for (distance, mass) in masses.iter().enumerate() {
            if !(mass.is_finite() && *mass >= 0.0) {
                let what = format!("mass at distance {distance}");
                within(what, "a finite number of at least 0", *mass, |x| x >= 0.0)?;
            }
        }
        let sum: f64 = masses.iter().sum();
        within("sum of masses", "a finite number above 0", sum, |x| x > 0.0)?;
        Ok(Self::of(masses.iter().map(|mass| mass.ln()).collect()))
    }

    /// At least one log-weight is finite, and none is above all floats.
    fn of(ln_weights: Vec<f64>) -> Self {
        let keys = ln_weights.len();
        let most = ln_weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (mut total, mut surprise, mut moment) = (0.0, 0.0, 0.0);
        let mut masses = Vec::with_capacity(keys);
        for (r, ln_weight) in ln_weights.into_iter().enumerate() {
            let weight = (ln_weight - most).exp();
            if weight > 0.0 {
                total += weight;
                surprise += weight * (most - ln_weight);
                moment += weight * r as f64;
            }
            masses.push(total);
        }
        let masses = CumulativeMass(masses);
        Self {
            keys,
            class: Class::of(&masses),
            mass_lags: MassLags {
                p50: masses.quantile(0.5),
                p90: masses.quantile(0.9),
                p99: masses.quantile(0.99),
            },
            mean_distance: moment / total,
            entropy: total.ln() + surprise / total,
            masses,
        }
    }

    /// The number of keys in the row.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// The side that the prior favours, against the uniform prior.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The distances within which 50, 90 and 99 % of the mass lies, in tokens.
    pub fn mass_lags(&self) -> MassLags {
        self.mass_lags
    }

    /// The mean distance under the prior, in tokens; `(n − 1)/2` for the uniform prior.
    pub fn mean_distance(&self) -> f64 {
        self.mean_distance
    }

    /// The entropy `−Σ p·ln p` in nats: 0 for one key, `ln n` for the uniform prior.
    pub fn entropy(&self) -> f64 {
        self.entropy
    }

    /// The smallest distance `r`, in tokens, such that distances `0..=r` hold at least `p` of the
    /// mass.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `0 < p ≤ 1`.
    pub fn quantile(&self, p: f64) -> Result<usize, Error> {
        let p = within("quantile p", "a number above 0 and at most 1", p, |p| {
            p > 0.0 && p <= 1.0
        })?;
        Ok(self.masses.quantile(p))
    }

    /// The prior mass of the keys at distances `0..=distance`, in tokens: from 0 to 1, and 1 from
    /// the end of the row on.
    pub fn mass_within(&self, distance: usize) -> f64 {
        self.masses.fraction(distance.min(self.keys - 1))
    }
}

/// Sums of the weights, relative to the largest one, of distances `0..=r`; never empty, and the
/// last sum is at least 1.
#[derive(Clone, Debug, PartialEq)]
struct CumulativeMass(Vec<f64>);

impl CumulativeMass {
    fn total(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    fn fraction(&self, distance: usize) -> f64 {
        self.0[distance] / self.total()
    }

    fn fractions(&self) -> impl Iterator<Item = f64> {
        let total = self.total();
        self.0.iter().map(move |sum| sum / total)
    }

    fn quantile(&self, p: f64) -> usize {
        let wanted = p * self.total();
        self.0.partition_point(|&sum| sum < wanted)
    }
}
