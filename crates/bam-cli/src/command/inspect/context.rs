//! `bam inspect context`.

use crate::args::ContextArgs;
use crate::report::findings::{Reach, reach};
use crate::{report, runs};
use bam_lm::inspect::context::context;
use bam_lm::model::checkpoint::read_json;
use bam_lm::record::{Context, Passkey, Record};
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;

/// What the parameters say, beside what was measured.
#[derive(Serialize)]
struct Compared {
    #[serde(flatten)]
    context: Context,
    /// The longest context at which more than half of the passkeys were found.
    measured: Option<Measured>,
}

#[derive(Serialize)]
struct Measured {
    length: usize,
    correct: usize,
    samples: usize,
    /// The longest context that was tried.
    tried: usize,
}

pub fn run(args: &ContextArgs) -> anyhow::Result<ExitCode> {
    let model = runs::load_model(&args.model)?;
    let beside = args.model.join(runs::PASSKEY);
    let path = args
        .passkey
        .as_ref()
        .or(Some(&beside).filter(|p| p.exists()));
    let passkey: Option<Record<Passkey>> = match path {
        Some(path) => Some(read_json(path, "a passkey record")?),
        None => None,
    };
    let length = args.length.tokens(model.config().train_length);
    let context = context(&model, length, args.epsilon)?;
    let reach = passkey.as_ref().and_then(|record| reach(&record.metrics));
    let mut out = std::io::stdout().lock();
    if args.json {
        let measured = |reach: Reach| Measured {
            length: reach.last.length,
            correct: reach.last.correct,
            samples: reach.last.samples,
            tried: reach.longest.length,
        };
        let compared = Compared {
            context,
            measured: reach.map(measured),
        };
        writeln!(out, "{}", serde_json::to_string_pretty(&compared)?)?;
    } else {
        let encoding = model.config().encoding.to_string();
        let passkey = passkey.as_ref().map(|record| &record.metrics);
        write!(
            out,
            "{}",
            report::inspection::context(&encoding, &context, passkey)
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
