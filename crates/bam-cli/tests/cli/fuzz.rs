//! Damaged inputs: whatever comes, the answer is clear, and nothing panics, hangs or takes all memory.
//!
//! A case is a file of the corpus, or of a model, with a few random changes; its number decides which.
//! `BAM_FUZZ_CASES` runs more of them than CI does.

use crate::import::Shop;
use crate::program::{args, assert_no_panic};
use crate::server::Server;
use crate::workshop::Workshop;
use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Cases of each target.
fn cases(usual: u64) -> u64 {
    match std::env::var("BAM_FUZZ_CASES") {
        Ok(cases) => cases.parse().expect("a number"),
        Err(_) => usual,
    }
}

/// A SplitMix64 stream.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % end.max(1) as u64) as usize
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length);
        let most = (length - start).min(40);
        start..start + self.below(most + 1)
    }
}

/// The bytes with one to four changes.
fn damaged(bytes: &[u8], number: u64) -> Vec<u8> {
    /// Texts that parsers trip over.
    const WORDS: [&str; 14] = [
        "null",
        "-1",
        "1e999",
        "99999999999999999999",
        "\"",
        "[[[[[[[[",
        "{}",
        "\\u0000",
        "\u{FEFF}",
        "\\ud800",
        "true",
        "0",
        "../../../../etc/passwd",
        "\r\n",
    ];
    let mut random = Random(number);
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let range = random.range(bytes.len());
        match random.below(7) {
            0 => bytes.truncate(range.start),
            1 => drop(bytes.drain(range)),
            2 => {
                let copy = bytes[range].to_vec();
                let at = random.below(bytes.len() + 1);
                bytes.splice(at..at, copy);
            }
            3 => {
                let word = WORDS[random.below(WORDS.len())];
                bytes.splice(range, word.bytes());
            }
            4 => bytes[range]
                .iter_mut()
                .for_each(|byte| *byte ^= 1 << random.below(8)),
            5 => {
                let digits: Vec<usize> = (0..bytes.len())
                    .filter(|at| bytes[*at].is_ascii_digit())
                    .collect();
                if let Some(at) = digits.get(random.below(digits.len())) {
                    bytes.splice(*at..=*at, b"987654321".iter().copied());
                }
            }
            _ => bytes[range]
                .iter_mut()
                .for_each(|byte| *byte = random.below(256) as u8),
        }
    }
    bytes
}

/// A model whose files are damaged is refused, or used where the damage does not show.
#[test]
fn damaged_models_are_answered_for() {
    let shop = Workshop::new();
    let model = shop.trained_model();
    let mut refused = 0;
    let cases = cases(40);
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        let whole = std::fs::read(model.join(file)).unwrap();
        // A header says where everything is: most damage belongs there.
        let head = if file == "model.safetensors" {
            2000.min(whole.len())
        } else {
            whole.len()
        };
        for number in 0..cases {
            let mut bytes = damaged(&whole[..head], number);
            bytes.extend(&whole[head..]);
            std::fs::write(model.join(file), &bytes).unwrap();
            let words = args!["generate {} --prompt {} --tokens 2", model, "the river"];
            refused += u64::from(!limited(&words));
        }
        std::fs::write(model.join(file), whole).unwrap();
    }
    // Null controls: damage is noticed, and without any it works.
    assert!(refused > cases, "{refused} of {} were refused", 3 * cases);
    assert!(limited(&args![
        "generate {} --prompt {} --tokens 2",
        model,
        "the river"
    ]));
}

/// A folder of the hub that is damaged is refused and leaves nothing, or is imported where the damage
/// does not show.
#[test]
fn damaged_folders_of_the_hub_are_answered_for() {
    let mut refused = 0;
    let cases = cases(30);
    for (case, file) in [
        ("llama_grouped", "config.json"),
        ("llama_grouped", "model.safetensors.index.json"),
        ("mpt_six_heads", "config.json"),
        ("bloom_five_heads", "model.safetensors"),
    ] {
        let shop = Shop::new(case);
        let path = shop.hf().join(file);
        let whole = std::fs::read(&path).unwrap();
        let head = whole.len().min(2000);
        for number in 0..cases {
            let mut bytes = damaged(&whole[..head], number);
            bytes.extend(&whole[head..]);
            std::fs::write(&path, bytes).unwrap();
            let imported = limited(&shop.import());
            assert_eq!(imported, shop.out().exists(), "{case}, {file}, {number}");
            if imported {
                assert!(limited(&args!["inspect heads {}", shop.out()]));
                std::fs::remove_dir_all(shop.out()).unwrap();
            }
            refused += u64::from(!imported);
        }
        // Null control.
        std::fs::write(&path, whole).unwrap();
        assert!(limited(&shop.import()), "{case}");
    }
    assert!(
        refused > 2 * cases,
        "{refused} of {} were refused",
        4 * cases
    );
}

/// Runs the program with little memory; whether it succeeded.
pub fn limited(words: &[OsString]) -> bool {
    let begun = Instant::now();
    let output = Command::new("sh")
        .args([
            "-c",
            "ulimit -v 4000000; exec \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_bam"),
        ])
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect("there is a shell");
    assert_no_panic(&output, words);
    assert!(begun.elapsed() < Duration::from_secs(60), "{words:?} hangs");
    output.status.success()
}

/// Requests that are damaged get 4xx, never 5xx.
#[test]
fn damaged_requests_are_answered() {
    let shop = Workshop::new();
    let server = Server::start(&shop.trained_model(), &["--cache-memory", "100K"]);
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/corpus/requests");
    let mut statuses = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(corpus).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let path = format!("/{}", name.split('-').next().unwrap().replace('_', "/"));
        let whole = std::fs::read(&file).unwrap();
        for number in 0..cases(100) {
            let status = server.post_bytes(&path, &damaged(&whole, number));
            assert!(status < 500, "{name}, case {number}: {status}");
            *statuses.entry(status).or_insert(0) += 1;
        }
    }
    assert!(statuses[&400] > 100 && statuses[&200] > 0, "{statuses:?}");
}
