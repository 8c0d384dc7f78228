//! Norms of a cache's keys, kept on the device: a call then reads no key to find them.

use super::bounds::{self, GRAIN};
use super::tensors::{arg, element, one_each, readable};
use bam_kernel::KernelError;
use burn::tensor::{DType, Shape};
use burn_cubecl::ops::numeric::zeros;
use burn_cubecl::tensor::CubeTensor;

/// The largest norm of every [`GRAIN`] keys, `[batch, heads, room]`, of so many keys.
#[derive(Clone, Debug)]
pub(crate) struct DeviceNorms {
    norms: Option<CubeTensor>,
    keys: usize,
}

impl DeviceNorms {
    pub fn none() -> Self {
        Self {
            norms: None,
            keys: 0,
        }
    }

    /// Takes in keys from position `start` on.
    ///
    /// # Errors
    /// If keys between those known and `start` are missing.
    pub fn extend(
        &mut self,
        start: usize,
        length: usize,
        k: &CubeTensor,
    ) -> Result<(), KernelError> {
        if start > self.keys {
            return Err(KernelError::Shape {
                what: "keys of the norms",
                expected: format!("to start at {} or before", self.keys),
                got: format!("a start at {start}"),
            });
        }
        let [batch, heads, _, _] = k.meta.shape().dims::<4>();
        let grains = (start + length).div_ceil(GRAIN);
        let room = |norms: &CubeTensor| norms.meta.shape().dims::<3>()[2];
        let full = self.norms.as_ref().is_none_or(|norms| room(norms) < grains);
        if full {
            let more = Shape::from([batch, heads, grains.next_power_of_two()]);
            let more = zeros(k.device.clone(), more, DType::F32);
            if let Some(norms) = &self.norms {
                let count = batch * heads * room(norms);
                let (cubes, units) = one_each(count);
                // SAFETY: one unit a norm.
                unsafe {
                    bounds::copy_norms::launch_unchecked(
                        &k.client,
                        cubes,
                        units,
                        arg(norms),
                        arg(&more),
                    );
                }
            }
            self.norms = Some(more);
        }
        let norms = self.norms.as_ref().expect("room was made");
        let first = start / GRAIN;
        let (cubes, units) = one_each(batch * heads * (grains - first));
        let k = readable(k);
        // SAFETY: one unit a block of keys, all of them within the room.
        unsafe {
            bounds::largest_norms::launch_unchecked(
                &k.client,
                cubes,
                units,
                arg(&k),
                arg(norms),
                start,
                grains - first,
                element(&k),
            );
        }
        self.keys = self.keys.max(start + length);
        Ok(())
    }

    /// The norms, if they cover so many keys of so many rows and heads.
    ///
    /// # Errors
    /// If they do not.
    pub fn of(&self, batch: usize, heads: usize, keys: usize) -> Result<&CubeTensor, KernelError> {
        let shape = self
            .norms
            .as_ref()
            .map(|norms| norms.meta.shape().dims::<3>());
        match (&self.norms, shape) {
            (Some(norms), Some([b, h, _])) if (b, h) == (batch, heads) && self.keys >= keys => {
                Ok(norms)
            }
            (_, shape) => Err(KernelError::Shape {
                what: "key norms (batch, key heads, keys)",
                expected: format!("[{batch}, {heads}, at least {keys}]"),
                got: match shape {
                    Some([b, h, _]) => format!("[{b}, {h}, {}]", self.keys),
                    None => "none".to_owned(),
                },
            }),
        }
    }
}
