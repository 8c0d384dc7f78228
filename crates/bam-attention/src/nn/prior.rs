//! Priors as a module: groups of neighbouring heads, each of one family, learned or fixed.

use crate::log_prior::{LagGrid, ln_weight};
use crate::{AttentionError, Lags, LogPrior};
use bam_kernel::KernelError;
use bam_prior::{Family, ParameterSpec, Prior, Role};
use burn::config::Config;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

/// The priors of a layer's heads.
///
/// ```
/// use bam_attention::Lags;
/// use bam_attention::nn::{Family, PositionalPriorConfig};
/// use burn::tensor::Device;
///
/// let prior = PositionalPriorConfig::learned(Family::Laplace, 4).init(&Device::flex())?;
/// assert_eq!(prior.forward(Lags::causal(100)).ln_weights().dims(), [4, 100]);
/// let slopes = prior.priors()?; // each head as a distribution
/// assert_eq!(prior.with_priors(&slopes)?.priors()?, slopes);
/// # Ok::<(), bam_attention::AttentionError>(())
/// ```
#[derive(Config, Debug, PartialEq)]
pub struct PositionalPriorConfig {
    /// Neighbouring heads, group after group.
    pub groups: Vec<PriorGroupConfig>,
}

/// Neighbouring heads of one family.
#[derive(Config, Debug, PartialEq)]
pub struct PriorGroupConfig {
    /// The family, by its type or `"kerple_log".parse()?`.
    pub family: Family,
    /// Number of heads.
    pub heads: usize,
    /// The prior that each head starts with; where none are given, the family's own start.
    pub start: Option<Vec<Prior>>,
    /// Roles whose parameters stay as they start.
    #[config(default = "Vec::new()")]
    pub fixed: Vec<Role>,
}

impl PositionalPriorConfig {
    /// Heads that learn every parameter of the family, from its own start: ALiBi, where it can be.
    #[must_use]
    pub fn learned(family: Family, heads: usize) -> Self {
        Self::new(vec![PriorGroupConfig::new(family, heads)])
    }

    /// Heads with ALiBi's slopes, which do not learn.
    #[must_use]
    pub fn alibi(heads: usize) -> Self {
        Self::learned(Family::Laplace, heads).fixed(&[Role::Scale])
    }

    /// Heads without position (NoPE).
    #[must_use]
    pub fn uniform(heads: usize) -> Self {
        Self::learned(Family::Uniform, heads)
    }

    /// Heads that learn on from these distributions, each in its family.
    ///
    /// # Errors
    /// [`AttentionError::Value`] for a prior that belongs to no family.
    pub fn from_priors(priors: &[Prior]) -> Result<Self, AttentionError> {
        let mut groups: Vec<PriorGroupConfig> = Vec::new();
        for prior in priors {
            let family = Family::of(prior).ok_or_else(|| AttentionError::Value {
                what: "prior",
                expected: "one of a family that is learned".into(),
                got: format!("{prior:?}"),
            })?;
            match groups.last_mut() {
                Some(last) if last.family == family => {
                    last.heads += 1;
                    last.start.get_or_insert_default().push(prior.clone());
                }
                _ => groups
                    .push(PriorGroupConfig::new(family, 1).with_start(Some(vec![prior.clone()]))),
            }
        }
        Ok(Self::new(groups))
    }

    /// These heads, and others after them.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.groups.extend(others.groups);
        self
    }

    /// The same; parameters of these roles do not learn.
    #[must_use]
    pub fn fixed(mut self, roles: &[Role]) -> Self {
        for group in &mut self.groups {
            group.fixed.extend(roles);
        }
        self
    }

    /// Number of heads.
    #[must_use]
    pub fn heads(&self) -> usize {
        self.groups.iter().map(|group| group.heads).sum()
    }

    /// The module.
    ///
    /// # Errors
    /// Without heads; [`AttentionError::Prior`] if a group's starting priors are not as many as its
    /// heads, or of another family.
    pub fn init(&self, device: &Device) -> Result<PositionalPrior, AttentionError> {
        let groups = self.groups.iter().map(|group| group.init(device));
        PositionalPrior::of_groups(groups.collect::<Result<_, _>>()?, device)
    }
}

