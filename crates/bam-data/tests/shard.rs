//! Token stores: what was written is read, and what was changed is noticed.

use std::path::Path;

use bam_data::{
    Corpus, DataError, ShardOptions, ShardWriter, Source, TokenStore, Tokenizer, TokenizerConfig,
    TokenizerIdentity, Verify, prepare,
};
use proptest::prelude::*;
use tempfile::TempDir;

fn identity(vocabulary: usize) -> TokenizerIdentity {
    TokenizerIdentity {
        sha256: "0".repeat(64),
        vocabulary,
        bos: Some(0),
        eos: Some(1),
    }
}

fn options(shard_tokens: u64) -> ShardOptions {
    ShardOptions {
        shard_tokens,
        ..ShardOptions::default()
    }
}

fn documents(lengths: &[usize], vocabulary: u32) -> Vec<Vec<u32>> {
    let mut next = 0_u32;
    let mut token = || {
        next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (next >> 8) % vocabulary
    };
    lengths
        .iter()
        .map(|&length| (0..length).map(|_| token()).collect())
        .collect()
}

fn write(
    folder: &Path,
    documents: &[Vec<u32>],
    vocabulary: usize,
    shard_tokens: u64,
) -> TokenStore {
    let mut writer =
        ShardWriter::create(folder, &identity(vocabulary), &options(shard_tokens)).unwrap();
    for document in documents {
        writer.push(document, document.len() as u64 * 3).unwrap();
    }
    writer.finish().unwrap()
}

/// The one assertion for every way to hold tokens.
fn holds(store: &TokenStore, documents: &[Vec<u32>]) -> bool {
    let all = documents.concat();
    let count = all.len() as u64;
    let reads = |start: u64, end: u64| {
        store
            .read(start..end)
            .is_ok_and(|got| got == all[start as usize..end as usize])
    };
    store.tokens() == count
        && store.documents() == documents.len() as u64
        && (0..store.documents()).all(|i| {
            store
                .document(i)
                .is_ok_and(|got| got == documents[i as usize])
        })
        && (0..=count).all(|middle| reads(0, middle) && reads(middle, count))
        && matches!(store.read(0..count + 1), Err(DataError::TokenRange { .. }))
        && matches!(
            store.document(store.documents()),
            Err(DataError::DocumentIndex { .. })
        )
}

#[test]
fn stores_hold_what_was_written() {
    for vocabulary in [300, 65_536, 65_537, 200_000] {
        for shard_tokens in [1, 2, 63, 65, 257, 1 << 40] {
            // Every shard is synchronised with the disk: few where they are tiny.
            let lengths: &[usize] = match shard_tokens {
                1 | 2 => &[1, 0, 5, 2],
                _ => &[1, 0, 63, 2, 0, 0, 65, 257, 0],
            };
            let documents = documents(lengths, vocabulary);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("new/folder");
            let store = write(&path, &documents, vocabulary as usize, shard_tokens);
            assert!(holds(&store, &documents), "{vocabulary} {shard_tokens}");
            let store = TokenStore::open(&path, Verify::Checksums).unwrap();
            assert!(holds(&store, &documents));
            assert_eq!(store.tokenizer(), &identity(vocabulary as usize));
            assert_eq!(store.bytes(), 3 * store.tokens());
            let width = if vocabulary <= 65_536 { 2 } else { 4 };
            let first = std::fs::metadata(path.join("tokens-00000.bin"))
                .unwrap()
                .len();
            assert_eq!(first, width * shard_tokens.min(store.tokens()));
            let memory =
                TokenStore::in_memory(&identity(vocabulary as usize), &documents, 0).unwrap();
            assert!(holds(&memory, &documents));
            // Null controls: another order, another boundary.
            let reversed: Vec<_> = documents.iter().rev().cloned().collect();
            assert!(!holds(&store, &reversed));
            let moved = [
                vec![documents[0].clone(), documents[2].clone(), vec![]],
                documents[3..].to_vec(),
            ]
            .concat();
            assert_eq!(moved.concat(), documents.concat());
            assert!(!holds(&store, &moved));
        }
    }
}

