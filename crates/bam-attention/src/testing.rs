//! For tests of an implementation: the cases and the oracle of [`bam_kernel::testing`], and the same
//! cases as tensors.

use crate::Instructions;
use crate::attend::attend;
use crate::device::{DeviceName, is_cpu};
use crate::error::AttentionError;
use crate::key_prior::KeyPrior;
use crate::log_prior::LogPrior;
use crate::options::{Implementation, Options};
use crate::temperature::Temperature;
pub use bam_kernel::testing::{
    AWKWARD_SIZES, Case, KeyNumbers, Shape, oracle, oracle_gradients, oracle_row, signed_numbers,
};
use burn::tensor::{Device, Tensor, TensorData};

/// The tensors of a case, ready for [`attend`].
#[derive(Clone, Debug)]
pub struct Tensors {
    /// `[batch, heads, queries, dim]`.
    pub q: Tensor<4>,
    /// `[batch, key_heads, keys, dim]`.
    pub k: Tensor<4>,
    /// `[batch, key_heads, keys, dim]`.
    pub v: Tensor<4>,
    /// `[heads, lags]`.
    pub ln_weights: Tensor<2>,
    /// `[batch, heads, queries]`; not used where the case has no temperature.
    pub temperature: Tensor<3>,
    /// `[batch, heads or key_heads, keys]`, high and low parts; not used where the case has no prior over keys.
    pub key_prior: [Tensor<3>; 2],
}

/// A [`Case`] on tensors.
pub trait OnTensors {
    /// The case as tensors on `device`.
    fn tensors(&self, device: &Device) -> Tensors;

    /// The case's options, for [`OnTensors::attend_as`]; a test may change how, not what.
    ///
    /// # Errors
    /// If the documents don't fit the batch.
    fn options(
        &self,
        tensors: &Tensors,
        implementation: Implementation,
    ) -> Result<Options, AttentionError>;

    /// [`attend`] on the case's tensors.
    ///
    /// # Errors
    /// Those of [`attend`].
    fn attend(
        &self,
        tensors: &Tensors,
        implementation: Implementation,
    ) -> Result<Tensor<4>, AttentionError>;

    /// [`attend`] on the case's tensors with those options.
    ///
    /// # Errors
    /// Those of [`attend`].
    fn attend_as(&self, tensors: &Tensors, options: &Options) -> Result<Tensor<4>, AttentionError>;

    /// The case's output and its gradients of `Σ out·weights` by q, k, v, log-prior, temperature and prior
    /// over keys, for signed weights that are the same every time.
    ///
    /// # Errors
    /// Those of [`attend`].
    fn passes(
        &self,
        change: impl Fn(Options) -> Options,
        implementation: Implementation,
    ) -> Result<[Vec<f32>; 7], AttentionError>;
}

impl OnTensors for Case {
    fn tensors(&self, device: &Device) -> Tensors {
        let kv = [self.batch, self.key_heads, self.keys, self.dim];
        let rows = [self.batch, self.heads, self.queries];
        let tau = match &self.temperature {
            Some((values, _)) => values.clone(),
            None => vec![1.0; rows.iter().product()],
        };
        let (of_keys, parts) = match &self.key_prior {
            Some(of) => (
                [self.batch, of.heads, self.keys],
                [of.high.clone(), of.low.clone()],
            ),
            None => ([1, 1, 1], [(); 2].map(|()| vec![0.0])),
        };
        let q_shape = [self.batch, self.heads, self.queries, self.dim];
        Tensors {
            q: Tensor::from_data(TensorData::new(self.q.clone(), q_shape), device),
            k: Tensor::from_data(TensorData::new(self.k.clone(), kv), device),
            v: Tensor::from_data(TensorData::new(self.v.clone(), kv), device),
            ln_weights: Tensor::from_data(
                TensorData::new(self.ln_weights.clone(), [self.heads, self.lags]),
                device,
            ),
            temperature: Tensor::from_data(TensorData::new(tau, rows), device),
            key_prior: parts.map(|part| Tensor::from_data(TensorData::new(part, of_keys), device)),
        }
    }

