//! The operation's benchmark: one JSON object a measurement on standard output, every answer checked
//! against the definition in `f64` before the clock is started. `cargo xtask bench attention` runs it
//! beside PyTorch and makes the table.
//!
//! Arguments: `--threads T`, `--max-length N`, `--sections NAME,…` of those in [`SECTIONS`], and `--device NAME`
//! for the section `device`, which is the one measured there.

use bam_attention::Implementation::{Fused, Reference};
use bam_attention::device::{DeviceName, cpu, is_cpu};
use bam_attention::testing::{Case, OnTensors, Shape, Tensors, oracle_row, signed_numbers};
use bam_attention::{KeyNorms, Options, SkipLog, Skipping};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Distribution, FloatDType, Tensor, TensorData};
use serde_json::json;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

type Section = fn(&Bench);

/// The sections that can be measured.
const SECTIONS: [(&str, Section); 6] = [
    ("ceiling", ceiling),
    ("passes", passes),
    ("decode", decode),
    ("skipping", skipping),
    ("growth", growth),
    ("device", on_device),
];

const CERTIFIED: Skipping = Skipping::Certified { epsilon: 1e-6 };

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
    let threads = number("--threads", 1);
    let bench = Bench {
        threads,
        max_length: number("--max-length", 1 << 18),
        device: match value("--device") {
            None => cpu(),
            Some(name) => name
                .parse()
                .and_then(DeviceName::open)
                .unwrap_or_else(|error| panic!("--device: {error}")),
        },
    };
    let wanted = match is_cpu(&bench.device) {
        true => Some(
            value("--sections").unwrap_or_else(|| "ceiling,passes,decode,skipping,growth".into()),
        ),
        false => Some("device".into()),
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.expect("a pool of threads").install(|| {
        for (name, section) in SECTIONS {
            let chosen = |wanted: &String| wanted.split(',').any(|part| part == name);
            if wanted.as_ref().is_none_or(chosen) {
                section(&bench);
            }
        }
    });
}

struct Bench {
    threads: usize,
    max_length: usize,
    device: Device,
}

/// A prior of 8 heads, or of one, by name: `ln w(head, lag)`.
#[derive(Clone, Copy)]
struct Prior {
    name: &'static str,
    class: &'static str,
    /// Of a head of so many at a lag.
    ln_w: fn((usize, usize), f64) -> f64,
}

fn slope((head, heads): (usize, usize)) -> f64 {
    bam_prior::alibi_slopes(heads).expect("heads have slopes")[head]
}

const UNIFORM: Prior = Prior {
    name: "uniform",
    class: "flat",
    ln_w: |_, _| 0.0,
};

const ALIBI: Prior = Prior {
    name: "alibi",
    class: "local",
    ln_w: |head, lag| -slope(head) * lag.abs(),
};

/// ALiBi's slopes under shapes from 0.3 to 1.
const GGD: Prior = Prior {
    name: "ggd",
    class: "mixed",
    ln_w: |head, lag| {
        -slope(head) * (lag.abs() + 1e-5).powf(0.3 + 0.8 * head.0 as f64 / head.1 as f64)
    },
};

/// One head of each class, as trained models have them.
const CLASSES: [Prior; 4] = [
    Prior {
        name: "slope 1/16",
        class: "local",
        ln_w: |_, lag| -lag.abs() / 16.0,
    },
    Prior {
        name: "slope 1, shape 0.3",
        class: "bent",
        ln_w: |_, lag| -(lag.abs() + 1e-5).powf(0.3),
    },
    UNIFORM,
    Prior {
        name: "scale 4, shape -0.3",
        class: "anti-local",
        ln_w: |_, lag| -4.0 * (lag.abs() + 1e-5).powf(-0.3),
    },
];

/// Queries at the end of the keys, drawn as the PyTorch side draws them.
fn case(prior: Prior, heads: usize, queries: usize, keys: usize) -> Case {
    wide_case(prior, heads, 64, queries, keys)
}

