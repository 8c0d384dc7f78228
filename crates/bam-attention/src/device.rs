//! Devices by name: the only place that knows which there are.
//!
//! Tensors live on the CPU unless a device is named, and a program has the others that it was built with.
//! Everything below takes a [`Device`] as an argument.

pub mod self_test;

use crate::AttentionError as Error;
pub use crate::fused::check_head_dim;
#[cfg(feature = "cube")]
use crate::fused::{MOST_TENSORS, products};
#[cfg(feature = "cube")]
use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device, DeviceKind, DeviceType, FloatDType, Tensor};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

/// A device's name: `cpu`, `cuda`, `cuda:1`, `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceName {
    /// The processor, by Burn's Flex and `bam-kernel`.
    #[default]
    Cpu,
    /// One of a runtime's devices: GPUs first, then software that stands in for one.
    Of(Runtime, usize),
    /// The best GPU that this build and this machine have; without one the processor.
    Auto,
}

/// A way to reach devices besides the processor. The best come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// NVIDIA.
    Cuda,
    /// Apple.
    Metal,
    /// AMD.
    Rocm,
    /// Any GPU with a Vulkan driver, by SPIR-V.
    Vulkan,
    /// Any GPU that WebGPU reaches, by WGSL.
    Wgpu,
}

/// A device and what is known of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceInfo {
    /// Its name here.
    pub name: DeviceName,
    /// The name that its driver gives it.
    pub hardware: String,
    /// The target that its kernels are compiled for.
    pub target: String,
    /// Whether it is a program that stands in for a GPU.
    pub software: bool,
    /// Bytes of its memory, where its driver says it.
    pub memory: Option<u64>,
    /// Float types that it computes in.
    pub float_types: Vec<&'static str>,
    /// The way in which the fused operation multiplies there, for the float types it has: the processor's
    /// instructions; `plain`, `mma` or `cmma` with the matrices' shape on a GPU, for heads up to 128 wide.
    pub attention: BTreeMap<&'static str, String>,
}

impl Runtime {
    /// The best first.
    pub const ALL: [Self; 5] = [
        Self::Cuda,
        Self::Metal,
        Self::Rocm,
        Self::Vulkan,
        Self::Wgpu,
    ];

    /// The name of its devices, which is also that of the feature it is built with.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::Rocm => "rocm",
            Self::Vulkan => "vulkan",
            Self::Wgpu => "wgpu",
        }
    }

    /// Whether this build has it.
    #[must_use]
    pub fn is_built_in(self) -> bool {
        self.device_type().is_some()
    }

    fn device_type(self) -> Option<DeviceType> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => Some(DeviceType::Cuda),
            #[cfg(feature = "metal")]
            Self::Metal => Some(DeviceType::Metal),
            #[cfg(feature = "rocm")]
            Self::Rocm => Some(DeviceType::Rocm),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => Some(DeviceType::Vulkan),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Some(DeviceType::Wgpu),
            #[allow(unreachable_patterns)]
            _ => None,
        }
    }

    /// Its software device, whether there is one or not.
    fn software(self) -> Option<Device> {
        match (self, DeviceKind::Cpu) {
            #[cfg(feature = "metal")]
            (Self::Metal, kind) => Some(Device::metal(kind)),
            #[cfg(feature = "vulkan")]
            (Self::Vulkan, kind) => Some(Device::vulkan(kind)),
            #[cfg(feature = "wgpu")]
            (Self::Wgpu, kind) => Some(Device::wgpu(kind)),
            _ => None,
        }
    }

    /// The devices that this machine has, GPUs first; opens none.
    ///
    /// # Errors
    /// If the runtime is not built in, or its driver fails at the question.
    fn devices(self) -> Result<Vec<Device>, Error> {
        let name = self.name();
        let kind = self.device_type().ok_or_else(|| Error::Device {
            device: name.into(),
            reason: format!(
                "this program was built without it; build it with: cargo build --release --features {name}"
            ),
        })?;
        let mut devices = caught(name, || Device::enumerate(kind).into_vec())?;
        let software = self.software();
        devices.sort_by_key(|device| Some(device) == software.as_ref());
        Ok(devices)
    }

    /// The number of its GPUs.
    fn gpus(self) -> usize {
        let software = self.software();
        let devices = self.devices().unwrap_or_default();
        let gpus = devices.iter().filter(|one| Some(*one) != software.as_ref());
        gpus.count()
    }
}

impl DeviceName {
    /// The device that `auto` is here; other names are themselves.
    #[must_use]
    pub fn resolved(self) -> Self {
        let best = || Runtime::ALL.into_iter().find(|runtime| runtime.gpus() > 0);
        match self {
            Self::Auto => best().map_or(Self::Cpu, |runtime| Self::Of(runtime, 0)),
            named => named,
        }
    }

