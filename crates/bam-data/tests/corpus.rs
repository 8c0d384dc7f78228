//! Every kind of file, whole and broken: documents in order, and errors that say where.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use bam_data::{Corpus, DataError, Document, NotText, Source};
use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use proptest::prelude::*;
use tempfile::TempDir;

const SIZES: [usize; 5] = [1, 2, 63, 65, 257];

fn read(path: &Path) -> Result<Vec<Document>, DataError> {
    read_field(path, "text")
}

fn read_field(path: &Path, field: &str) -> Result<Vec<Document>, DataError> {
    Corpus::new(Source::Local(path.to_path_buf()))
        .with_field(field)
        .documents(|_| {})?
        .collect()
}

fn texts(documents: &[Document]) -> Vec<&str> {
    documents
        .iter()
        .map(|document| document.text.as_str())
        .collect()
}

fn write(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

fn lines(texts: &[String]) -> Vec<u8> {
    let line = |text: &String| {
        serde_json::json!({ "id": 1, "text": text, "more": [{}] }).to_string() + "\n"
    };
    texts.iter().map(line).collect::<String>().into_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstandard(bytes: &[u8], window_log: u32) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(window_log).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A parquet file of one column; row groups of at most `group` rows.
fn parquet(path: &Path, column: &str, rows: &[Option<&[u8]>], group: usize) {
    parquet_of(path, column, rows, group, Compression::SNAPPY);
}

fn parquet_of(
    path: &Path,
    column: &str,
    rows: &[Option<&[u8]>],
    group: usize,
    compression: Compression,
) {
    let schema = Arc::new(parse_message_type(&format!("message m {{ {column} }}")).unwrap());
    let properties = Arc::new(
        WriterProperties::builder()
            .set_compression(compression)
            .set_data_page_row_count_limit(7)
            .set_write_batch_size(3)
            .build(),
    );
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    let optional = column.starts_with("optional");
    for rows in rows.chunks(group) {
        let mut group = writer.next_row_group().unwrap();
        let mut leaf = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = rows
            .iter()
            .flatten()
            .map(|&row| ByteArray::from(row.to_vec()))
            .collect();
        let levels: Vec<i16> = rows.iter().map(|row| row.is_some().into()).collect();
        leaf.typed::<ByteArrayType>()
            .write_batch(&values, optional.then_some(&levels[..]), None)
            .unwrap();
        leaf.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

const TEXT_COLUMN: &str = "optional binary text (UTF8);";

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
fn a_file_we_cannot_read_is_never_skipped() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "a.txt", b"text");
    assert!(read(folder.path()).is_ok());
    let unknown = write(&folder, "books.json", b"{}");
    for path in [folder.path(), &unknown] {
        let error = read(path).unwrap_err();
        assert!(
            matches!(&error, DataError::UnknownExtension { path } if *path == unknown),
            "{error}"
        );
        assert!(error.to_string().contains(".jsonl.zst"), "{error}");
    }
}

#[test]
fn a_corpus_without_text_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let empty = |path: &Path| matches!(read(path), Err(DataError::EmptyCorpus { .. }));
    assert!(empty(folder.path()));
    assert!(empty(&write(&folder, "a.txt", b"")));
    assert!(empty(&write(&folder, "a.jsonl", b"\n\n")));
    assert!(empty(&write(&folder, "b.jsonl", b"{\"text\": \"\"}\n")));
    let parquet_path = folder.path().join("a.parquet");
    parquet(&parquet_path, TEXT_COLUMN, &[], 1);
    assert!(empty(&parquet_path));
    // Null control: one character is enough, and empty documents beside it are kept.
    assert!(!empty(&write(
        &folder,
        "c.jsonl",
        b"{\"text\": \"\"}\n{\"text\": \"x\"}\n"
    )));
    assert_eq!(
        texts(&read(&folder.path().join("c.jsonl")).unwrap()),
        ["", "x"]
    );
}

#[test]
fn a_missing_file_is_named() {
    let error = read(Path::new("no/such/corpus.txt")).unwrap_err();
    assert!(matches!(error, DataError::Io { .. }));
    assert!(error.to_string().contains("no/such/corpus.txt"), "{error}");
}

#[test]
fn bad_lines_are_named_with_their_number() {
    let folder = tempfile::tempdir().unwrap();
    let bad = |name: &str, line: &[u8]| {
        let bytes = [
            b"{\"text\": \"fine\"}\n".as_slice(),
            line,
            b"\n{\"text\": \"never read\"}\n",
        ]
        .concat();
        let path = write(&folder, name, &bytes);
        let mut documents = Corpus::new(Source::Local(path)).documents(|_| {}).unwrap();
        assert_eq!(documents.next().unwrap().unwrap().text, "fine");
        let error = documents.next().unwrap().unwrap_err();
        assert!(
            documents.next().is_none(),
            "the first error ends the iteration"
        );
        error
    };
    for (name, line) in [
        ("a.jsonl", "{\"text\": \"open"),
        ("b.jsonl", "[\"text\"]"),
        ("c.jsonl", "{\"text\": \"a\"} trailing"),
        ("d.jsonl", "{\"text\": \"a\", \"text\": \"b\"}"),
        ("e.jsonl", "{\"text\": \"lone \\ud800\"}"),
    ] {
        let error = bad(name, line.as_bytes());
        assert!(matches!(error, DataError::Json { line: 2, .. }), "{error}");
        assert!(
            error.to_string().contains(&format!("{name}, line 2")),
            "{error}"
        );
    }
    let error = bad("f.jsonl", b"{\"content\": \"a\", \"id\": {}}");
    assert!(
        matches!(error, DataError::MissingField { line: 2, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("got \"content\", \"id\""),
        "{error}"
    );
    for (name, value, found) in [
        ("g.jsonl", "7", "a number"),
        ("i.jsonl", "[]", "an array"),
        ("j.jsonl", "true", "a boolean"),
        ("k.jsonl", "{}", "an object"),
    ] {
        let error = bad(name, format!("{{\"text\": {value}}}").as_bytes());
        assert!(
            matches!(error, DataError::FieldType { line: 2, .. }),
            "{error}"
        );
        assert!(error.to_string().ends_with(found), "{error}");
    }
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
fn invalid_utf8_is_found_at_its_byte() {
    let folder = tempfile::tempdir().unwrap();
    for before in SIZES {
        let mut bytes = vec![b'a'; before];
        let text = write(&folder, "a.txt", &[bytes.as_slice(), b"\xff"].concat());
        assert!(
            matches!(read(&text), Err(DataError::NotText { reason: NotText::InvalidUtf8 { line: 1, byte }, .. }) if byte == before)
        );

        bytes.splice(..0, *b"{\"text\": \"first\"}\n{\"text\": \"");
        let offset = bytes.len();
        let line = write(
            &folder,
            "a.jsonl.gz",
            &gzip(&[bytes.as_slice(), b"\xe2\x82\"}\n"].concat()),
        );
        assert!(
            matches!(read(&line), Err(DataError::NotText { reason: NotText::InvalidUtf8 { line: 2, byte }, .. }) if byte == offset)
        );
    }
    let path = folder.path().join("a.parquet");
    parquet(&path, TEXT_COLUMN, &[Some(b"fine"), Some(b"ab\xff")], 9);
    let error = read(&path).unwrap_err().to_string();
    assert!(
        error.contains("row 2") && error.contains("byte 2"),
        "{error}"
    );
}

#[test]
fn wrong_columns_are_described() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    for column in [
        "optional binary text;",
        "optional binary text (JSON);",
        "repeated binary text (UTF8);",
    ] {
        let schema = Arc::new(parse_message_type(&format!("message m {{ {column} }}")).unwrap());
        let file = File::create(&path).unwrap();
        SerializedFileWriter::new(file, schema, Arc::default())
            .unwrap()
            .close()
            .unwrap();
        let error = read(&path).unwrap_err();
        assert!(
            matches!(error, DataError::ColumnType { .. }),
            "{column}: {error}"
        );
    }
    for column in [
        "required int64 text;",
        "required group text { required binary text (UTF8); }",
    ] {
        let schema = Arc::new(parse_message_type(&format!("message m {{ {column} }}")).unwrap());
        let file = File::create(&path).unwrap();
        SerializedFileWriter::new(file, schema, Arc::default())
            .unwrap()
            .close()
            .unwrap();
        let error = read(&path).unwrap_err();
        assert!(
            matches!(error, DataError::ColumnType { .. }),
            "{column}: {error}"
        );
    }
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
fn unreadable_input_is_refused_for_its_own_reason() {
    let folder = tempfile::tempdir().unwrap();
    let line = b"{\"text\": \"a\"}\n";
    let packed = gzip(line);
    let nulls = folder.path().join("nulls.parquet");
    parquet(&nulls, "optional int32 text (UNKNOWN);", &[], 1);
    for (name, bytes, expected) in [
        (
            "behind.jsonl.gz",
            [&packed[..], b"garbage"].concat(),
            "no gzip comes behind its end",
        ),
        (
            "short.jsonl.gz",
            packed[..packed.len() - 6].to_vec(),
            "it ends too early",
        ),
        ("packed.jsonl", packed.clone(), "got gzip (decompress it"),
        ("packed.txt", packed, "got gzip (decompress it"),
        (
            "null.jsonl",
            [&line[..], b"null\n"].concat(),
            "line 2, column 4: expected a JSON object: got null",
        ),
        (
            "half.jsonl",
            br#"{"text": "a \ud83d"}"#.to_vec(),
            "half of a surrogate pair",
        ),
        (
            "other half.jsonl",
            br#"{"text": "a \ude00"}"#.to_vec(),
            "half of a surrogate pair",
        ),
        (
            "latin.jsonl",
            [&line[..], b"{\"text\": \"\xe9\"}"].concat(),
            "in line 2, at byte 24 of the file",
        ),
    ] {
        let error = read(&write(&folder, name, &bytes)).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert_eq!(error.matches("expected").count(), 1, "{error}");
    }
    let error = read(&nulls).unwrap_err().to_string();
    assert!(
        error.contains("to hold strings, got nulls alone"),
        "{error}"
    );
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

#[test]
fn truncated_files_are_errors_wherever_they_end() {
    let folder = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..40)
        .map(|i| format!("{} {i}", "word ".repeat(i)))
        .collect();
    let plain = lines(&texts);
    let path = folder.path().join("whole.parquet");
    let rows: Vec<Option<&[u8]>> = texts.iter().map(|text| Some(text.as_bytes())).collect();
    parquet(&path, TEXT_COLUMN, &rows, 11);
    let files = [
        ("a.jsonl.gz", gzip(&plain)),
        ("a.jsonl.zst", zstandard(&plain, 20)),
        ("a.parquet", std::fs::read(&path).unwrap()),
    ];
    for (name, bytes) in files {
        assert!(read(&write(&folder, name, &bytes)).is_ok(), "{name}: whole");
        for length in 1..bytes.len() {
            let path = write(&folder, name, &bytes[..length]);
            let error = read(&path).unwrap_err();
            let expected = matches!(
                error,
                DataError::Compressed { .. } | DataError::Parquet { .. }
            );
            assert!(
                expected,
                "{name}, {length} of {} bytes: {error}",
                bytes.len()
            );
        }
    }
}

/// Damage gives an error or other text, never a panic.
#[test]
fn damaged_files_are_survived() {
    let folder = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..20).map(|i| format!("{i} {}", "ab".repeat(i))).collect();
    let path = folder.path().join("a.parquet");
    let rows: Vec<Option<&[u8]>> = texts.iter().map(|text| Some(text.as_bytes())).collect();
    parquet(&path, TEXT_COLUMN, &rows, 11);
    let plain = lines(&texts);
    for (name, whole) in [
        ("a.parquet", std::fs::read(&path).unwrap()),
        ("a.jsonl.gz", gzip(&plain)),
        ("a.jsonl.zst", zstandard(&plain, 20)),
    ] {
        let mut errors = 0;
        for at in 0..whole.len() {
            for damage in [1, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= damage;
                errors += usize::from(read(&write(&folder, name, &bytes)).is_err());
            }
        }
        assert!(errors > whole.len(), "{name}: {errors} errors");
    }
}

#[test]
fn too_large_zstandard_windows_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let plain = lines(&["text".to_owned()]);
    assert!(read(&write(&folder, "a.jsonl.zst", &zstandard(&plain, 27))).is_ok());
    let error = read(&write(&folder, "b.jsonl.zst", &zstandard(&plain, 28))).unwrap_err();
    assert!(
        matches!(error, DataError::Compressed { format: "zstd", .. }),
        "{error}"
    );
}

#[test]
fn one_document_cannot_fill_the_memory() {
    let folder = tempfile::tempdir().unwrap();
    // 1 GiB of spaces in a few kilobytes.
    let path = folder.path().join("bomb.jsonl.zst");
    let mut encoder = zstd::stream::write::Encoder::new(File::create(&path).unwrap(), 1).unwrap();
    for _ in 0..1024 {
        encoder.write_all(&[b' '; 1 << 20]).unwrap();
    }
    encoder.finish().unwrap();
    let error = read(&path).unwrap_err();
    assert!(
        matches!(error, DataError::DocumentTooLarge { row: 1, .. }),
        "{error}"
    );
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
