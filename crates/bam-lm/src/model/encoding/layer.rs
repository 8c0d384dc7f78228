//! The encoding of one layer: a way for position to enter, and a temperature of its rows.

use super::fox;
use crate::Error;
use bam_attention::TemperatureScope;
use bam_prior::Family;
use std::fmt;

/// The encoding of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerEncoding {
    /// The way that position enters.
    pub position: Position,
    /// Whether heads have forget gates besides.
    pub forgets: bool,
    /// The factor on the logits of each row, if there is one.
    pub temperature: Option<RowTemperature>,
}

/// A factor on the logits of a row that grows with the keys in sight, and what it multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowTemperature {
    /// Scalable softmax: `s·ln n`, one `s` a head.
    Scalable(TemperatureScope),
    /// Learned of every row ([`AdaptiveTemperature`](crate::model::AdaptiveTemperature)).
    Adaptive(TemperatureScope),
}

impl RowTemperature {
    /// The terms that it multiplies.
    #[must_use]
    pub fn scope(self) -> TemperatureScope {
        match self {
            Self::Scalable(scope) | Self::Adaptive(scope) => scope,
        }
    }

    /// The suffix of an encoding that has it.
    fn suffix(self) -> &'static str {
        match self {
            Self::Scalable(TemperatureScope::LikelihoodAndPrior) => "+ssmax",
            Self::Scalable(TemperatureScope::Likelihood) => "+ssmax-content",
            Self::Adaptive(TemperatureScope::LikelihoodAndPrior) => "+adaptive",
            Self::Adaptive(TemperatureScope::Likelihood) => "+adaptive-content",
        }
    }
}

/// A way for position to enter a layer.
#[derive(Clone, Debug, PartialEq)]
pub enum Position {
    /// Added to the embeddings, before all layers.
    Sinusoidal,
    /// Queries and keys are rotated.
    Rotary,
    /// Rotated, and a row sees the last keys only, in training too.
    RotaryLocal {
        /// Keys at this distance and beyond are hidden; at the training length if nothing is said.
        window: Option<usize>,
    },
    /// As a log-weight per head and lag. `nope`, `alibi` and `bam` are of this kind.
    Prior(Vec<HeadGroup>),
}

/// Neighbouring heads that share a kind of prior.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadGroup {
    /// The kind of prior.
    pub prior: PriorKind,
    /// Number of heads; `None` for all.
    pub heads: Option<usize>,
}

/// A kind of prior.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriorKind {
    /// Uniform: nothing but the causal mask.
    Nope,
    /// Laplace with ALiBi's slopes, fixed.
    Alibi,
    /// A family with learned parameters.
    Learned(Family),
}

impl PriorKind {
    /// The name in encodings.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Nope => "nope",
            Self::Alibi => "alibi",
            Self::Learned(Family::GeneralizedGaussian) => "bam",
            Self::Learned(family) => family.name(),
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "nope" | "uniform" => Some(Self::Nope),
            "alibi" => Some(Self::Alibi),
            "bam" => Some(Self::Learned(Family::GeneralizedGaussian)),
            _ => name.parse().ok().map(Self::Learned),
        }
    }
}

impl std::str::FromStr for PriorKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::named(name).ok_or_else(|| Error::Value {
            what: "family",
            expected: format!("nope, alibi, bam or one of {}", families()),
            got: name.to_owned(),
        })
    }
}

/// The names of all families.
pub(super) fn families() -> String {
    Family::ALL.map(Family::name).join(", ")
}

impl HeadGroup {
    /// `bam`, or `bam:6` with its number of heads.
    fn parsed(text: &str) -> Option<Self> {
        let (name, heads) = match text.split_once(':') {
            None => (text, None),
            Some((name, heads)) => (name, Some(size(heads)?)),
        };
        let prior = PriorKind::named(name)?;
        Some(Self { prior, heads })
    }
}

/// A number above 0.
pub(super) fn size(text: &str) -> Option<usize> {
    text.parse().ok().filter(|size| *size > 0)
}

