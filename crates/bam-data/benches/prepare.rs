//! `bam prepare`'s speed: reading, encoding and writing a corpus, and encoding it alone.
//!
//! Every document's ids are compared with the library's before the clock starts. Prints a line of JSON for
//! each of two passes: `--corpus FILE`, `--tokenizer FILE`, `--threads T`.

use bam_data::{
    Corpus, Document, ShardOptions, ShardWriter, Source, Tokenizer, hexadecimal, prepare,
};
use rayon::prelude::*;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

fn documents(corpus: &Path) -> Vec<Document> {
    let corpus = Corpus::new(Source::Local(corpus.to_path_buf()));
    let documents = corpus.documents(|_| {}).expect("a corpus");
    documents.collect::<Result<_, _>>().expect("documents")
}

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let (mut corpus, mut tokenizer) = (None, None);
    for pair in words.chunks(2) {
        match pair {
            [name, value] if name == "--corpus" => corpus = Some(PathBuf::from(value)),
            [name, value] if name == "--threads" => {
                let threads = value.parse().expect("a number of threads");
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                pool.build_global().expect("threads");
            }
            [name, value] if name == "--tokenizer" => tokenizer = Some(PathBuf::from(value)),
            other => panic!("expected --corpus FILE --tokenizer FILE, got {other:?}"),
        }
    }
    let (Some(corpus), Some(file)) = (corpus, tokenizer) else {
        // `cargo test` builds benchmarks and runs them with nothing to measure.
        return;
    };
    let tokenizer = Tokenizer::from_file(&file).expect("a tokenizer");
    let mut library = tokenizers::Tokenizer::from_file(&file).expect("the library's");
    library.set_encode_special_tokens(true);
    let texts = documents(&corpus);
    let mut digest = Sha256::new();
    let mut tokens = 0;
    for chunk in texts.chunks(64) {
        let ids: Vec<Vec<u32>> = chunk
            .par_iter()
            .map(|document| {
                let ours = tokenizer.encode(&document.text).expect("ids");
                let theirs = library
                    .encode_fast(document.text.as_str(), false)
                    .expect("ids");
                assert!(ours == theirs.get_ids(), "{}: other ids", document.origin);
                ours
            })
            .collect();
        for ids in ids {
            tokens += ids.len();
            ids.iter().for_each(|id| digest.update(id.to_le_bytes()));
        }
    }
    let bytes: usize = texts.iter().map(|document| document.text.len()).sum();
    let mut encode = f64::INFINITY;
    for _ in 0..3 {
        let begun = Instant::now();
        let all: usize = texts
            .par_iter()
            .map(|document| tokenizer.encode(&document.text).expect("ids").len())
            .sum();
        encode = encode.min(begun.elapsed().as_secs_f64());
        assert_eq!(all, tokens);
    }
    drop(texts);
    let mut whole = f64::INFINITY;
    for _ in 0..3 {
        let out = tempfile::tempdir().expect("a folder");
        let begun = Instant::now();
        let corpus = Corpus::new(Source::Local(corpus.clone()));
        let read = corpus.documents(|_| {}).expect("a corpus");
        let mut writer =
            ShardWriter::create(out.path(), tokenizer.identity(), &ShardOptions::default())
                .expect("a store");
        let done = prepare(read, &tokenizer, &mut writer, |_| {}).expect("tokens");
        writer.finish().expect("a store");
        whole = whole.min(begun.elapsed().as_secs_f64());
        assert_eq!(done.tokens, tokens as u64);
    }
    let name = |path: &PathBuf| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let ids = hexadecimal(&digest.finalize());
    for (pass, seconds) in [("encode", encode), ("read, encode and write", whole)] {
        let line = json!({
            "implementation": "bam", "pass": pass, "corpus": name(&corpus), "tokenizer": name(&file),
            "bytes": bytes, "tokens": tokens, "ids": ids, "milliseconds": 1e3 * seconds,
        });
        println!("{line}");
    }
}
