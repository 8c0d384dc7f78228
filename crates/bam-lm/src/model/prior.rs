//! The priors that an encoding names, as configurations of modules.

use super::config::{ModelConfig, PriorScope, PriorStart};
use super::encoding::{HeadGroup, Position, PriorKind};
use crate::Error;
use bam_attention::nn::{PositionalPriorConfig, PriorGroupConfig};
use bam_prior::{Family, GeneralizedGaussian, Role, alibi_slopes};
use burn::tensor::Tensor;

impl PriorKind {
    pub(crate) fn family(self) -> Family {
        match self {
            Self::Nope => Family::Uniform,
            Self::Alibi => Family::Laplace,
            Self::Learned(family) => family,
        }
    }

    /// Whether the parameters belong to a checkpoint. ALiBi's follow from the number of heads.
    pub(crate) fn stored(self) -> bool {
        matches!(self, Self::Learned(_))
    }

    /// So many heads of this kind.
    ///
    /// # Errors
    /// If `start` has a shape that is none.
    pub(crate) fn config(self, heads: usize, start: PriorStart) -> Result<PriorGroupConfig, Error> {
        let fixed = match self {
            Self::Nope | Self::Alibi => vec![Role::Scale],
            Self::Learned(_) if start.learn_location => Vec::new(),
            Self::Learned(_) => vec![Role::Location],
        };
        let config = PriorGroupConfig::new(self.family(), heads).with_fixed(fixed);
        if self != Self::Learned(Family::GeneralizedGaussian) {
            return Ok(config);
        }
        let slopes = alibi_slopes(heads)?.into_iter();
        let priors = slopes
            .zip(start.shape.of_heads(heads))
            .map(|(slope, shape)| GeneralizedGaussian::new(0.0, slope, shape).map(Into::into));
        Ok(config.with_start(Some(priors.collect::<Result<_, bam_prior::Error>>()?)))
    }
}

impl ModelConfig {
    /// # Errors
    /// If the model has forget gates: `what` follows from priors over lags alone.
    pub(crate) fn check_lags_alone(&self, what: &'static str) -> Result<(), Error> {
        match self.encoding.forgets {
            false => Ok(()),
            true => Err(Error::Value {
                what,
                expected: "priors over lags alone".into(),
                got: format!(
                    "forget gates ({}), a prior over keys that depends on the text",
                    self.encoding
                ),
            }),
        }
    }

    /// The encoding's groups of heads; none where position enters elsewhere.
    pub(crate) fn head_groups(&self) -> &[HeadGroup] {
        match &self.encoding.position {
            Position::Prior(groups) => groups,
            _ => &[],
        }
    }

    /// The priors of those who have one in a place: all layers together, or each.
    ///
    /// # Errors
    /// Those of [`PriorKind::config`].
    pub(crate) fn priors_of(
        &self,
        place: PriorScope,
    ) -> Result<Option<PositionalPriorConfig>, Error> {
        let groups = self.head_groups();
        if groups.is_empty() || self.prior_scope != place {
            return Ok(None);
        }
        let of_group = |group: &HeadGroup| {
            let heads = group.heads.unwrap_or(self.heads);
            group.prior.config(heads, self.prior_start)
        };
        let groups = groups.iter().map(of_group).collect::<Result<_, Error>>()?;
        Ok(Some(PositionalPriorConfig::new(groups)))
    }
}

/// A tensor's values on the host.
#[must_use]
pub fn host_values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .convert::<f32>()
        .try_into_vec()
        .expect("a tensor that was converted to f32 holds f32")
}
