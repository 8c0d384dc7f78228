//! Training steps on several ranks, and exchanges between them. One JSON object a measurement on rank 0's standard output;
//! `cargo xtask bench scale` runs it under `mpirun` on one and two ranks, compares losses and makes the table.
//!
//! Arguments: `--threads T` of each rank, `--measure training|exchange`, `--state replicated|sharded`.

use bam_data::{Document, TokenStore, Tokenizer, TokenizerConfig};
use bam_lm::device::cpu;
use bam_lm::ranks::Ranks;
use bam_lm::ranks::counted::{Counted, Traffic};
use bam_lm::train::{Recipe, Trainer, Workers};
use bam_mpi::MpiRanks;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A model's sizes, and the steps that are timed; one more comes before them.
struct Size {
    name: &'static str,
    dim: usize,
    layers: usize,
    heads: usize,
    vocabulary: usize,
    rows: usize,
    length: usize,
    steps: usize,
}

const SIZES: [Size; 2] = [
    Size {
        name: "quickstart",
        dim: 128,
        layers: 2,
        heads: 4,
        vocabulary: 1024,
        rows: 16,
        length: 128,
        steps: 24,
    },
    Size {
        name: "l6",
        dim: 512,
        layers: 6,
        heads: 16,
        vocabulary: 8192,
        rows: 4,
        length: 256,
        steps: 6,
    },
];

/// Two for each of two ranks, so that one's exchange can overlap the other.
const PARTS: usize = 4;

/// Numbers that a rank gives to each.
const MESSAGES: [usize; 6] = [1, 256, 4096, 65_536, 1 << 20, 1 << 22];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1).map(String::as_str)
    };
    let threads = value("--threads").map_or(1, |of| of.parse().expect("--threads: a number"));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build_global().expect("no pool was built before");
    let begun = Instant::now();
    let ranks = Arc::new(MpiRanks::begin().expect("a launcher began it"));
    let counted = Counted::new(ranks, move || begun.elapsed().as_secs_f64());
    let counted = Arc::new(counted);
    match value("--measure") {
        Some("exchange") => exchanges(&*counted),
        _ => training(&counted, threads, value("--state").unwrap_or("replicated")),
    }
}

/// Every rank gives every rank so many numbers, at once.
fn exchanges(ranks: &dyn Ranks) {
    let size = ranks.size();
    for numbers in MESSAGES {
        let given: Vec<f32> = (0..numbers)
            .map(|at| (at % 1000 + ranks.rank()) as f32)
            .collect();
        let exchange = || ranks.exchange(&given, &vec![0..numbers; size], &vec![numbers; size]);
        let got = exchange();
        for (rank, got) in got.chunks(numbers).enumerate() {
            let right = got
                .iter()
                .enumerate()
                .all(|(at, got)| *got == (at % 1000 + rank) as f32);
            assert!(right, "rank {rank} gave others; no time is reported");
        }
        let repeats = ((1 << 24) / numbers).clamp(20, 2000);
        let seconds = median((0..repeats).map(|_| timed(exchange)).collect());
        let bytes = numbers * size_of::<f32>() * (size - 1);
        say(
            ranks,
            &json!({
                "implementation": "exchange", "ranks": size, "bytes": bytes, "microseconds": seconds * 1e6,
                "gigabytes_per_second": bytes as f64 / seconds / 1e9,
            }),
        );
    }
}

fn timed<T>(call: impl Fn() -> T) -> f64 {
    let begun = Instant::now();
    drop(call());
    begun.elapsed().as_secs_f64()
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

fn say(ranks: &dyn Ranks, row: &serde_json::Value) {
    if ranks.leads() {
        println!("{row}");
    }
}

fn training(ranks: &Arc<Counted>, threads: usize, state: &str) {
    for size in &SIZES {
        let mut trainer = trainer(size, ranks, threads, state);
        let parameters: usize = trainer
            .model()
            .parameters()
            .iter()
            .map(|info| info.stored_shape.iter().product::<usize>())
            .sum();
        let (mut losses, mut seconds, mut traffics) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..=size.steps {
            (&**ranks as &dyn Ranks).wait();
            let (begun, before) = (Instant::now(), ranks.traffic());
            losses.push(trainer.advance(|| 0.0).expect("a step").loss);
            seconds.push(begun.elapsed().as_secs_f64());
            traffics.push(ranks.traffic() - before);
        }
        let (first, last) = (losses[0], losses[size.steps]);
        assert!(
            last < first,
            "the loss did not fall: {first} to {last}; no time is reported"
        );
        let of_steps = |of: fn(&Traffic) -> f64| median(traffics[1..].iter().map(of).collect());
        let step = median(seconds[1..].to_vec());
        say(
            &**ranks,
            &json!({
                "implementation": "bam-train", "model": size.name, "dtype": "f32", "ranks": ranks.size(), "threads_per_rank": threads,
                "optimizer_state": state, "parts": PARTS, "batch": size.rows, "length": size.length, "parameters": parameters,
                "milliseconds_per_step": step * 1e3, "tokens_per_second": (size.rows * size.length) as f64 / step,
                "milliseconds_in_exchanges": of_steps(|of| of.seconds) * 1e3, "exchanges": of_steps(|of| of.calls as f64),
                "bytes_sent": of_steps(|of| of.bytes as f64), "steps": size.steps, "first_loss": first, "last_loss": last,
            }),
        );
    }
}

fn trainer(size: &Size, ranks: &Arc<Counted>, threads: usize, state: &str) -> Trainer {
    let text = made_up(size.vocabulary);
    let document = Document {
        text: text.clone(),
        origin: "made up".into(),
    };
    let config = TokenizerConfig {
        vocabulary: size.vocabulary,
        ..TokenizerConfig::default()
    };
    let tokenizer = Tokenizer::train([Ok(document)].into_iter(), &config, |_| ()).expect("text");
    assert_eq!(tokenizer.vocabulary_size(), size.vocabulary);
    let documents = [tokenizer.encode(&text).expect("its own text")];
    let store = TokenStore::in_memory(tokenizer.identity(), &documents, text.len() as u64);
    let Size {
        dim,
        layers,
        heads,
        rows,
        length,
        ..
    } = size;
    let recipe = format!(
        "model = {{ encoding = 'bam+ssmax', dim = {dim}, layers = {layers}, heads = {heads} }}\n\
         data = {{ tokens = 'made up' }}\n\
         train = {{ length = {length}, rows = {rows}, parts = {PARTS}, steps = 1000, learning_rate = 1e-3, \
         optimizer_state = '{state}' }}"
    );
    let recipe = Recipe::from_toml(&recipe, &[], Path::new("scale.toml")).expect("a recipe");
    let workers = Workers {
        devices: vec![cpu()],
        threads,
        ranks: Arc::clone(ranks) as Arc<dyn Ranks>,
    };
    let store = Arc::new(store.expect("its own tokens"));
    Trainer::new(recipe, Arc::new(tokenizer), store, None, &workers).expect("they fit")
}

/// Words of three syllables, more kinds of them than tokens, some far more often than others.
fn made_up(kinds: usize) -> String {
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % below
    };
    let words = (0..40 * kinds).map(|_| {
        let kind = random(4 * kinds).min(random(4 * kinds));
        let syllable = |of: usize| {
            [
                char::from(b"bdfghklmnprstvz"[of % 15]),
                char::from(b"aeiou"[of / 15 % 5]),
            ]
        };
        let syllables = [kind, kind / 75, kind / (75 * 75)];
        syllables.into_iter().flat_map(syllable).collect::<String>()
    });
    words.collect::<Vec<_>>().join(" ")
}
