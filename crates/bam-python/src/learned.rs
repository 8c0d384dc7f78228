//! Families of priors whose parameters are tensors: their numbers and their gradients are `bam-prior`'s.

use crate::dlpack::Tensor;
use crate::error::value_error;
use crate::threads;
use bam_kernel::Lags;
use bam_prior::{Direction, Family, PositionalPrior, StoredPrior};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use rayon::prelude::*;

/// Names of all families.
#[pyfunction]
pub fn families() -> Vec<&'static str> {
    Family::ALL.map(Family::name).into()
}

type Parameter = (&'static str, &'static str, usize, Vec<f64>);

/// Name, role, numbers per head and initial values, head after head, of each parameter of a family.
#[pyfunction]
pub fn parameters(family: &str, heads: usize) -> PyResult<Vec<Parameter>> {
    let family: Family = family.parse().map_err(value_error)?;
    let parameters = family.parameters(heads).into_iter();
    Ok(parameters
        .map(|of| (of.name, of.role.name(), of.width, of.initial))
        .collect())
}

/// Log-weights as Python asks for them: family, heads, for each parameter `[heads, width]`, the first lag and how many,
/// whether rows are causal, and threads.
#[derive(FromPyObject)]
pub struct Asked<'py>(
    String,
    usize,
    Vec<Bound<'py, PyCapsule>>,
    (i64, usize),
    bool,
    usize,
);

/// A family with what its heads store.
struct Learned {
    heads: Vec<StoredPrior>,
    widths: Vec<usize>,
    lags: Lags,
    threads: usize,
}

impl Learned {
    fn take(
        Asked(family, heads, theta, (first, count), causal, threads): Asked<'_>,
    ) -> PyResult<Self> {
        let family: Family = family.parse().map_err(value_error)?;
        let theta: Vec<Tensor> = theta
            .iter()
            .map(|of| Tensor::take("a parameter of the prior", of))
            .collect::<PyResult<_>>()?;
        let mut values = Vec::new();
        for of in &theta {
            let (numbers, [rows, width]) = of.floats::<2>()?;
            if rows != heads {
                return Err(value_error(format!(
                    "a parameter of the prior: expected {heads} rows, got {rows}"
                )));
            }
            values.push((numbers, width));
        }
        let direction = match causal {
            true => Direction::Causal,
            false => Direction::Bidirectional,
        };
        let of_head = |head: usize| {
            let own = values.iter().map(|(numbers, width)| {
                let own = &numbers[head * width..][..*width];
                own.iter().map(|x| f64::from(*x)).collect()
            });
            let own: Vec<Vec<f64>> = own.collect();
            family
                .stored_prior(&own, direction)
                .map_err(|error| value_error(format!("head {head}: {error}")))
        };
        Ok(Self {
            heads: (0..heads).map(of_head).collect::<PyResult<_>>()?,
            widths: values.iter().map(|(_, width)| *width).collect(),
            lags: Lags::starting_at(first, count),
            // To wake a thread takes as long as some thousand log-weights.
            threads: threads.min(heads * count / 4096 + 1),
        })
    }
}

/// Writes `ln w_h(d)`, `[heads, lags]`.
#[pyfunction]
pub fn ln_weights(py: Python<'_>, asked: Asked<'_>, out: Bound<'_, PyCapsule>) -> PyResult<()> {
    let mut out = Tensor::take("log-weights", &out)?;
    let learned = Learned::take(asked)?;
    let count = learned.lags.count();
    let out = out.floats_mut::<2>()?;
    let fill = || {
        let rows = out.par_chunks_mut(count.max(1));
        learned.heads.par_iter().zip(rows).for_each(|(head, row)| {
            for (weight, lag) in row.iter_mut().zip(learned.lags.iter()) {
                *weight = head.prior().ln_weight_f32(lag as f64);
            }
        });
    };
    py.detach(|| threads::with(learned.threads, fill));
    Ok(())
}

/// Writes the gradient of each parameter, `[heads, width]`, from that of the log-weights.
#[pyfunction]
pub fn ln_weights_gradient(
    py: Python<'_>,
    gradient: Bound<'_, PyCapsule>,
    asked: Asked<'_>,
    out: Vec<Bound<'_, PyCapsule>>,
) -> PyResult<()> {
    let learned = Learned::take(asked)?;
    let heads = learned.heads.len();
    let gradient = Tensor::take("gradient of the log-prior", &gradient)?;
    let (gradient, shape) = gradient.floats::<2>()?;
    let count = learned.lags.count();
    if shape != [heads, count] {
        return Err(value_error(format!(
            "gradient of the log-prior: expected {:?}, got {shape:?}",
            [heads, count]
        )));
    }
    let stored: usize = learned.widths.iter().sum();
    let of_head = |(head, row): (&StoredPrior, &[f32])| {
        let mut sums = vec![0.0_f64; stored];
        for (upstream, lag) in row.iter().zip(learned.lags.iter()) {
            // A weight of nothing has no say, however steep its law is there.
            if *upstream != 0.0 {
                let slopes = head.ln_weight_gradient(lag as f64);
                for (sum, slope) in sums.iter_mut().zip(slopes) {
                    *sum += f64::from(*upstream) * slope;
                }
            }
        }
        sums
    };
    let all = || -> Vec<Vec<f64>> {
        let rows = learned
            .heads
            .par_iter()
            .zip(gradient.par_chunks(count.max(1)));
        rows.map(of_head).collect()
    };
    let sums = py.detach(|| threads::with(learned.threads, all));
    let mut first = 0;
    for (width, out) in learned.widths.iter().zip(&out) {
        let mut out = Tensor::take("gradient of a parameter", out)?;
        let own = sums.iter().flat_map(|of| &of[first..][..*width]);
        for (out, x) in out.floats_mut::<2>()?.iter_mut().zip(own) {
            *out = (*x as f32).clamp(-f32::MAX, f32::MAX);
        }
        first += width;
    }
    Ok(())
}
