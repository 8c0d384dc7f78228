//! Encodings, the ways that position enters a model: one sum type for all encodings, orthogonal to scalable softmax.
//!
//! An [`Encoding`] is written as text: `nope`, `sinusoidal`, `rotary`, `rotary_local`, `alibi`,
//! `bam`, the name of any prior family ([`Family`]), or several of them with their number of
//! heads, such as `alibi:2,bam:6`. `fox` is forget gates, `fox+bam` and the like gates beside another. `+ssmax` adds scalable softmax on likelihood and prior,
//! `+ssmax-content` on the likelihood only.

use super::fox;
use crate::Error;
use bam_attention::TemperatureScope;
use bam_prior::Family;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The encoding of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Encoding {
    /// The way that position enters.
    pub position: Position,
    /// Whether heads have forget gates besides.
    pub forgets: bool,
    /// Scalable softmax and what it multiplies, if it is on.
    pub ssmax: Option<TemperatureScope>,
}

/// A way for position to enter a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Position {
    /// Added to the embeddings.
    Sinusoidal,
    /// Queries and keys are rotated.
    Rotary,
    /// Rotated, and keys at the training length and beyond are hidden.
    RotaryLocal,
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

impl FromStr for PriorKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::named(name).ok_or_else(|| Error::Value {
            what: "family",
            expected: format!("nope, alibi, bam or one of {}", families()),
            got: name.to_owned(),
        })
    }
}

fn families() -> String {
    Family::ALL.map(Family::name).join(", ")
}

impl Encoding {
    /// The six positions of the paper, each without and with scalable softmax.
    #[must_use]
    pub fn all_twelve() -> Vec<Self> {
        [
            "nope",
            "sinusoidal",
            "rotary",
            "rotary_local",
            "alibi",
            "bam",
        ]
        .iter()
        .flat_map(|name| [(*name).to_owned(), format!("{name}+ssmax")])
        .map(|name| {
            name.parse()
                .expect("the names of the paper's encodings parse")
        })
        .collect()
    }

    /// The encoding's position part, as text.
    #[must_use]
    pub fn position_name(&self) -> String {
        let position = match &self.position {
            Position::Sinusoidal => "sinusoidal".into(),
            Position::Rotary => "rotary".into(),
            Position::RotaryLocal => "rotary_local".into(),
            Position::Prior(groups) => {
                let names: Vec<String> = groups
                    .iter()
                    .map(|group| match group.heads {
                        Some(heads) => format!("{}:{heads}", group.prior.name()),
                        None => group.prior.name().to_owned(),
                    })
                    .collect();
                names.join(",")
            }
        };
        match self.forgets {
            true => fox::put_on(&position),
            false => position,
        }
    }

    /// Whether any head has parameters of its prior to learn.
    #[must_use]
    pub fn learns_prior(&self) -> bool {
        matches!(&self.position, Position::Prior(groups)
            if groups.iter().any(|group| matches!(group.prior, PriorKind::Learned(_))))
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ssmax = match self.ssmax {
            None => "",
            Some(TemperatureScope::LikelihoodAndPrior) => "+ssmax",
            Some(TemperatureScope::Likelihood) => "+ssmax-content",
        };
        write!(f, "{}{ssmax}", self.position_name())
    }
}

impl From<Encoding> for String {
    fn from(encoding: Encoding) -> Self {
        encoding.to_string()
    }
}

impl TryFrom<String> for Encoding {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl FromStr for Encoding {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unknown = || Error::Value {
            what: "encoding",
            expected: format!(
                "nope, sinusoidal, rotary, rotary_local, alibi, bam, one of {} or a mixture \
                     such as alibi:2,bam:6; fox, or fox+ before one of these; each with +ssmax or +ssmax-content if wanted",
                families()
            ),
            got: text.to_owned(),
        };
        let (forgets, rest) = fox::taken_off(text);
        let (position, ssmax) = match rest.split_once('+') {
            None => (rest.as_str(), None),
            Some((position, "ssmax")) => (position, Some(TemperatureScope::LikelihoodAndPrior)),
            Some((position, "ssmax-content")) => (position, Some(TemperatureScope::Likelihood)),
            Some(_) => return Err(unknown()),
        };
        let position = match position {
            "sinusoidal" => Position::Sinusoidal,
            "rotary" => Position::Rotary,
            "rotary_local" => Position::RotaryLocal,
            groups => Position::Prior(
                groups
                    .split(',')
                    .map(|group| {
                        let (name, heads) = match group.split_once(':') {
                            None => (group, None),
                            Some((name, heads)) => (name, Some(heads.parse().ok()?)),
                        };
                        let prior = PriorKind::named(name)?;
                        (heads != Some(0)).then_some(HeadGroup { prior, heads })
                    })
                    .collect::<Option<Vec<_>>>()
                    .filter(|groups| groups.len() == 1 || groups.iter().all(|g| g.heads.is_some()))
                    .ok_or_else(unknown)?,
            ),
        };
        Ok(Self {
            position,
            forgets,
            ssmax,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in [
            "nope",
            "rotary_local+ssmax",
            "bam+ssmax-content",
            "alibi:2,bam:6+ssmax",
            "kerple_log",
        ] {
            assert_eq!(text.parse::<Encoding>().unwrap().to_string(), text);
        }
        assert_eq!(Encoding::all_twelve().len(), 12);
    }

    #[test]
    fn what_is_no_encoding_is_an_error_that_names_it() {
        for text in [
            "",
            "bamm",
            "bam+",
            "bam+softmax",
            "bam:0",
            "bam:x",
            "bam,alibi",
            "rotary:2",
        ] {
            let error = text.parse::<Encoding>().unwrap_err().to_string();
            assert!(error.starts_with("encoding: expected"), "{text}: {error}");
        }
    }
}