#[test]
fn a_store_may_be_empty() {
    let folder = tempfile::tempdir().unwrap();
    assert!(holds(&write(folder.path(), &[], 300, 10), &[]));
    let folder = tempfile::tempdir().unwrap();
    assert!(holds(
        &write(folder.path(), &[vec![], vec![]], 300, 10),
        &[vec![], vec![]]
    ));
}

#[test]
fn the_bytes_on_disk_are_little_endian() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[vec![0x0102], vec![0x0304]], 65_536, 10);
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert_eq!(read("tokens-00000.bin"), [2, 1, 4, 3]);
    assert_eq!(
        read("documents.bin"),
        [1_u64.to_le_bytes(), 2_u64.to_le_bytes()].concat()
    );
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[vec![0x0001_0203]], 70_000, 10);
    assert_eq!(
        std::fs::read(folder.path().join("tokens-00000.bin")).unwrap(),
        [3, 2, 1, 0]
    );
}

#[test]
fn tokens_outside_of_the_vocabulary_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(folder.path(), &identity(300), &options(10)).unwrap();
    assert!(matches!(
        writer.push(&[1, 300], 1),
        Err(DataError::UnknownToken { token: 300, .. })
    ));
    writer.push(&[299], 1).unwrap();
    assert!(holds(&writer.finish().unwrap(), &[vec![299]]));
    for vocabulary in [0, 1, (1 << 24) + 1] {
        let identity = identity(vocabulary);
        assert!(TokenStore::in_memory(&identity, &[], 0).is_err());
        assert!(ShardWriter::create(&folder.path().join("y"), &identity, &options(1)).is_err());
    }
    let memory = TokenStore::in_memory(&identity(300), &[vec![300]], 1);
    assert!(matches!(memory, Err(DataError::UnknownToken { .. })));
    let none = ShardWriter::create(&folder.path().join("x"), &identity(300), &options(0));
    assert!(matches!(none.err(), Some(DataError::ShardTokens { .. })));
}

#[test]
fn an_unfinished_store_cannot_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(folder.path(), &identity(300), &options(2)).unwrap();
    writer.push(&[1, 2, 3, 4, 5], 5).unwrap();
    drop(writer);
    assert!(folder.path().join("tokens-00001.bin").exists());
    let error = TokenStore::open(folder.path(), Verify::Sizes).unwrap_err();
    assert!(matches!(error, DataError::NoIndex { .. }), "{error}");
    // It can be replaced, and is not by default.
    let again = |replace| {
        let options = ShardOptions {
            replace,
            ..options(2)
        };
        ShardWriter::create(folder.path(), &identity(300), &options)
    };
    assert!(matches!(
        again(false).err(),
        Some(DataError::FolderNotEmpty { .. })
    ));
    let mut writer = again(true).unwrap();
    writer.push(&[7], 1).unwrap();
    assert!(holds(&writer.finish().unwrap(), &[vec![7]]));
    assert!(!folder.path().join("tokens-00001.bin").exists());
    // A replacement that is killed takes the old index with it, and what it leaves can be replaced.
    std::mem::forget(again(true).unwrap());
    let names = std::fs::read_dir(folder.path()).unwrap();
    let left = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(left.eq([format!(".documents.bin.{}.tmp", std::process::id())]));
    drop(again(true).unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(matches!(
        TokenStore::open(folder.path(), Verify::Sizes),
        Err(DataError::NoIndex { .. })
    ));
    std::fs::write(folder.path().join("thesis.txt"), "dear to someone").unwrap();
    let error = again(true).err().unwrap();
    assert!(
        matches!(error, DataError::ForeignFile { .. }) && error.to_string().contains("thesis.txt")
    );
    assert!(folder.path().join("thesis.txt").exists());
}

fn sample() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &documents(&[5, 0, 40, 20], 300), 300, 32);
    folder
}

