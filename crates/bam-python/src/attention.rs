//! The operation.

use crate::dlpack::Tensor;
use crate::error::value_error;
use crate::threads;
use bam_kernel::{
    Call, Documents, GradientsMut, Instructions, KeyPrior, KeyPriorScope, Lags, LogWeights,
    Operands, Plan, Temperature, TemperatureScope, Visibility,
};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use std::sync::Arc;

/// Everything about a call besides its numbers.
#[pyclass(frozen, from_py_object)]
#[derive(Clone)]
pub struct Rules {
    call: Call,
    first_lag: i64,
    scope: TemperatureScope,
    key_prior_scope: KeyPriorScope,
    threads: usize,
}

#[pymethods]
impl Rules {
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    #[new]
    #[pyo3(signature = (*, causal, query_offset, window, first_lag, temperature_scope, key_prior_scope, skipping, threads, instructions=None))]
    fn new(
        causal: bool,
        query_offset: i64,
        window: Option<i64>,
        first_lag: i64,
        temperature_scope: &str,
        key_prior_scope: &str,
        skipping: &str,
        threads: usize,
        instructions: Option<&str>,
    ) -> PyResult<Self> {
        let scope = scope(temperature_scope)?;
        let key_prior_scope = match key_prior_scope {
            "added" => KeyPriorScope::Added,
            "scaled" => KeyPriorScope::Scaled,
            got => {
                return Err(value_error(format!(
                    "key_prior_scope: expected 'added' or 'scaled', got '{got}'"
                )));
            }
        };
        let count = |what: &str, given: i64| {
            let wrong = |_| value_error(format!("{what}: expected at least 0, got {given}"));
            usize::try_from(given).map_err(wrong)
        };
        let window = window.map(|given| count("window", given)).transpose()?;
        let instructions = match instructions {
            None => Instructions::detect(),
            Some(name) => named(name)?,
        };
        let call = Call {
            instructions,
            offset: count("query_offset", query_offset)?,
            visibility: if causal {
                Visibility::Causal
            } else {
                Visibility::Full
            },
            window,
            skipping: skipping.parse().map_err(value_error)?,
            ..Call::causal()
        };
        Ok(Self {
            call,
            first_lag,
            scope,
            key_prior_scope,
            threads,
        })
    }
}

/// Vector instructions by their name, for benchmarks and for the same bits on unlike processors.
fn named(name: &str) -> PyResult<Instructions> {
    let is_it = |of: &Instructions| format!("{of:?}").eq_ignore_ascii_case(name);
    let available = Instructions::available();
    available.iter().copied().find(is_it).ok_or_else(|| {
        value_error(format!(
            "instructions: expected one of {available:?}, got '{name}'"
        ))
    })
}

/// The scope of a temperature by its name.
///
/// # Errors
/// If it is another word.
pub fn scope(name: &str) -> PyResult<TemperatureScope> {
    match name {
        "likelihood_and_prior" => Ok(TemperatureScope::LikelihoodAndPrior),
        "likelihood" => Ok(TemperatureScope::Likelihood),
        got => Err(value_error(format!(
            "temperature_scope: expected 'likelihood_and_prior' or 'likelihood', got '{got}'"
        ))),
    }
}

/// Tensors of a call.
struct Given {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ln_weights: Tensor,
    temperature: Option<Tensor>,
    key_prior: Option<Tensor>,
    key_remainders: Option<Tensor>,
    documents: Option<[Tensor; 2]>,
    rules: Rules,
}

type Capsule<'py> = Bound<'py, PyCapsule>;

/// A call as Python makes it: `q`, `k`, `v`, log-weights, temperature, prior over keys and its remainders, documents of
/// queries and keys, and its rules.
#[derive(FromPyObject)]
pub struct Asked<'py>(
    Capsule<'py>,
    Capsule<'py>,
    Capsule<'py>,
    Capsule<'py>,
    Option<Capsule<'py>>,
    Option<Capsule<'py>>,
    Option<Capsule<'py>>,
    Option<[Capsule<'py>; 2]>,
    Rules,
);

