//! Documents that are read, in their order.

use crate::files::*;
use bam_data::{Corpus, DataError, Document, Source};
use parquet::basic::Compression;
use proptest::prelude::*;
use tempfile::TempDir;

#[test]
fn every_format_gives_the_same_documents() {
    for size in SIZES {
        let expected: Vec<String> = (0..size)
            .map(|i| format!("text {i}\nß \"€\" {}", "x".repeat(i)))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let plain = lines(&expected);
        let rows: Vec<Option<&[u8]>> = expected.iter().map(|text| Some(text.as_bytes())).collect();
        let parquet_path = folder.path().join("a.parquet");
        parquet(&parquet_path, TEXT_COLUMN, &rows, 50);
        let required = folder.path().join("b.parquet");
        parquet(&required, "required binary text (UTF8);", &rows, 1000);
        // Two members one after the other are one gzip file.
        let (front, back) = plain.split_at(plain.len() / 2);
        let paths = [
            write(&folder, "a.jsonl", &plain),
            write(&folder, "a.jsonl.gz", &gzip(&plain)),
            write(&folder, "two.JSONL.GZ", &[gzip(front), gzip(back)].concat()),
            write(&folder, "a.jsonl.zst", &zstandard(&plain, 27)),
            parquet_path,
            required,
        ];
        for path in paths {
            let documents = read(&path).unwrap();
            assert_eq!(texts(&documents), expected, "{}", path.display());
            for (row, document) in (1..).zip(&documents) {
                assert_eq!(document.origin, format!("{}:{row}", path.display()));
            }
            // Null control: a reader that drops the last row is seen.
            assert_ne!(texts(&documents[..size - 1]), expected);
        }
    }
}

#[test]
fn a_folder_is_read_in_the_order_of_its_paths() {
    let folder = tempfile::tempdir().unwrap();
    // Written in another order than they are read.
    write(&folder, "b.txt", "\u{feff}two".as_bytes());
    write(
        &folder,
        "c/d.jsonl",
        b"\n{\"text\": \"three\"}\n  \n{\"text\": \"four\"}",
    );
    write(&folder, "a.md", b"one");
    for about in ["README.md", "LICENSE", ".gitattributes", ".hidden/a.txt"] {
        write(&folder, about, b"not text");
    }
    let documents = read(folder.path()).unwrap();
    assert_eq!(texts(&documents), ["one", "two", "three", "four"]);
    let origins: Vec<String> = documents
        .iter()
        .map(|document| document.origin.clone())
        .collect();
    assert!(
        origins[2].ends_with("d.jsonl:2") && origins[3].ends_with("d.jsonl:4"),
        "{origins:?}"
    );
    assert_eq!(read(folder.path()).unwrap(), documents);
}

#[test]
fn another_field_can_hold_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(
        &folder,
        "a.jsonl",
        b"{\"text\": 1, \"content\": \"this\"}\n",
    );
    assert_eq!(texts(&read_field(&path, "content").unwrap()), ["this"]);
    assert!(read(&path).is_err());
    let path = folder.path().join("a.parquet");
    parquet(
        &path,
        "required binary content (STRING);",
        &[Some(b"that")],
        1,
    );
    assert_eq!(texts(&read_field(&path, "content").unwrap()), ["that"]);
    let error = read(&path).unwrap_err();
    assert!(matches!(error, DataError::MissingColumn { .. }));
    assert!(error.to_string().contains("got \"content\""), "{error}");
}

#[test]
fn rows_without_text_are_left_out_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let rows: Vec<Option<&[u8]>> = (0..99).map(|i| (i % 3 > 0).then_some(&b"x"[..])).collect();
    parquet(&path, TEXT_COLUMN, &rows, 50);
    let json = b"{\"text\": \"a\", \"score\": NaN}\n{\"text\": null}\n{\"text\": NaN}\n{\"score\": [Infinity, -Infinity], \"text\": \"NaN\"}\n";
    write(&folder, "b.jsonl", json);
    let corpus = Corpus::new(Source::Local(folder.path().to_path_buf()));
    let mut documents = corpus.documents(|_| {}).unwrap();
    let read: Vec<Document> = documents.by_ref().collect::<Result<_, _>>().unwrap();
    assert_eq!(texts(&read)[65..], ["x", "a", "NaN"]);
    assert_eq!((read.len(), documents.without_text()), (68, 33 + 2));
    assert!(
        read[67].origin.ends_with("b.jsonl:4"),
        "{}",
        read[67].origin
    );
    // A corpus of nothing else is an empty one; a field that is not there is still an error.
    let path = write(&folder, "c.jsonl", b"{\"text\": null}\n");
    assert!(matches!(
        self::read(&path),
        Err(DataError::EmptyCorpus { .. })
    ));
    let path = write(&folder, "d.jsonl", b"{\"txt\": \"a\"}\n");
    assert!(matches!(
        self::read(&path),
        Err(DataError::MissingField { .. })
    ));
}

