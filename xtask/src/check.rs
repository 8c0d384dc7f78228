//! `cargo xtask check`: the steps of CI, cheapest first.

use crate::{cargo, house, wheel};
use std::path::Path;
use std::time::Instant;

/// The steps to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Every step, with these in the program that is tested: their tests too, and nothing is built twice.
    All(With),
    /// Only the steps that build in seconds.
    Fast,
    /// Only the tests of these.
    Only(With),
}

/// Features of the program that want something of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct With {
    /// A device: its self-test, and the tests that take a device.
    pub device: Option<String>,
    /// Several ranks, under MPI.
    pub mpi: bool,
}

impl With {
    /// Names between commas: `wgpu,mpi`.
    pub fn parse(names: &str) -> Self {
        let mut with = Self::default();
        for name in names.split(',') {
            match name {
                "mpi" => with.mpi = true,
                device => with.device = Some(device.to_owned()),
            }
        }
        with
    }

    /// The words that turn the features on; the device `cuda:1` is of the feature `cuda`.
    fn features(&self) -> String {
        let device = self.device.iter();
        let device = device.map(|name| name.split(':').next().unwrap_or(name));
        let names = device.chain(self.mpi.then_some("mpi"));
        let names: Vec<String> = names.map(|name| format!("bam-cli/{name}")).collect();
        match names.is_empty() {
            true => String::new(),
            false => format!(" --features {}", names.join(",")),
        }
    }
}

struct Step {
    name: &'static str,
    of: Of,
    action: Action,
}

/// The extents that a step is part of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Of all but `Only`.
    Fast,
    All,
    /// Of a device that is named.
    Device,
    /// Of MPI, if it is named.
    Mpi,
    /// Of MPI's tests alone: in `All` they are among all others.
    MpiAlone,
}

enum Action {
    House,
    Wheel,
    Cargo {
        arguments: &'static str,
        environment: Option<(&'static str, &'static str)>,
    },
    /// With the name of a device.
    OnDevice(&'static str),
}

const fn cargo(name: &'static str, of: Of, arguments: &'static str) -> Step {
    Step {
        name,
        of,
        action: Action::Cargo {
            arguments,
            environment: None,
        },
    }
}

const fn on_device(name: &'static str, arguments: &'static str) -> Step {
    Step {
        name,
        of: Of::Device,
        action: Action::OnDevice(arguments),
    }
}

/// Everything is of the release profile and, after the lints, of one set of features, so that Burn is built once, for running and for
/// testing, on the processor and on a device. `{features}` and `{device}` are put in.
///
/// `bam-prior` and `bam-kernel` are tested first and alone: they need no Burn. Lints are of the program without features, which is how
/// most people build it. `bam-python` is built alone, since its macros would give all others another feature. A device's self-test comes
/// before its tests: a driver that computes wrong numbers is not worth testing on.
const STEPS: [Step; 14] = [
    cargo("format", Of::Fast, "fmt --all --check"),
    Step {
        name: "house rules",
        of: Of::Fast,
        action: Action::House,
    },
    cargo("tests: bam-prior", Of::Fast, "test --release -p bam-prior"),
    cargo(
        "tests: bam-kernel",
        Of::Fast,
        "test --release -p bam-kernel",
    ),
    cargo(
        "lints",
        Of::All,
        "clippy --release --workspace --exclude bam-python --all-targets -- -D warnings",
    ),
    cargo(
        "lints: MPI",
        Of::Mpi,
        "clippy --release -p bam-mpi -p bam-cli --features bam-cli/mpi --all-targets -- -D warnings",
    ),
    cargo(
        "tests: all others",
        Of::All,
        "test --release --workspace --exclude bam-prior --exclude bam-kernel --exclude bam-python{features}",
    ),
    cargo(
        "tests: several ranks",
        Of::MpiAlone,
        "test --release -p bam-cli{features} --test cli -- mpi::",
    ),
    Step {
        name: "documentation",
        of: Of::All,
        action: Action::Cargo {
            arguments: "doc --release --workspace --exclude bam-python --no-deps",
            environment: Some(("RUSTDOCFLAGS", "-Dwarnings")),
        },
    },
    cargo(
        "lints: the wheel",
        Of::All,
        "clippy --release --package bam-python -- -D warnings",
    ),
    Step {
        name: "tests: the wheel",
        of: Of::All,
        action: Action::Wheel,
    },
    on_device(
        "self-test of the device",
        "run --release -p bam-cli{features} -- devices --check --device {device}",
    ),
    on_device(
        "tests of the operation and of models on it",
        "test --release -p bam-attention -p bam-lm -p bam-cli{features} --no-fail-fast \
         --test agreement --test gradients --test skipping --test half --test device",
    ),
    on_device(
        "tests of the program on it",
        "test --release -p bam-attention -p bam-lm -p bam-cli{features} --no-fail-fast \
         --test cli -- device::",
    ),
];

impl Extent {
    fn has(&self, of: Of) -> bool {
        match (self, of) {
            (Self::Fast, of) => of == Of::Fast,
            (Self::All(_), Of::Fast | Of::All) => true,
            (Self::All(with) | Self::Only(with), Of::Device) => with.device.is_some(),
            (Self::All(with) | Self::Only(with), Of::Mpi) => with.mpi,
            (Self::Only(with), Of::MpiAlone) => with.mpi,
            _ => false,
        }
    }