    /// Opens the device.
    ///
    /// # Errors
    /// If the program was built without it, or the machine does not have it, or its driver refuses.
    pub fn open(self) -> Result<Device, Error> {
        let Self::Of(runtime, index) = self.resolved() else {
            return Ok(cpu());
        };
        let mut devices = runtime.devices()?;
        if index >= devices.len() {
            return Err(Error::Device {
                device: self.to_string(),
                reason: match devices.len() {
                    0 => format!("no driver on this machine offers one to {}", runtime.name()),
                    1 => format!("there is no such device; there is {}:0", runtime.name()),
                    count => format!(
                        "there is no such device; the last of {count} is {}:{}",
                        runtime.name(),
                        count - 1
                    ),
                },
            });
        }
        let device = devices.swap_remove(index);
        // Burn opens a device at its first use, and panics if it can't.
        let opened = caught(&self.to_string(), || device.sync())?;
        opened.map_err(|error| self.failed(error.to_string()))?;
        match missing(&device) {
            Some(reason) => Err(self.failed(reason)),
            None => Ok(device),
        }
    }

    /// The device of this name, opened, and what its driver says of it.
    ///
    /// # Errors
    /// Those of [`DeviceName::open`].
    pub fn info(self) -> Result<DeviceInfo, Error> {
        let name = self.resolved();
        let device = name.open()?;
        caught(&name.to_string(), || info(name, &device))
    }

    /// The error of a device that failed at work.
    #[must_use]
    pub fn failed(self, reason: String) -> Error {
        Error::Device {
            device: self.to_string(),
            reason,
        }
    }
}

/// Every device of this build and machine by name, the processor last; a runtime that fails at the question
/// gives its error instead.
#[must_use]
pub fn devices() -> Vec<Result<DeviceName, Error>> {
    let built_in = Runtime::ALL.into_iter().filter(|one| one.is_built_in());
    let of_runtime = |runtime: Runtime| match runtime.devices() {
        Ok(devices) => (0..devices.len())
            .map(|index| Ok(DeviceName::Of(runtime, index)))
            .collect(),
        Err(error) => vec![Err(error)],
    };
    let others = built_in.flat_map(of_runtime);
    others.chain([Ok(DeviceName::Cpu)]).collect()
}

/// The processor.
#[must_use]
pub fn cpu() -> Device {
    Device::flex()
}

/// Whether it is the processor.
#[must_use]
pub fn is_cpu(device: &Device) -> bool {
    *device == cpu()
}

/// Whether a tensor's numbers are `f32` in the processor's own memory.
#[must_use]
pub fn is_here<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && is_cpu(&tensor.device())
}

/// Refuses a float type that the device does not compute in.
///
/// # Errors
/// Names the types that it has.
pub fn check_float_type(device: &Device, wanted: FloatDType) -> Result<(), Error> {
    match device.supports_dtype(wanted) {
        true => Ok(()),
        false => Err(Error::Value {
            what: "float type",
            expected: format!(
                "one that the device has: {}",
                float_types(device).join(", ")
            ),
            got: format!("{wanted:?}").to_lowercase(),
        }),
    }
}

/// The reason for which the fused operation can't run on a device at all, if there is one.
fn missing(device: &Device) -> Option<String> {
    match device.as_dispatch() {
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(cube) => {
            let client = cube.client();
            let properties = client.properties();
            let bindings = properties.hardware.max_bindings;
            // One more for the numbers of a launch.
            let needed = MOST_TENSORS as u32 + 1;
            (bindings < needed).then(|| {
                format!(
                    "its driver gives a kernel {bindings} buffers, and attention needs {needed}; where that is \
                     OpenGL's, install one for Vulkan ({})",
                    properties.identity.name
                )
            })
        }
        _ => None,
    }
}

/// Float types by name, which are those that attention has kernels for on GPUs.
const FLOAT_TYPES: [(&str, DType); 3] = [
    ("f32", DType::F32),
    ("f16", DType::F16),
    ("bf16", DType::BF16),
];

fn float_types(device: &Device) -> Vec<&'static str> {
    let all = FLOAT_TYPES.into_iter();
    let there = all.filter(|(_, of)| device.supports_dtype(*of));
    there.map(|(name, _)| name).collect()
}

