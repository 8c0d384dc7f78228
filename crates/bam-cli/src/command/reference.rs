//! `bam logits` and `bam parity`: the numbers of the reference program.

use crate::args::{LogitsArgs, ParityArgs};
use crate::{console, runs};
use anyhow::ensure;
use bam_attention::Documents;
use bam_lm::interop::parity::{Comparison, compare};
use bam_lm::interop::reference::{Case, CaseTensors};
use bam_lm::model::checkpoint::{NamedTensors, write_tensors};
use bam_lm::model::{TokenRows, host_values};
use bam_lm::train::recipe::AttentionChoice;
use std::process::ExitCode;
use std::sync::Arc;

pub fn logits(args: &LogitsArgs) -> anyhow::Result<ExitCode> {
    runs::ensure_writable(&args.out)?;
    let model = runs::load_model(&args.model, &args.device.open()?)?;
    let given = CaseTensors::open(&args.tokens)?;
    let (shape, ids) = given.ids("tokens", 2)?;
    let (rows, length) = (shape[0], shape[1]);
    let tokens = TokenRows::new(rows, ids, model.config().vocabulary)?;
    let documents = match given.has("document_ids") {
        false => None,
        true => {
            let (documents_shape, ids) = given.ids("document_ids", 2)?;
            ensure!(
                documents_shape == shape,
                "{}: document_ids: expected shape {shape:?}, got {documents_shape:?}",
                args.tokens.display()
            );
            Some(Arc::new(Documents::new(rows, ids)?))
        }
    };
    let implementation = AttentionChoice::from(args.attention).into();
    let values = host_values(model.forward(&tokens, documents, implementation)?);
    let vocabulary = model.config().vocabulary;
    let tensors = NamedTensors::from([(
        "logits".to_owned(),
        (vec![rows, length, vocabulary], values),
    )]);
    write_tensors(&args.out, tensors)?;
    Ok(ExitCode::SUCCESS)
}

pub fn parity(args: &ParityArgs) -> anyhow::Result<ExitCode> {
    let case = Case::open(&args.case)?;
    let device = args.device.open()?;
    let implementation = AttentionChoice::from(args.attention).into();
    let comparisons = compare(&case, implementation, &device)?;
    let passes = comparisons.iter().all(Comparison::passes);
    let value = serde_json::json!({
        "case": args.case.display().to_string(),
        "encoding": case.config.encoding,
        "passes": passes,
        "comparisons": comparisons,
    });
    console::answer(args.json, &value, || {
        let mut text = format!("{} ({})\n", args.case.display(), case.config.encoding);
        for (kind, tolerance) in kinds(&comparisons) {
            let of_kind = comparisons.iter().filter(|c| self::kind(&c.what) == kind);
            if let Some(worst) = of_kind.max_by(|a, b| a.error.total_cmp(&b.error)) {
                let verdict = if worst.passes() { "ok" } else { "TOO FAR" };
                text += &format!(
                    "  {kind:<10} worst {:.2e} of {tolerance:.0e}  {verdict}  ({})\n",
                    worst.error, worst.what
                );
            }
        }
        text
    })?;
    match passes {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::FAILURE),
    }
}

/// The kind of a comparison: its name without the part that tells one tensor or step from another.
fn kind(what: &str) -> &str {
    if what.starts_with("loss[") {
        return "losses";
    }
    match what.split_once('.') {
        Some(("grad", _)) => "gradients",
        None => what,
        Some(_) => "weights",
    }
}

fn kinds(comparisons: &[Comparison]) -> Vec<(&str, f64)> {
    let mut kinds: Vec<(&str, f64)> = Vec::new();
    for comparison in comparisons {
        let kind = kind(&comparison.what);
        if !kinds.iter().any(|(known, _)| *known == kind) {
            kinds.push((kind, comparison.tolerance));
        }
    }
    kinds
}
