//! Norms of the keys that a cache keeps, where its tensors are.

use crate::error::AttentionError;
#[cfg(feature = "cube")]
use crate::fused::DeviceNorms;
use bam_kernel::{KernelError, Rows};
use burn::tensor::Tensor;
use std::sync::Arc;

/// The largest norm of a key in every tile of keys: all that skipping knows of the content.
///
/// Without it a call reads every key once to find the norms. A cache that keeps it decodes without
/// reading the keys of skipped tiles at all.
#[derive(Clone, Debug)]
pub struct KeyNorms {
    batch: usize,
    heads: usize,
    kept: Kept,
}

/// The norms, where the keys are.
#[derive(Clone, Debug)]
enum Kept {
    OnHost(Arc<bam_kernel::KeyNorms>),
    #[cfg(feature = "cube")]
    OnDevice(DeviceNorms),
}

impl KeyNorms {
    /// Of no keys yet.
    #[must_use]
    pub fn new(batch: usize, heads: usize) -> Self {
        let none = bam_kernel::KeyNorms::new(batch, heads);
        Self {
            batch,
            heads,
            kept: Kept::OnHost(Arc::new(none)),
        }
    }

    /// Takes in the keys `k`, which stand from position `start` on.
    ///
    /// Keys written over others only ever raise a norm: the bound stays valid.
    ///
    /// # Shapes
    /// - `k`: `[batch, key_heads, length, dim]`
    ///
    /// # Errors
    /// If batch or heads are others than before, or keys between those known and `start` are missing.
    pub fn extend(&mut self, start: usize, k: &Tensor<4>) -> Result<(), AttentionError> {
        let [batch, heads, length, dim] = k.dims();
        if (batch, heads) != (self.batch, self.heads) {
            return Err(KernelError::Shape {
                what: "keys of the norms",
                expected: format!("[{}, {}, length, dim]", self.batch, self.heads),
                got: format!("{:?}", k.dims()),
            }
            .into());
        }
        #[cfg(feature = "cube")]
        if let Some(k) = crate::fused::on_gpu(k) {
            if let Kept::OnHost(_) = self.kept {
                self.kept = Kept::OnDevice(DeviceNorms::none());
            }
            if let Kept::OnDevice(norms) = &mut self.kept {
                norms.extend(start, length, &k)?;
            }
            return Ok(());
        }
        let values = k.clone().inner().into_data().convert::<f32>();
        let values = values.as_slice::<f32>().expect("converted to f32");
        let rows = Rows::new(values, [batch, heads, length, dim])?;
        match &mut self.kept {
            Kept::OnHost(norms) => Ok(Arc::make_mut(norms).extend(start, &rows)?),
            #[cfg(feature = "cube")]
            Kept::OnDevice(_) => Err(on_other_device()),
        }
    }

    /// # Errors
    /// If these are not norms of so many keys on a call's device.
    #[cfg(feature = "cube")]
    pub(crate) fn check_on_device(&self, k: [usize; 4]) -> Result<(), AttentionError> {
        let [batch, heads, keys, _] = k;
        let norms = self.on_device().ok_or_else(on_other_device)?;
        norms.of(batch, heads, keys)?;
        Ok(())
    }

    /// As the CPU's kernel takes them; without keys where they are kept elsewhere, which it refuses.
    pub(crate) fn on_host(&self) -> Arc<bam_kernel::KeyNorms> {
        match &self.kept {
            Kept::OnHost(norms) => norms.clone(),
            #[cfg(feature = "cube")]
            Kept::OnDevice(_) => Arc::new(bam_kernel::KeyNorms::new(self.batch, self.heads)),
        }
    }

    /// As a GPU's kernel takes them.
    #[cfg(feature = "cube")]
    pub(crate) fn on_device(&self) -> Option<&DeviceNorms> {
        match &self.kept {
            Kept::OnHost(_) => None,
            Kept::OnDevice(norms) => Some(norms),
        }
    }
}

#[cfg(feature = "cube")]
fn on_other_device() -> AttentionError {
    AttentionError::Value {
        what: "key norms",
        expected: "norms of keys on the device of the call".to_owned(),
        got: "norms that are kept elsewhere".to_owned(),
    }
}
