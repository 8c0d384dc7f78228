//! Rows: every token of the stream a target once, in any order, from any row on.

use std::{collections::HashMap, sync::Arc};

use bam_data::{
    Batch, DataError, Mixture, PackedRows, Row, RowSource, TokenStore, TokenizerIdentity,
};
use proptest::prelude::*;

const VOCABULARY: usize = 1 << 20;

/// Documents of unique tokens from 2 on, so that a token tells its place.
fn store(lengths: &[usize], bos: bool, eos: bool) -> TokenStore {
    let mut next = 2..;
    let documents: Vec<Vec<u32>> = lengths
        .iter()
        .map(|&length| next.by_ref().take(length).collect())
        .collect();
    let tokenizer = TokenizerIdentity {
        sha256: String::new(),
        vocabulary: VOCABULARY,
        bos: bos.then_some(0),
        eos: eos.then_some(1),
    };
    TokenStore::in_memory(&tokenizer, &documents, 0).unwrap()
}

/// The stream by the book: (token, document) for every place.
fn stream(store: &TokenStore) -> Vec<(i32, u64)> {
    (0..store.documents())
        .flat_map(|document| {
            let text = store.document(document).unwrap();
            let whole = store
                .tokenizer()
                .bos
                .into_iter()
                .chain(text)
                .chain(store.tokenizer().eos);
            whole
                .map(move |token| (token as i32, document))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Row by the book.
fn row_at(stream: &[(i32, u64)], position: usize, length: usize) -> Row {
    let part = &stream[position..=position + length];
    let mut documents: Vec<u64> = part[..length]
        .iter()
        .map(|&(_, document)| document)
        .collect();
    documents.dedup();
    let id = |document| documents.iter().position(|&d| d == document).unwrap() as i32;
    Row {
        tokens: part[..length].iter().map(|&(token, _)| token).collect(),
        targets: part[1..].iter().map(|&(token, _)| token).collect(),
        document_ids: part[..length]
            .iter()
            .map(|&(_, document)| id(document))
            .collect(),
        weights: vec![1.0; length],
    }
}

const LENGTHS: [usize; 5] = [1, 2, 63, 65, 257];

#[test]
fn rows_are_what_the_book_says() {
    let documents = [0, 1, 300, 0, 0, 2, 1, 64, 700, 1, 1, 1, 0];
    for (bos, eos) in [(true, true), (true, false), (false, true), (false, false)] {
        let store = Arc::new(store(&documents, bos, eos));
        let stream = stream(&store);
        for length in LENGTHS {
            let rows = PackedRows::new(store.clone(), length, 7).unwrap();
            let in_order = PackedRows::in_order(store.clone(), length).unwrap();
            assert_eq!(rows.stream_tokens(), stream.len() as u64);
            assert_eq!(rows.rows_per_epoch(), ((stream.len() - 1) / length) as u64);
            for index in 0..2 * rows.rows_per_epoch() + 1 {
                for rows in [&rows, &in_order] {
                    let position = rows.position(index) as usize;
                    assert_eq!(rows.row(index).unwrap(), row_at(&stream, position, length));
                }
                let place = index % rows.rows_per_epoch() * length as u64;
                assert_eq!(in_order.position(index), place);
            }
        }
    }
}

#[test]
fn document_ids_of_small_documents() {
    let rows = PackedRows::in_order(store(&[1, 0, 2], true, true), 8).unwrap();
    let row = rows.row(0).unwrap();
    assert_eq!(row.tokens, [0, 2, 1, 0, 1, 0, 3, 4]);
    assert_eq!(row.targets, [2, 1, 0, 1, 0, 3, 4, 1]);
    assert_eq!(row.document_ids, [0, 0, 0, 1, 1, 2, 2, 2]);
    // Without boundary tokens an empty document leaves no trace.
    let row = PackedRows::in_order(store(&[0, 1, 0, 0, 2, 1], false, false), 3)
        .unwrap()
        .row(0)
        .unwrap();
    assert_eq!(row.tokens, [2, 3, 4]);
    assert_eq!(row.document_ids, [0, 1, 1]);
}

/// The number of times that each token is a target in an epoch.
fn target_counts(source: &dyn RowSource, epoch: u64, rows: u64) -> HashMap<i32, usize> {
    let mut counts = HashMap::new();
    for index in epoch * rows..(epoch + 1) * rows {
        for target in source.row(index).unwrap().targets {
            *counts.entry(target).or_default() += 1;
        }
    }
    counts
}

/// Every token a target once, but for the first and what is left over. Tokens must be unique.
fn covers(source: &dyn RowSource, epoch: u64, tokens: u64) -> bool {
    let rows = (tokens - 1) / source.length() as u64;
    let counts = target_counts(source, epoch, rows);
    counts.len() as u64 == rows * source.length() as u64 && counts.values().all(|&count| count == 1)
}

/// Draws rows with replacement.
struct Impostor(PackedRows);

impl RowSource for Impostor {
    fn length(&self) -> usize {
        self.0.length()
    }

    fn row(&self, index: u64) -> Result<Row, DataError> {
        let drawn = index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        self.0.row(drawn % self.0.rows_per_epoch())
    }
}

#[test]
fn every_token_is_a_target_once_an_epoch() {
    for length in LENGTHS {
        for rows in [1, 2, 3, 63, 65, 257] {
            for left_over in [0, length - 1] {
                let tokens = rows * length + 1 + left_over;
                let store = Arc::new(store(
                    &[tokens / 3, 0, 1, tokens - 1 - tokens / 3],
                    false,
                    false,
                ));
                let packed = PackedRows::new(store, length, 11).unwrap();
                assert_eq!(packed.rows_per_epoch(), rows as u64);
                for epoch in [0, 1, 2, 1_000_003] {
                    assert!(
                        covers(&packed, epoch, tokens as u64),
                        "{length} {rows} {epoch}"
                    );
                    if rows > 60 {
                        assert!(!covers(&Impostor(packed.clone()), epoch, tokens as u64));
                    }
                }
            }
        }
    }
}

#[test]
fn no_token_is_left_out_in_every_epoch() {
    let ever = |rows: &PackedRows| {
        let mut counts = HashMap::new();
        for epoch in 0..200 {
            counts.extend(target_counts(rows, epoch, rows.rows_per_epoch()));
        }
        counts.len()
    };
    let store = Arc::new(store(&[20], false, false));
    // All but the first token, which nothing comes before.
    assert_eq!(ever(&PackedRows::new(store.clone(), 7, 3).unwrap()), 19);
    // Null control: fixed cuts never reach the last five.
    assert_eq!(ever(&PackedRows::in_order(store, 7).unwrap()), 14);
}

#[test]
fn rows_depend_on_the_seed_and_the_index_alone() {
    let store = Arc::new(store(&[2_000], true, true));
    let rows = |seed: u64| PackedRows::new(store.clone(), 9, seed).unwrap();
    let positions =
        |seed: u64| -> Vec<u64> { (0..500).map(|index| rows(seed).position(index)).collect() };
    let forward: Vec<Row> = (0..500).map(|index| rows(5).row(index).unwrap()).collect();
    let same = rows(5);
    let mut backward: Vec<Row> = (0..500)
        .rev()
        .map(|index| same.row(index).unwrap())
        .collect();
    backward.reverse();
    assert_eq!(forward, backward);
    assert_ne!(positions(5), positions(6));
    // Epochs differ, and neither is the order of the stream.
    let per_epoch = rows(5).rows_per_epoch() as usize;
    let epochs: Vec<Vec<u64>> = positions(5)
        .chunks_exact(per_epoch)
        .map(<[u64]>::to_vec)
        .collect();
    assert_ne!(epochs[0], epochs[1]);
    assert!(!epochs[0].is_sorted() && !epochs[1].is_sorted());
    assert!(rows(5).row(u64::MAX).is_ok());
}

#[test]
fn the_order_of_rows_does_not_change_between_versions() {
    // A run that is resumed by a later version must go on with the same rows.
    let store = Arc::new(store(&[2_000], true, true));
    let rows = PackedRows::new(store, 9, 5).unwrap();
    let positions: Vec<u64> = [0, 1, 2, 3, 222, 1_000_000_007]
        .map(|index| rows.position(index))
        .to_vec();
    assert_eq!(positions, [921, 624, 1272, 1407, 956, 1989]);
    let mixture = mixture(&[3.0, 1.0], 5).unwrap();
    let origins: Vec<(usize, u64)> = [0, 1, 2, 1023, 1024, 1_000_000_007]
        .map(|index| mixture.origin(index))
        .to_vec();
    assert_eq!(
        origins,
        [(0, 0), (0, 1), (1, 0), (0, 767), (0, 768), (1, 250_000_007)]
    );
}

/// Mean distance in the stream between neighbouring rows, relative to a uniform draw's third.
fn spread(rows: &PackedRows) -> f64 {
    let count = rows.rows_per_epoch();
    let length = rows.length() as u64;
    let places: Vec<f64> = (0..count)
        .map(|index| (rows.position(index) / length) as f64)
        .collect();
    let steps = places.windows(2).map(|pair| (pair[1] - pair[0]).abs());
    steps.sum::<f64>() / (count - 1) as f64 / (count as f64 / 3.0)
}

#[test]
fn shuffled_rows_are_spread_like_a_uniform_draw() {
    let store = Arc::new(store(&[40_001], false, false));
    for seed in 0..20 {
        let spread = spread(&PackedRows::new(store.clone(), 10, seed).unwrap());
        // The mean over 4000 steps of |U-V|, standard deviation 1/√18 about 1/3: six of its errors, 0.07.
        assert!((spread - 1.0).abs() < 0.07, "{seed}: {spread}");
    }
    let in_order = PackedRows::in_order(store, 10).unwrap();
    assert!((spread(&in_order) - 1.0).abs() > 0.07);
}

#[test]
fn rows_that_cannot_be_are_errors() {
    let make = |tokens, length| PackedRows::new(store(&[tokens], true, false), length, 0);
    assert!(make(3, 3).is_ok());
    assert!(matches!(
        make(3, 4),
        Err(DataError::NotEnoughTokens {
            tokens: 4,
            needed: 5
        })
    ));
    assert!(matches!(make(3, 0), Err(DataError::RowLength { .. })));
    assert!(matches!(
        make(3, usize::MAX),
        Err(DataError::RowLength { .. })
    ));
    let empty = PackedRows::new(store(&[], true, true), 1, 0);
    assert!(matches!(
        empty,
        Err(DataError::NotEnoughTokens { tokens: 0, .. })
    ));
}

#[test]
fn batches_are_rows_in_a_row() {
    let rows = PackedRows::new(store(&[500], true, true), 9, 1).unwrap();
    for count in [1, 2, 65] {
        let batch = Batch::read(&rows, 40, count).unwrap();
        assert_eq!(
            (batch.rows, batch.length, batch.tokens.len()),
            (count, 9, count * 9)
        );
        for i in 0..count {
            let row = rows.row(40 + i as u64).unwrap();
            let part = i * 9..(i + 1) * 9;
            assert_eq!(batch.tokens[part.clone()], row.tokens);
            assert_eq!(batch.targets[part.clone()], row.targets);
            assert_eq!(batch.document_ids[part], row.document_ids);
        }
    }
    assert!(matches!(
        Batch::read(&rows, 0, 0),
        Err(DataError::BatchRows { .. })
    ));
    assert!(matches!(
        Batch::read(&rows, u64::MAX, 2),
        Err(DataError::BatchRows { .. })
    ));
}

/// A source whose rows say which source and row they are.
struct Named(i32);

impl RowSource for Named {
    fn length(&self) -> usize {
        2
    }

    fn row(&self, index: u64) -> Result<Row, DataError> {
        Ok(Row {
            tokens: vec![self.0, index as i32],
            targets: vec![index as i32, 0],
            document_ids: vec![0, 0],
            weights: vec![1.0, 1.0],
        })
    }
}

fn mixture(weights: &[f64], seed: u64) -> Result<Mixture, DataError> {
    let sources = weights
        .iter()
        .zip(0..)
        .map(|(&weight, name)| (Arc::new(Named(name)) as Arc<dyn RowSource>, weight));
    Mixture::new(sources.collect(), seed)
}

#[test]
fn a_mixture_asks_each_source_for_its_rows_in_turn() {
    for weights in [
        &[1.0][..],
        &[1.0, 1.0],
        &[0.7, 0.2, 0.1],
        &[1e300, 1e300, 1e298],
    ] {
        let mixture = mixture(weights, 3).unwrap();
        let proportions = mixture.proportions();
        assert_eq!(proportions.iter().sum::<u64>(), 1024);
        let mut asked = vec![0; weights.len()];
        for index in 0..3 * 1024_u64 {
            let (source, row) = mixture.origin(index);
            assert_eq!(row, asked[source], "row {index}");
            asked[source] += 1;
            assert_eq!(
                mixture.row(index).unwrap().tokens,
                [source as i32, row as i32]
            );
            if (index + 1) % 1024 == 0 {
                let blocks = (index + 1) / 1024;
                let expected: Vec<u64> = proportions.iter().map(|rows| rows * blocks).collect();
                assert_eq!(asked, expected);
            }
        }
    }
    assert_eq!(mixture(&[3.0, 1.0], 0).unwrap().proportions(), [768, 256]);
}

#[test]
fn a_mixture_is_mixed_by_its_seed() {
    let order = |seed| -> Vec<usize> {
        let mixture = mixture(&[1.0, 1.0], seed).unwrap();
        (0..2048).map(|index| mixture.origin(index).0).collect()
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
    assert_ne!(order(1)[..1024], order(1)[1024..]);
    // Well mixed: neighbours differ about half of the time; taking turns or one after the other do not.
    let changes = |order: &[usize]| {
        order.windows(2).filter(|pair| pair[0] != pair[1]).count() as f64 / order.len() as f64
    };
    let mixed = |order: &[usize]| (changes(order) - 0.5).abs() < 0.07;
    assert!(mixed(&order(1)) && mixed(&order(2)));
    let turns: Vec<usize> = (0..2048).map(|index| index % 2).collect();
    let halves: Vec<usize> = (0..2048).map(|index| index / 1024).collect();
    assert!(!mixed(&turns) && !mixed(&halves));
}

#[test]
fn mixtures_that_cannot_be_are_errors() {
    for weights in [
        &[][..],
        &[0.0],
        &[1.0, -1.0],
        &[f64::NAN, 1.0],
        &[f64::INFINITY],
        &[1.0, 1e-5],
    ] {
        assert!(
            matches!(mixture(weights, 0), Err(DataError::Mixture { .. })),
            "{weights:?}"
        );
    }
    let other = PackedRows::new(store(&[50], true, true), 3, 0).unwrap();
    let sources: Vec<(Arc<dyn RowSource>, f64)> =
        vec![(Arc::new(Named(0)), 1.0), (Arc::new(other), 1.0)];
    let error = Mixture::new(sources, 0).err().unwrap();
    assert!(error.to_string().contains("got 2 and 3"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_documents_are_packed_by_the_book(
        lengths in prop::collection::vec(0_usize..12, 1..12),
        bos: bool,
        eos: bool,
        length in 1_usize..20,
        seed: u64,
        index: u64,
    ) {
        let store = Arc::new(store(&lengths, bos, eos));
        let stream = stream(&store);
        match PackedRows::new(store, length, seed) {
            Ok(rows) => {
                let position = rows.position(index) as usize;
                prop_assert_eq!(rows.row(index).unwrap(), row_at(&stream, position, length));
            }
            Err(_) => prop_assert!(stream.len() <= length),
        }
    }

    #[test]
    fn any_epoch_covers_the_stream(tokens in 2_usize..400, length in 1_usize..40, seed: u64, epoch in 0_u64..1000) {
        prop_assume!(tokens > length);
        let rows = PackedRows::new(store(&[tokens], false, false), length, seed).unwrap();
        prop_assert!(covers(&rows, epoch, tokens as u64));
    }
}
