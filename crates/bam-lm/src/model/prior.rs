//! The priors of a layer's heads as a module: groups of heads, each with its family.

use super::config::{ModelConfig, PriorStart};
use crate::Error;
use crate::model::encoding::{HeadGroup, PriorKind};
use bam_attention::log_prior::{Family, LagGrid, ParameterSpec, Role, family};
use bam_attention::{Lags, LogPrior};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

/// The priors of all heads that share a place: one layer, or the whole model.
#[derive(Module, Debug)]
pub struct PriorHeads {
    pub(crate) groups: Vec<PriorGroup>,
}

/// Neighbouring heads of one family.
#[derive(Module, Debug)]
pub struct PriorGroup {
    /// Unconstrained, `[heads, width]` each, in the order of the family's parameters.
    pub(crate) theta: Vec<Param<Tensor<2>>>,
    #[module(skip)]
    pub(crate) kind: Kind,
    #[module(skip)]
    pub(crate) heads: usize,
}

/// A kind of prior, named by what the encoding calls it.
#[derive(Clone, Debug)]
pub(crate) struct Kind(pub PriorKind);

impl PriorGroup {
    fn new(prior: PriorKind, heads: usize, start: PriorStart, device: &Device) -> Self {
        let specs = Kind(prior).specs(heads, start);
        let initial = specs.iter().map(|spec| spec.initial.iter());
        let theta = initial.map(|values| values.map(|x| *x as f32).collect());
        Self::with_theta(prior, heads, theta.collect(), start, device)
    }

    /// Heads with these unconstrained values, `heads × width` of each parameter.
    pub(crate) fn with_theta(
        prior: PriorKind,
        heads: usize,
        theta: Vec<Vec<f32>>,
        start: PriorStart,
        device: &Device,
    ) -> Self {
        let kind = Kind(prior);
        let specs = kind.specs(heads, start).into_iter();
        let theta = specs
            .zip(theta)
            .map(|(spec, values)| {
                let data = TensorData::new(values, [heads, spec.width]);
                Param::from_data(data, device).set_require_grad(kind.learns(&spec, start))
            })
            .collect();
        Self { theta, kind, heads }
    }

    pub(crate) fn specs(&self, start: PriorStart) -> Vec<ParameterSpec> {
        self.kind.specs(self.heads, start)
    }

    fn ln_weight(&self, grid: &LagGrid) -> Tensor<2> {
        let theta: Vec<Tensor<2>> = self.theta.iter().map(Param::val).collect();
        let grid = LagGrid {
            heads: self.heads,
            ..grid.clone()
        };
        self.kind.family().ln_weight(&theta, &grid)
    }
}

impl Kind {
    pub(crate) fn family(&self) -> &'static dyn Family {
        let named = |name| family(name).expect("the family is registered");
        match self.0 {
            PriorKind::Nope => named("uniform"),
            PriorKind::Alibi => named("laplace"),
            PriorKind::Learned(family) => family,
        }
    }

    pub(crate) fn specs(&self, heads: usize, start: PriorStart) -> Vec<ParameterSpec> {
        let mut specs = self.family().parameters(heads);
        if self.0.name() == "bam" {
            for spec in specs.iter_mut().filter(|spec| spec.role == Role::Shape) {
                spec.initial = start.shape.of_heads(heads);
            }
        }
        specs
    }

    pub(crate) fn learns(&self, spec: &ParameterSpec, start: PriorStart) -> bool {
        self.stored() && (spec.role != Role::Location || start.learn_location)
    }

    /// Whether the parameters belong to a checkpoint. ALiBi's follow from the number of heads.
    pub(crate) fn stored(&self) -> bool {
        matches!(self.0, PriorKind::Learned(_))
    }
}

impl PriorHeads {
    pub(crate) fn new(groups: &[HeadGroup], config: &ModelConfig, device: &Device) -> Self {
        let groups = groups
            .iter()
            .map(|group| {
                let heads = group.heads.unwrap_or(config.heads);
                PriorGroup::new(group.prior, heads, config.prior_start, device)
            })
            .collect();
        Self { groups }
    }

    /// The log-weights of all heads over the lags.
    pub(crate) fn log_prior(&self, lags: Lags, device: &Device) -> Result<LogPrior, Error> {
        let grid = LagGrid {
            heads: 0,
            lags,
            device: device.clone(),
        };
        let mut rows: Vec<Tensor<2>> = self.groups.iter().map(|g| g.ln_weight(&grid)).collect();
        let rows = match rows.len() {
            1 => rows.remove(0),
            _ => Tensor::cat(rows, 0),
        };
        Ok(LogPrior::new(rows, lags)?)
    }

    /// Every head's prior as a distribution.
    ///
    /// # Errors
    /// If parameters are outside their family's domain, for example NaN.
    pub fn distributions(&self) -> Result<Vec<bam_prior::Prior>, Error> {
        let each = self.each_distribution().into_iter();
        Ok(each.collect::<Result<_, bam_prior::Error>>()?)
    }

    /// The same head by head, so that one that is none does not hide the others.
    pub(crate) fn each_distribution(&self) -> Vec<Result<bam_prior::Prior, bam_prior::Error>> {
        let mut priors = Vec::new();
        for group in &self.groups {
            let theta: Vec<Vec<f32>> = group
                .theta
                .iter()
                .map(|param| host_values(param.val()))
                .collect();
            for head in 0..group.heads {
                let of_head: Vec<Vec<f64>> = theta
                    .iter()
                    .map(|values| {
                        let width = values.len() / group.heads;
                        values[head * width..][..width]
                            .iter()
                            .map(|x| f64::from(*x))
                            .collect()
                    })
                    .collect();
                priors.push(group.kind.family().prior(&of_head));
            }
        }
        priors
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
