//! The passes over tiles of keys: plain slices in, plain vectors out.
//!
//! Work is cut into blocks of rows; a block visits tiles of keys in the order of its `Schedule`. How,
//! and why it is the same for any number of threads, is told in `docs/kernel.md`.

use crate::error::KernelError;
use crate::operands::{Operands, Rows};
use crate::plan::Plan;
use inputs::Inputs;

mod backward;
mod backward_block;
mod backward_narrow;
mod backward_wide;
mod decode;
mod forward;
mod inputs;
mod narrow;
mod panel;
mod prefill;
pub(crate) mod product;
mod split;
mod task;
mod tile;

pub use backward::Gradients;
pub use forward::Posterior;

impl Plan {
    /// The posterior of every row: the output, and the evidence that the way back wants.
    ///
    /// # Errors
    /// If the operands have other shapes than the plan's.
    pub fn forward(&self, operands: &Operands<'_>) -> Result<Posterior, KernelError> {
        Ok(forward::forward(&self.inputs(operands)?))
    }

    /// The gradients of a number by the operands, from that by the output, `out_gradient`, and from what
    /// [`Plan::forward`] gave: `out` and `ln_evidence`.
    ///
    /// # Errors
    /// If the operands have other shapes than the plan's, and if what was given or the gradient has
    /// another one than the output.
    pub fn backward(
        &self,
        operands: &Operands<'_>,
        out: &[f32],
        ln_evidence: &[f32],
        out_gradient: &Rows<'_>,
    ) -> Result<Gradients, KernelError> {
        let inputs = self.inputs(operands)?;
        let of_out = self.shapes().q;
        let out = Rows::new(out, of_out)?;
        KernelError::unless_shaped("gradient of the output", out_gradient.shape(), of_out)?;
        let [batch, heads, queries, _] = of_out;
        if ln_evidence.len() != batch * heads * queries {
            return Err(KernelError::Length {
                what: "ln evidence",
                shape: format!("{:?}", [batch, heads, queries]),
                expected: (batch * heads * queries).to_string(),
                got: ln_evidence.len(),
            });
        }
        Ok(backward::backward(&inputs, out, ln_evidence, *out_gradient))
    }

    fn inputs<'a>(&'a self, operands: &Operands<'a>) -> Result<Inputs<'a>, KernelError> {
        let got = operands.shapes();
        if got == *self.shapes() {
            return Ok(Inputs::new(self, operands));
        }
        Err(KernelError::Shape {
            what: "operands",
            expected: format!("{:?}, those of the plan", self.shapes()),
            got: format!("{got:?}"),
        })
    }
}
