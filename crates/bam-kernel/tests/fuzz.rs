//! Random calls, one a number: sizes, priors over lags and keys, masks, temperatures, skipping, instructions and number
//! types, each against the definition in `f64`. A few thousand here and in CI; millions by
//! `cargo xtask fuzz --cases 5000000`. A failure prints its number, which runs it alone.

use bam_kernel::testing::{Case, Shape, oracle, oracle_gradients};
use bam_kernel::{Call, Instructions, KeyPriorScope, Skipping, bf16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str, otherwise: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        let value = at.and_then(|at| arguments.get(at + 1));
        value.map_or(otherwise, |value| value.parse().expect("a number"))
    };
    let (first, count) = (number("--first", 0), number("--cases", 3000));
    let done = AtomicU64::new(0);
    let failures: Vec<String> = (first..first + count)
        .into_par_iter()
        .filter_map(|seed| {
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(100_000) {
                eprintln!("{done} of {count}");
            }
            let run = std::panic::catch_unwind(|| Trial::random(seed).check());
            let why = run.unwrap_or_else(|_| Err("it panicked".into())).err()?;
            Some(format!("--first {seed} --cases 1: {why}"))
        })
        .collect();
    for failure in failures.iter().take(20) {
        eprintln!("{failure}");
    }
    let failed = failures.len() as u64;
    println!("{} passed, {failed} failed", count - failed);
    // Null control: a prior that is moved by one lag is told apart in most calls that have one.
    let caught = (0..200)
        .filter(|seed| Trial::random(*seed).tells_a_moved_prior())
        .count();
    assert!(
        caught > 100,
        "a moved prior is caught in {caught} of 200 calls only"
    );
    assert_eq!(failed, 0);
}

/// A call and how it is computed.
struct Trial {
    case: Case,
    skipping: Skipping,
    instructions: Instructions,
    narrow: bool,
    with_gradients: bool,
}

impl Trial {
    fn random(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let key_heads = random.random_range(1..4);
        // Mostly small; some that fill panels, tiles and splits.
        let (queries, cached) = match random.random_range(0..20) {
            0 => (random.random_range(1..500), random.random_range(0..500)),
            1 => (random.random_range(1..10), random.random_range(2000..5000)),
            _ => (random.random_range(1..40), random.random_range(0..130)),
        };
        let heads = key_heads * random.random_range(1..4);
        let shape = Shape {
            batch: random.random_range(1..3),
            heads,
            key_heads,
            queries,
            keys: queries + cached,
            dim: random.random_range(1..70),
        };
        let mut case = Case::random(&shape, seed);
        if random.random_bool(0.3) {
            case = case.full();
        }
        if random.random_bool(0.2) {
            case = case.with_window(random.random_range(0..150));
        }
        if random.random_bool(0.3) {
            case = case.with_documents(random.random_range(1..6));
        }
        if random.random_bool(0.5) {
            case = case.with_temperature(random.random_bool(0.5));
        }
        if random.random_bool(0.4) {
            let heads = [key_heads, heads][random.random_range(0..2)];
            let scope = [KeyPriorScope::Added, KeyPriorScope::Scaled][random.random_range(0..2)];
            let values: Vec<f64> = (0..case.batch * heads)
                .flat_map(|_| key_numbers(&mut random, case.keys))
                .collect();
            case = case.with_key_numbers(&values, heads, scope);
        }
        let (first, lags) = (case.first_lag, case.lags);
        case.ln_weights = (0..heads)
            .flat_map(|_| head_prior(&mut random, first, lags))
            .collect();
        let narrow = random.random_bool(0.2);
        if narrow {
            for values in [&mut case.q, &mut case.k, &mut case.v] {
                let round = |x: &mut f32| *x = bf16::from_f32(*x).to_f32();
                values.iter_mut().for_each(round);
            }
        }
        let available = Instructions::available();
        Self {
            case,
            skipping: match random.random_range(0..3) {
                0 => Skipping::Off,
                1 => Skipping::Exact,
                _ => Skipping::Certified {
                    epsilon: 10f64.powf(random.random_range(-9.0..-0.5)),
                },
            },
            instructions: available[random.random_range(0..available.len())],
            narrow,
            with_gradients: random.random_bool(0.1),
        }
    }

    fn how(&self, skipping: Skipping) -> impl Fn(Call) -> Call {
        let instructions = self.instructions;
        move |call| Call {
            skipping,
            instructions,
            ..call
        }
    }

    fn output(&self) -> Vec<f32> {
        let (case, how) = (&self.case, self.how(self.skipping));
        if !self.narrow {
            return case.forward(how).unwrap().out;
        }
        let out = case.forward_narrow(how).unwrap().out;
        // As a caller whose tensors are `bf16` gives them back.
        out.into_iter()
            .map(|x| bf16::from_f32(x).to_f32())
            .collect()
    }