const FILES: [&str; 4] = [
    "tokens-00000.bin",
    "tokens-00001.bin",
    "tokens-00002.bin",
    "documents.bin",
];

#[test]
fn a_flipped_bit_is_found() {
    for name in FILES {
        let folder = sample();
        assert!(TokenStore::open(folder.path(), Verify::Checksums).is_ok());
        let path = folder.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = TokenStore::open(folder.path(), Verify::Checksums).unwrap_err();
        assert!(
            matches!(error, DataError::ShardChecksum { .. }) && error.to_string().contains(name),
            "{error}"
        );
        // Null control: sizes alone do not tell, but for the boundaries, which are always checked.
        let sizes = TokenStore::open(folder.path(), Verify::Sizes);
        assert_eq!(sizes.is_ok(), name != "documents.bin");
    }
}

#[test]
fn a_wrong_size_is_found() {
    for name in FILES {
        for change in [-1_i64, 1, 2, -2, 8] {
            let folder = sample();
            let path = folder.path().join(name);
            let size = std::fs::metadata(&path).unwrap().len();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_len(size.saturating_add_signed(change)).unwrap();
            let error = TokenStore::open(folder.path(), Verify::Sizes).unwrap_err();
            assert!(
                matches!(error, DataError::ShardSize { .. }) && error.to_string().contains(name),
                "{error}"
            );
        }
        let folder = sample();
        std::fs::remove_file(folder.path().join(name)).unwrap();
        assert!(matches!(
            TokenStore::open(folder.path(), Verify::Sizes),
            Err(DataError::Io { .. })
        ));
    }
}

#[test]
fn a_file_that_changes_under_a_reader_is_found() {
    let folder = sample();
    let store = TokenStore::open(folder.path(), Verify::Checksums).unwrap();
    let path = folder.path().join("tokens-00001.bin");
    std::fs::write(&path, [0xff_u8; 64]).unwrap();
    assert!(matches!(
        store.read(30..40),
        Err(DataError::UnknownToken { token: 0xffff, .. })
    ));
    std::fs::write(&path, [0_u8; 63]).unwrap();
    assert!(matches!(
        store.read(60..65),
        Err(DataError::ShardSize { .. })
    ));
    assert!(store.read(0..32).is_ok());
}

#[test]
fn a_lying_index_is_found() {
    let lie = |pointer: &str, value: serde_json::Value| {
        let folder = sample();
        let path = folder.path().join("index.json");
        let mut index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        *index
            .pointer_mut(pointer)
            .unwrap_or_else(|| panic!("{pointer}")) = value;
        std::fs::write(&path, index.to_string()).unwrap();
        TokenStore::open(folder.path(), Verify::Checksums)
    };
    // Null control: rewriting the index with the truth is no lie.
    assert!(lie("/version", 1.into()).is_ok());
    assert!(matches!(
        lie("/version", 2.into()),
        Err(DataError::IndexVersion { got: 2, .. })
    ));
    assert!(matches!(
        lie("/token_bytes", 4.into()),
        Err(DataError::Index { .. })
    ));
    assert!(matches!(
        lie("/tokens", 64.into()),
        Err(DataError::Index { .. })
    ));
    assert!(matches!(
        lie("/shards/0/tokens", 33.into()),
        Err(DataError::Index { .. })
    ));
    assert!(matches!(
        lie("/shards/0/tokens", u64::MAX.into()),
        Err(DataError::Index { .. })
    ));
    assert!(matches!(
        lie("/shards/0/tokens", (-1).into()),
        Err(DataError::Index { .. })
    ));
    assert!(matches!(
        lie("/shards/0/sha256", "00".into()),
        Err(DataError::ShardChecksum { .. })
    ));
    assert!(matches!(
        lie("/documents/count", u64::MAX.into()),
        Err(DataError::ShardSize { .. })
    ));
    assert!(matches!(
        lie("/documents/count", 3.into()),
        Err(DataError::ShardSize { .. })
    ));
    assert!(matches!(
        lie("/tokenizer/vocabulary", 70_000.into()),
        Err(DataError::Index { .. })
    ));
    assert!(matches!(
        lie("/tokenizer/eos", 300.into()),
        Err(DataError::Index { .. })
    ));
    assert!(matches!(
        lie("/shards", serde_json::json!([])),
        Err(DataError::Index { .. })
    ));
    // Two shards that changed places.
    let folder = sample();
    let [a, b, c] =
        ["tokens-00000.bin", "tokens-00001.bin", "swap"].map(|name| folder.path().join(name));
    std::fs::rename(&a, &c).unwrap();
    std::fs::rename(&b, &a).unwrap();
    std::fs::rename(&c, &b).unwrap();
    assert!(matches!(
        TokenStore::open(folder.path(), Verify::Checksums),
        Err(DataError::ShardChecksum { .. })
    ));
    let folder = sample();
    for bytes in [
        b"".as_slice(),
        b"{",
        b"[]",
        b"{\"version\": 1}",
        b"{\"version\": 1, \"more\": 2}",
    ] {
        std::fs::write(folder.path().join("index.json"), bytes).unwrap();
        assert!(matches!(
            TokenStore::open(folder.path(), Verify::Sizes),
            Err(DataError::Index { .. })
        ));
    }
}

