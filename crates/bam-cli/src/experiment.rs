//! A model's way from a recipe to its records, in stages that leave their files: what is there is not made again, so that
//! work which was stopped goes on.

use crate::command::eval::models::Session;
use crate::command::train::{begin, goes_on, train};
use crate::console::{self, Progress};
use crate::corpus::{Book, held_out_book, training_books};
use crate::{ranks, runs};
use anyhow::Context;
use bam_data::{TokenStore, Tokenizer, TokenizerConfig};
use bam_eval::evaluation::Subject;
use bam_eval::exchange::export::Export;
use bam_lm::model::Transformer;
use bam_lm::model::checkpoint::{WEIGHTS_FILE, place};
use bam_lm::train::{Outcome, Recipe, RunFolder, Trainer, Workers};
use burn::tensor::Device;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tokens of the tokenizer.
pub const TOKENS: usize = 1024;
/// Copies of the passkey task's sentences that the tokenizer reads, so that a prompt fits a context of 128.
const TASK_COPIES: usize = 1000;

/// The books that the program carries, as tokens.
pub struct Materials {
    pub tokenizer: Arc<Tokenizer>,
    pub text: Arc<TokenStore>,
    pub validation: Arc<TokenStore>,
    pub held_out: Book,
}

impl Materials {
    /// Tokens of the training books and the held-out book; the tokenizer is made where a folder has none.
    pub fn open(out: &Path) -> anyhow::Result<Self> {
        let books = training_books()?;
        let held_out = held_out_book()?;
        std::fs::create_dir_all(out)
            .with_context(|| format!("{}: could not create it", out.display()))?;
        let path = out.join("tokenizer.json");
        if !ranks::leads() {
            // The first rank makes it.
            ranks::all().wait();
        }
        let tokenizer = match path.exists() {
            true => Tokenizer::from_file(&path)?,
            false => {
                let progress = Progress::new((books.len() + TASK_COPIES) as u64, "tokenizer");
                let tokenizer = train_tokenizer(&books, |documents| progress.at(documents, ""))?;
                progress.finish();
                tokenizer.save(&path)?;
                tokenizer
            }
        };
        if ranks::leads() {
            ranks::all().wait();
        }
        let store = |books: &[&Book]| -> anyhow::Result<Arc<TokenStore>> {
            let documents: Vec<Vec<u32>> = books
                .iter()
                .map(|book| tokenizer.encode(&book.text))
                .collect::<Result<_, _>>()?;
            let bytes = books.iter().map(|book| book.text.len() as u64).sum();
            Ok(Arc::new(TokenStore::in_memory(
                tokenizer.identity(),
                &documents,
                bytes,
            )?))
        };
        let text = store(&books.iter().collect::<Vec<_>>())?;
        let validation = store(&[&held_out])?;
        Ok(Self {
            text,
            validation,
            held_out,
            tokenizer: Arc::new(tokenizer),
        })
    }
}

fn train_tokenizer(
    books: &[Book],
    mut progress: impl FnMut(u64) + Send,
) -> anyhow::Result<Tokenizer> {
    let task = bam_data::passkey::sample_text("0123456789");
    let sentences = std::iter::repeat_n(task, TASK_COPIES).map(|text| bam_data::Document {
        text,
        origin: "the passkey task".into(),
    });
    let documents = books.iter().map(Book::document).chain(sentences).map(Ok);
    let config = TokenizerConfig {
        vocabulary: TOKENS,
        ..TokenizerConfig::default()
    };
    Ok(Tokenizer::train(documents, &config, |at| {
        progress(at.documents)
    })?)
}

/// Whether a run's folder holds its finished model.
pub fn is_trained(dir: &Path) -> bool {
    place(dir, WEIGHTS_FILE).exists()
}

/// Trains a model, or goes on, or loads it where it is finished; `None` where it was interrupted.
pub fn trained(
    dir: &Path,
    name: &str,
    recipe: Recipe,
    materials: &Materials,
    device: &Device,
) -> anyhow::Result<Option<Transformer>> {
    let begun = dir.join("recipe.toml").exists();
    ranks::all().same("a run begun", &begun.to_string())?;
    let folder = match begun {
        true => {
            let (folder, begun, _) = RunFolder::open(dir)?;
            goes_on(dir, &begun, &recipe)?;
            folder
        }
        false => begin(dir, &recipe, &materials.tokenizer, false)?,
    };
    let trained = is_trained(dir);
    ranks::all().same("a model trained", &trained.to_string())?;
    if !trained {
        let workers = Workers {
            ranks: ranks::all(),
            ..Workers::alone(device, rayon::current_num_threads())
        };
        let mut trainer = Trainer::new(
            recipe,
            Arc::clone(&materials.tokenizer),
            Arc::clone(&materials.text),
            Some(Arc::clone(&materials.validation)),
            &workers,
        )?;
        folder.restore(&mut trainer)?;
        if train(&folder, &mut trainer, &format!("train {name}"))? == Outcome::Stopped {
            return Ok(None);
        }
    }
    Ok(Some(runs::load_model(dir, device)?))
}

/// A trained model whose records are made.
pub struct Measured<'a> {
    pub dir: &'a Path,
    pub name: &'a str,
    pub subject: Subject<'a>,
    pub seed: u64,
}

impl Measured<'_> {
    /// The place of a record that is not there.
    pub fn missing(&self, record: &str) -> Option<PathBuf> {
        Some(self.dir.join(record)).filter(|path| !path.exists())
    }

    /// Each head's prior over rows of a length.
    pub fn heads(&self, longest: usize) -> anyhow::Result<()> {
        let missing = self.missing(runs::HEADS).filter(|_| ranks::leads());
        if let Some(path) = missing {
            let (start, model) = (console::seconds(), self.subject.model);
            let heads = bam_lm::analysis::heads(model, longest)?;
            runs::write_record(&path, model, self.seed, console::seconds() - start, heads)?;
        }
        Ok(())
    }

    /// Runs an evaluation unless its record is there; `false` where it was interrupted.
    pub fn record<'a, E: Export>(
        &'a self,
        session: &mut Session,
        (record, what): (&str, &str),
        evaluation: impl FnOnce(Subject<'a>) -> Result<E, bam_lm::Error>,
    ) -> anyhow::Result<bool> {
        let Some(path) = self.missing(record) else {
            return Ok(true);
        };
        let evaluation = evaluation(self.subject)?;
        let of = (self.dir, self.subject, &*path);
        let title = format!("{what} {}", self.name);
        let measured = session.measure(&title, of, &evaluation, self.seed)?;
        Ok(measured.is_some())
    }
}
