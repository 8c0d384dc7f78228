//! `bam inspect context`.

use crate::args::ContextArgs;
use crate::{console, runs};
use anyhow::bail;
use bam_lm::analysis::context::context;
use bam_lm::model::checkpoint::read_json;
use bam_lm::model::{ModelConfig, Transformer};
use bam_record::{Context, Passkey, Record};
use bam_report::findings::{Reach, reach};
use serde::Serialize;
use std::process::ExitCode;

/// Horizons by the parameters, beside measurements.
#[derive(Serialize)]
struct Compared {
    #[serde(flatten)]
    context: Context,
    /// The longest context at which more than half of the passkeys were found.
    measured: Option<MeasuredReach>,
}

#[derive(Serialize)]
struct MeasuredReach {
    length: usize,
    correct: usize,
    samples: usize,
    /// The longest context that was tried.
    tried: usize,
}

pub fn run(args: &ContextArgs) -> anyhow::Result<ExitCode> {
    let model = runs::load_model(&args.model, &args.device.open()?)?;
    let beside = args.model.join(runs::PASSKEY);
    let path = match &args.passkey {
        Some(path) => Some(path),
        None => Some(&beside).filter(|path| path.exists()),
    };
    let mut passkey: Option<Record<Passkey>> = None;
    if let Some(path) = path {
        let record = read_json(path, "a passkey record")?;
        match other_model(&record, &model) {
            None => passkey = Some(record),
            Some(other) if args.passkey.is_some() => {
                bail!("{}: expected a record of {other}", path.display());
            }
            Some(other) => console::note(&format!(
                "{} is left out: expected a record of {other}",
                path.display()
            )),
        }
    }
    let length = args.length.tokens(model.config().train_length);
    let context = context(&model, length, args.epsilon)?;
    let reach = passkey.as_ref().and_then(|record| reach(&record.metrics));
    let measured = |reach: Reach| MeasuredReach {
        length: reach.last.length,
        correct: reach.last.correct,
        samples: reach.last.samples,
        tried: reach.longest.length,
    };
    let compared = Compared {
        context,
        measured: reach.map(measured),
    };
    console::answer(args.json, &compared, || {
        let encoding = model.config().encoding.to_string();
        let passkey = passkey.as_ref().map(|record| &record.metrics);
        bam_report::inspection::context(&encoding, &compared.context, passkey)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Words for what is expected and found where a record is of another model. Weights are not
/// part of a record: of two models of one shape it can't tell which it is of.
fn other_model(record: &Record<Passkey>, model: &Transformer) -> Option<String> {
    let config = model.config();
    let of: Option<ModelConfig> = serde_json::from_value(record.model.clone()).ok();
    if of.as_ref() == Some(config) {
        return None;
    }
    let ours = serde_json::to_value(config).ok()?;
    let differs = ours.as_object()?.iter();
    let differs = differs.filter(|(key, value)| record.model.get(key) != Some(value));
    let parts = differs.map(|(key, value)| {
        let got = record
            .model
            .get(key)
            .map_or("none".into(), |got| got.to_string());
        (format!("{key} {value}"), got)
    });
    let (expected, got): (Vec<String>, Vec<String>) = parts.unzip();
    Some(format!(
        "this model ({}), got one of another ({})",
        expected.join(", "),
        got.join(", ")
    ))
}
