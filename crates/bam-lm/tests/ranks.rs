//! Training on several ranks, with threads as ranks: the same bits on any number of them.

use bam_data::{TokenStore, Tokenizer, TokenizerConfig};
use bam_lm::device::{DeviceName, cpu};
use bam_lm::ranks::{Alone, Ranks, threads};
use bam_lm::train::{Outcome, Recipe, RunFolder, Trainer, Workers};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

const STEPS: u64 = 8;

struct Workshop {
    folder: TempDir,
    tokenizer: Arc<Tokenizer>,
    store: Arc<TokenStore>,
}

impl Workshop {
    fn new() -> Self {
        let words = "the river bends around a quiet town where 17 boats burn until morning";
        let text: Vec<&str> = words.split(' ').collect();
        let text = (0..2000_usize).map(|at| text[(at * at + at / 7) % text.len()]);
        let text = text.collect::<Vec<_>>().join(" ");
        let document = bam_data::Document {
            text: text.clone(),
            origin: "a test".into(),
        };
        let config = TokenizerConfig {
            vocabulary: 270,
            ..TokenizerConfig::default()
        };
        let tokenizer = Tokenizer::train([Ok(document)].into_iter(), &config, |_| ()).unwrap();
        let documents = [tokenizer.encode(&text).unwrap()];
        let bytes = text.len() as u64;
        let store = TokenStore::in_memory(tokenizer.identity(), &documents, bytes).unwrap();
        Self {
            folder: TempDir::new().unwrap(),
            tokenizer: Arc::new(tokenizer),
            store: Arc::new(store),
        }
    }

    fn recipe(settings: &[&str]) -> Recipe {
        let text = r#"
            model = { encoding = "bam+ssmax", dim = 24, layers = 2, heads = 3 }
            data = { tokens = "tokens" }
            train = { length = 24, rows = 10, parts = 5, steps = 8, learning_rate = 1e-2, validate_every = 4,
                      validation_rows = 30, checkpoint_every = 3 }
        "#;
        let settings: Vec<String> = settings.iter().map(|&of| of.to_owned()).collect();
        Recipe::from_toml(text, &settings, Path::new("recipe.toml")).unwrap()
    }

    fn trainer(&self, recipe: &Recipe, devices: usize, ranks: Arc<dyn Ranks>) -> Trainer {
        let workers = Workers {
            devices: vec![cpu(); devices],
            threads: 1 + ranks.rank() % 3,
            ranks,
        };
        let text = Arc::clone(&self.store);
        let validation = Some(Arc::clone(&self.store));
        let tokenizer = Arc::clone(&self.tokenizer);
        // Weights are drawn from the process's one generator, which ranks that are processes do not share.
        static DRAWING: Mutex<()> = Mutex::new(());
        let _alone = DRAWING.lock().unwrap();
        Trainer::new(recipe.clone(), tokenizer, text, validation, &workers).unwrap()
    }

    /// Trains into a folder, or goes on in it, up to a step.
    fn train(&self, name: &str, settings: &[&str], size: usize, until: u64) -> Outcome {
        let recipe = Self::recipe(settings);
        let dir = self.folder.path().join(name);
        if !dir.exists() {
            RunFolder::create(&dir, &recipe, &self.tokenizer).unwrap();
        }
        let outcomes = threads::run(size, |ranks| {
            let folder = RunFolder::of_another_rank(&dir);
            // One rank alone is told to stop: the last.
            let last = ranks.rank() + 1 == size;
            let mut trainer = self.trainer(&recipe, 1, ranks);
            folder.restore(&mut trainer).unwrap();
            let step = AtomicU64::new(trainer.step());
            let stop = || step.fetch_add(1, Ordering::Relaxed) + 1 >= until && last;
            folder.train(&mut trainer, || 0.0, stop, |_| ()).unwrap()
        });
        assert!(outcomes.iter().all(|one| *one == outcomes[0]));
        outcomes[0]
    }

    /// All files of a run but those that tell times and places, by name.
    fn files(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.folder.path().join(name)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => {
                        let bytes = std::fs::read(&path).unwrap();
                        let name = path.strip_prefix(self.folder.path().join(name)).unwrap();
                        files.insert(name.display().to_string(), bytes);
                    }
                }
            }
        }
        files.remove("recipe.toml");
        files
    }

    fn assert_same(&self, name: &str, other: &str) {
        let (one, other) = (self.files(name), self.files(other));
        assert!(one.keys().eq(other.keys()), "{:?}", other.keys());
        for (file, bytes) in &one {
            assert!(*bytes == other[file], "{file} of {name} differs");
        }
    }
}

const SHARDED: &str = "train.optimizer_state=sharded";

/// Metrics, validation losses, the checkpoint with the optimizer's state, and the final weights.
#[test]
fn runs_are_the_same_on_any_number_of_ranks() {
    let shop = Workshop::new();
    assert_eq!(shop.train("one", &[], 1, u64::MAX), Outcome::Finished);
    assert!(
        shop.files("one").len() > 8,
        "{:?}",
        shop.files("one").keys()
    );
    for size in [2, 3, 5, 8] {
        let (replicated, sharded) = (format!("replicated-{size}"), format!("sharded-{size}"));
        shop.train(&replicated, &[], size, u64::MAX);
        shop.assert_same(&replicated, "one");
        shop.train(&sharded, &[SHARDED], size, u64::MAX);
        shop.assert_same(&sharded, "one");
    }
    // Null control: another order of addition is another run.
    shop.train("fewer parts", &["train.parts=2"], 2, u64::MAX);
    let (one, other) = (shop.files("one"), shop.files("fewer parts"));
    assert_ne!(one["model.safetensors"], other["model.safetensors"]);
}

#[test]
fn runs_go_on_with_another_number_of_ranks() {
    let shop = Workshop::new();
    shop.train("one", &[], 1, u64::MAX);
    let stops = [
        (2, 2, SHARDED),
        (3, 4, "train.optimizer_state=replicated"),
        (8, 6, SHARDED),
    ];
    for (size, until, state) in stops {
        assert_eq!(shop.train("run", &[state], size, until), Outcome::Stopped);
    }
    assert_eq!(shop.train("run", &[], 1, STEPS), Outcome::Finished);
    shop.assert_same("run", "one");
}

#[test]
fn devices_of_a_process_share_its_parts() {
    let shop = Workshop::new();
    let recipe = Workshop::recipe(&[]);
    let losses = |devices| {
        let mut trainer = shop.trainer(&recipe, devices, Arc::new(Alone));
        let steps = (0..3).map(|_| trainer.advance(|| 0.0).unwrap().loss.to_bits());
        steps.collect::<Vec<_>>()
    };
    assert_eq!(losses(2), losses(1));
    assert_eq!(losses(4), losses(1));
    let recipe = recipe.on(&[DeviceName::Cpu, DeviceName::Cpu]);
    assert_eq!(recipe.devices().len(), 2);
    assert_eq!(recipe.unlike(&Workshop::recipe(&[SHARDED])), None);
}

/// A checkpoint that changed on disk is no place to go on from.
#[test]
fn checkpoints_are_checked() {
    let shop = Workshop::new();
    assert_eq!(shop.train("run", &[], 2, 3), Outcome::Stopped);
    let dir = shop.folder.path().join("run");
    let file = dir.join("checkpoint-00000003/optimizer.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let mut trainer = shop.trainer(&Workshop::recipe(&[]), 1, Arc::new(Alone));
    let error = RunFolder::of_another_rank(&dir).restore(&mut trainer);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("optimizer.safetensors: expected a file of SHA-256"),
        "{error}"
    );
}