fn wide_case(prior: Prior, heads: usize, dim: usize, queries: usize, keys: usize) -> Case {
    let mut case = Case::random(
        &Shape {
            batch: 1,
            heads,
            key_heads: heads,
            queries: 1,
            keys: 1,
            dim,
        },
        0,
    );
    (case.queries, case.keys, case.offset) = (queries, keys, keys - queries);
    case.q = signed_numbers(heads * queries * dim, 2.0, 1);
    case.k = signed_numbers(heads * keys * dim, 2.0, 2);
    case.v = signed_numbers(heads * keys * dim, 3.0, 3);
    (case.first_lag, case.lags) = (1 - keys as i64, keys);
    let lags =
        |head| (0..keys).map(move |c| (prior.ln_w)((head, heads), (keys - 1 - c) as f64) as f32);
    case.ln_weights = (0..heads).flat_map(lags).collect();
    case
}

/// One way to compute a case.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    skipping: Option<Skipping>,
    dtype: FloatDType,
}

const fn fused(name: &'static str, skipping: Skipping, dtype: FloatDType) -> Way {
    Way {
        name,
        skipping: Some(skipping),
        dtype,
    }
}

const OFF: Way = fused("bam-fused", Skipping::Off, FloatDType::F32);
const EXACT: Way = fused("bam-fused-exact", Skipping::Exact, FloatDType::F32);
const CERTAIN: Way = fused("bam-fused-certified-1e-6", CERTIFIED, FloatDType::F32);
const OFF_BF16: Way = fused("bam-fused", Skipping::Off, FloatDType::BF16);
const REFERENCE: Way = Way {
    name: "bam-reference",
    skipping: None,
    dtype: FloatDType::F32,
};

#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Forward,
    ForwardBackward,
    Decode,
}