impl Given {
    fn take(
        Asked(q, k, v, ln_weights, temperature, key_prior, low, documents, rules): Asked<'_>,
    ) -> PyResult<Self> {
        let taken =
            |what, of: Option<Capsule<'_>>| of.map(|of| Tensor::take(what, &of)).transpose();
        Ok(Self {
            q: Tensor::take("q", &q)?,
            k: Tensor::take("k", &k)?,
            v: Tensor::take("v", &v)?,
            ln_weights: Tensor::take("log_prior", &ln_weights)?,
            temperature: taken("temperature", temperature)?,
            key_prior: taken("key_prior", key_prior)?,
            key_remainders: taken("remainders of key_prior", low)?,
            documents: documents.map(taken_documents).transpose()?,
            rules,
        })
    }

    fn operands(&self) -> PyResult<Operands<'_>> {
        let (ln_weights, [heads, count]) = self.ln_weights.floats()?;
        let lags = Lags::starting_at(self.rules.first_lag, count);
        let temperature = self.temperature.as_ref().map(|of| {
            let (values, shape) = of.floats()?;
            Temperature::new(values, shape, self.rules.scope).map_err(value_error)
        });
        let key_prior = self.key_prior.as_ref().map(|of| {
            let (values, shape) = of.floats()?;
            let prior = KeyPrior::new(values, shape, self.rules.key_prior_scope);
            let prior = prior.map_err(value_error)?;
            match &self.key_remainders {
                Some(of) => prior
                    .with_remainders(of.floats::<3>()?.0)
                    .map_err(value_error),
                None => Ok(prior),
            }
        });
        Ok(Operands {
            q: self.q.rows()?,
            k: self.k.rows()?,
            v: self.v.rows()?,
            ln_weights: LogWeights::new(ln_weights, heads, lags).map_err(value_error)?,
            temperature: temperature.transpose()?,
            key_prior: key_prior.transpose()?,
        })
    }

    fn plan(&self, operands: &Operands<'_>) -> PyResult<Plan> {
        let mut call = self.rules.call.clone();
        if let Some([of_queries, of_keys]) = &self.documents {
            call.documents = Some(Arc::new(documents(of_queries, of_keys)?));
        }
        Plan::new(call, operands.shapes()).map_err(value_error)
    }
}

/// Threads that a call is worth: to wake one takes as long as a small call. Results are the same bits for any number.
fn worth(plan: &Plan, rules: &Rules) -> usize {
    const PRODUCTS: usize = 1 << 19;
    let ([batch, heads, queries, dim], keys) = (plan.shapes().q, plan.shapes().k[2]);
    rules
        .threads
        .min(batch * heads * queries * keys * dim / PRODUCTS + 1)
}

fn taken_documents([of_queries, of_keys]: [Capsule<'_>; 2]) -> PyResult<[Tensor; 2]> {
    Ok([
        Tensor::take("documents of the queries", &of_queries)?,
        Tensor::take("documents of the keys", &of_keys)?,
    ])
}

fn documents(of_queries: &Tensor, of_keys: &Tensor) -> PyResult<Documents> {
    let (queries, [batch, _]) = of_queries.integers()?;
    let (keys, [batch_of_keys, _]) = of_keys.integers()?;
    if batch != batch_of_keys {
        return Err(value_error(format!(
            "documents of the keys: expected {batch} rows, as of the queries, got {batch_of_keys}"
        )));
    }
    Documents::with_cache(batch, queries.to_vec(), keys.to_vec()).map_err(value_error)
}

/// Writes the output, `[batch, heads, queries, dim]`, and ln evidence, `[batch, heads, queries]`.
#[pyfunction]
pub fn forward(
    py: Python<'_>,
    asked: Asked<'_>,
    out: Capsule<'_>,
    ln_evidence: Capsule<'_>,
) -> PyResult<()> {
    let mut out = Tensor::take("output", &out)?;
    let mut ln_evidence = Tensor::take("ln evidence", &ln_evidence)?;
    let given = Given::take(asked)?;
    let operands = given.operands()?;
    let plan = given.plan(&operands)?;
    let (mut out, ln_evidence) = (out.rows_mut()?, ln_evidence.floats_mut::<3>()?);
    let work = || plan.forward_into(&operands, &mut out, ln_evidence);
    py.detach(|| threads::with(worth(&plan, &given.rules), work))
        .map_err(value_error)
}

/// Results of a call, as Python wants them: gradients of `q`, `k`, `v`, the log-weights and, where there are such, the
/// temperature and the prior over keys.
#[derive(FromPyObject)]
pub struct Wanted<'py>(
    Capsule<'py>,
    Capsule<'py>,
    Capsule<'py>,
    Capsule<'py>,
    Option<Capsule<'py>>,
    Option<Capsule<'py>>,
);

