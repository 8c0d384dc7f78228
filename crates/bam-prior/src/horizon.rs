//! The distance that a row's posterior can reach whatever its content, certified from the prior and a bound of
//! the content.

use crate::Error;
use crate::error::{finite, within};

/// Bounds of a head's logits before any key is read: the prior is given, and no content score
/// is larger than [`content`](Self::content).
///
/// **The certificate.** In a row of `n` keys let `c_d`, `|c_d| ≤ C`, be the content scores and `τ`
/// the temperature, so that the key at distance `d` has the logit `τ·(c_d + ln w(d))`. The content
/// that favours the keys farther than `r` most gives them all `C` and the others `−C`. So the odds
/// of far against near keys are at most
///
/// ```text
/// e^(2τC) · Σ_{r < d < n} w(d)^τ  /  Σ_{d ≤ r} w(d)^τ
/// ```
///
/// and where that is at most `ε/(1 − ε)`, no content whatever gives the keys farther than `r` more
/// than the share `ε` of the posterior. The bound is attained, so without a temperature that grows
/// with the row the horizon is the smallest there is.
///
/// **Every row.** With scalable softmax `τ = s·ln n` changes from row to row, and neither the
/// shortest nor the longest row is always the worst. Rows whose lengths lie within a factor of
/// [`SPAN`](Self::SPAN) are bounded together: with the largest weight scaled to 1 every near term falls with
/// `τ`, and every far term is convex in it, so it is largest at an end.
///
/// ```
/// use bam_prior::{LogitBound, PositionalPrior, Laplace, Sharpening};
///
/// let prior = Laplace::new(0.5)?;
/// let ln_weights: Vec<f64> = (0..100_000).map(|r| prior.ln_weight(-f64::from(r))).collect();
/// let bound = LogitBound { content: 10.0, sharpening: Sharpening::None };
/// // 2C nats of content against half a nat a token, and what a millionth takes.
/// assert_eq!(bound.horizon(&ln_weights, 1e-6)?, Some(67));
/// # Ok::<(), bam_prior::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitBound {
    /// No `q·k/√D` is larger in size.
    pub content: f64,
    /// The growth of logits with the keys of a row.
    pub sharpening: Sharpening,
}

/// The scale of the logits of a row of `n` keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sharpening {
    /// Not at all: `c + ln w`.
    None,
    /// Scalable softmax with this scale `s` on likelihood and prior: `s·ln n·(c + ln w)`.
    LikelihoodAndPrior(f64),
    /// With this scale on the likelihood only: `s·ln n·c + ln w`.
    Likelihood(f64),
}

/// A factor that covers the rounding of sums in `f64` over any row there is.
const ROUNDING: f64 = 1e-6;

impl Sharpening {
    /// The factor of the content in a row of `keys` keys: 1 without scalable softmax.
    pub fn temperature(self, keys: usize) -> f64 {
        match self {
            Self::None => 1.0,
            Self::LikelihoodAndPrior(scale) | Self::Likelihood(scale) => {
                scale * (keys.max(1) as f64).ln()
            }
        }
    }

    /// The factor of the log-weights in a row of `keys` keys.
    pub fn prior_factor(self, keys: usize) -> f64 {
        match self {
            Self::LikelihoodAndPrior(_) => self.temperature(keys),
            Self::None | Self::Likelihood(_) => 1.0,
        }
    }

    fn check(self) -> Result<(), Error> {
        match self {
            Self::None => Ok(()),
            Self::LikelihoodAndPrior(scale) | Self::Likelihood(scale) => {
                finite("scale of scalable softmax", scale).map(|_| ())
            }
        }
    }
}

impl LogitBound {
    /// Rows are bounded together up to this factor between their lengths.
    pub const SPAN: f64 = 1.1;

    /// The smallest distance `r`, up to the looseness of [`Self::SPAN`], such that in every row of at most
    /// `ln_weights.len()` keys those farther than `r` hold at most the share `epsilon` of the
    /// posterior, whatever the content. `None` where only the whole row is enough.
    ///
    /// `ln_weights` holds the log-weight by distance, from 0 on.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] unless `0 < epsilon < 1`, the bound of the content is at least 0, and all
    /// numbers are finite.
    pub fn horizon(&self, ln_weights: &[f64], epsilon: f64) -> Result<Option<usize>, Error> {
        let open = |x: f64| x > 0.0 && x < 1.0;
        let epsilon = within("epsilon", "a number above 0 and below 1", epsilon, open)?;
        within("bound of the content", "at least 0", self.content, |x| {
            x >= 0.0
        })?;
        self.sharpening.check()?;
        for (distance, ln_weight) in ln_weights.iter().enumerate() {
            if !ln_weight.is_finite() {
                finite(format!("log-weight at distance {distance}"), *ln_weight)?;
            }
        }
        let odds = epsilon / (1.0 - epsilon) * (1.0 - ROUNDING);
        let mut horizon = 0;
        let mut longest = ln_weights.len();
        // A row of r + 1 keys has none farther than r.
        while longest > horizon + 1 {
            let shortest = match self.sharpening {
                Sharpening::None => 1,
                _ => ((longest as f64 / Self::SPAN) as usize + 1).clamp(2, longest),
            };
            horizon = self.horizon_of_rows(&ln_weights[..longest], shortest, odds, horizon);
            longest = shortest - 1;
        }
        Ok((horizon + 1 < ln_weights.len()).then_some(horizon))
    }

    /// That of the rows of `shortest` to `ln_weights.len()` keys, or `known` if that is larger.
    fn horizon_of_rows(
        &self,
        ln_weights: &[f64],
        shortest: usize,
        odds: f64,
        known: usize,
    ) -> usize {
        // A temperature in f32 is off by a few units in its last place.
        let mild = self.sharpening.temperature(shortest).abs() * (1.0 - ROUNDING);
        let sharp = self.sharpening.temperature(ln_weights.len()).abs() * (1.0 + ROUNDING);
        let (likelihood_and_prior, sign) = match self.sharpening {
            Sharpening::LikelihoodAndPrior(scale) => (true, scale.signum()),
            _ => (false, 1.0),
        };
        let largest = ln_weights
            .iter()
            .fold(f64::NEG_INFINITY, |most, w| most.max(sign * w));
        let below = |ln_weight: f64| sign * ln_weight - largest;
        let near = |ln_weight: f64| match likelihood_and_prior {
            true => sharp * below(ln_weight),
            false => below(ln_weight),
        };
        let far = |ln_weight: f64| match likelihood_and_prior {
            true => {
                let at_best = 2.0 * self.content + below(ln_weight);
                (mild * at_best).max(sharp * at_best)
            }
            false => 2.0 * sharp * self.content + below(ln_weight),
        };
        let mut mass = 0.0;
        let masses: Vec<f64> = ln_weights
            .iter()
            .map(|w| {
                mass += near(*w).exp();
                mass
            })
            .collect();
        let mut beyond = 0.0;
        for r in (known..ln_weights.len() - 1).rev() {
            // What underflows is counted as more than it is.
            beyond += far(ln_weights[r + 1]).exp() + f64::MIN_POSITIVE;
            // Not certified where either is NaN.
            if !(beyond <= odds * masses[r]) {
                return r + 1;
            }
        }
        known
    }
}
