//! Parity with the reference program: how far our numbers are from a case's.

use crate::Error;
use crate::interop::reference::{Case, CaseTensors, TrainingConfig};
use crate::model::checkpoint::{NamedTensors, transpose};
use crate::model::{TokenRows, Transformer, host_values};
use crate::train::{LearningRates, RAdam, RAdamConfig, batch_gradients};
use bam_attention::{Documents, Implementation};
use bam_data::Batch;
use burn::tensor::Device;
use serde::Serialize;
use std::sync::Arc;

/// Largest allowed `‖ours − theirs‖ / ‖theirs‖` of logits, loss and each gradient.
pub const BATCH_TOLERANCE: f64 = 1e-4;
/// Largest allowed relative error of each loss of a trajectory.
pub const LOSS_TOLERANCE: f64 = 1e-3;
/// Largest allowed relative error of each tensor at a trajectory's end.
pub const FINAL_TOLERANCE: f64 = 1e-2;

/// One comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// `logits`, `loss`, `grad.…`, `loss[step]` or a tensor's name.
    pub what: String,
    /// `‖ours − theirs‖ / ‖theirs‖`.
    pub error: f64,
    /// The largest that passes.
    pub tolerance: f64,
}

impl Comparison {
    /// Whether the error is within the tolerance. NaN is not.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// Every comparison of a case.
///
/// # Errors
/// If the case can't be read or is no model.
pub fn compare(
    case: &Case,
    implementation: Implementation,
    device: &Device,
) -> Result<Vec<Comparison>, Error> {
    match &case.training {
        None => compare_batch(case, implementation, device),
        Some(training) => compare_trajectory(case, training, implementation, device),
    }
}

fn compare_batch(
    case: &Case,
    implementation: Implementation,
    device: &Device,
) -> Result<Vec<Comparison>, Error> {
    let model = case.model(&device.clone().autodiff())?;
    let io = case.tensors("io.safetensors")?;
    let (shape, tokens) = io.ids("tokens", 2)?;
    let (rows, length) = (shape[0], shape[1]);
    let document_ids = match io.has("document_ids") {
        true => io.ids("document_ids", 2)?.1,
        false => vec![0; rows * length],
    };
    let rows_of_tokens = TokenRows::new(rows, tokens.clone(), case.config.vocabulary)?;
    let documents = Arc::new(Documents::new(rows, document_ids.clone())?);
    let logits = model.forward(&rows_of_tokens, Some(documents), implementation)?;
    let batch = Batch {
        rows,
        length,
        tokens,
        targets: io.ids("targets", 2)?.1,
        document_ids,
        weights: vec![1.0; rows * length],
    };
    let gradients = batch_gradients(&model, &batch, implementation, 1, 1)?;

    let mut comparisons = vec![
        comparison(
            "logits",
            &host_values(logits.inner()),
            io.get("logits")?.1,
            BATCH_TOLERANCE,
        ),
        comparison(
            "loss",
            &[gradients.loss_and_norm(&model).0 as f32],
            io.get("loss")?.1,
            BATCH_TOLERANCE,
        ),
    ];
    for info in model.parameters() {
        let name = format!("grad.{}", info.name);
        let expected = io.get(&name)?.1;
        let mut ours = gradients
            .values(info.id)
            .unwrap_or_else(|| vec![0.0; expected.len()]);
        if info.transposed {
            ours = transpose(&ours, info.stored_shape[1], info.stored_shape[0]);
        }
        comparisons.push(comparison(&name, &ours, expected, BATCH_TOLERANCE));
    }
    Ok(comparisons)
}

fn compare_trajectory(
    case: &Case,
    training: &TrainingConfig,
    implementation: Implementation,
    device: &Device,
) -> Result<Vec<Comparison>, Error> {
    let steps = case.tensors("steps.safetensors")?;
    let (shape, tokens) = steps.ids("tokens", 3)?;
    let (_, targets) = steps.ids("targets", 3)?;
    let (_, document_ids) = steps.ids("document_ids", 3)?;
    let (rows, length) = (shape[1], shape[2]);
    let (losses, rates) = (steps.get("loss")?.1, steps.get("learning_rate")?.1);

    let mut model = case.model(&device.clone().autodiff())?;
    let config = RAdamConfig {
        betas: training.betas,
        epsilon: training.eps,
        weight_decay: training.weight_decay,
    };
    let mut optimizer = RAdam::new(config, LearningRates::default());
    let mut comparisons = Vec::new();
    for step in 0..shape[0].min(losses.len()).min(rates.len()) {
        let of_step = |ids: &[i32]| ids[step * rows * length..][..rows * length].to_vec();
        let batch = Batch {
            rows,
            length,
            tokens: of_step(&tokens),
            targets: of_step(&targets),
            document_ids: of_step(&document_ids),
            weights: vec![1.0; rows * length],
        };
        let mut gradients = batch_gradients(&model, &batch, implementation, 1, 1)?;
        let (loss, norm) = gradients.loss_and_norm(&model);
        let what = format!("loss[{step}]");
        comparisons.push(comparison(
            &what,
            &[loss as f32],
            &losses[step..=step],
            LOSS_TOLERANCE,
        ));
        gradients.clip(norm, training.grad_clip);
        model = optimizer.step(model, gradients, f64::from(rates[step]));
    }
    comparisons.extend(compare_final(
        case.tensors("model_final.safetensors")?,
        &model,
    )?);
    Ok(comparisons)
}

fn compare_final(expected: CaseTensors, model: &Transformer) -> Result<Vec<Comparison>, Error> {
    let ours: NamedTensors = model.to_tensors();
    let mut names: Vec<&String> = ours.keys().collect();
    names.sort();
    names
        .into_iter()
        .map(|name| {
            Ok(comparison(
                name,
                &ours[name].1,
                expected.get(name)?.1,
                FINAL_TOLERANCE,
            ))
        })
        .collect()
}

fn comparison(what: &str, ours: &[f32], theirs: &[f32], tolerance: f64) -> Comparison {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let theirs_norm = norm(&mut theirs.iter().map(|x| f64::from(*x)));
    let difference = norm(
        &mut ours
            .iter()
            .zip(theirs)
            .map(|(a, b)| f64::from(*a) - f64::from(*b)),
    );
    let error = match (ours.len() == theirs.len(), theirs_norm > 0.0) {
        (false, _) => f64::INFINITY,
        (true, true) => difference / theirs_norm,
        (true, false) => difference,
    };
    Comparison {
        what: what.to_owned(),
        error,
        tolerance,
    }
}
