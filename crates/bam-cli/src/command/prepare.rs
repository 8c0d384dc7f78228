//! `bam prepare`. Several ranks each tokenize a run of the corpus's files; the first one joins them to the shards that one process
//! would write.

use crate::args::PrepareArgs;
use crate::{console, ranks};
use anyhow::{Context, ensure};
use bam_data::atomic_file::{NewFolder, sweep};
use bam_data::{
    Corpus, DataError, PrepareProgress, ShardOptions, ShardWriter, Source, TokenStore, Tokenizer,
    Verify,
};
use bam_lm::ranks::Ranks;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The documents of a run of files.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Prepared {
    documents: u64,
    tokens: u64,
    bytes: u64,
    /// Rows that were no documents.
    left_out: u64,
}

pub fn run(args: &PrepareArgs) -> anyhow::Result<ExitCode> {
    let ranks = ranks::all();
    let read = Tokenizer::from_file(&args.tokenizer).map_err(Into::into);
    let tokenizer = ranks::agree(read, |of| {
        let tokenizer = ("tokenizer", of.sha256().to_owned());
        Ok(vec![tokenizer, ("corpus", listing(args)?)])
    })?;
    let writer = ranks.leads().then(|| begin(args, &tokenizer)).transpose();
    // All begin after the first has cleared away.
    let writer = ranks::agree(writer, |_| Ok(Vec::new()))?;
    let total = match (writer, ranks.are_several()) {
        (Some(mut writer), false) => {
            let prepared = prepare(args, &tokenizer, &mut writer, (0, 1));
            finished(writer, prepared)?
        }
        (writer, _) => match shared(args, &tokenizer, writer, &*ranks)? {
            Some(total) => total,
            None => return Ok(ExitCode::SUCCESS),
        },
    };
    console::note(&format!(
        "{}: {} documents, {} tokens, {} bytes{}",
        args.out.display(),
        total.documents,
        total.tokens,
        total.bytes,
        super::left_out(total.left_out)
    ));
    if tokenizer.eos().is_none() {
        console::note(&format!(
            "{}: no token ends a document: none is called an end, by the files beside it or by its name; \
             say which as eos_token in a tokenizer_config.json beside it",
            args.tokenizer.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Name of a rank's part, after the folder's.
const PART: &str = ".part-";

fn begin(args: &PrepareArgs, tokenizer: &Tokenizer) -> anyhow::Result<ShardWriter> {
    let options = ShardOptions {
        replace: args.replace,
        ..ShardOptions::default()
    };
    let writer = ShardWriter::create(&args.out, tokenizer.identity(), &options);
    let writer = writer.map_err(|error| match error {
        DataError::FolderNotEmpty { path, found } => anyhow::anyhow!(
            "{}: expected an empty folder, got {found:?} in it; choose another, or --replace, which also begins again \
             after one that was killed",
            path.display()
        ),
        error => error.into(),
    })?;
    // The folder is ours now. Parts that killed ranks left, of however many there were.
    if let Some(name) = args.out.file_name() {
        let parts = format!("{}{PART}", name.to_string_lossy());
        let beside = args.out.parent().filter(|dir| *dir != Path::new(""));
        let beside = beside.unwrap_or(Path::new("."));
        if beside.is_dir() {
            sweep(beside, |of| of.starts_with(&parts))?;
        }
    }
    Ok(writer)
}

/// Ends the store, or gives it up where it could not be filled.
fn finished(writer: ShardWriter, filled: anyhow::Result<Prepared>) -> anyhow::Result<Prepared> {
    match filled {
        Ok(prepared) => {
            writer.finish()?;
            Ok(prepared)
        }
        Err(error) => {
            writer.discard()?;
            Err(error)
        }
    }
}

/// The files of a corpus that is here, and their sizes: a copy that is not up to date is another corpus.
fn listing(args: &PrepareArgs) -> anyhow::Result<String> {
    let files = Corpus::new(args.corpus.corpus.parse()?).local_files()?;
    let line = |(path, bytes): &(PathBuf, u64)| format!("{} ({bytes} bytes)", path.display());
    let lines: Vec<String> = files.iter().map(line).collect();
    Ok(lines.join("\n"))
}

/// Tokenizes one of so many runs of the corpus's files.
fn prepare(
    args: &PrepareArgs,
    tokenizer: &Tokenizer,
    writer: &mut ShardWriter,
    run: (usize, usize),
) -> anyhow::Result<Prepared> {
    let (mut documents, bar) = super::documents(&args.corpus, run)?;
    let total = bam_data::prepare(&mut documents, tokenizer, writer, |at| {
        bar.set_message(format!("{} documents, {} tokens", at.documents, at.tokens));
        bar.tick();
    })?;
    bar.finish_and_clear();
    let PrepareProgress {
        documents: count,
        tokens,
        bytes,
    } = total;
    Ok(Prepared {
        documents: count,
        tokens,
        bytes,
        left_out: documents.without_text(),
    })
}

/// Made by all ranks: each fills a store of its own beside the folder, and the first one joins them; its total, on the first.
fn shared(
    args: &PrepareArgs,
    tokenizer: &Tokenizer,
    writer: Option<ShardWriter>,
    ranks: &dyn Ranks,
) -> anyhow::Result<Option<Prepared>> {
    let begun = begin_part(args, tokenizer, ranks);
    let filled = begun.and_then(|(folder, mut part)| {
        let prepared = prepare(args, tokenizer, &mut part, (ranks.rank(), ranks.size()))?;
        part.finish()?;
        Ok((folder, prepared))
    });
    let filled = ranks::agree(filled, |_| Ok(Vec::new()));
    let (folder, prepared) = match (filled, writer) {
        (Err(error), Some(writer)) => {
            writer.discard()?;
            return Err(error);
        }
        (filled, writer) => {
            let (folder, prepared) = filled?;
            let part = (folder.path().to_owned(), prepared);
            let parts = ranks.gather_values(&part);
            let joined = writer.map(|mut writer| {
                let joined = join(args, &parts, &mut writer);
                finished(writer, joined)
            });
            (
                folder,
                ranks::agree(joined.transpose(), |_| Ok(Vec::new()))?,
            )
        }
    };
    // Not before the first has read it.
    drop(folder);
    Ok(prepared)
}

/// A store of this rank's own beside the folder, which goes when it is dropped.
fn begin_part(
    args: &PrepareArgs,
    tokenizer: &Tokenizer,
    ranks: &dyn Ranks,
) -> anyhow::Result<(NewFolder, ShardWriter)> {
    let source: Source = args.corpus.corpus.parse()?;
    ensure!(
        matches!(source, Source::Local(_)),
        "{source}: expected files here, which {} ranks share; fetch them first",
        ranks.size()
    );
    let name = args.out.file_name();
    let name = name.context("--out: expected a folder with a name")?;
    let name = format!("{}{PART}{}", name.to_string_lossy(), ranks.rank());
    let path = args.out.with_file_name(name);
    let could_not = || format!("{}: could not create it", path.display());
    let folder = NewFolder::create(&path).with_context(could_not)?;
    let writer = ShardWriter::create(
        folder.path(),
        tokenizer.identity(),
        &ShardOptions::default(),
    )?;
    Ok((folder, writer))
}

/// Writes the documents of all parts, in their order.
fn join(
    args: &PrepareArgs,
    parts: &[(PathBuf, Prepared)],
    writer: &mut ShardWriter,
) -> anyhow::Result<Prepared> {
    let mut total = Prepared::default();
    for (path, part) in parts {
        push_all(path, writer)?;
        total.documents += part.documents;
        total.tokens += part.tokens;
        total.bytes += part.bytes;
        total.left_out += part.left_out;
    }
    if total.bytes == 0 {
        let corpus = args.corpus.corpus.clone();
        return Err(DataError::EmptyCorpus { corpus }.into());
    }
    Ok(total)
}

fn push_all(path: &Path, writer: &mut ShardWriter) -> anyhow::Result<()> {
    let store = TokenStore::open(path, Verify::Sizes)?;
    for document in 0..store.documents() {
        // A store knows the bytes of all its texts together.
        let bytes = if document == 0 { store.bytes() } else { 0 };
        writer.push(&store.document(document)?, bytes)?;
    }
    Ok(())
}
