//! A study as its file says it: groups of models, the seeds of each, and measures.

use crate::args::Length;
use crate::experiment::TOKENS;
use anyhow::{Context, bail, ensure};
use bam_data::synthetic_task::SyntheticTask;
use bam_eval::passkey::{Depths, LengthPlan};
use bam_eval::ruler::{Task, grid};
use bam_eval::stopping::Stopping;
use bam_lm::analysis::surgery::{PriorEdit, edit_priors};
use bam_lm::device::{DeviceName, cpu};
use bam_lm::model::check_length;
use bam_lm::model::encoding::Encoding;
use bam_lm::train::Recipe;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The whole study.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// Its title on the page.
    pub title: String,
    /// Shares that accuracies are told apart from: samples of a cell end once it is certain on which side of each it is.
    #[serde(default)]
    decide: Vec<f64>,
    /// Samples between two looks.
    batch: Option<usize>,
    /// Lengths in a row without a right answer, after which longer ones are not asked.
    #[serde(default)]
    pub patience: Option<usize>,
    /// Models that are compared with each other.
    #[serde(rename = "group")]
    pub groups: Vec<Group>,
}

/// Models of one size, trained alike.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name, in folders too.
    pub name: String,
    /// Words on what its models are and read.
    pub about: String,
    /// The recipe, beside the study's file.
    recipe: PathBuf,
    /// Values of the recipe that are otherwise, as `bam train --set` has them.
    #[serde(default)]
    set: Vec<String>,
    /// Seeds of weights, rows and samples: every model is trained with each.
    pub seeds: Vec<u64>,
    /// The models.
    models: Vec<ModelEntry>,
    /// Passkeys: lengths, and samples of each.
    #[serde(default)]
    pub passkey: Vec<Samples>,
    /// Tasks of exact difficulty.
    pub synthetic: Option<Tasks>,
    /// RULER's tasks, all but the two that need others' files.
    pub ruler: Option<Lengths>,
    /// Perplexity on the held-out book.
    pub perplexity: Option<Reading>,
}

/// An encoding, a variant of one, or another of the group's models with other priors.
#[derive(Debug)]
enum ModelEntry {
    Plain(String),
    Variant(Variant),
    Edited(Edited),
}

#[derive(Debug)]
struct Variant {
    /// Its name in tables.
    name: String,
    encoding: String,
    set: Vec<String>,
}

#[derive(Debug)]
struct Edited {
    /// Its name in tables.
    name: String,
    /// The name of the model that it was.
    of: String,
    prior: Surgery,
}

impl<'de> Deserialize<'de> for ModelEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

/// By the kind of value, so that a wrong field is named.
struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = ModelEntry;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(
            "an encoding, { name, encoding, set } or { name, of, prior = { heads, family, scale, shape, location } }",
        )
    }

    fn visit_str<E>(self, encoding: &str) -> Result<ModelEntry, E> {
        Ok(ModelEntry::Plain(encoding.to_owned()))
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<ModelEntry, M::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            name: String,
            encoding: Option<String>,
            set: Option<Vec<String>>,
            of: Option<String>,
            prior: Option<Surgery>,
        }
        let Fields {
            name,
            encoding,
            set,
            of,
            prior,
        } = Fields::deserialize(MapAccessDeserializer::new(map))?;
        match (encoding, set, of, prior) {
            (Some(encoding), set, None, None) => {
                let set = set.unwrap_or_default();
                Ok(ModelEntry::Variant(Variant {
                    name,
                    encoding,
                    set,
                }))
            }
            (None, None, Some(of), Some(prior)) => {
                Ok(ModelEntry::Edited(Edited { name, of, prior }))
            }
            _ => {
                let got = serde::de::Unexpected::Other("other fields together");
                Err(serde::de::Error::invalid_value(got, &self))
            }
        }
    }
}

/// `bam prior edit`, its flags as text.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Surgery {
    heads: Vec<String>,
    family: Option<String>,
    scale: Option<String>,
    shape: Option<String>,
    location: Option<String>,
}

