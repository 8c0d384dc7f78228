//! `bam inspect`.

use crate::args::InspectArgs;
use crate::runs;
use bam_lm::record::Head;
use std::io::Write;
use std::process::ExitCode;

/// Rows of a model that has not been asked about one: this many times its training length.
const TIMES: usize = 500;

pub fn run(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let model = runs::load_model(&args.model)?;
    let keys = args.keys.unwrap_or(TIMES * model.config().train_length);
    let heads = bam_lm::inspect::heads(&model, keys)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&heads)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "{} · prior mass over a causal row of {keys} keys",
        model.config().encoding
    )?;
    if !bam_lm::inspect::has_prior(&model) {
        writeln!(
            out,
            "this encoding has no prior over distance: every head's is uniform"
        )?;
    }
    writeln!(
        out,
        "{:>5} {:>4}  {:<10} {:>8} {:>8} {:>8} {:>8}  parameters",
        "layer", "head", "class", "50 %", "90 %", "99 %", "entropy"
    )?;
    for head in &heads.heads {
        let [p50, p90, p99] = head.mass_lags;
        writeln!(
            out,
            "{:>5} {:>4}  {:<10} {p50:>8} {p90:>8} {p99:>8} {:>8.2}  {}",
            head.layer,
            head.head,
            head.class,
            head.entropy,
            parameters(head)
        )?;
        if args.curves {
            let points: Vec<String> = head
                .curve
                .iter()
                .map(|(r, ln_w)| format!("{r}:{ln_w:.3}"))
                .collect();
            writeln!(out, "            ln w by distance  {}", points.join(" "))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn parameters(head: &Head) -> String {
    let mut parts: Vec<String> = head
        .parameters
        .iter()
        .take(6)
        .map(|(name, value)| format!("{name} {value:.4}"))
        .collect();
    if head.parameters.len() > 6 {
        parts.push(format!("… {} in all", head.parameters.len()));
    }
    if let Some(scale) = head.ssmax_scale {
        parts.push(format!("ssmax {scale:.3}"));
    }
    format!("{}  {}", head.family, parts.join("  "))
}