impl Bench {
    fn measure(&self, prior: Prior, case: &mut Case, way: Way, pass: Pass) {
        let narrow = way.dtype != FloatDType::F32;
        let round = |x: f32| match way.dtype {
            FloatDType::BF16 => burn::tensor::bf16::from_f32(x).to_f32(),
            FloatDType::F16 => burn::tensor::f16::from_f32(x).to_f32(),
            _ => x,
        };
        for values in [&mut case.q, &mut case.k, &mut case.v] {
            values.iter_mut().for_each(|x| *x = round(*x));
        }
        let device = match pass {
            Pass::ForwardBackward => self.device.clone().autodiff(),
            _ => self.device.clone(),
        };
        let plain = case.tensors(&device);
        let grad = |t: Tensor<4>| match pass {
            Pass::ForwardBackward => t.cast(way.dtype).require_grad(),
            _ => t.cast(way.dtype),
        };
        let tensors = Tensors {
            q: grad(plain.q),
            k: grad(plain.k),
            v: grad(plain.v),
            ln_weights: match pass {
                Pass::ForwardBackward => plain.ln_weights.require_grad(),
                _ => plain.ln_weights,
            },
            temperature: plain.temperature,
            key_prior: plain.key_prior,
        };
        let log = Arc::new(SkipLog::default());
        let implementation = way.skipping.map_or(Reference, |_| Fused);
        let mut options = case.options(&tensors, implementation).expect("it fits");
        if let Some(skipping) = way.skipping {
            options = options.with_skipping(skipping).with_skip_log(log.clone());
        }
        if pass == Pass::Decode && way.skipping.is_some() {
            let mut norms = KeyNorms::new(1, case.key_heads);
            norms.extend(0, &tensors.k).expect("it fits");
            options = options.with_key_norms(Arc::new(norms));
        }
        // A cache keeps its prior: what skipping knows of it is found once.
        let lags = bam_attention::Lags::starting_at(case.first_lag, case.lags);
        let kept = bam_attention::LogPrior::new(tensors.ln_weights.clone(), lags).expect("it fits");
        let attend = |options: &Options| {
            let prior = match pass {
                Pass::Decode => kept.clone(),
                _ => {
                    bam_attention::LogPrior::new(tensors.ln_weights.clone(), lags).expect("it fits")
                }
            };
            let [q, k, v] = [&tensors.q, &tensors.k, &tensors.v].map(Clone::clone);
            bam_attention::attend(q, k, v, &prior, options).expect("it fits")
        };
        let answer_error = answer_error(case, attend(&options));
        let allowed = if narrow { 3e-2 } else { 1e-4 };
        assert!(
            answer_error <= allowed,
            "{} is off by {answer_error:e}: no time is reported for a wrong answer",
            way.name
        );
        let skips = log.heads();
        let shape = [1, case.heads, case.queries, case.dim];
        let weights = signed_numbers(case.q.len(), 0.25, 4);
        let weights = Tensor::<4>::from_data(TensorData::new(weights, shape), &device);
        let weights = weights.cast(way.dtype);
        // Reading a log waits for the device.
        options.skip_log = options.skip_log.filter(|_| is_cpu(&self.device));
        let (milliseconds, peak_bytes) = self.time(|| {
            let out = attend(&options);
            if pass == Pass::ForwardBackward {
                let _ = (out * weights.clone()).sum().backward();
            }
        });
        let pairs = match pass {
            Pass::Decode => case.queries as f64 * case.keys as f64,
            _ => 0.5 * (case.keys as f64).powi(2),
        };
        let products = match pass {
            Pass::ForwardBackward => 7.0,
            _ => 2.0,
        };
        let flops = 2.0 * products * pairs * (case.dim * case.heads) as f64;
        // From 0, as an empty sum is −0.
        let share = |of: fn(&bam_attention::HeadSkips) -> f64| -> f64 {
            skips.iter().map(of).fold(0.0, |sum, x| sum + x) / skips.len().max(1) as f64
        };
        println!(
            "{}",
            json!({
                "implementation": way.name,
                "prior": prior.name,
                "head_class": prior.class,
                "pass": match pass {
                    Pass::Forward => "forward",
                    Pass::ForwardBackward => "forward+backward",
                    Pass::Decode => "decode",
                },
                "dtype": format!("{:?}", way.dtype).to_lowercase(),
                "device": format!("{:?}", self.device),
                "threads": self.threads,
                "batch": 1,
                "heads": case.heads,
                "head_dim": case.dim,
                "length": case.keys,
                "milliseconds": milliseconds,
                "gflops": flops / milliseconds / 1e6,
                "peak_bytes": peak_bytes,
                "answer_error": answer_error,
                "skipped_share": share(bam_attention::HeadSkips::skipped_share),
                "skipped_share_by_head":
                    skips.iter().map(bam_attention::HeadSkips::skipped_share).collect::<Vec<_>>(),
                "dropped_mass": skips.iter().map(|head| head.dropped_mass).fold(0.0, f64::max),
            })
        );
    }
}

/// The largest error of eight rows of every head.
fn answer_error(case: &Case, out: Tensor<4>) -> f64 {
    let out: Vec<f32> = out
        .into_data()
        .convert::<f32>()
        .try_into_vec()
        .expect("f32");
    let rows = (0..8).map(|i| i * (case.queries - 1) / 7);
    let rows: Vec<usize> = if case.queries < 8 {
        (0..case.queries).collect()
    } else {
        rows.collect()
    };
    let mut largest = 0.0f64;
    for head in 0..case.heads {
        for &row in &rows {
            let got = &out[(head * case.queries + row) * case.dim..];
            for (got, expected) in got.iter().zip(oracle_row(case, 0, head, row)) {
                largest = largest.max((f64::from(*got) - expected).abs());
            }
        }
    }
    largest
}