    fn check(&self) -> Result<(), String> {
        let out = self.output();
        let expected = oracle(&self.case);
        let allowed = self.allowed();
        for (index, (got, expected)) in out.iter().zip(&expected).enumerate() {
            let rounding = if self.narrow {
                expected.abs() / 256.0
            } else {
                0.0
            };
            let error = (f64::from(*got) - expected).abs();
            // Not a number is no success either.
            if !(error <= allowed + rounding) {
                let skipping = self.skipping;
                return Err(format!(
                    "output {index} is {got}, not {expected}; off by more than {allowed:e} ({skipping})"
                ));
            }
        }
        match self.with_gradients && !self.narrow {
            true => self.check_gradients(),
            false => Ok(()),
        }
    }

    /// The rounding of `f32`; of the values twice what skipping may drop, and what AMX rounds: weights to
    /// the eight digits of `bf16`, each by up to `2⁻⁸` of itself.
    fn allowed(&self) -> f64 {
        let v = self.case.v.iter();
        let largest_value = v.fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
        let dropped = match self.skipping {
            Skipping::Certified { epsilon } => 2.0 * epsilon,
            _ => 0.0,
        };
        let rounded = match self.narrow && self.instructions == Instructions::Amx {
            true => 1.0 / 256.0,
            false => 0.0,
        };
        self.case.rounding() + largest_value * (dropped + rounded)
    }

    /// `Exact` and `Off` are the same bits, and they are the definition's gradients in `f64`.
    fn check_gradients(&self) -> Result<(), String> {
        let case = &self.case;
        let of = |skipping| case.forward_backward(self.how(skipping)).unwrap();
        let off = of(Skipping::Off);
        if off != of(Skipping::Exact) {
            return Err("exact skipping changes a bit".into());
        }
        let (_, got) = off;
        let got = [
            got.q,
            got.k,
            got.v,
            got.ln_weights,
            got.temperature,
            got.key_prior,
        ];
        let expected = oracle_gradients(case);
        let terms = (case.batch * case.heads * case.queries * case.dim) as f64;
        let scale = 1.0 + self.allowed() / f64::from(f32::EPSILON) / 64.0;
        let of_keys = case.key_prior.iter().flat_map(|of| &of.high);
        let weights = case.ln_weights.iter().chain(of_keys);
        let weights = weights.map(|w| f64::from(w.abs()));
        let largest_weight = weights.fold(0.0, f64::max);
        let names = [
            "q",
            "k",
            "v",
            "ln_weights",
            "temperature",
            "prior over keys",
        ];
        for ((name, got), expected) in names.iter().zip(&got).zip(&expected) {
            if got.len() != expected.len() {
                return Err(format!(
                    "{} gradients of {name}, not {}",
                    got.len(),
                    expected.len()
                ));
            }
            let norm =
                |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
            let error = norm(&mut got.iter().zip(expected).map(|(a, b)| f64::from(*a) - b));
            let size = norm(&mut expected.iter().copied()).max(terms.sqrt());
            // A temperature's gradient is a sum of products with the logits themselves.
            let factor = match *name {
                "temperature" => 1.0 + largest_weight,
                _ => 1.0,
            };
            if !(error / size < 1e-6 * scale * factor) {
                return Err(format!("gradient of {name} is off by {:e}", error / size));
            }
        }
        Ok(())
    }

    fn tells_a_moved_prior(&self) -> bool {
        let mut moved = self.case.clone();
        moved.ln_weights.rotate_right(1);
        let differs = |(got, moved): (&f32, f64)| (f64::from(*got) - moved).abs() > 1e-2;
        self.output().iter().zip(oracle(&moved)).any(differs)
    }
}

/// A head's prior over keys: signed and spread as far as the number says, or a running sum.
fn key_numbers(random: &mut StdRng, keys: usize) -> Vec<f64> {
    let scale = 10f64.powf(random.random_range(-2.0..2.0));
    let sums = random.random_bool(0.5);
    let mut sum = 0.0;
    (0..keys)
        .map(|_| {
            let x = scale * random.random_range(-1.0..1.0);
            sum += x;
            if sums { sum } else { x }
        })
        .collect()
}

/// A head's log-weights over the lags: of any class, some with a few lags apart from the others.
fn head_prior(random: &mut StdRng, first: i64, lags: usize) -> Vec<f32> {
    let scale = 10f64.powf(random.random_range(-3.0..2.0));
    let shape = random.random_range(-0.5..2.0);
    let location = random.random_range(-200.0..20.0);
    let kind = random.random_range(0..6);
    (0..lags)
        .map(|column| {
            let lag = (first + column as i64) as f64;
            let weight = match kind {
                0 => 0.0,
                1 => -scale * lag.abs(),
                2 => -scale * (lag.abs() + 1e-5).powf(shape),
                3 => -scale * (lag - location).abs(),
                4 => f64::from(random.random_range(-3.0..3.0f32)),
                _ => match random.random_bool(0.02) {
                    true => 0.0,
                    false => -1000.0 * scale,
                },
            };
            // As the tensor form of a family, which ends far beyond any likelihood.
            weight.max(-1e4) as f32
        })
        .collect()
}
