//! `cargo xtask check`: the steps of CI, cheapest first.

use crate::{cargo, house};
use std::path::Path;
use std::time::Instant;

/// The steps to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Every step.
    All,
    /// Only the steps that build in seconds.
    Fast,
}

struct Step {
    name: &'static str,
    fast: bool,
    action: Action,
}

enum Action {
    House,
    Cargo {
        arguments: &'static str,
        environment: Option<(&'static str, &'static str)>,
    },
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
/// `bam-prior` and `bam-kernel` are tested first and alone: they need no Burn.
const STEPS: [Step; 7] = [
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
        "clippy --release --workspace --all-targets -- -D warnings",
    ),
    cargo(
        "tests: all others",
        "test --release --workspace --exclude bam-prior --exclude bam-kernel",
    ),
    Step {
        name: "documentation",
        fast: false,
        action: Action::Cargo {
            arguments: "doc --release --workspace --no-deps",
            environment: Some(("RUSTDOCFLAGS", "-Dwarnings")),
        },
    },
];

/// Runs the steps in order, up to the first that fails.
pub fn run(root: &Path, extent: Extent) -> Result<(), String> {
    let steps: Vec<&Step> = STEPS
        .iter()
        .filter(|step| extent == Extent::All || step.fast)
        .collect();
    let start = Instant::now();
    for (index, step) in steps.iter().enumerate() {
        let place = format!("step {} of {}, {}", index + 1, steps.len(), step.name);
        println!("── {place}: {}", step.action.text());
        let began = Instant::now();
        step.action
            .run(root)
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
    fn text(&self) -> String {
        match self {
            Self::House => "cargo xtask house".into(),
            Self::Cargo {
                arguments,
                environment: None,
            } => format!("cargo {arguments}"),
            Self::Cargo {
                arguments,
                environment: Some((name, value)),
            } => format!("{name}={value} cargo {arguments}"),
        }
    }

    fn run(&self, root: &Path) -> Result<(), String> {
        let Self::Cargo {
            arguments,
            environment,
        } = self
        else {
            return house::check(root);
        };
        let mut command = cargo::bare(root);
        command
            .args(arguments.split_whitespace())
            .envs(*environment);
        let status = command
            .status()
            .map_err(|error| format!("cargo did not start: {error}"))?;
        if status.success() {
            return Ok(());
        }
        Err(format!("`{}` ended with {status}", self.text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_steps_come_first_and_need_no_burn() {
        let fast = STEPS.iter().take_while(|step| step.fast).count();
        assert_eq!(fast, STEPS.iter().filter(|step| step.fast).count());
        for step in &STEPS[..fast] {
            assert!(!step.action.text().contains("--workspace"), "{}", step.name);
        }
    }

    #[test]
    fn whatever_builds_uses_the_release_profile() {
        for step in &STEPS {
            let text = step.action.text();
            let builds = ["clippy", "test", "doc"]
                .iter()
                .any(|verb| text.contains(&format!("cargo {verb}")));
            assert_eq!(builds, text.contains("--release"), "{text}");
        }
    }

    #[test]
    fn a_command_that_fails_is_named() {
        let failing = Action::Cargo {
            arguments: "no-such-command",
            environment: None,
        };
        let error = failing.run(Path::new(".")).unwrap_err();
        assert!(
            error.contains("`cargo no-such-command` ended with"),
            "{error}"
        );
    }
}