#[test]
fn text_becomes_a_store_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..100)
        .map(|i| format!("document {i} €{}", "word ".repeat(i % 9)))
        .collect();
    for (i, text) in texts.iter().enumerate() {
        std::fs::write(folder.path().join(format!("{i:03}.txt")), text).unwrap();
    }
    let corpus = Corpus::new(Source::Local(folder.path().to_path_buf()));
    let config = TokenizerConfig {
        vocabulary: 270,
        ..TokenizerConfig::default()
    };
    let tokenizer = Tokenizer::train(corpus.documents(|_| {}).unwrap(), &config, |_| {}).unwrap();
    let out = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(out.path(), tokenizer.identity(), &options(257)).unwrap();
    let mut last = None;
    let done = prepare(
        corpus.documents(|_| {}).unwrap(),
        &tokenizer,
        &mut writer,
        |progress| last = Some(progress),
    )
    .unwrap();
    let store = writer.finish().unwrap();
    assert_eq!(last, Some(done));
    assert_eq!(
        (store.documents(), store.tokens()),
        (done.documents, done.tokens)
    );
    assert_eq!(
        store.bytes(),
        texts.iter().map(|text| text.len() as u64).sum::<u64>()
    );
    assert_eq!(store.tokenizer(), tokenizer.identity());
    for (i, text) in (0..).zip(&texts) {
        assert_eq!(
            tokenizer.decode(&store.document(i).unwrap()).unwrap(),
            *text
        );
    }
    let broken = [Err(DataError::EmptyCorpus {
        corpus: "x".to_owned(),
    })];
    let mut writer =
        ShardWriter::create(&out.path().join("x"), tokenizer.identity(), &options(9)).unwrap();
    assert!(prepare(broken.into_iter(), &tokenizer, &mut writer, |_| {}).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_documents_are_held(lengths in prop::collection::vec(0_usize..20, 0..12), shard_tokens in 1_u64..30, wide: bool) {
        let vocabulary = if wide { 100_000 } else { 300 };
        let documents = documents(&lengths, vocabulary);
        let folder = tempfile::tempdir().unwrap();
        let store = write(folder.path(), &documents, vocabulary as usize, shard_tokens);
        prop_assert!(holds(&store, &documents));
        prop_assert!(holds(&TokenStore::open(folder.path(), Verify::Checksums).unwrap(), &documents));
    }

    #[test]
    fn any_damage_to_the_index_is_an_error_or_harmless(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let folder = sample();
        let path = folder.path().join("index.json");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = value;
        std::fs::write(&path, bytes).unwrap();
        if let Ok(store) = TokenStore::open(folder.path(), Verify::Checksums) {
            prop_assert!(holds(&store, &documents(&[5, 0, 40, 20], 300)));
        }
    }
}