#[test]
fn marks_and_padding_are_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let marked = "\u{feff}{\"text\": \"a\"}\n".repeat(3);
    let zeros = vec![0; 100_000];
    let padded = [
        gzip(marked.as_bytes()),
        zeros.clone(),
        gzip(marked.as_bytes()),
        zeros,
    ]
    .concat();
    let once = write(&folder, "a.jsonl", marked.as_bytes());
    let twice = write(&folder, "a.jsonl.gz", &padded);
    assert_eq!(texts(&read(&once).unwrap()), ["a"; 3]);
    assert_eq!(texts(&read(&twice).unwrap()), ["a"; 6]);
    // Null control: other bytes behind a member are no padding.
    let garbage = write(&folder, "b.jsonl.gz", &[padded, vec![7]].concat());
    assert!(matches!(read(&garbage), Err(DataError::Compressed { .. })));
    let wide: Vec<u8> = marked.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (name, bytes) in [
        ("w.jsonl", wide.clone()),
        ("w.jsonl.gz", gzip(&wide)),
        ("w.txt", wide),
    ] {
        let error = read(&write(&folder, name, &bytes)).unwrap_err().to_string();
        assert!(
            error.ends_with("expected UTF-8, got UTF-16 (save it as UTF-8)"),
            "{error}"
        );
    }
}

#[test]
fn every_compression_of_parquet_is_read_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let expected: Vec<String> = (0..257)
        .map(|i| format!("text {i} {}", "x".repeat(i)))
        .collect();
    let rows: Vec<Option<&[u8]>> = expected.iter().map(|text| Some(text.as_bytes())).collect();
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::BROTLI(Default::default()),
        Compression::ZSTD(Default::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
    ] {
        parquet_of(&path, TEXT_COLUMN, &rows, 100, compression);
        assert_eq!(texts(&read(&path).unwrap()), expected, "{compression}");
    }
    // Nobody writes LZO any more: the number of the codec is changed in the footer.
    parquet_of(&path, TEXT_COLUMN, &rows[..1], 100, Compression::LZ4_RAW);
    let mut bytes = std::fs::read(&path).unwrap();
    let codec = |number: u8| [&b"\x18\x04text\x15"[1..6], &[0x15, number * 2]].concat();
    let at = bytes
        .windows(7)
        .rposition(|bytes| bytes == codec(7))
        .unwrap();
    bytes[at..at + 7].copy_from_slice(&codec(3));
    std::fs::write(&path, bytes).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.ends_with("or not at all, got LZO"), "{error}");
}

/// Runs of files, which several processes read, are the corpus in its order, whatever their number.
#[test]
fn runs_of_files_are_together_the_corpus() {
    let folder = TempDir::new().unwrap();
    for (index, size) in [10, 2000, 1, 65, 0, 700, 257].into_iter().enumerate() {
        write(
            &folder,
            &format!("{index}.txt"),
            "x".repeat(size).as_bytes(),
        );
    }
    let all = read(folder.path()).unwrap();
    for of in [1, 2, 3, 7, 20] {
        let run = |index| {
            let corpus = Corpus::new(Source::Local(folder.path().into())).run_of_files(index, of);
            let documents = corpus.documents(|_| {}).unwrap();
            documents.collect::<Result<Vec<_>, _>>().unwrap()
        };
        let runs: Vec<Vec<Document>> = (0..of).map(run).collect();
        assert_eq!(texts(&runs.concat()), texts(&all), "{of}");
        let longest = runs.iter().map(|run| texts(run).concat().len()).max();
        assert!(longest.unwrap() <= 3033 / of + 2000, "{of}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_survives(texts in prop::collection::vec(any::<String>(), 1..20), group in 1_usize..9) {
        prop_assume!(texts.iter().any(|text| !text.is_empty()));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let rows: Vec<Option<&[u8]>> = texts.iter().map(|text| Some(text.as_bytes())).collect();
        parquet(&path, TEXT_COLUMN, &rows, group);
        let documents = read(&path).unwrap();
        prop_assert_eq!(self::texts(&documents), texts.clone());
        let path = write(&folder, "a.jsonl.zst", &zstandard(&lines(&texts), 20));
        let documents = read(&path).unwrap();
        prop_assert_eq!(self::texts(&documents), texts);
    }
}