    fn options(
        &self,
        tensors: &Tensors,
        implementation: Implementation,
    ) -> Result<Options, AttentionError> {
        let call = self.call()?;
        let scope = self.temperature_scope();
        Ok(Options {
            visibility: call.visibility,
            query_offset: call.offset,
            window: call.window,
            documents: call.documents,
            temperature: scope.map(|scope| Temperature {
                values: tensors.temperature.clone(),
                scope,
            }),
            key_prior: self.key_prior.as_ref().map(|of| {
                let [values, low] = tensors.key_prior.clone();
                KeyPrior {
                    values,
                    remainders: Some(low),
                    scope: of.scope,
                }
            }),
            ..Options::causal(implementation)
        })
    }

    fn attend(
        &self,
        tensors: &Tensors,
        implementation: Implementation,
    ) -> Result<Tensor<4>, AttentionError> {
        self.attend_as(tensors, &self.options(tensors, implementation)?)
    }

    fn attend_as(&self, tensors: &Tensors, options: &Options) -> Result<Tensor<4>, AttentionError> {
        let prior = LogPrior::new(tensors.ln_weights.clone(), self.lags())?;
        let [q, k, v] = [&tensors.q, &tensors.k, &tensors.v].map(Clone::clone);
        attend(q, k, v, &prior, options)
    }

    fn passes(
        &self,
        change: impl Fn(Options) -> Options,
        implementation: Implementation,
    ) -> Result<[Vec<f32>; 7], AttentionError> {
        let device = test_device().autodiff();
        let plain = self.tensors(&device);
        let [of_keys, low] = plain.key_prior;
        let tensors = Tensors {
            q: plain.q.require_grad(),
            k: plain.k.require_grad(),
            v: plain.v.require_grad(),
            ln_weights: plain.ln_weights.require_grad(),
            temperature: plain.temperature.require_grad(),
            key_prior: [of_keys.require_grad(), low],
        };
        let options = change(self.options(&tensors, implementation)?);
        let out = self.attend_as(&tensors, &options)?;
        let weights = TensorData::new(self.loss_weights(), out.dims());
        let weights = Tensor::from_data(weights, &device);
        let gradients = (out.clone() * weights).sum().backward();
        Ok([
            numbers(Some(out.into_data())),
            numbers(tensors.q.grad(&gradients).map(Tensor::into_data)),
            numbers(tensors.k.grad(&gradients).map(Tensor::into_data)),
            numbers(tensors.v.grad(&gradients).map(Tensor::into_data)),
            numbers(tensors.ln_weights.grad(&gradients).map(Tensor::into_data)),
            numbers(tensors.temperature.grad(&gradients).map(Tensor::into_data)),
            numbers(tensors.key_prior[0].grad(&gradients).map(Tensor::into_data)),
        ])
    }
}

/// The device that a test is for: that of the environment variable `BAM_TEST_DEVICE`, else the CPU.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn test_device() -> Device {
    let name = std::env::var("BAM_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device = name.parse().and_then(DeviceName::open);
    device.unwrap_or_else(|error| panic!("BAM_TEST_DEVICE: {error}"))
}

/// Whether that device is the CPU, whose kernel has a version for every instruction set.
#[must_use]
pub fn on_cpu() -> bool {
    is_cpu(&test_device())
}

/// Those that the fused implementation has versions for, on the device that a test is for.
#[must_use]
pub fn instructions() -> Vec<Instructions> {
    match on_cpu() {
        true => Instructions::available(),
        false => vec![Instructions::detect()],
    }
}

/// [`AWKWARD_SIZES`], or fewer on a software device: see [`affordable`].
#[must_use]
pub fn awkward_sizes() -> Vec<[usize; 6]> {
    let all = AWKWARD_SIZES.into_iter();
    all.filter(|size| affordable(size[5])).collect()
}

/// The kernel's cases for gradients, or fewer on a software device: see [`affordable`].
#[must_use]
pub fn gradient_cases() -> Vec<Case> {
    let mut cases = bam_kernel::testing::gradient_cases();
    cases.retain(|case| affordable(case.dim));
    cases
}

/// Whether heads of that width are tested: with the environment variable `BAM_TEST_REDUCED` those up to
/// 16 only, which one kernel serves; a software device takes seconds to compile each.
#[must_use]
pub fn affordable(dim: usize) -> bool {
    dim <= 16 || std::env::var_os("BAM_TEST_REDUCED").is_none()
}

fn numbers(data: Option<TensorData>) -> Vec<f32> {
    data.and_then(|data| data.try_into_vec().ok())
        .unwrap_or_default()
}
