//! Results of an evaluation as staged files of other programs.

use super::lm_eval::TaskHashes;
use super::lm_eval::samples::SampleLines;
use super::run::{Moment, Run, folder_name};
use super::staged_files::StagedFiles;
use crate::evaluation::Evaluation;
use bam_lm::Error;
use bam_record::Record;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Something that is written, or can't be.
pub type Written = Result<(), Error>;

/// The program whose files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// lm-eval: `results_<time>.json` and `samples_<task>_<time>.jsonl`.
    LmEval,
    /// RULER: `<task>.jsonl` and `summary.csv`.
    Ruler,
    /// RULER's samples, the same for all models: `<length>/<task>/validation.jsonl`.
    RulerSamples,
    /// BABILong: `<task>_<length>_….csv`.
    Babilong,
}

/// A folder for files of a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportFolder {
    pub format: Format,
    pub dir: PathBuf,
}

/// An evaluation whose results other programs have files for; without any where it says nothing of them.
pub trait Export: Evaluation {
    /// Adds the files of a cell.
    ///
    /// # Errors
    /// If a file can't be written.
    fn export_cell(
        &self,
        _set: &Self::Set,
        _score: &Self::Score,
        _exports: &mut Exports,
    ) -> Written {
        Ok(())
    }

    /// Adds the files of a record.
    ///
    /// # Errors
    /// If a file can't be written.
    fn export_record(&self, _record: &Record<Self::Metrics>, _exports: &mut Exports) -> Written {
        Ok(())
    }
}

/// The files of one model.
pub struct Exports<'a> {
    pub(super) folders: &'a [ExportFolder],
    pub(super) files: &'a mut StagedFiles,
    run: Run<'a>,
    /// Samples and the name of their file by the part of lm-eval's results that they are in, and by task.
    lines: BTreeMap<(String, String), (String, SampleLines)>,
}

impl<'a> Exports<'a> {
    /// No files yet of the model in `folder`, as it was named, whose run began at this time.
    #[must_use]
    pub fn new(
        folders: &'a [ExportFolder],
        files: &'a mut StagedFiles,
        folder: &'a str,
        began: &'a Moment,
    ) -> Self {
        Self {
            folders,
            files,
            run: Run { folder, began },
            lines: BTreeMap::new(),
        }
    }

    /// The folders of a format.
    pub(super) fn dirs(&self, format: Format) -> impl Iterator<Item = &'a Path> + use<'a> {
        let of = self.folders.iter();
        let of = of.filter(move |folder| folder.format == format);
        of.map(|folder| folder.dir.as_path())
    }

    /// The model's folders in those of a format, below `part`.
    pub(super) fn of_model(&self, format: Format, part: &str) -> Vec<PathBuf> {
        let model = folder_name(self.run.folder);
        let dir = |dir: &Path| dir.join(part).join(&model);
        self.dirs(format).map(dir).collect()
    }

    /// Adds samples of a task to those of lm-eval, to the results in `part`.
    pub(super) fn lm_eval_samples(
        &mut self,
        part: &str,
        task: &str,
        lines: impl FnOnce(&mut SampleLines) -> Vec<String>,
    ) -> Written {
        let dirs = self.of_model(Format::LmEval, part);
        if dirs.is_empty() {
            return Ok(());
        }
        let key = (part.to_owned(), task.to_owned());
        if !self.lines.contains_key(&key) {
            // Tasks whose names differ may have the same name as a file.
            let numbered = (2..).map(|number| format!("{task}-{number}"));
            let free = |name: &String| {
                let mut files = self.lines.iter().map(|((of, _), (file, _))| (of, file));
                !files.any(|(of, file)| of == part && file == name)
            };
            let names = std::iter::once(task.to_owned()).chain(numbered);
            let mut names = names.map(|task| self.run.began.samples_file(&task));
            let name = names.find(free).unwrap_or_default();
            self.lines
                .insert(key.clone(), (name, SampleLines::default()));
        }
        let (file, samples) = self.lines.entry(key).or_default();
        let lines = lines(samples);
        for dir in dirs {
            self.files.add(dir.join(&*file), &lines)?;
        }
        Ok(())
    }

    /// Adds lm-eval's results in `part`, given the digests of its samples.
    pub(super) fn lm_eval_results(
        &mut self,
        part: &str,
        results: impl FnOnce(&Run, &TaskHashes) -> Value,
    ) -> Written {
        let of_part = self.lines.iter().filter(|((of, _), _)| of == part);
        let hashes = of_part.map(|((_, task), (_, lines))| (task.clone(), lines.digest()));
        let text = format!("{:#}", results(&self.run, &hashes.collect()));
        for dir in self.of_model(Format::LmEval, part) {
            let path = dir.join(self.run.began.results_file());
            self.files.add(path, [&text])?;
        }
        Ok(())
    }
}

impl Export for crate::passkey::PasskeyEvaluation<'_> {}
impl Export for crate::perplexity::PerplexityEvaluation<'_> {}
impl Export for crate::synthetic::SyntheticEvaluation<'_> {}
