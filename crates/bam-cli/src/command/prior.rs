//! `bam prior`.

use crate::args::{PriorCommand, PriorDiffArgs, PriorEditArgs};
use crate::{console, runs};
use bam_lm::analysis::difference::difference;
use bam_lm::analysis::surgery::{PriorEdit, edit_priors};
use bam_lm::device::cpu;
use bam_lm::model::checkpoint::weights_sha256;
use bam_record::history::Event;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

pub fn run(command: &PriorCommand) -> anyhow::Result<ExitCode> {
    match command {
        PriorCommand::Edit(args) => edit(args),
        PriorCommand::Diff(args) => diff(args),
    }
}

fn edit(args: &PriorEditArgs) -> anyhow::Result<ExitCode> {
    if let Some(out) = &args.out {
        runs::ensure_new(out)?;
    }
    let model = runs::load_model(&args.model, &cpu())?;
    let wanted = PriorEdit {
        heads: args.heads.clone(),
        family: args.family,
        scale: args.scale,
        shape: args.shape,
        location: args.location,
    };
    let (edited, heads) = edit_priors(&model, &wanted)?;
    let event = Event {
        what: "prior edit".into(),
        date: runs::now(),
        arguments: arguments(args),
        from: Some(weights_sha256(&args.model)?),
        heads,
    };
    let edited = edited.with_event(event.clone());
    let result = match &args.out {
        Some(out) => {
            runs::new_folder(out, |dir| {
                runs::copy_companions(&args.model, dir)?;
                runs::save_model(&edited, &args.model, dir)
            })?;
            out
        }
        None => {
            runs::save_model(&edited, &args.model, &args.model)?;
            if args.model.join(runs::PASSKEY).exists() {
                console::note("the records in this folder are of the model as it was before");
            }
            &args.model
        }
    };
    console::answer(args.json, &event, || {
        let encoding = edited.config().encoding.to_string();
        let models = match args.in_place {
            true => vec![quoted(result)],
            false => vec![quoted(&args.model), quoted(result)],
        };
        let heads = bam_report::surgery::edit(&encoding, &event.heads);
        format!("{heads}evaluate: bam eval passkey {}\n", models.join(" "))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn arguments(args: &PriorEditArgs) -> BTreeMap<String, String> {
    let heads: Vec<String> = args.heads.iter().map(ToString::to_string).collect();
    let changes = [
        ("scale", args.scale),
        ("shape", args.shape),
        ("location", args.location),
    ];
    let changes = changes
        .into_iter()
        .filter_map(|(name, change)| change.map(|change| (name.to_owned(), change.to_string())));
    let family = args
        .family
        .map(|kind| ("family".into(), kind.name().into()));
    [("head".into(), heads.join(","))]
        .into_iter()
        .chain(family)
        .chain(changes)
        .collect()
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

fn diff(args: &PriorDiffArgs) -> anyhow::Result<ExitCode> {
    let before = runs::load_model(&args.before, &cpu())?;
    let after = runs::load_model(&args.after, &cpu())?;
    let keys = args.keys.tokens(before.config().train_length);
    let found = difference(&before, &after, keys)?;
    let value = serde_json::json!({
        "before": args.before.display().to_string(),
        "after": args.after.display().to_string(),
        "difference": found,
        "histories": [before.history(), after.history()],
    });
    console::answer(args.json, &value, || {
        let mut text = bam_report::surgery::difference(&found);
        for (name, model) in [(&args.before, &before), (&args.after, &after)] {
            if !model.history().is_empty() {
                let history = bam_report::surgery::history(model.history());
                text += &format!("\nhistory of {}\n{history}", name.display());
            }
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}