impl PriorGroupConfig {
    /// The unconstrained numbers that heads start with, `heads × width` for each parameter.
    ///
    /// # Errors
    /// Those of [`PositionalPriorConfig::init`].
    pub fn theta(&self) -> Result<Vec<Vec<f32>>, AttentionError> {
        match &self.start {
            Some(priors) => theta_of(self.family, self.heads, priors),
            None => {
                let specs = self.family.parameters(self.heads).into_iter();
                let theta = specs.map(|spec| spec.initial.iter().map(|x| *x as f32).collect());
                Ok(theta.collect())
            }
        }
    }

    /// The module.
    ///
    /// # Errors
    /// Those of [`PositionalPriorConfig::init`].
    pub fn init(&self, device: &Device) -> Result<PriorGroup, AttentionError> {
        self.init_at(self.theta()?, device)
    }

    /// The module with these unconstrained numbers, `heads × width` for each parameter.
    ///
    /// # Errors
    /// Without heads, or for other numbers of numbers.
    pub fn init_at(
        &self,
        theta: Vec<Vec<f32>>,
        device: &Device,
    ) -> Result<PriorGroup, AttentionError> {
        if self.heads == 0 {
            return Err(KernelError::Empty {
                what: "heads of a prior",
            }
            .into());
        }
        let specs = self.family.parameters(self.heads);
        let given: Vec<usize> = theta.iter().map(Vec::len).collect();
        let needed: Vec<usize> = specs.iter().map(|spec| spec.initial.len()).collect();
        if given != needed {
            return Err(AttentionError::Value {
                what: "parameters of a prior",
                expected: format!(
                    "{needed:?} numbers for {} heads of {}",
                    self.heads, self.family
                ),
                got: format!("{given:?}"),
            });
        }
        let param = |(spec, values): (&ParameterSpec, Vec<f32>)| {
            let data = TensorData::new(values, [self.heads, spec.width]);
            let learns = !self.fixed.contains(&spec.role);
            Param::from_data(data, device).set_require_grad(learns)
        };
        Ok(PriorGroup {
            theta: specs.iter().zip(theta).map(param).collect(),
            family: self.family,
            heads: self.heads,
            fixed: self.fixed.clone(),
        })
    }
}

/// The priors of a layer's heads, with parameters that can learn; made by [`PositionalPriorConfig`].
#[derive(Module, Debug)]
pub struct PositionalPrior {
    /// Neighbouring heads, group after group.
    pub groups: Vec<PriorGroup>,
    /// One number, which says where heads without parameters are.
    place: Tensor<1>,
}

/// Neighbouring heads of one family.
#[derive(Module, Debug)]
pub struct PriorGroup {
    /// Unconstrained, `[heads, width]` each, in the order of [`Family::parameters`].
    pub theta: Vec<Param<Tensor<2>>>,
    #[module(skip)]
    family: Family,
    heads: usize,
    #[module(skip)]
    fixed: Vec<Role>,
}

impl PositionalPrior {
    /// The heads of these groups.
    ///
    /// # Errors
    /// Without groups.
    pub fn of_groups(groups: Vec<PriorGroup>, device: &Device) -> Result<Self, AttentionError> {
        if groups.is_empty() {
            return Err(KernelError::Empty {
                what: "heads of a prior",
            }
            .into());
        }
        Ok(Self {
            groups,
            place: Tensor::zeros([1], device),
        })
    }

    /// Number of heads.
    #[must_use]
    pub fn heads(&self) -> usize {
        self.groups.iter().map(|group| group.heads).sum()
    }

    /// `ln w_h(d)` of every head over the lags, differentiable in the parameters.
    #[must_use]
    pub fn forward(&self, lags: Lags) -> LogPrior {
        let mut theta = self.groups.iter().flat_map(|group| &group.theta);
        let device = match theta.next() {
            Some(theta) => theta.val().device(),
            None => self.place.device(),
        };
        let of_group = |group: &PriorGroup| {
            let theta: Vec<Tensor<2>> = group.theta.iter().map(Param::val).collect();
            let grid = LagGrid {
                heads: group.heads,
                lags,
                device: device.clone(),
            };
            ln_weight(group.family, &theta, &grid)
        };
        let mut groups: Vec<Tensor<2>> = self.groups.iter().map(of_group).collect();
        let ln_weights = match groups.len() {
            1 => groups.remove(0),
            _ => Tensor::cat(groups, 0),
        };
        LogPrior::of(ln_weights, lags)
    }

