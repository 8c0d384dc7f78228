//! Files that are refused, each for its own reason.

use crate::files::*;
use bam_data::{Corpus, DataError, NotText, Source};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

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