fn info(name: DeviceName, device: &Device) -> DeviceInfo {
    let float_types = float_types(device);
    match device.as_dispatch() {
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(cube) => {
            let client = cube.client();
            let properties = client.properties();
            let of = &properties.identity;
            let multiplied = |(of_name, dtype): (&'static str, DType)| {
                let own = burn::backend::cubecl::dtype_to_storage_type(dtype);
                let vector = (16 / dtype.size()).min(properties.hardware.max_vector_size);
                (of_name, products(&client, own, vector).to_string())
            };
            DeviceInfo {
                name,
                hardware: of.name.clone(),
                target: target(name, &of.fingerprint),
                software: of.physical.is_none(),
                memory: properties.memory.max_memory(),
                attention: FLOAT_TYPES
                    .into_iter()
                    .filter(|(of, _)| float_types.contains(of))
                    .map(multiplied)
                    .collect(),
                float_types,
            }
        }
        _ => {
            let instructions = format!("{:?}", crate::Instructions::detect()).to_lowercase();
            DeviceInfo {
                name,
                hardware: "processor".to_owned(),
                // The types that `bam-kernel` reads.
                attention: ["f32", "bf16"].map(|of| (of, instructions.clone())).into(),
                target: instructions,
                software: false,
                memory: None,
                float_types,
            }
        }
    }
}

/// CubeCL calls every target of wgpu SPIR-V, which it is only where the feature `vulkan` brings that compiler.
#[cfg(feature = "cube")]
fn target(name: DeviceName, fingerprint: &str) -> String {
    match (name, fingerprint.strip_prefix("spirv_")) {
        (DeviceName::Of(Runtime::Wgpu, _), Some(of)) if !cfg!(feature = "vulkan") => {
            format!("wgsl_{of}")
        }
        _ => fingerprint.to_owned(),
    }
}

/// Calls into a driver, whose panics become errors.
fn caught<T>(device: &str, call: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| Error::Device {
        device: device.to_owned(),
        reason: panic_text(&*panic).to_owned(),
    })
}

/// The words of a panic.
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it failed without a word")
}

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::Value {
            what: "device",
            expected: "cpu, auto, cuda, metal, rocm, vulkan or wgpu, the last five with a number if there are \
                       several, such as cuda:1"
                .into(),
            got: text.to_owned(),
        }
        };
        let (name, index) = match text.split_once(':') {
            None => (text, None),
            Some((name, index)) if index.bytes().all(|byte| byte.is_ascii_digit()) => {
                (name, Some(index.parse().map_err(|_| wrong())?))
            }
            Some(_) => return Err(wrong()),
        };
        let runtime = Runtime::ALL.into_iter().find(|one| one.name() == name);
        match (name, runtime, index) {
            ("cpu", _, None) => Ok(Self::Cpu),
            ("auto", _, None) => Ok(Self::Auto),
            (_, Some(runtime), index) => Ok(Self::Of(runtime, index.unwrap_or(0))),
            _ => Err(wrong()),
        }
    }
}

impl Display for DeviceName {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => write!(formatter, "cpu"),
            Self::Auto => write!(formatter, "auto"),
            Self::Of(runtime, index) => write!(formatter, "{}:{index}", runtime.name()),
        }
    }
}

impl TryFrom<String> for DeviceName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (text, shown) in [
            ("cpu", "cpu"),
            ("auto", "auto"),
            ("cuda", "cuda:0"),
            ("cuda:3", "cuda:3"),
            ("wgpu:0", "wgpu:0"),
        ] {
            let name: DeviceName = text.parse().unwrap();
            assert_eq!(name.to_string(), shown);
            assert_eq!(shown.parse::<DeviceName>().unwrap(), name);
        }
        for wrong in [
            "", "gpu", "cpu:0", "auto:1", "cuda:", "cuda:-1", "cuda:x", "cuda:1:2", "CUDA",
        ] {
            let error = wrong.parse::<DeviceName>().unwrap_err().to_string();
            assert!(
                error.starts_with("device: expected cpu, auto"),
                "{wrong}: {error}"
            );
        }
    }

    #[test]
    fn a_device_that_is_not_built_in_names_its_feature() {
        for runtime in Runtime::ALL.into_iter().filter(|one| !one.is_built_in()) {
            let error = DeviceName::Of(runtime, 0).open().unwrap_err().to_string();
            let feature = format!("--features {}", runtime.name());
            assert!(error.contains(&feature), "{error}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        for runtime in Runtime::ALL.into_iter().filter(|one| one.is_built_in()) {
            let error = DeviceName::Of(runtime, 999).open().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("device {}:999: ", runtime.name())),
                "{error}"
            );
        }
    }

    #[test]
    fn the_processor_is_always_there() {
        let names: Vec<DeviceName> = devices().into_iter().flatten().collect();
        assert_eq!(names.last(), Some(&DeviceName::Cpu));
        assert!(is_cpu(&DeviceName::Cpu.open().unwrap()));
        assert!(is_cpu(&cpu().autodiff()));
        assert!(check_float_type(&cpu(), FloatDType::F32).is_ok());
        let info = DeviceName::Cpu.info().unwrap();
        assert!(
            info.float_types.contains(&"f32") && !info.software,
            "{info:?}"
        );
    }
}