/// Lengths with a number of samples each.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Samples {
    lengths: Vec<String>,
    samples: usize,
    /// Asked only where at least this share was right at the length before.
    #[serde(default)]
    after: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lengths {
    lengths: Vec<String>,
    samples: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tasks {
    tasks: Vec<String>,
    lengths: Vec<String>,
    samples: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// Tokens that are read; the whole book if not given.
    #[serde(default)]
    length: Option<String>,
    /// Positions of a window.
    pub window: usize,
}

/// Tasks, their lengths in tokens, ascending, and samples of each.
type TaskGrid = (Vec<SyntheticTask>, Vec<usize>, usize);

/// RULER's tasks with their lengths in tokens, ascending, and samples of each.
type RulerGrid = (Vec<(Task, usize)>, usize);

/// One model of a group, before its seed.
#[derive(Clone, Debug)]
pub struct Model {
    pub name: String,
    /// Its recipe with the first seed; of an edited one, that of the model it was.
    pub recipe: Recipe,
    /// The name of another and what is changed of it, where it is not trained itself.
    pub edit: Option<(String, PriorEdit)>,
}

impl Edited {
    /// The model, of those before it.
    fn model(&self, before: &[Model]) -> anyhow::Result<Model> {
        let trained = before.iter().filter(|model| model.edit.is_none());
        let of = trained.clone().find(|model| model.name == self.of);
        let of = of.with_context(|| {
            let known: Vec<_> = trained.map(|model| &model.name).collect();
            format!(
                "of: expected a trained model before it, one of {known:?}, got {:?}",
                self.of
            )
        })?;
        ensure!(
            !self.prior.heads.is_empty(),
            "prior.heads: expected at least one, got none"
        );
        let edit = self.prior.edit()?;
        // Whether it can be done at all is known without training.
        edit_priors(&of.recipe.model_config(TOKENS)?.init(&cpu()), &edit)?;
        let edit = Some((self.of.clone(), edit));
        if let Some(same) = before.iter().find(|model| model.edit == edit) {
            bail!(
                "prior: expected another edit than that of {:?}, got the same",
                same.name
            );
        }
        Ok(Model {
            name: self.name.clone(),
            recipe: of.recipe.clone(),
            edit,
        })
    }
}

impl Surgery {
    fn edit(&self) -> Result<PriorEdit, bam_lm::Error> {
        let change = |text: &Option<String>| text.as_deref().map(str::parse).transpose();
        Ok(PriorEdit {
            heads: self
                .heads
                .iter()
                .map(|head| head.parse())
                .collect::<Result<_, _>>()?,
            family: self.family.as_deref().map(str::parse).transpose()?,
            scale: change(&self.scale)?,
            shape: change(&self.shape)?,
            location: change(&self.location)?,
        })
    }
}

impl Study {
    /// Reads a study and all that it names.
    ///
    /// # Errors
    /// If a value makes no sense, a recipe can't be read, or two models would share a folder.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = crate::runs::read_text(path)?;
        let named = || format!("{}: it is no study", path.display());
        let study: Self = toml::from_str(&text).with_context(named)?;
        study.check(path).with_context(named)?;
        Ok(study)
    }

    fn check(&self, path: &Path) -> anyhow::Result<()> {
        self.stopping()?;
        ensure!(
            self.batch.is_none() || !self.decide.is_empty(),
            "batch: expected shares in `decide` beside it, got none"
        );
        ensure!(
            self.patience != Some(0),
            "patience: expected at least 1, got 0"
        );
        ensure!(!self.groups.is_empty(), "group: expected at least one");
        let title = &self.title;
        ensure!(
            !title.trim().is_empty() && !title.contains(char::is_control),
            "title: expected one line, got {title:?}"
        );
        let mut names = BTreeSet::new();
        for group in &self.groups {
            let name = &group.name;
            check_name("group.name", name)?;
            ensure!(
                names.insert(slug(name)),
                "group.name: expected one that no other group has, got {name:?}"
            );
            group
                .check(path)
                .with_context(|| format!("group {name:?}"))?;
        }
        Ok(())
    }

    /// The test that ends samples early, if there is one.
    pub fn stopping(&self) -> Result<Option<Stopping>, bam_lm::Error> {
        Stopping::unless_empty(&self.decide, self.batch.unwrap_or(Stopping::BATCH))
    }
}

