//! Tensors on the way from the names of a layout to those of our checkpoints.

use crate::Error;
use crate::model::checkpoint::{NamedTensors, TensorFiles};

/// A part of a model and what its names begin with: `h.3.` there, `layers.3.` here.
pub(super) struct Renaming<'a> {
    files: &'a mut TensorFiles,
    tensors: &'a mut NamedTensors,
    theirs: String,
    ours: String,
}

impl<'a> Renaming<'a> {
    /// The whole model.
    pub(super) fn new(files: &'a mut TensorFiles, tensors: &'a mut NamedTensors) -> Self {
        Self {
            files,
            tensors,
            theirs: String::new(),
            ours: String::new(),
        }
    }

    /// One of its layers, which they call `{theirs}.{index}`.
    pub(super) fn layer(&mut self, theirs: &str, index: usize) -> Renaming<'_> {
        Renaming {
            files: self.files,
            tensors: self.tensors,
            theirs: format!("{theirs}.{index}."),
            ours: format!("layers.{index}."),
        }
    }

    /// Takes a norm, a linear map or a table as it is: its weight, and its bias where it has one, which
    /// is as long as the weight has rows.
    pub(super) fn keep(
        &mut self,
        theirs: &str,
        ours: &str,
        shape: &[usize],
        bias: bool,
    ) -> Result<(), Error> {
        self.split(theirs, [ours], shape, bias, |values| [values])
    }

    /// Takes what is `N` things of this shape for us, the rows of all of them; `parts` is given the
    /// weight, then the bias.
    pub(super) fn split<const N: usize>(
        &mut self,
        theirs: &str,
        ours: [&str; N],
        shape: &[usize],
        bias: bool,
        parts: impl Fn(Vec<f32>) -> [Vec<f32>; N],
    ) -> Result<(), Error> {
        for (kind, shape) in [("weight", shape), ("bias", &shape[..1])] {
            if kind == "bias" && !bias {
                continue;
            }
            let mut fused = shape.to_vec();
            fused[0] *= N;
            let name = format!("{}{theirs}.{kind}", self.theirs);
            let values = parts(self.files.take(&name, &fused)?);
            for (part, values) in ours.into_iter().zip(values) {
                self.add(&format!("{part}.{kind}"), shape, values);
            }
        }
        Ok(())
    }

    /// Adds a tensor that they do not have.
    pub(super) fn add(&mut self, ours: &str, shape: &[usize], values: Vec<f32>) {
        let name = format!("{}{ours}", self.ours);
        self.tensors.insert(name, (shape.to_vec(), values));
    }

    /// The files, for a tensor that we do not have, and its full name there.
    pub(super) fn files(&mut self, theirs: &str) -> (&mut TensorFiles, String) {
        (self.files, format!("{}{theirs}", self.theirs))
    }
}
