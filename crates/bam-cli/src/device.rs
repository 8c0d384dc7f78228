//! The device in use, and what is said where it fails: libraries below panic then.

use crate::args::DeviceArgs;
use crate::console;
use bam_lm::device::{DeviceName, panic_text};
use burn::tensor::Device;
use std::sync::Mutex;

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
        let Some(name) = in_use() else {
            console::note(&format!(
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
            console::note(&text);
            *last = text;
        }
    }));
}

/// The reason of a device's failure, without the libraries' own backtraces.
pub fn reason(text: &str) -> String {
    let end = ["\nBacktrace", "\\nBacktrace", "\n   0:", "\\n   0:"]
        .iter()
        .filter_map(|mark| text.find(mark))
        .min();
    let text = text[..end.unwrap_or(text.len())].replace("\\n", " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a device failed for want of memory.
pub fn is_out_of_memory(reason: &str) -> bool {
    let reason = reason.to_lowercase();
    [
        "out of memory",
        "out-of-memory",
        "out of device memory",
        "allocate",
    ]
    .iter()
    .any(|words| reason.contains(words))
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
    fn reasons_are_short() {
        let text = "Error while reading\\nCaused by:\\n  can't allocate buffer of size: 64\n   0: burn\n   1: main";
        let short = "Error while reading Caused by: can't allocate buffer of size: 64";
        assert_eq!(reason(text), short);
        assert!(is_out_of_memory(short) && !is_out_of_memory("device lost"));
    }
}
