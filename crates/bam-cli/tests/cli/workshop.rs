//! A temporary folder with everything that a training run needs, made by the program itself.

use crate::program::{args, refuses, succeed};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Tokens of the workshop's tokenizer.
pub const VOCABULARY: usize = 300;
/// Tokens that a passkey prompt without filler fits into, and some fillers.
pub const PROMPT_LENGTH: &str = "600";

pub struct Workshop {
    folder: TempDir,
}

impl Workshop {
    /// Text, tokenizer, tokens and a recipe.
    pub fn new() -> Self {
        let shop = Self {
            folder: TempDir::new().expect("a temporary folder"),
        };
        std::fs::create_dir(shop.path("corpus")).unwrap();
        for (document, name) in ["one.txt", "two.md"].iter().enumerate() {
            std::fs::write(shop.path("corpus").join(name), text(document)).unwrap();
        }
        let (corpus, tokenizer) = (shop.path("corpus"), shop.path("tokenizer.json"));
        let vocabulary = VOCABULARY.to_string();
        succeed(&args![
            "tokenizer train {} --out {} --vocabulary {}",
            corpus,
            tokenizer,
            vocabulary
        ]);
        let tokens = shop.path("tokens");
        succeed(&args![
            "prepare {} --tokenizer {} --out {}",
            corpus,
            tokenizer,
            tokens
        ]);
        std::fs::write(shop.path("recipe.toml"), recipe(&tokens)).unwrap();
        shop
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// `bam train` into a folder of this name, with values of the recipe set.
    pub fn train(&self, run: &str, settings: &[&str]) -> Vec<OsString> {
        let (recipe, tokenizer) = (self.path("recipe.toml"), self.path("tokenizer.json"));
        let mut words = args![
            "train {} --tokenizer {} --out {}",
            recipe,
            tokenizer,
            self.path(run)
        ];
        for setting in settings {
            words.extend(args!["--set {}", *setting]);
        }
        words
    }

    /// Fails, says all of `named`, and leaves the folder as it was.
    pub fn refuses(&self, words: &[OsString], named: &[&str]) {
        refuses(self.dir(), words, named);
    }

    /// A model of one layer after two steps.
    pub fn trained_model(&self) -> PathBuf {
        succeed(&self.train("model", &["train.steps=2", "model.layers=1"]));
        self.path("model")
    }
}

/// `bam eval passkey` of a model of a workshop, with so many samples.
pub fn passkeys(model: &Path, samples: &str) -> Vec<OsString> {
    args![
        "eval passkey {} --lengths {} --samples {}",
        model,
        PROMPT_LENGTH,
        samples
    ]
}

fn recipe(tokens: &Path) -> String {
    format!(
        r#"
        [model]
        encoding = "bam+ssmax"
        dim = 16
        layers = 2
        heads = 2
        [data]
        tokens = {tokens:?}
        validation = {tokens:?}
        mix = {{ text = 0.8, copy = 0.2 }}
        [train]
        length = 32
        rows = 4
        parts = 2
        steps = 20
        learning_rate = 1e-2
        validate_every = 10
        validation_rows = 4
        checkpoint_every = 5
        "#
    )
}

/// Some thousand words, the same in every run.
pub fn text(document: usize) -> String {
    const WORDS: &str = "the river bends around a quiet town where lanterns burn until morning \
                         and children count 17 boats or 203 birds before breakfast every day";
    let all: Vec<&str> = WORDS.split(' ').collect();
    let mut state = 0x9E37_79B9_u32.wrapping_add(document as u32);
    let words = (0..3000).map(|place| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let word = all[(state >> 16) as usize % all.len()];
        if place % 11 == 10 {
            format!("{word}.\n")
        } else {
            format!("{word} ")
        }
    });
    words.collect()
}
