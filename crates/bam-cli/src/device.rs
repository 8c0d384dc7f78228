//! The device in use, and what is said where it fails: libraries below panic then.

use crate::args::DeviceArgs;
use crate::console;
use bam_lm::device::{DeviceInfo, DeviceName, panic_text};
use burn::tensor::Device;
use std::sync::Mutex;
use sysinfo::System;

static IN_USE: Mutex<Option<DeviceName>> = Mutex::new(None);

/// Opens a device, which is the one in use from now on.
///
/// # Errors
/// If it is not there.
pub fn open(name: DeviceName) -> anyhow::Result<Device> {
    let resolved = name.resolved();
    if name == DeviceName::Auto {
        console::note(&format!("device: {resolved}"));
    }
    use_now(resolved);
    Ok(resolved.open()?)
}

/// A device's description, with the memory of the processor: the machine's, or what its container may use.
///
/// # Errors
/// If it is not there.
pub fn info(name: DeviceName) -> anyhow::Result<DeviceInfo> {
    let mut info = name.info()?;
    if info.name == DeviceName::Cpu {
        let mut system = System::new();
        system.refresh_memory();
        let limit = system.cgroup_limits().map(|of| of.total_memory);
        let all = limit.unwrap_or(u64::MAX).min(system.total_memory());
        info.memory = (all > 0).then_some(all);
    }
    Ok(info)
}

/// ` --device NAME` for a command that goes on where this one was told to run.
pub fn flag(devices: &[DeviceName]) -> String {
    let names: Vec<String> = devices.iter().map(DeviceName::to_string).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(" --device {}", names.join(",")),
    }
}

/// From now on failures are those of this device.
pub fn use_now(name: DeviceName) {
    let other = (name != DeviceName::Cpu).then_some(name);
    *IN_USE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner()) = other;
}

/// The device in use, where it is not the processor.
pub fn in_use() -> Option<DeviceName> {
    *IN_USE
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Panics of the libraries below are turned into errors by them; nothing else should panic, and if it does, one
/// line says so. A device that fails panics in every thread that waits for it, with the same words.
pub fn quiet_panics() {
    static LAST: Mutex<String> = Mutex::new(String::new());
    std::panic::set_hook(Box::new(|panic| {
        // Those that become errors are told as such.
        if bam_data::panics_are_caught() {
            return;
        }
        let Some(name) = in_use() else {
            console::say(&format!(
                "internal: {}",
                panic.to_string().replace('\n', " ")
            ));
            return;
        };
        let text = format!(
            "error: {}",
            name.failed(reason(panic_text(panic.payload())))
        );
        let mut last = LAST.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if *last != text {
            console::say(&text);
            *last = text;
        }
    }));
}

/// The reason of a device's failure: of the libraries' chain of causes the first one, without backtraces.
pub fn reason(text: &str) -> String {
    let text = text.replace("\\n", "\n");
    let root = text.rsplit("Caused by:").next().unwrap_or_default();
    let ends = ["No backtrace", "Backtrace", "Asked at", "\n   0:"];
    let end = ends.iter().filter_map(|mark| root.find(mark)).min();
    let root = root[..end.unwrap_or(root.len())].split_whitespace();
    let root = root.collect::<Vec<_>>().join(" ");
    match refused_bytes(&root) {
        Some(bytes) => format!(
            "out of memory: it has no room for {:.2} GiB more in one piece; shorter contexts or less at once need less",
            bytes as f64 / f64::from(1 << 30)
        ),
        None => root,
    }
}

/// The bytes that a device had no memory for, where that is why it failed.
fn refused_bytes(reason: &str) -> Option<u64> {
    let marks = [
        "can't allocate buffer of size: ",
        "out of device memory allocating ",
    ];
    let after = marks
        .iter()
        .find_map(|mark| Some(reason.split_once(mark)?.1))?;
    let digits = after
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(after.len());
    after[..digits].parse().ok()
}

/// Whether a device failed for want of memory.
pub fn is_out_of_memory(text: &str) -> bool {
    refused_bytes(text).is_some() || text.to_lowercase().contains("out of memory")
}

impl DeviceArgs {
    /// Opens it.
    ///
    /// # Errors
    /// If it is not there.
    pub fn open(self) -> anyhow::Result<Device> {
        open(self.device.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_first_cause() {
        let text = "Error while reading\nCaused by:\n  it needed memory\nCaused by:\n  can't allocate buffer of \
                    size: 1296000000\nNo backtrace available\nAsked at:\nNo backtrace";
        assert!(reason(text).starts_with("out of memory: it has no room for 1.21 GiB more"));
        assert!(is_out_of_memory(text) && !is_out_of_memory("device lost"));
        assert_eq!(
            reason("Error\\nCaused by:\\n  device  lost\n   0: main"),
            "device lost"
        );
    }
}
