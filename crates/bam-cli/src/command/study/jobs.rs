//! A study's jobs, and who does which.
//!
//! A job leaves a file and is done when the file is there; a model that has all its records need not be there itself, so
//! a study goes on from records alone. Processes agree by locks on files beside the runs' folders, which
//! the system takes back from a process that ends, however it ends. So any number of them, on one machine or on several with
//! a common file system, may work at one study and need not know of each other.

use super::definition::{Group, Model, Study, slug};
use crate::experiment::is_trained;
use crate::runs;
use anyhow::Context;
use bam_lm::analysis::surgery::PriorEdit;
use bam_lm::train::Recipe;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// A piece of work on one model, in the order in which they are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Train,
    Heads,
    Perplexity,
    Passkey,
    Synthetic,
    Ruler,
}

impl Stage {
    pub const ALL: [Self; 6] = [
        Self::Train,
        Self::Heads,
        Self::Perplexity,
        Self::Passkey,
        Self::Synthetic,
        Self::Ruler,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Heads => "heads",
            Self::Perplexity => "perplexity",
            Self::Passkey => "passkey",
            Self::Synthetic => "synthetic",
            Self::Ruler => "ruler",
        }
    }

    /// The record that it leaves, if it is one.
    pub fn record(self) -> Option<&'static str> {
        match self {
            Self::Train => None,
            Self::Heads => Some(runs::HEADS),
            Self::Perplexity => Some(runs::PERPLEXITY),
            Self::Passkey => Some(runs::PASSKEY),
            Self::Synthetic => Some(runs::SYNTHETIC),
            Self::Ruler => Some(runs::RULER),
        }
    }
}

/// A model with a seed.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its group's place in the study.
    pub group: usize,
    pub name: String,
    pub seed: u64,
    pub recipe: Recipe,
    pub dir: PathBuf,
    /// The folder of the model that it is made from, and what is changed, where it is not trained itself.
    pub edit: Option<(PathBuf, PriorEdit)>,
    /// In their order.
    stages: Vec<Stage>,
    /// The folders of the models that are made from it.
    made_from_it: Vec<PathBuf>,
}

/// A stage of a run.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    pub run: &'a Run,
    pub stage: Stage,
}

/// The runs of a study under a folder: group by group, and in a group seed by seed, so that there is early something to see
/// of every model.
///
/// # Errors
/// Those of its recipes.
pub fn runs(study: &Study, file: &Path, out: &Path) -> anyhow::Result<Vec<Run>> {
    let mut all = Vec::new();
    for (index, group) in study.groups.iter().enumerate() {
        let (models, stages) = (group.models(file)?, stages(group));
        for &seed in &group.seeds {
            let dir = |name: &str| {
                let dir = out.join(slug(&group.name)).join(slug(name));
                dir.join(format!("seed-{seed}"))
            };
            for Model { name, recipe, edit } in &models {
                let mut recipe = recipe.clone();
                recipe.train.seed = seed;
                let edited = models.iter().filter(|model| {
                    let of = model.edit.as_ref().map(|(of, _)| of);
                    of == Some(name)
                });
                all.push(Run {
                    group: index,
                    name: name.clone(),
                    seed,
                    recipe,
                    dir: dir(name),
                    edit: edit.as_ref().map(|(of, edit)| (dir(of), edit.clone())),
                    stages: stages.clone(),
                    made_from_it: edited.map(|model| dir(&model.name)).collect(),
                });
            }
        }
    }
    Ok(all)
}

/// The stages that a group asks for.
fn stages(group: &Group) -> Vec<Stage> {
    let asked = |stage: &Stage| match stage {
        Stage::Train | Stage::Heads => true,
        Stage::Perplexity => group.perplexity.is_some(),
        Stage::Passkey => !group.passkey.is_empty(),
        Stage::Synthetic => group.synthetic.is_some(),
        Stage::Ruler => group.ruler.is_some(),
    };
    Stage::ALL.into_iter().filter(asked).collect()
}

/// The jobs on runs: of each group and seed first those of one stage.
pub fn jobs(runs: &[Run]) -> Vec<Job<'_>> {
    let mut jobs = Vec::new();
    for of_seed in runs.chunk_by(|a, b| (a.group, a.seed) == (b.group, b.seed)) {
        for &stage in &of_seed[0].stages {
            jobs.extend(of_seed.iter().map(|run| Job { run, stage }));
        }
    }
    jobs
}

impl Run {
    /// Whether its model was made, which need not be there any more.
    pub fn was_made(&self) -> bool {
        is_trained(&self.dir) || self.dir.join(runs::HEADS).exists()
    }
}

impl Job<'_> {
    /// Whether it edits a trained model, which takes no time.
    pub fn is_edit(&self) -> bool {
        self.stage == Stage::Train && self.run.edit.is_some()
    }

    /// The name of its kind.
    pub fn kind(&self) -> &'static str {
        match self.is_edit() {
            true => "edit",
            false => self.stage.name(),
        }
    }

    pub fn is_done(&self) -> bool {
        let Run {
            dir,
            stages,
            made_from_it,
            ..
        } = self.run;
        match self.stage.record() {
            Some(record) => dir.join(record).exists(),
            None => {
                let measured = |dir: &PathBuf| {
                    let mut records = stages.iter().filter_map(|of| of.record());
                    records.all(|record| dir.join(record).exists())
                };
                is_trained(dir) || (measured(dir) && made_from_it.iter().all(measured))
            }
        }
    }

    /// Whether what it works on is there.
    pub fn is_ready(&self) -> bool {
        match (self.stage, &self.run.edit) {
            (Stage::Train, None) => true,
            (Stage::Train, Some((of, _))) => is_trained(of),
            _ => is_trained(&self.run.dir),
        }
    }

    /// Its name for people.
    pub fn title(&self) -> String {
        format!("{} {}, seed {}", self.kind(), self.run.name, self.run.seed)
    }

    /// Takes its run for this process, as long as the file is held; `None` where another process has it.
    ///
    /// # Errors
    /// If the lock can't be written.
    pub fn claim(&self) -> anyhow::Result<Option<File>> {
        let path = self.run.dir.with_extension("lock");
        let file = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let file = file.and_then(|()| File::create(&path));
        let file = file.with_context(|| format!("{}: could not create it", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("{}: could not lock it", path.display()))
            }
        }
    }
}
