//! `bam devices`.

use crate::args::DevicesArgs;
use crate::{console, device};
use anyhow::ensure;
use bam_lm::device::self_test::{Check, self_test};
use bam_lm::device::{DeviceInfo, DeviceName, Runtime, devices, panic_text};
use serde::Serialize;
use std::panic::catch_unwind;
use std::process::ExitCode;

/// A device, or why it can't be used.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    of: Described,
    error: Option<String>,
    checks: Option<Vec<Checked>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Described {
    Opened(DeviceInfo),
    Named { name: DeviceName },
}

#[derive(Serialize)]
struct Checked {
    passes: bool,
    #[serde(flatten)]
    check: Check,
}

pub fn run(args: &DevicesArgs) -> anyhow::Result<ExitCode> {
    let names = match args.device {
        Some(name) => vec![Ok(name.resolved())],
        None => devices(),
    };
    if let Some(name) = args.device {
        device::open(name)?;
    }
    let mut all = Vec::new();
    for name in names {
        match name {
            Ok(name) => all.push(listed(name, args.check)),
            Err(error) => console::note(&error.to_string()),
        }
    }
    console::answer(args.json, &all, || text(&all))?;
    let wrong: Vec<String> = all.iter().filter_map(Listed::fault).collect();
    ensure!(
        !args.check || wrong.is_empty(),
        "expected devices that compute rightly, got: {}",
        wrong.join("; ")
    );
    Ok(ExitCode::SUCCESS)
}

impl Listed {
    fn name(&self) -> DeviceName {
        match &self.of {
            Described::Opened(info) => info.name,
            Described::Named { name } => *name,
        }
    }

    /// The fault of a device, if it has one.
    fn fault(&self) -> Option<String> {
        let name = self.name();
        if let Some(error) = &self.error {
            return Some(error.clone());
        }
        let wrong = self.checks.iter().flatten().filter(|of| !of.passes);
        let wrong: Vec<&str> = wrong.map(|of| of.check.what).collect();
        let wrong = (!wrong.is_empty()).then(|| wrong.join(", "));
        wrong.map(|what| {
            format!("{name} with wrong numbers for {what}; another version of its driver may help")
        })
    }
}

fn listed(name: DeviceName, check: bool) -> Listed {
    device::use_now(name);
    let (of, checks) = match device::info(name) {
        Ok(info) => {
            let checks = check.then(|| checked(name)).transpose();
            (Described::Opened(info), checks)
        }
        Err(error) => (Described::Named { name }, Err(error.to_string())),
    };
    let (checks, error) = match checks {
        Ok(checks) => (checks, None),
        Err(error) => (None, Some(error)),
    };
    Listed { of, error, checks }
}

fn checked(name: DeviceName) -> Result<Vec<Checked>, String> {
    let test = || name.open().and_then(|device| self_test(&device));
    let failed = |text: &str| name.failed(device::reason(text)).to_string();
    let checks = catch_unwind(test).map_err(|panic| failed(panic_text(&*panic)))?;
    let with_verdict = |check: Check| Checked {
        passes: check.passes(),
        check,
    };
    let checks = checks.map_err(|error| error.to_string())?;
    Ok(checks.into_iter().map(with_verdict).collect())
}

fn text(all: &[Listed]) -> String {
    let mut text = String::new();
    for one in all {
        text += &match &one.of {
            Described::Opened(info) => lines(info),
            Described::Named { name } => name.to_string() + "\n",
        };
        if let Some(error) = &one.error {
            text += &format!("           can't be used: {error}\n");
        }
        for Checked { passes, check } in one.checks.iter().flatten() {
            let verdict = if *passes { "ok" } else { "WRONG" };
            text += &format!(
                "           {:<30} off by {:.1e} of {:.1e}  {verdict}\n",
                check.what, check.error, check.tolerance
            );
        }
    }
    let missing = Runtime::ALL.into_iter().filter(|one| !one.is_built_in());
    let missing: Vec<&str> = missing.map(Runtime::name).collect();
    if !missing.is_empty() {
        text += &format!(
            "not built in: {} (cargo build --release --features {})\n",
            missing.join(", "),
            missing[0]
        );
    }
    text
}

fn lines(info: &DeviceInfo) -> String {
    let memory = match info.memory {
        Some(bytes) => format!("{:.1} GiB, ", bytes as f64 / f64::from(1 << 30)),
        None => String::new(),
    };
    let software = if info.software { ", software" } else { "" };
    let types = info.float_types.join(" ");
    let attention = info.attention.iter();
    let attention = attention.map(|(of, products)| format!("{of} {products}"));
    let attention = attention.collect::<Vec<_>>().join(", ");
    let (name, hardware, target) = (info.name.to_string(), &info.hardware, &info.target);
    format!(
        "{name:<10} {hardware}{software}, {memory}{types}, {target}\n           attention: {attention}\n"
    )
}
