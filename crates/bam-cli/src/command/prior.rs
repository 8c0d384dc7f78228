//! `bam prior`.

use crate::args::{PriorCommand, PriorDiffArgs, PriorEditArgs};
use crate::experiment::is_trained;
use crate::{console, runs};
use anyhow::ensure;
use bam_lm::analysis::difference::difference;
use bam_lm::analysis::surgery::{PriorEdit, edit_priors};
use bam_lm::device::cpu;
use bam_lm::model::Transformer;
use bam_lm::model::checkpoint::weights_sha256;
use bam_record::history::{Event, History};
use burn::tensor::Device;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

/// The event that an edit leaves in a model's history.
const EDIT: &str = "prior edit";

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
    let (edited, event) = operate(&model, &args.model, &wanted)?;
    let result = match &args.out {
        Some(out) => {
            runs::new_folder(out, |dir| save(&edited, &args.model, dir))?;
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

/// A model after an edit, and what was done.
fn operate(
    model: &Transformer,
    from: &Path,
    edit: &PriorEdit,
) -> anyhow::Result<(Transformer, Event)> {
    let (edited, heads) = edit_priors(model, edit)?;
    let event = Event {
        what: EDIT.into(),
        date: runs::now(),
        arguments: arguments(edit),
        from: Some(weights_sha256(from)?),
        heads,
    };
    Ok((edited.with_event(event.clone()), event))
}

fn save(edited: &Transformer, from: &Path, dir: &Path) -> anyhow::Result<()> {
    runs::copy_companions(from, dir)?;
    runs::save_model(edited, from, dir)
}

/// The model of a folder after an edit, made from another folder's where it is not there.
pub fn edited(
    of: &Path,
    edit: &PriorEdit,
    dir: &Path,
    device: &Device,
) -> anyhow::Result<Transformer> {
    if !is_trained(dir) {
        let (edited, _) = operate(&runs::load_model(of, &cpu())?, of, edit)?;
        // Its records may be there.
        save(&edited, of, dir)?;
    }
    let model = runs::load_model(dir, device)?;
    let same = ends_in(model.history(), of, edit)?;
    ensure!(
        same,
        "{}: expected {} after {:?}, got another model",
        dir.display(),
        of.display(),
        arguments(edit)
    );
    Ok(model)
}

/// Whether the last thing that was done to a model is an edit of another folder's: of any model where that folder has none.
pub fn ends_in(history: &History, of: &Path, edit: &PriorEdit) -> anyhow::Result<bool> {
    let edited = |event: &&Event| event.what == EDIT && event.arguments == arguments(edit);
    match history.events.last().filter(edited) {
        None => Ok(false),
        Some(_) if !is_trained(of) => Ok(true),
        Some(event) => Ok(event.from.as_deref() == Some(&*weights_sha256(of)?)),
    }
}

fn arguments(edit: &PriorEdit) -> BTreeMap<String, String> {
    let heads: Vec<String> = edit.heads.iter().map(ToString::to_string).collect();
    let changes = [
        ("scale", edit.scale),
        ("shape", edit.shape),
        ("location", edit.location),
    ];
    let changes = changes
        .into_iter()
        .filter_map(|(name, change)| change.map(|change| (name.to_owned(), change.to_string())));
    let family = edit
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