    /// Every head as a distribution; of [`Family::T5Buckets`] that of causal rows.
    ///
    /// # Errors
    /// [`AttentionError::Prior`] if parameters are outside their family's domain, for example NaN.
    pub fn priors(&self) -> Result<Vec<Prior>, AttentionError> {
        let each = self.each_prior().into_iter();
        Ok(each.collect::<Result<_, bam_prior::Error>>()?)
    }

    /// The same head by head, so that one that is none does not hide the others.
    #[must_use]
    pub fn each_prior(&self) -> Vec<Result<Prior, bam_prior::Error>> {
        let of_group = |group: &PriorGroup| -> Vec<_> {
            let theta: Vec<Vec<f64>> = group.theta.iter().map(values).collect();
            let specs = group.family.parameters(group.heads);
            let of_head = |head| {
                let of =
                    |(spec, theta): (&ParameterSpec, &Vec<f64>)| spec.of_head(theta, head).to_vec();
                let theta: Vec<Vec<f64>> = specs.iter().zip(&theta).map(of).collect();
                group.family.prior(&theta)
            };
            (0..group.heads).map(of_head).collect()
        };
        self.groups.iter().flat_map(of_group).collect()
    }

    /// The same module with other distributions in its heads, up to the rounding of what is stored to
    /// `f32`. Parameters keep their ids, and learn if they did.
    ///
    /// # Errors
    /// [`AttentionError::Value`] unless there are as many as heads, [`AttentionError::Prior`] for one
    /// of another family than its head, or that its parameters can't say.
    pub fn with_priors(mut self, priors: &[Prior]) -> Result<Self, AttentionError> {
        if priors.len() != self.heads() {
            return Err(AttentionError::Value {
                what: "priors",
                expected: format!("one for each of {} heads", self.heads()),
                got: priors.len().to_string(),
            });
        }
        let mut rest = priors;
        for group in &mut self.groups {
            let (own, others) = rest.split_at(group.heads);
            rest = others;
            let theta = theta_of(group.family, group.heads, own)?;
            let params = std::mem::take(&mut group.theta).into_iter();
            group.theta = params.zip(theta).map(with_values).collect();
        }
        Ok(self)
    }
}

impl PriorGroup {
    /// The family.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Number of heads.
    #[must_use]
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Whether parameters of a role were made to learn.
    #[must_use]
    pub fn learns(&self, role: Role) -> bool {
        !self.fixed.contains(&role)
    }
}

/// The numbers that heads of a family store to have these priors: `heads × width` for each parameter.
fn theta_of(
    family: Family,
    heads: usize,
    priors: &[Prior],
) -> Result<Vec<Vec<f32>>, AttentionError> {
    if priors.len() != heads {
        return Err(AttentionError::Value {
            what: "starting priors",
            expected: format!("one for each of {heads} heads"),
            got: priors.len().to_string(),
        });
    }
    let mut all = vec![Vec::new(); family.parameters(0).len()];
    for prior in priors {
        for (all, theta) in all.iter_mut().zip(family.theta(prior)?) {
            all.extend(theta.into_iter().map(|x| x as f32));
        }
    }
    match all.iter().flatten().all(|x| x.is_finite()) {
        true => Ok(all),
        false => Err(AttentionError::Value {
            what: "priors",
            expected: "parameters that f32 can hold".into(),
            got: format!("{priors:?}"),
        }),
    }
}

fn values(param: &Param<Tensor<2>>) -> Vec<f64> {
    param.val().into_data().iter::<f64>().collect()
}

fn with_values((param, values): (Param<Tensor<2>>, Vec<f32>)) -> Param<Tensor<2>> {
    param.map(|old| {
        let learns = old.is_require_grad();
        let data = TensorData::new(values, old.dims());
        let new = Tensor::from_data(data, &old.device());
        if learns { new.require_grad() } else { new }
    })
}
