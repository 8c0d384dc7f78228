//! Families whose parameters are learned: what a head stores, and both ways between that and its prior.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::as_many;
use crate::{
    Component, Direction, Error, Gaussian, GeneralizedGaussian, KerpleLog, KerplePower, Laplace,
    Link, Mixture, PositionalPrior, Prior, StudentT, T5Buckets, Table, Uniform, alibi_slopes,
};

/// A family of priors whose parameters a head can learn.
///
/// A head stores unconstrained numbers `θ`; its prior has the values `x = f(θ)`, `f` the [`Link`] of
/// each parameter. `m` is the head's slope in ALiBi ([`alibi_slopes`]): families that can start as
/// ALiBi, and the others as wide.
///
/// | Family | `ln w(d)` | Stored: name, link, start of `x` | Role |
/// |---|---|---|---|
/// | `uniform` | `0` | nothing | |
/// | `laplace` | `−x·│d│` | `scale` `e^θ`, `m` (nats per token) | scale |
/// | `gaussian` | `−a·(d−μ)²` | `location` `2·sinh θ`, 0 (tokens) | location |
/// | | | `scale` `a = e^θ`, `m²/4` (nats per token²); `σ = 1/√(2a)` | scale |
/// | `generalized_gaussian` | `−a·(│d−μ│+ε)^β` | `loc` `2·sinh θ`, 0 (tokens) | location |
/// | | | `scale` `a = e^θ`, `m` (nats per tokenᵝ) | scale |
/// | | | `shape` `β = θ`, 1 | shape |
/// | `kerple_log` | `−r₁·ln(1+r₂│d│)` | `scale` `r₁ = e^θ`, 1 | scale |
/// | | | `rate` `r₂ = e^θ`, `m` (per token) | shape |
/// | `kerple_power` | `−r₁·│d│^r₂` | `scale` `r₁ = e^θ`, `m` (nats per token^r₂) | scale |
/// | | | `exponent` `r₂ = 2/(1+e^−θ)`, 1 | shape |
/// | `student_t` | `−(ν+1)/2·ln(1+((d−μ)/σ)²/ν)` | `location` `2·sinh θ`, 0 (tokens) | location |
/// | | | `scale` `σ = e^θ`, `1/m` (tokens) | scale |
/// | | | `shape` `ν = e^θ`, 1 | shape |
/// | `t5_buckets` | `x[bucket(d)]` | `weights` `θ`, 32 of them, 0 (nats) | scale |
/// | `table` | `x[min(│d│, 63)]` | `weights` `θ`, 64 of them, 0 (nats) | scale |
/// | `laplace_slab` | `ln((1−π)·e^(−x·│d│) + π)` | `scale` `e^θ`, `m` (nats per token) | scale |
/// | | | `slab` `π = 1/(1+e^−θ)`, `θ = −4.6`: 1 % | shape |
///
/// The sources of the laws are with [`Laplace`], [`GeneralizedGaussian`] and the others.
///
/// ```
/// use bam_prior::{Family, Laplace, Prior};
///
/// let prior = Prior::from(Laplace::new(0.5)?);
/// let theta = Family::Laplace.theta(&prior)?;
/// assert_eq!(theta, [[0.5_f64.ln()]]);
/// assert_eq!(Family::Laplace.prior(&theta)?, prior);
/// assert!(Family::KerpleLog.theta(&prior).is_err());
/// # Ok::<(), bam_prior::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Position says nothing (NoPE).
    Uniform,
    /// Linear decay: ALiBi, with the slopes as parameters.
    Laplace,
    /// Quadratic decay around a location.
    Gaussian,
    /// BAM: location, scale and shape.
    GeneralizedGaussian,
    /// A power-law tail.
    KerpleLog,
    /// A stretched exponential tail.
    KerplePower,
    /// Heavy tails around a location.
    StudentT,
    /// A log-weight per bucket of lags; [`Family::prior`] is that of causal rows.
    T5Buckets,
    /// A log-weight per distance.
    Table,
    /// Laplace with a uniform slab beneath, so that no distance is forgotten.
    LaplaceSlab,
}

/// The part a parameter has in its prior; training gives each role a learning rate of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The lag at which the prior peaks.
    Location,
    /// The speed of its fall.
    Scale,
    /// The bend of its tail.
    Shape,
}

impl Role {
    /// Its name: `"location"`, `"scale"`, `"shape"`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Location => "location",
            Self::Scale => "scale",
            Self::Shape => "shape",
        }
    }
}

