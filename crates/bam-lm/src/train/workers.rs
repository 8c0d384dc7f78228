//! Everything that computes a run's steps: devices, threads, and other processes.

use crate::device;
use crate::ranks::{Alone, Ranks};
use burn::tensor::Device;
use std::sync::Arc;

/// The devices of a process, its threads, and the processes beside it.
#[derive(Clone)]
pub struct Workers {
    /// Part `p` of a process is computed on `devices[p % n]`; sums and the optimizer are on the first. At least one.
    pub devices: Vec<Device>,
    /// Parts that a processor computes at once.
    pub threads: usize,
    /// This process among those that share the parts.
    pub ranks: Arc<dyn Ranks>,
}

impl Workers {
    /// One device of one process.
    #[must_use]
    pub fn alone(device: &Device, threads: usize) -> Self {
        Self {
            devices: vec![device.clone()],
            threads,
            ranks: Arc::new(Alone),
        }
    }

    /// The same with autodiff turned on.
    pub(super) fn learning(&self) -> Self {
        let devices = self.devices.iter().cloned();
        Self {
            devices: devices.map(Device::autodiff).collect(),
            ..self.clone()
        }
    }

    /// The parts of a step that are this process's, in their order: every `size`th, so that ranks finish parts in the order in
    /// which they are added.
    pub(super) fn parts(&self, of: usize) -> Vec<usize> {
        (self.ranks.rank()..of).step_by(self.ranks.size()).collect()
    }

    /// Parts of so many that are computed at once.
    pub(super) fn at_once(&self, parts: usize) -> usize {
        parts_at_once(&self.devices, parts, self.threads)
    }
}

/// Parts that are computed at once: by threads of a processor, or one on each device, which has threads of its own and memory for
/// one part at a time.
pub(super) fn parts_at_once(devices: &[Device], parts: usize, threads: usize) -> usize {
    let at_most = match device::is_cpu(&devices[0]) {
        true => threads,
        false => devices.len(),
    };
    at_most.clamp(1, parts.max(1))
}
