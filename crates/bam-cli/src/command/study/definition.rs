//! A study as its file says it: groups of models, the seeds of each, and measures.

use crate::args::Length;
use crate::corpus;
use anyhow::{Context, ensure};
use bam_data::synthetic_task::SyntheticTask;
use bam_eval::passkey::{Depths, LengthPlan};
use bam_eval::ruler::{RulerSamples, Sources, Task};
use bam_eval::stopping::Stopping;
use bam_lm::analysis::surgery::PriorEdit;
use bam_lm::model::encoding::Encoding;
use bam_lm::train::Recipe;
use serde::Deserialize;
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
    #[serde(default = "ten")]
    batch: usize,
    /// Lengths in a row without a right answer, after which longer ones are not asked.
    #[serde(default)]
    pub patience: Option<usize>,
    /// Models that are compared with each other.
    #[serde(rename = "group")]
    pub groups: Vec<Group>,
}

fn ten() -> usize {
    10
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

/// An encoding, or a variant of one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ModelEntry {
    Plain(String),
    Variant {
        /// Its name in tables.
        name: String,
        encoding: String,
        #[serde(default)]
        set: Vec<String>,
    },
    /// Another of the group's models with other priors.
    Edited {
        /// Its name in tables.
        name: String,
        of: String,
        prior: Surgery,
    },
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

/// RULER's samples, and the tasks and lengths that are asked.
type RulerGrid = (RulerSamples, Vec<(Task, usize)>);

/// One model of a group, before its seed.
#[derive(Clone, Debug)]
pub struct Model {
    pub name: String,
    /// Its recipe with the first seed; of an edited one, that of the model it was.
    pub recipe: Recipe,
    /// The name of another and what is changed of it, where it is not trained itself.
    pub edit: Option<(String, PriorEdit)>,
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
        ensure!(!self.groups.is_empty(), "group: expected at least one");
        let mut names = BTreeSet::new();
        for group in &self.groups {
            let name = &group.name;
            let new = names.insert(slug(name)) && !slug(name).is_empty();
            ensure!(
                new,
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
        Stopping::unless_empty(&self.decide, self.batch)
    }
}

impl Group {
    fn check(&self, study: &Path) -> anyhow::Result<()> {
        ensure!(!self.seeds.is_empty(), "seeds: expected at least one");
        let models = self.models(study)?;
        ensure!(!models.is_empty(), "models: expected at least one");
        let folders: BTreeSet<String> = models.iter().map(|model| slug(&model.name)).collect();
        ensure!(
            folders.len() == models.len(),
            "models: expected names that differ in more than signs, got {:?}",
            models.iter().map(|model| &model.name).collect::<Vec<_>>()
        );
        let trained = models[0].recipe.train.length;
        self.passkey_lengths(trained)?;
        self.synthetic_tasks(trained)?;
        self.reading(trained)?;
        let ruler = self.ruler.iter().flat_map(|of| of.lengths.clone());
        tokens("ruler.lengths", &ruler.collect::<Vec<_>>(), trained)?;
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
                ModelEntry::Variant {
                    name,
                    encoding,
                    set,
                } => (name, encoding, &set[..]),
                ModelEntry::Edited { name, of, prior } => {
                    let known = models
                        .iter()
                        .find(|model| model.name == *of && model.edit.is_none());
                    let known = known.with_context(|| {
                        let known: Vec<_> = models.iter().map(|model| &model.name).collect();
                        format!(
                            "of: expected a trained model before it, one of {known:?}, got {of:?}"
                        )
                    })?;
                    let edit = prior.edit().with_context(|| format!("model {name:?}"))?;
                    models.push(Model {
                        name: name.clone(),
                        recipe: known.recipe.clone(),
                        edit: Some((of.clone(), edit)),
                    });
                    continue;
                }
            };
            let encoding: Encoding = encoding.parse()?;
            let encoding = format!("model.encoding=\"{encoding}\"");
            let overrides = self.set.iter().chain(set).cloned();
            let overrides: Vec<String> = std::iter::once(encoding).chain(overrides).collect();
            models.push(Model {
                name: name.clone(),
                recipe: Recipe::from_toml(&text, &overrides, &path)?,
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
            let share = after.is_none_or(|share| (0.0..=1.0).contains(&share));
            ensure!(
                share,
                "passkey.after: expected a share from 0 to 1, got {after:?}"
            );
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
        let twice = plans.windows(2).find(|of| of[0].length == of[1].length);
        ensure!(
            twice.is_none(),
            "passkey: expected each length once, got {twice:?}"
        );
        Ok(plans)
    }

    /// Tasks of exact difficulty, where they are asked for.
    pub fn synthetic_tasks(&self, train_length: usize) -> anyhow::Result<Option<TaskGrid>> {
        let of = |of: &Tasks| {
            let mut lengths = tokens("synthetic.lengths", &of.lengths, train_length)?;
            lengths.sort_unstable();
            let tasks = of.tasks.iter().map(|task| task.parse());
            let tasks = tasks.collect::<Result<_, bam_data::DataError>>()?;
            Ok((tasks, lengths, of.samples))
        };
        self.synthetic.as_ref().map(of).transpose()
    }

    /// RULER's samples and grid, where they are asked for; needles are hidden in the training books.
    ///
    /// # Errors
    /// If the books can't be read.
    pub fn ruler(&self, train_length: usize, seed: u64) -> anyhow::Result<Option<RulerGrid>> {
        let Some(Lengths { lengths, samples }) = &self.ruler else {
            return Ok(None);
        };
        let mut lengths = tokens("ruler.lengths", lengths, train_length)?;
        lengths.sort_unstable();
        let sources = Sources {
            essays: corpus::essays()?,
            squad: None,
            hotpotqa: None,
        };
        let made = RulerSamples::Made(Box::new(sources), *samples, seed);
        let tasks = Task::ALL.into_iter();
        let tasks = tasks.filter(|task| !matches!(task, Task::Qa1 | Task::Qa2));
        let grid = made.grid(&tasks.collect::<Vec<_>>(), &lengths);
        Ok(Some((made, grid)))
    }

    /// Tokens of the book that are read, all if `None`, where perplexity is measured.
    pub fn reading(&self, train_length: usize) -> anyhow::Result<Option<Option<usize>>> {
        let of = |reading: &Reading| {
            let length = reading.length.iter().cloned().collect::<Vec<_>>();
            Ok(tokens("perplexity.length", &length, train_length)?.pop())
        };
        self.perplexity.as_ref().map(of).transpose()
    }
}

fn tokens(what: &str, lengths: &[String], train_length: usize) -> anyhow::Result<Vec<usize>> {
    let of = |length: &String| {
        let length: Length = length
            .parse()
            .map_err(|error| anyhow::anyhow!("{what}: {error}"))?;
        Ok(length.tokens(train_length))
    };
    lengths.iter().map(of).collect()
}

/// A name as a folder's: small letters, digits, `+`, and a hyphen for everything else.
pub fn slug(name: &str) -> String {
    let kept = |c: char| match c {
        'a'..='z' | '0'..='9' | '+' | '_' => c,
        'A'..='Z' => c.to_ascii_lowercase(),
        _ => '-',
    };
    let text: String = name.chars().map(kept).collect();
    let parts = text.split('-').filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-")
}