/// One parameter of a family, for a number of heads.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterSpec {
    /// The name in checkpoints.
    pub name: &'static str,
    /// Its part in the prior.
    pub role: Role,
    /// The map from `θ`, which is stored, onto the value in the law.
    pub link: Link,
    /// Numbers per head: 1, or the size of a table.
    pub width: usize,
    /// The `θ` that heads start with, `heads × width`, row after row.
    pub initial: Vec<f64>,
}

impl ParameterSpec {
    /// One head's numbers among those of all heads, `heads × width`.
    pub fn of_head<'a, T>(&self, values: &'a [T], head: usize) -> &'a [T] {
        &values[head * self.width..][..self.width]
    }
}

/// A family as data.
struct Form {
    name: &'static str,
    parameters: &'static [Stored],
    law: Law,
}

struct Stored {
    name: &'static str,
    role: Role,
    link: Link,
    width: usize,
    start: Start,
}

/// The `θ` that a head starts with.
enum Start {
    At(f64),
    /// That of its slope in ALiBi.
    Slope(fn(f64) -> f64),
}

/// The two ways between the values of the parameters and the prior.
enum Law {
    /// The values are the prior's parameters, in order; the rest of it is as in this one.
    Like(fn() -> Result<Prior, Error>),
    /// They are not, and these are the two ways, and the gradient in them from that in the prior's parameters.
    Maps(
        fn(&[f64]) -> Result<Prior, Error>,
        fn(&Prior) -> Option<Vec<f64>>,
        fn(&[f64], Vec<f64>) -> Vec<f64>,
    ),
}

const fn stored(name: &'static str, role: Role, link: Link, start: Start) -> Stored {
    Stored {
        name,
        role,
        link,
        width: 1,
        start,
    }
}

const fn location(name: &'static str) -> Stored {
    stored(name, Role::Location, Link::TwoSinh, Start::At(0.0))
}

const fn scale(start: Start) -> Stored {
    stored("scale", Role::Scale, Link::Exponential, start)
}

const fn weights(width: usize) -> Stored {
    Stored {
        width,
        ..stored("weights", Role::Scale, Link::Identity, Start::At(0.0))
    }
}

/// `e^θ = m`.
const SLOPE: Start = Start::Slope(f64::ln);
const T5_BUCKETS: usize = 32;
const TABLE_ENTRIES: usize = 64;

impl Family {
    /// Every family.
    pub const ALL: [Self; 10] = [
        Self::Uniform,
        Self::Laplace,
        Self::Gaussian,
        Self::GeneralizedGaussian,
        Self::KerpleLog,
        Self::KerplePower,
        Self::StudentT,
        Self::T5Buckets,
        Self::Table,
        Self::LaplaceSlab,
    ];