    fn with(&self) -> With {
        match self {
            Self::All(with) | Self::Only(with) => with.clone(),
            Self::Fast => With::default(),
        }
    }
}

/// Runs the steps in order, up to the first that fails.
pub fn run(root: &Path, extent: &Extent) -> Result<(), String> {
    let steps: Vec<&Step> = STEPS.iter().filter(|step| extent.has(step.of)).collect();
    let with = extent.with();
    let start = Instant::now();
    for (index, step) in steps.iter().enumerate() {
        let place = format!("step {} of {}, {}", index + 1, steps.len(), step.name);
        println!("── {place}: {}", step.action.text(&with));
        let began = Instant::now();
        step.action
            .run(root, &with)
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
    fn text(&self, with: &With) -> String {
        let variables = self.environment(with);
        let variables: String = variables
            .iter()
            .map(|(name, value)| format!("{name}={value} "))
            .collect();
        match self {
            Self::House => "cargo xtask house".into(),
            Self::Wheel => "cargo xtask wheel".into(),
            Self::Cargo { arguments, .. } | Self::OnDevice(arguments) => {
                format!("{variables}cargo {}", filled(arguments, with))
            }
        }
    }

    fn environment(&self, with: &With) -> Vec<(&'static str, String)> {
        match self {
            Self::Cargo { environment, .. } => environment
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned()))
                .collect(),
            Self::OnDevice(_) => vec![
                ("BAM_TEST_DEVICE", device_of(with).to_owned()),
                ("BAM_TEST_REDUCED", "1".to_owned()),
            ],
            _ => Vec::new(),
        }
    }

    fn run(&self, root: &Path, with: &With) -> Result<(), String> {
        let mut command = cargo::bare(root);
        match self {
            Self::House => return house::check(root),
            Self::Wheel => return wheel::run(root, "python3"),
            Self::Cargo { arguments, .. } | Self::OnDevice(arguments) => command
                .args(filled(arguments, with).split_whitespace())
                .envs(self.environment(with)),
        };
        let status = command
            .status()
            .map_err(|error| format!("cargo did not start: {error}"))?;
        if status.success() {
            return Ok(());
        }
        Err(format!("`{}` ended with {status}", self.text(with)))
    }
}

fn device_of(with: &With) -> &str {
    with.device.as_deref().unwrap_or("cpu")
}

fn filled(arguments: &str, with: &With) -> String {
    arguments
        .replace("{features}", &with.features())
        .replace("{device}", device_of(with))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cargo's words of the steps of an extent.
    fn commands(extent: &Extent) -> Vec<String> {
        let steps = STEPS.iter().filter(|step| extent.has(step.of));
        steps.map(|step| step.action.text(&extent.with())).collect()
    }

    #[test]
    fn features_are_one_set_and_a_device_is_of_a_feature() {
        let plain = commands(&Extent::All(With::default()));
        assert!(plain.iter().all(|command| !command.contains("--features")));
        let with = With::parse("cuda:1,mpi");
        let all = commands(&Extent::All(with.clone()));
        assert_eq!(all.len(), plain.len() + 4);
        let features = " --features bam-cli/cuda,bam-cli/mpi";
        let tests = all.iter().filter(|command| command.contains(features));
        assert_eq!(tests.count(), 4, "{all:?}");
        assert!(
            all.iter()
                .any(|command| command.starts_with("BAM_TEST_DEVICE=cuda:1 "))
        );
        let fast = commands(&Extent::Fast);
        assert!(plain.starts_with(&fast) && all.starts_with(&fast));
        // Alone they are the same and, of MPI, its tests by name.
        let only = commands(&Extent::Only(with));
        assert_eq!(only.len(), 5);
        assert_eq!(commands(&Extent::Only(With::parse("mpi"))).len(), 2);
        assert_eq!(commands(&Extent::Only(With::parse("wgpu"))).len(), 3);
    }
}