/// Writes the gradients, from that of the output and what [`forward`] wrote.
#[pyfunction]
pub fn backward(
    py: Python<'_>,
    gradient: Capsule<'_>,
    out: Capsule<'_>,
    ln_evidence: Capsule<'_>,
    asked: Asked<'_>,
    wanted: Wanted<'_>,
) -> PyResult<()> {
    let gradient = Tensor::take("gradient of the output", &gradient)?;
    let out = Tensor::take("output", &out)?;
    let ln_evidence = Tensor::take("ln evidence", &ln_evidence)?;
    let Wanted(q, k, v, ln_weights, temperature, key_prior) = wanted;
    let mut q = Tensor::take("gradient of q", &q)?;
    let mut k = Tensor::take("gradient of k", &k)?;
    let mut v = Tensor::take("gradient of v", &v)?;
    let mut ln_weights = Tensor::take("gradient of log_prior", &ln_weights)?;
    let temperature = temperature.map(|of| Tensor::take("gradient of temperature", &of));
    let mut temperature = temperature.transpose()?;
    let key_prior = key_prior.map(|of| Tensor::take("gradient of key_prior", &of));
    let mut key_prior = key_prior.transpose()?;
    let given = Given::take(asked)?;
    let operands = given.operands()?;
    let plan = given.plan(&operands)?;
    let (out, gradient) = (out.rows()?, gradient.rows()?);
    let (ln_evidence, _) = ln_evidence.floats::<3>()?;
    let mut gradients = GradientsMut {
        q: q.rows_mut()?,
        k: k.rows_mut()?,
        v: v.rows_mut()?,
        ln_weights: ln_weights.floats_mut::<2>()?,
        temperature: match &mut temperature {
            Some(of) => of.floats_mut::<3>()?,
            None => &mut [],
        },
        key_prior: match &mut key_prior {
            Some(of) => of.floats_mut::<3>()?,
            None => &mut [],
        },
    };
    let work = || plan.backward_into(&operands, &out, ln_evidence, &gradient, &mut gradients);
    py.detach(|| threads::with(worth(&plan, &given.rules), work))
        .map_err(value_error)
}

/// Writes the keys that each row sees, `[batch, queries]`: the `n` of scalable softmax.
#[pyfunction]
#[pyo3(signature = (batch, queries, keys, documents, rules, out))]
pub fn visible_counts(
    batch: usize,
    queries: usize,
    keys: usize,
    documents: Option<[Capsule<'_>; 2]>,
    rules: &Rules,
    out: Capsule<'_>,
) -> PyResult<()> {
    let mut out = Tensor::take("counts", &out)?;
    let taken = documents.map(taken_documents).transpose()?;
    let documents = taken.map(|[of_queries, of_keys]| self::documents(&of_queries, &of_keys));
    let documents = documents.transpose()?;
    if let Some(of) = &documents
        && of.dims() != (batch, queries, keys)
    {
        let (got, expected) = (of.dims(), (batch, queries, keys));
        return Err(value_error(format!(
            "documents (batch, queries, keys): expected {expected:?}, got {got:?}"
        )));
    }
    let positions = rules.call.positions(queries, keys);
    let counts = bam_kernel::visible_counts(&positions, batch, documents.as_ref());
    for (out, n) in out.floats_mut::<2>()?.iter_mut().zip(counts) {
        *out = n as f32;
    }
    Ok(())
}