    const fn form(self) -> Form {
        match self {
            Self::Uniform => Form {
                name: "uniform",
                parameters: &[],
                law: Law::Like(|| Ok(Uniform.into())),
            },
            Self::Laplace => Form {
                name: "laplace",
                parameters: const { &[scale(SLOPE)] },
                law: Law::Like(|| Ok(Laplace::new(1.0)?.into())),
            },
            Self::Gaussian => Form {
                name: "gaussian",
                // As wide as ALiBi's Laplace prior: equal variance, 1/(2a) = 2/m².
                parameters: const {
                    &[
                        location("location"),
                        scale(Start::Slope(|m| (m * m / 4.0).ln())),
                    ]
                },
                law: Law::Maps(
                    |x| Ok(Gaussian::new(x[0], (0.5 / x[1]).sqrt())?.into()),
                    |prior| match prior {
                        Prior::Gaussian(of) => Some(vec![of.location(), of.precision()]),
                        _ => None,
                    },
                    // σ = 1/√(2a), so dσ/da = −σ³.
                    |x, by_prior| vec![by_prior[0], -by_prior[1] * (0.5 / x[1]).powf(1.5)],
                ),
            },
            Self::GeneralizedGaussian => Form {
                name: "generalized_gaussian",
                parameters: const {
                    &[
                        location("loc"),
                        scale(SLOPE),
                        stored("shape", Role::Shape, Link::Identity, Start::At(1.0)),
                    ]
                },
                law: Law::Like(|| Ok(GeneralizedGaussian::new(0.0, 1.0, 1.0)?.into())),
            },
            Self::KerpleLog => Form {
                name: "kerple_log",
                parameters: const {
                    &[
                        scale(Start::At(0.0)),
                        stored("rate", Role::Shape, Link::Exponential, SLOPE),
                    ]
                },
                law: Law::Like(|| Ok(KerpleLog::new(1.0, 1.0)?.into())),
            },
            Self::KerplePower => Form {
                name: "kerple_power",
                parameters: const {
                    &[
                        scale(SLOPE),
                        stored("exponent", Role::Shape, Link::TwoLogistic, Start::At(0.0)),
                    ]
                },
                law: Law::Like(|| Ok(KerplePower::new(1.0, 1.0)?.into())),
            },
            Self::StudentT => Form {
                name: "student_t",
                parameters: const {
                    &[
                        location("location"),
                        scale(Start::Slope(|m| -m.ln())),
                        stored("shape", Role::Shape, Link::Exponential, Start::At(0.0)),
                    ]
                },
                law: Law::Like(|| Ok(StudentT::new(0.0, 1.0, 1.0)?.into())),
            },
            Self::T5Buckets => Form {
                name: "t5_buckets",
                parameters: const { &[weights(T5_BUCKETS)] },
                law: Law::Maps(
                    |x| {
                        Ok(
                            T5Buckets::new(x.to_vec(), T5Buckets::MAX_DISTANCE, Direction::Causal)?
                                .into(),
                        )
                    },
                    // The same numbers serve rows of both directions.
                    |prior| match prior {
                        Prior::T5Buckets(of)
                            if of.ln_weights().len() == T5_BUCKETS
                                && of.max_distance() == T5Buckets::MAX_DISTANCE =>
                        {
                            Some(of.ln_weights().to_vec())
                        }
                        _ => None,
                    },
                    |_, by_prior| by_prior,
                ),
            },
            Self::Table => Form {
                name: "table",
                parameters: const { &[weights(TABLE_ENTRIES)] },
                law: Law::Like(|| Ok(Table::new(vec![0.0; TABLE_ENTRIES])?.into())),
            },
            Self::LaplaceSlab => Form {
                name: "laplace_slab",
                parameters: const {
                    &[
                        scale(SLOPE),
                        stored("slab", Role::Shape, Link::Logistic, Start::At(-4.6)),
                    ]
                },
                // The prior's are both weights, then the slope.
                law: Law::Maps(laplace_slab, slope_and_slab, |_, by_prior| {
                    vec![by_prior[2], by_prior[1] - by_prior[0]]
                }),
            },
        }
    }

    /// The name in recipes and checkpoints: `"generalized_gaussian"`.
    pub fn name(self) -> &'static str {
        self.form().name
    }

    /// The family that can hold a prior, if one can.
    pub fn of(prior: &Prior) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|family| family.form().law.values(prior).is_some())
    }

    /// The parameters, with starting values for `heads` heads.
    pub fn parameters(self, heads: usize) -> Vec<ParameterSpec> {
        // No heads have no slopes.
        let slopes = alibi_slopes(heads).unwrap_or_default();
        let spec = |stored: &Stored| ParameterSpec {
            name: stored.name,
            role: stored.role,
            link: stored.link,
            width: stored.width,
            initial: match stored.start {
                Start::At(theta) => vec![theta; heads * stored.width],
                Start::Slope(theta) => slopes.iter().map(|slope| theta(*slope)).collect(),
            },
        };
        self.form().parameters.iter().map(spec).collect()
    }

    /// The prior of a head that stores `θ`, for each parameter its numbers.
    ///
    /// # Errors
    ///
    /// [`Error::Count`] for other numbers of parameters, [`Error::Value`] for values outside of the
    /// law's domain: those of a `θ` that is not finite or very large.
    pub fn prior(self, theta: &[Vec<f64>]) -> Result<Prior, Error> {
        Ok(self.stored_prior(theta, Direction::Causal)?.prior)
    }

    /// [`Family::prior`] with its gradient in `θ`, for rows that look back or both ways: buckets of lags are
    /// laid out by that, all other laws are the same.
    ///
    /// # Errors
    ///
    /// Those of [`Family::prior`].
    pub fn stored_prior(
        self,
        theta: &[Vec<f64>],
        direction: Direction,
    ) -> Result<StoredPrior, Error> {
        let form = self.form();
        if theta.len() != form.parameters.len() {
            return Err(Error::Count {
                what: format!("{} parameters", form.name).into(),
                expected: form.parameters.len().to_string().into(),
                got: theta.len(),
            });
        }
        let (mut values, mut slopes) = (Vec::new(), Vec::new());
        for (stored, theta) in form.parameters.iter().zip(theta) {
            let theta = as_many(form.named(stored), stored.width, theta)?;
            values.extend(theta.iter().map(|theta| stored.link.constrain(*theta)));
            slopes.extend(theta.iter().map(|theta| stored.link.derivative(*theta)));
        }
        let prior = match form.law {
            Law::Like(member) => member()?.with_parameters(&values)?,
            Law::Maps(law, ..) => law(&values)?,
        };
        let prior = match (prior, direction) {
            (Prior::T5Buckets(of), Direction::Bidirectional) => {
                T5Buckets::new(of.ln_weights().to_vec(), of.max_distance(), direction)?.into()
            }
            (prior, _) => prior,
        };
        Ok(StoredPrior {
            prior,
            law: form.law,
            values,
            slopes,
        })
    }

    /// The numbers that a head of this family stores to have that prior: the inverse of [`Family::prior`].
    ///
    /// # Errors
    ///
    /// [`Error::Family`] for a prior of another family or form, [`Error::Value`] for a value at the
    /// open end of its link, such as the exponent 2 of KERPLE-power.
    pub fn theta(self, prior: &Prior) -> Result<Vec<Vec<f64>>, Error> {
        let form = self.form();
        let values = form.law.values(prior).ok_or_else(|| Error::Family {
            family: form.name,
            got: format!("{prior:?}"),
        })?;
        let mut rest = values.as_slice();
        let of_parameter = |stored: &Stored| {
            let (own, others) = rest.split_at(stored.width);
            rest = others;
            let theta = own.iter().map(|value| stored.link.unconstrain(*value));
            let theta: Result<Vec<f64>, Error> = theta.collect();
            theta.map_err(|error| error.about(form.named(stored)))
        };
        form.parameters.iter().map(of_parameter).collect()
    }
}

