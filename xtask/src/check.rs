//! `cargo xtask check`: the steps of CI, cheapest first.

use crate::{cargo, house, wheel};
use std::path::Path;
use std::time::Instant;

/// The steps to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Every step.
    All,
    /// Only the steps that build in seconds.
    Fast,
    /// On a device: its self-test, and the tests that take a device.
    Device(String),
    /// Several ranks: they take an MPI.
    Mpi,
}

struct Step {
    name: &'static str,
    fast: bool,
    action: Action,
}

enum Action {
    House,
    Wheel,
    Cargo {
        arguments: &'static str,
        environment: Option<(&'static str, &'static str)>,
    },
    /// With the feature and the name of a device.
    OnDevice(&'static str),
}

const fn cargo(name: &'static str, arguments: &'static str) -> Step {
    Step {
        name,
        fast: false,
        action: Action::Cargo {
            arguments,
            environment: None,
        },
    }
}

const fn fast(step: Step) -> Step {
    Step { fast: true, ..step }
}

/// Everything is of the release profile, so that Burn is built once, for running and for testing.
///
/// `bam-prior` and `bam-kernel` are tested first and alone: they need no Burn. `bam-python` is built alone, since its macros
/// would give all others another feature.
const STEPS: [Step; 9] = [
    fast(cargo("format", "fmt --all --check")),
    fast(Step {
        name: "house rules",
        fast: true,
        action: Action::House,
    }),
    fast(cargo("tests: bam-prior", "test --release -p bam-prior")),
    fast(cargo("tests: bam-kernel", "test --release -p bam-kernel")),
    cargo(
        "lints",
        "clippy --release --workspace --exclude bam-python --all-targets -- -D warnings",
    ),
    cargo(
        "tests: all others",
        "test --release --workspace --exclude bam-prior --exclude bam-kernel --exclude bam-python",
    ),
    Step {
        name: "documentation",
        fast: false,
        action: Action::Cargo {
            arguments: "doc --release --workspace --exclude bam-python --no-deps",
            environment: Some(("RUSTDOCFLAGS", "-Dwarnings")),
        },
    },
    cargo(
        "lints: the wheel",
        "clippy --release --package bam-python -- -D warnings",
    ),
    Step {
        name: "tests: the wheel",
        fast: false,
        action: Action::Wheel,
    },
];

const fn on_device(name: &'static str, arguments: &'static str) -> Step {
    Step {
        name,
        fast: false,
        action: Action::OnDevice(arguments),
    }
}

/// `{feature}` and `{device}` are put in. One set of packages, so that nothing is built twice. The self-test comes first: a
/// driver that computes wrong numbers is not worth testing on.
const DEVICE_STEPS: [Step; 3] = [
    on_device(
        "self-test",
        "run --release -p bam-cli --features bam-cli/{feature} -- devices --check --device {device}",
    ),
    on_device(
        "tests of the operation and of models",
        "test --release -p bam-attention -p bam-lm -p bam-cli --features bam-cli/{feature} --no-fail-fast \
         --test agreement --test gradients --test skipping --test half --test device",
    ),
    on_device(
        "tests of the program",
        "test --release -p bam-attention -p bam-lm -p bam-cli --features bam-cli/{feature} --no-fail-fast \
         --test cli -- device::",
    ),
];

const MPI_STEPS: [Step; 2] = [
    cargo(
        "lints: MPI",
        "clippy --release -p bam-mpi -p bam-cli --features bam-cli/mpi --all-targets -- -D warnings",
    ),
    cargo(
        "tests: several ranks",
        "test --release -p bam-cli --features mpi --test cli -- mpi::",
    ),
];

/// Runs the steps in order, up to the first that fails.
pub fn run(root: &Path, extent: &Extent) -> Result<(), String> {
    let all = match extent {
        Extent::Device(_) => &DEVICE_STEPS[..],
        Extent::Mpi => &MPI_STEPS[..],
        _ => &STEPS[..],
    };
    let steps: Vec<&Step> = all
        .iter()
        .filter(|step| *extent != Extent::Fast || step.fast)
        .collect();
    let device = match extent {
        Extent::Device(device) => device.as_str(),
        _ => "cpu",
    };
    let start = Instant::now();
    for (index, step) in steps.iter().enumerate() {
        let place = format!("step {} of {}, {}", index + 1, steps.len(), step.name);
        println!("── {place}: {}", step.action.text(device));
        let began = Instant::now();
        step.action
            .run(root, device)
            .map_err(|why| format!("check failed at {place}: {why}"))?;
        println!("── {} passed in {:.1} s\n", step.name, seconds(began));
    }
    println!(
        "── check passed: {} steps in {:.1} s",
        steps.len(),
        seconds(start)
    );
    Ok(())
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

impl Action {
    /// The command that runs the step alone.
    fn text(&self, device: &str) -> String {
        match self {
            Self::House => "cargo xtask house".into(),
            Self::Wheel => "cargo xtask wheel".into(),
            Self::Cargo {
                arguments,
                environment: None,
            } => format!("cargo {arguments}"),
            Self::Cargo {
                arguments,
                environment: Some((name, value)),
            } => format!("{name}={value} cargo {arguments}"),
            Self::OnDevice(arguments) => format!(
                "BAM_TEST_DEVICE={device} BAM_TEST_REDUCED=1 cargo {}",
                named(arguments, device)
            ),
        }
    }

    fn run(&self, root: &Path, device: &str) -> Result<(), String> {
        let mut command = cargo::bare(root);
        match self {
            Self::House => return house::check(root),
            Self::Wheel => return wheel::run(root, "python3"),
            Self::Cargo {
                arguments,
                environment,
            } => command
                .args(arguments.split_whitespace())
                .envs(*environment),
            Self::OnDevice(arguments) => command
                .args(named(arguments, device).split_whitespace())
                .envs([("BAM_TEST_DEVICE", device), ("BAM_TEST_REDUCED", "1")]),
        };
        let status = command
            .status()
            .map_err(|error| format!("cargo did not start: {error}"))?;
        if status.success() {
            return Ok(());
        }
        Err(format!("`{}` ended with {status}", self.text(device)))
    }
}

/// The arguments for a device: `cuda:1` is of the feature `cuda`.
fn named(arguments: &str, device: &str) -> String {
    let feature = device.split(':').next().unwrap_or(device);
    arguments
        .replace("{feature}", feature)
        .replace("{device}", device)
}
