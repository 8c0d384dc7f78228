//! The books that the program carries, so that a first run needs nothing else.

use anyhow::Context;
use bam_data::Document;
use bam_eval::ruler::Essays;
use serde::Deserialize;

const TRAIN: &[u8] = include_bytes!("../assets/books-train.jsonl.zst");
const HELD_OUT: &[u8] = include_bytes!("../assets/books-heldout.jsonl.zst");

/// The name of the training books in records.
pub const NAME: &str = "twelve books in the public domain, carried by bam";

/// A whole book in the public domain.
#[derive(Debug, Deserialize)]
pub struct Book {
    pub title: String,
    pub author: String,
    pub text: String,
}

/// Twelve books to train on.
pub fn training_books() -> anyhow::Result<Vec<Book>> {
    read(TRAIN)
}

/// The training books as a text to hide RULER's needles in.
pub fn essays() -> anyhow::Result<Essays> {
    let books = training_books()?;
    let texts: Vec<&str> = books.iter().map(|book| book.text.as_str()).collect();
    Ok(Essays::new(NAME, &texts.join("\n\n"))?)
}

/// A book by an author who is not among them.
pub fn held_out_book() -> anyhow::Result<Book> {
    read(HELD_OUT)?
        .pop()
        .context("the program carries no held-out book")
}

fn read(bytes: &[u8]) -> anyhow::Result<Vec<Book>> {
    let text = zstd::decode_all(bytes).context("the books in the program are broken")?;
    serde_json::Deserializer::from_slice(&text)
        .into_iter::<Book>()
        .collect::<Result<_, _>>()
        .context("the books in the program are broken")
}

impl Book {
    /// Title and author.
    pub fn name(&self) -> String {
        format!("{} ({})", self.title, self.author)
    }

    /// The book as a document of a corpus.
    pub fn document(&self) -> Document {
        Document {
            text: self.text.clone(),
            origin: self.title.clone(),
        }
    }
}