impl Form {
    fn named(&self, stored: &Stored) -> String {
        format!("{} {}", self.name, stored.name)
    }
}

impl Law {
    /// The values of the parameters that say this prior and nothing else.
    fn values(&self, prior: &Prior) -> Option<Vec<f64>> {
        match self {
            Self::Like(member) => {
                let values: Vec<f64> = prior.parameters().iter().map(|of| of.value).collect();
                let same = member().ok()?.with_parameters(&values).ok()?;
                (same == *prior).then_some(values)
            }
            Self::Maps(_, values, _) => values(prior),
        }
    }
}

/// The prior of a head as a function of the numbers that it stores.
pub struct StoredPrior {
    prior: Prior,
    law: Law,
    values: Vec<f64>,
    /// `dx/dθ` of every number.
    slopes: Vec<f64>,
}

impl StoredPrior {
    /// The prior.
    pub fn prior(&self) -> &Prior {
        &self.prior
    }

    /// `∂ ln w(d) / ∂θ`, parameter after parameter.
    ///
    /// ```
    /// use bam_prior::{Direction, Family};
    ///
    /// // ln w = −e^θ·│d│, whose derivative is ln w again.
    /// let stored = Family::Laplace.stored_prior(&[vec![0.0]], Direction::Causal)?;
    /// assert_eq!(stored.ln_weight_gradient(-3.0), [-3.0]);
    /// # Ok::<(), bam_prior::Error>(())
    /// ```
    pub fn ln_weight_gradient(&self, lag: f64) -> Vec<f64> {
        let by_prior = self.prior.ln_weight_gradient(lag);
        let mut gradient = match self.law {
            Law::Like(_) => by_prior,
            Law::Maps(_, _, by_values) => by_values(&self.values, by_prior),
        };
        for (gradient, slope) in gradient.iter_mut().zip(&self.slopes) {
            *gradient *= slope;
        }
        gradient
    }
}

impl std::fmt::Debug for StoredPrior {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.prior.fmt(f)
    }
}

fn laplace_slab(values: &[f64]) -> Result<Prior, Error> {
    let component = |weight, prior| Component { weight, prior };
    let (laplace, slab) = (Laplace::new(values[0])?, values[1]);
    Ok(Mixture::new(vec![
        component(1.0 - slab, laplace.into()),
        component(slab, Uniform.into()),
    ])?
    .into())
}

fn slope_and_slab(prior: &Prior) -> Option<Vec<f64>> {
    let Prior::Mixture(mixture) = prior else {
        return None;
    };
    match mixture.components() {
        [
            Component {
                prior: Prior::Laplace(laplace),
                ..
            },
            Component {
                prior: Prior::Uniform(_),
                weight,
            },
        ] => Some(vec![laplace.slope(), *weight]),
        _ => None,
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Family {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let mut all = Self::ALL.into_iter();
        let named = all.find(|family| family.name() == name);
        named.ok_or_else(|| Error::FamilyName {
            expected: Self::ALL.map(Self::name).join(", "),
            got: name.into(),
        })
    }
}