impl Position {
    /// A position without parentheses; a mixture says the heads of all its groups.
    pub(super) fn parsed(text: &str) -> Option<Self> {
        match text {
            "sinusoidal" => return Some(Self::Sinusoidal),
            "rotary" => return Some(Self::Rotary),
            "rotary_local" => return Some(Self::RotaryLocal { window: None }),
            _ => {}
        }
        if let Some(window) = text.strip_prefix("rotary_local:") {
            let window = Some(size(window)?);
            return Some(Self::RotaryLocal { window });
        }
        let groups: Option<Vec<HeadGroup>> = text.split(',').map(HeadGroup::parsed).collect();
        let said = |groups: &Vec<HeadGroup>| {
            groups.len() == 1 || groups.iter().all(|group| group.heads.is_some())
        };
        groups.filter(said).map(Self::Prior)
    }

    /// Whether it turns queries and keys.
    #[must_use]
    pub fn rotates(&self) -> bool {
        matches!(self, Self::Rotary | Self::RotaryLocal { .. })
    }

    /// The distance at which and beyond which it hides keys, in a model of that training length.
    #[must_use]
    pub fn window(&self, train_length: usize) -> Option<usize> {
        match self {
            Self::RotaryLocal { window } => Some(window.unwrap_or(train_length)),
            _ => None,
        }
    }

    /// Its groups of heads; none where position enters elsewhere.
    #[must_use]
    pub fn head_groups(&self) -> &[HeadGroup] {
        match self {
            Self::Prior(groups) => groups,
            _ => &[],
        }
    }

    /// Whether heads are counted, so that a pattern puts it in parentheses.
    pub(super) fn counts_heads(&self) -> bool {
        self.head_groups().iter().any(|group| group.heads.is_some())
    }
}

/// A learned or fixed prior in all heads.
impl From<PriorKind> for Position {
    fn from(prior: PriorKind) -> Self {
        Self::Prior(vec![HeadGroup { prior, heads: None }])
    }
}

impl fmt::Display for HeadGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.prior.name())?;
        self.heads.map_or(Ok(()), |heads| write!(f, ":{heads}"))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sinusoidal => f.write_str("sinusoidal"),
            Self::Rotary => f.write_str("rotary"),
            Self::RotaryLocal { window: None } => f.write_str("rotary_local"),
            Self::RotaryLocal {
                window: Some(window),
            } => write!(f, "rotary_local:{window}"),
            Self::Prior(groups) => {
                let names: Vec<String> = groups.iter().map(HeadGroup::to_string).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl LayerEncoding {
    /// Whether any head has parameters of its prior to learn.
    #[must_use]
    pub fn learns_prior(&self) -> bool {
        let groups = self.position.head_groups().iter();
        groups
            .map(|group| group.prior)
            .any(|prior| matches!(prior, PriorKind::Learned(_)))
    }

    /// Its position's text, with its gates.
    pub(super) fn with_gates(&self, position: String) -> String {
        match self.forgets {
            true => fox::put_on(&position),
            false => position,
        }
    }

    /// The suffix that says how softmax is scaled.
    pub(super) fn suffix(&self) -> &'static str {
        self.temperature.map_or("", RowTemperature::suffix)
    }
}

/// The temperature that a suffix names, without its `+`.
pub(super) fn scaling(suffix: Option<&str>) -> Option<Option<RowTemperature>> {
    use TemperatureScope::{Likelihood, LikelihoodAndPrior};
    Some(Some(match suffix {
        None => return Some(None),
        Some("ssmax") => RowTemperature::Scalable(LikelihoodAndPrior),
        Some("ssmax-content") => RowTemperature::Scalable(Likelihood),
        Some("adaptive") => RowTemperature::Adaptive(LikelihoodAndPrior),
        Some("adaptive-content") => RowTemperature::Adaptive(Likelihood),
        Some(_) => return None,
    }))
}