impl Group {
    fn check(&self, study: &Path) -> anyhow::Result<()> {
        let seeds = &self.seeds;
        let distinct = seeds.iter().collect::<BTreeSet<_>>().len();
        ensure!(
            distinct == seeds.len() && distinct > 0,
            "seeds: expected at least one, each once, got {seeds:?}"
        );
        if let Some(seed) = seeds.iter().find(|seed| i64::try_from(**seed).is_err()) {
            bail!(
                "seeds: expected numbers up to {}, as recipes hold them, got {seed}",
                i64::MAX
            );
        }
        let models = self.models(study)?;
        ensure!(!models.is_empty(), "models: expected at least one");
        let mut folders = BTreeSet::new();
        for Model { name, .. } in &models {
            check_name("models", name)?;
            ensure!(
                folders.insert(slug(name)),
                "models: expected names that differ in more than signs, got {name:?} and another like it"
            );
        }
        let trained = models[0].recipe.train.length;
        let other = models
            .iter()
            .find(|model| model.recipe.train.length != trained);
        if let Some(Model { name, recipe, .. }) = other {
            bail!(
                "models: expected one training length, got {trained} and {} of {name:?}",
                recipe.train.length
            );
        }
        self.passkey_lengths(trained)?;
        self.synthetic_tasks(trained)?;
        self.reading(trained)?;
        self.ruler_grid(trained)?;
        Ok(())
    }

    /// Its models.
    ///
    /// # Errors
    /// If the recipe can't be read or an override makes no sense.
    pub fn models(&self, study: &Path) -> anyhow::Result<Vec<Model>> {
        let path = study.with_file_name(&self.recipe);
        let text = crate::runs::read_text(&path)?;
        let mut models: Vec<Model> = Vec::new();
        for entry in &self.models {
            let (name, encoding, set) = match entry {
                ModelEntry::Plain(encoding) => (encoding, encoding, &[][..]),
                ModelEntry::Variant(of) => (&of.name, &of.encoding, &of.set[..]),
                ModelEntry::Edited(edited) => {
                    let model = edited.model(&models);
                    models.push(model.with_context(|| format!("model {:?}", edited.name))?);
                    continue;
                }
            };
            let encoding: Encoding = encoding.parse()?;
            let encoding = format!("model.encoding=\"{encoding}\"");
            let overrides = self.set.iter().chain(set).cloned();
            let overrides: Vec<String> = std::iter::once(encoding).chain(overrides).collect();
            for (setting, home) in [("train.seed", "seeds"), ("model.encoding", "models")] {
                // The first is of the encoding itself.
                let mut set = overrides.iter().skip(1);
                if let Some(got) = set.find(|of| of.trim_start().starts_with(setting)) {
                    bail!("set: expected {setting} in `{home}`, got {got}");
                }
            }
            let recipe = Recipe::from_toml(&text, &overrides, &path)?;
            if let Some(device) = recipe
                .devices()
                .iter()
                .find(|of| **of != DeviceName::default())
            {
                bail!("train.device: expected in `--device` of the command, got {device}");
            }
            let model = recipe.model_config(TOKENS);
            model.with_context(|| format!("model {name:?}"))?;
            let mut trained = models.iter().filter(|model| model.edit.is_none());
            if let Some(same) = trained.find(|model| model.recipe == recipe) {
                bail!(
                    "models: expected each once, got one recipe for {:?} and {name:?}",
                    same.name
                );
            }
            models.push(Model {
                name: name.clone(),
                recipe,
                edit: None,
            });
        }
        Ok(models)
    }

    /// Lengths in tokens and their samples, ascending.
    pub fn passkey_lengths(&self, train_length: usize) -> anyhow::Result<Vec<LengthPlan>> {
        let mut plans = Vec::new();
        for Samples {
            lengths,
            samples,
            after,
        } in &self.passkey
        {
            if let Some(share) = after.filter(|share| !(0.0..=1.0).contains(share)) {
                bail!("passkey.after: expected a share from 0 to 1, got {share}");
            }
            ensure!(*samples > 0, "passkey.samples: expected at least 1, got 0");
            for length in tokens("passkey.lengths", lengths, train_length)? {
                plans.push(LengthPlan {
                    length,
                    samples: *samples,
                    depths: Depths::Equidistant((*samples).min(10)),
                    after: *after,
                });
            }
        }
        plans.sort_by_key(|plan| plan.length);
        if let Some(twice) = plans.windows(2).find(|of| of[0].length == of[1].length) {
            bail!(
                "passkey: expected each length once, got {} tokens twice",
                twice[0].length
            );
        }
        if let Some(first) = plans.first().filter(|of| of.after.is_some()) {
            bail!(
                "passkey.after: expected a shorter length before it, got none below {} tokens",
                first.length
            );
        }
        Ok(plans)
    }