/// Median milliseconds after a warm-up, and the largest growth of allocated memory during a run.
impl Bench {
    fn time(&self, mut run: impl FnMut()) -> (f64, usize) {
        let mut run = || {
            run();
            self.device.sync().expect("the device is there");
        };
        let before = ALLOCATED.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let begun = Instant::now();
        run();
        let first = begun.elapsed().as_secs_f64();
        let peak = PEAK.load(Ordering::Relaxed) - before;
        if first > 5.0 {
            return (first * 1e3, peak);
        }
        let mut seconds = Vec::new();
        while seconds.len() < 3 || (seconds.iter().sum::<f64>() < 1.0 && seconds.len() < 50) {
            let begun = Instant::now();
            run();
            seconds.push(begun.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        (seconds[seconds.len() / 2] * 1e3, peak)
    }
}

/// The matrix product that Burn's Flex has, which no attention can beat.
fn ceiling(bench: &Bench) {
    for n in [1024usize, 2048] {
        let device = cpu();
        let random = || Tensor::<2>::random([n, n], Distribution::Uniform(-1.0, 1.0), &device);
        let (a, b) = (random(), random());
        let values = |t: &Tensor<2>| t.to_data().try_into_vec::<f32>().expect("f32");
        let (left, right) = (values(&a), values(&b));
        let product = values(&a.clone().matmul(b.clone()));
        let expected: f64 = (0..n)
            .map(|t| f64::from(left[n + t]) * f64::from(right[t * n + 2]))
            .sum();
        let answer_error = (f64::from(product[n + 2]) - expected).abs();
        assert!(
            answer_error < 1e-3,
            "the product is off by {answer_error:e}"
        );
        let (milliseconds, peak_bytes) = bench.time(|| {
            let _ = a.clone().matmul(b.clone());
        });
        println!(
            "{}",
            json!({
                "implementation": "flex-matmul", "prior": "none", "head_class": "none",
                "pass": "forward", "dtype": "f32", "threads": bench.threads, "batch": 1, "heads": 1,
                "head_dim": n, "length": n, "milliseconds": milliseconds,
                "gflops": 2.0 * (n as f64).powi(3) / milliseconds / 1e6,
                "peak_bytes": peak_bytes, "answer_error": answer_error,
            })
        );
    }
}

/// Forward and backward as the PyTorch side measures them.
fn passes(bench: &Bench) {
    for length in [1024, 4096].into_iter().filter(|n| *n <= bench.max_length) {
        for prior in [UNIFORM, ALIBI, GGD] {
            for way in [OFF, EXACT, OFF_BF16] {
                for pass in [Pass::Forward, Pass::ForwardBackward] {
                    bench.measure(prior, &mut case(prior, 8, length, length), way, pass);
                }
            }
        }
        if length == 1024 {
            for pass in [Pass::Forward, Pass::ForwardBackward] {
                bench.measure(GGD, &mut case(GGD, 8, length, length), REFERENCE, pass);
            }
        }
    }
}

/// One query, and a few, against a cache.
fn decode(bench: &Bench) {
    for keys in [4096, 65536].into_iter().filter(|n| *n <= bench.max_length) {
        for prior in [UNIFORM, ALIBI] {
            for way in [OFF, EXACT, CERTAIN, OFF_BF16] {
                for queries in [1, 64] {
                    let pass = Pass::Decode;
                    bench.measure(prior, &mut case(prior, 8, queries, keys), way, pass);
                }
            }
        }
    }
}

/// ALiBi's eight slopes at 64k, where most of what a head may see can't matter.
fn skipping(bench: &Bench) {
    let length = 65536.min(bench.max_length);
    for prior in [ALIBI, GGD] {
        for way in [OFF, EXACT, CERTAIN] {
            bench.measure(
                prior,
                &mut case(prior, 8, length, length),
                way,
                Pass::Forward,
            );
        }
    }
    // What a training step at 128k takes in memory, inputs aside; `peak_bytes` has the gradients in it.
    let length = 1 << 17;
    if length <= bench.max_length {
        let pass = Pass::ForwardBackward;
        bench.measure(ALIBI, &mut case(ALIBI, 8, length, length), CERTAIN, pass);
    }
}

/// One head of each class from 1k to 256k.
fn growth(bench: &Bench) {
    for prior in CLASSES {
        for length in (10..=18).step_by(2).map(|bits| 1 << bits) {
            if length > bench.max_length {
                continue;
            }
            for way in [OFF, EXACT, CERTAIN] {
                // Without skipping every class costs the same: the longest is measured once.
                if length > 1 << 16 && way.name == OFF.name && prior.class != "flat" {
                    continue;
                }
                bench.measure(
                    prior,
                    &mut case(prior, 1, length, length),
                    way,
                    Pass::Forward,
                );
            }
            if length <= 1 << 14 {
                for way in [OFF, EXACT] {
                    let pass = Pass::ForwardBackward;
                    bench.measure(prior, &mut case(prior, 1, length, length), way, pass);
                }
            }
        }
    }
}

/// The work of a GPU: 16 heads of 64 and 128, beside Burn's own attention, which has no prior, and the matrix
/// product. In `bf16` where the device has it.
fn on_device(bench: &Bench) {
    let dtype = match bench.device.supports_dtype(FloatDType::BF16) {
        true => FloatDType::BF16,
        false => FloatDType::F32,
    };
    let size = 8192.min(bench.max_length);
    let random = |shape: [usize; 4]| {
        let uniform = Distribution::Uniform(-1.0, 1.0);
        Tensor::<4>::random(shape, uniform, &bench.device).cast(dtype)
    };
    let row = |name: &str,
               prior: &str,
               dim: usize,
               length: usize,
               flops: f64,
               milliseconds: f64| {
        let row = json!({
            "implementation": name, "prior": prior, "head_class": "none", "pass": "forward",
            "dtype": format!("{dtype:?}").to_lowercase(), "device": format!("{:?}", bench.device),
            "threads": bench.threads, "batch": 1, "heads": 16, "head_dim": dim, "length": length,
            "milliseconds": milliseconds, "gflops": flops / milliseconds / 1e6, "peak_bytes": 0,
            "answer_error": 0.0,
        });
        println!("{row}");
    };
    let (a, b) = (random([1, 1, size, size]), random([1, 1, size, size]));
    let (milliseconds, _) = bench.time(|| {
        let _ = a.clone().matmul(b.clone());
    });
    let flops = 2.0 * (size as f64).powi(3);
    row("burn-matmul", "none", size, size, flops, milliseconds);
    for dim in [64, 128] {
        for length in [1024, 4096, 16384, 65536]
            .into_iter()
            .filter(|length| *length <= bench.max_length)
        {
            let way = |skipping| fused("bam-fused", skipping, dtype);
            let exact = fused("bam-fused-exact", Skipping::Exact, dtype);
            for (prior, way) in [
                (UNIFORM, way(Skipping::Off)),
                (ALIBI, way(Skipping::Off)),
                (ALIBI, exact),
                (GGD, way(Skipping::Off)),
            ] {
                for pass in [Pass::Forward, Pass::ForwardBackward] {
                    let mut case = wide_case(prior, 16, dim, length, length);
                    bench.measure(prior, &mut case, way, pass);
                }
            }
            if length <= 16384 {
                let [q, k, v] = [(); 3].map(|()| random([1, 16, length, dim]));
                let options = AttentionModuleOptions {
                    is_causal: true,
                    ..Default::default()
                };
                let (milliseconds, _) = bench.time(|| {
                    let [q, k, v] = [&q, &k, &v].map(Clone::clone);
                    let _ = burn::tensor::module::attention(q, k, v, None, None, options);
                });
                let flops = 2.0 * (length as f64).powi(2) * (dim * 16) as f64;
                row("burn-attention", "none", dim, length, flops, milliseconds);
            }
        }
    }
}

/// Counts what is allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise about `layout`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `pointer` came from `alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
