//! A training step as the trainer takes it: gradients of a batch, clipping, RAdam. One JSON object on
//! standard output; `cargo xtask bench training` runs it beside PyTorch and makes the table.
//!
//! Arguments: `--threads T`, `--model quickstart|l6`, `--parts P` of the batch, `--device D`.

use bam_attention::Implementation;
use bam_data::Batch;
use bam_lm::device::DeviceName;
use bam_lm::model::{Design, ModelConfig, PriorScope, PriorStart};
use bam_lm::train::{LearningRates, RAdam, RAdamConfig, batch_gradients};
use rand::{Rng, SeedableRng};
use serde_json::json;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STEPS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let number = |name, otherwise| {
        value(name)
            .and_then(|v| v.parse().ok())
            .unwrap_or(otherwise)
    };
    let threads: usize = number("--threads", 1);
    let parts: usize = number("--parts", threads.min(2));
    let model = value("--model").unwrap_or_else(|| "quickstart".into());
    // dim, layers, heads, vocabulary, rows, length
    let [dim, layers, heads, vocabulary, rows, length] = match model.as_str() {
        "quickstart" => [128, 2, 4, 1024, 16, 128],
        "l6" => [512, 6, 16, 8192, 4, 256],
        other => panic!("--model: expected quickstart or l6, got {other}"),
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .expect("no pool was built before");

    let config = ModelConfig {
        encoding: "bam+ssmax".parse().expect("an encoding"),
        dim,
        layers,
        heads,
        key_heads: heads,
        hidden: 2 * dim,
        vocabulary,
        train_length: length,
        norm_epsilon: 1e-5,
        rotary_theta: 1e4,
        prior_scope: PriorScope::Layer,
        prior_start: PriorStart::default(),
        ssmax_from: 0,
        design: Design::default(),
    };
    let name: DeviceName =
        value("--device").map_or(DeviceName::Cpu, |name| name.parse().expect("a device"));
    let device = name.open().expect("a device that is there").autodiff();
    let implementation = Implementation::Fused;
    device.seed(1);
    let mut net = config.checked().expect("it fits").init(&device);
    let parameters: usize = net
        .parameters()
        .iter()
        .map(|info| info.stored_shape.iter().product::<usize>())
        .sum();
    let mut optimizer = RAdam::new(RAdamConfig::default(), LearningRates::default());
    let batch = random_batch(rows, length, vocabulary);

    let (mut losses, mut seconds) = (Vec::new(), Vec::new());
    for _ in 0..=STEPS {
        let begun = Instant::now();
        let mut gradients =
            batch_gradients(&net, &batch, implementation, parts, threads).expect("the batch fits");
        let (loss, norm) = gradients.loss_and_norm(&net);
        losses.push(loss);
        gradients.clip(norm, 1.0);
        net = optimizer.step(net, gradients, 1e-3);
        device.sync().expect("the device takes the step");
        seconds.push(begun.elapsed().as_secs_f64());
    }
    let (first, last) = (losses[0], losses[STEPS]);
    assert!(
        last < first,
        "the loss did not fall: {first} to {last}; no time is reported"
    );
    let mut timed = seconds.split_off(1);
    timed.sort_by(f64::total_cmp);
    let median = timed[timed.len() / 2];
    println!(
        "{}",
        json!({
            "implementation": format!("bam-{implementation:?}").to_lowercase(), "device": name, "model": model, "dtype": "f32", "threads": threads,
            "batch": rows, "length": length, "parts": parts, "parameters": parameters,
            "tokens_per_second": (rows * length) as f64 / median,
            "milliseconds_per_step": median * 1e3, "first_loss": first, "last_loss": last,
        })
    );
}

/// Random tokens, one document a row.
fn random_batch(rows: usize, length: usize, vocabulary: usize) -> Batch {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let mut tokens = || -> Vec<i32> {
        (0..rows * length)
            .map(|_| random.random_range(0..vocabulary as i32))
            .collect()
    };
    Batch {
        rows,
        length,
        tokens: tokens(),
        targets: tokens(),
        document_ids: vec![0; rows * length],
        weights: vec![1.0; rows * length],
    }
}