    /// Tasks of exact difficulty, where they are asked for.
    pub fn synthetic_tasks(&self, train_length: usize) -> anyhow::Result<Option<TaskGrid>> {
        let of = |of: &Tasks| {
            let mut lengths = tokens("synthetic.lengths", &of.lengths, train_length)?;
            lengths.sort_unstable();
            let tasks = of.tasks.iter().map(|task| task.parse());
            let tasks: Vec<SyntheticTask> = tasks.collect::<Result<_, bam_data::DataError>>()?;
            let distinct = of.tasks.iter().collect::<BTreeSet<_>>().len();
            ensure!(
                distinct == tasks.len() && distinct > 0,
                "synthetic.tasks: expected at least one, each once, got {:?}",
                of.tasks
            );
            ensure!(
                of.samples > 0,
                "synthetic.samples: expected at least 1, got 0"
            );
            Ok((tasks, lengths, of.samples))
        };
        self.synthetic.as_ref().map(of).transpose()
    }

    /// RULER's tasks, where they are asked for.
    pub fn ruler_grid(&self, train_length: usize) -> anyhow::Result<Option<RulerGrid>> {
        let of = |Lengths { lengths, samples }: &Lengths| {
            ensure!(*samples > 0, "ruler.samples: expected at least 1, got 0");
            let mut lengths = tokens("ruler.lengths", lengths, train_length)?;
            lengths.sort_unstable();
            let tasks = Task::ALL.into_iter().filter(|task| !task.wants_file());
            Ok((grid(&tasks.collect::<Vec<_>>(), &lengths), *samples))
        };
        self.ruler.as_ref().map(of).transpose()
    }

    /// Tokens of the book that are read, all if `None`, where perplexity is measured.
    pub fn reading(&self, train_length: usize) -> anyhow::Result<Option<Option<usize>>> {
        let of = |reading: &Reading| {
            ensure!(
                reading.window > 0,
                "perplexity.window: expected at least 1, got 0"
            );
            let Some(length) = &reading.length else {
                return Ok(None);
            };
            let length = tokens(
                "perplexity.length",
                std::slice::from_ref(length),
                train_length,
            )?;
            Ok(length.first().copied())
        };
        self.perplexity.as_ref().map(of).transpose()
    }
}

fn tokens(what: &str, lengths: &[String], train_length: usize) -> anyhow::Result<Vec<usize>> {
    let of = |length: &String| {
        let length: Length = length
            .parse()
            .map_err(|error| anyhow::anyhow!("{what}: {error}"))?;
        let length = length.tokens(train_length);
        check_length(length).with_context(|| what.to_owned())?;
        Ok(length)
    };
    let all: Vec<usize> = lengths.iter().map(of).collect::<anyhow::Result<_>>()?;
    let distinct = all.iter().collect::<BTreeSet<_>>().len();
    ensure!(
        distinct == all.len() && distinct > 0,
        "{what}: expected at least one, each once, got {lengths:?}"
    );
    Ok(all)
}

/// Names stand in tables and name folders.
fn check_name(what: &str, name: &str) -> anyhow::Result<()> {
    // With an ending, as much as file systems take.
    const LONGEST: usize = 240;
    let plain = !slug(name).is_empty() && !name.contains(char::is_control) && !name.contains('|');
    ensure!(
        plain,
        "{what}: expected a name in one line with a letter or digit, and no |, got {name:?}"
    );
    ensure!(
        slug(name).len() <= LONGEST,
        "{what}: expected a name of at most {LONGEST} bytes, got {} in {name:?}",
        slug(name).len()
    );
    Ok(())
}

/// A name as a folder's: letters, small ones of A to Z, digits, `+`, `_`, and a hyphen for everything else.
pub fn slug(name: &str) -> String {
    let kept = |c: char| match c {
        '+' | '_' => c,
        _ if c.is_alphanumeric() => c.to_ascii_lowercase(),
        _ => '-',
    };
    let text: String = name.chars().map(kept).collect();
    let parts = text.split('-').filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-")
}
