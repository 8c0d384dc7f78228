//! The passes over tiles of keys: plain slices in, plain vectors out.
//!
//! Work is cut into blocks of rows; a block visits tiles of keys in the order of its `Schedule`. How,
//! and why it is the same for any number of threads, is told in `docs/kernel.md`.

use crate::error::KernelError;
use crate::operands::{Operands, Rows};
use crate::plan::Plan;
use crate::results::RowsMut;
use inputs::Inputs;

mod backward;
mod backward_block;
mod backward_narrow;
mod backward_wide;
mod decode;
mod forward;
mod inputs;
mod key_lanes;
mod narrow;
mod panel;
mod prefill;
pub(crate) mod product;
mod split;
mod task;
mod tile;

pub use backward::{Gradients, GradientsMut};
pub use forward::Posterior;

impl Plan {
    /// The posterior of every row: the output, and the evidence that the way back wants.
    ///
    /// # Errors
    /// If the operands have other shapes than the plan's.
    pub fn forward(&self, operands: &Operands<'_>) -> Result<Posterior, KernelError> {
        let shape = self.shapes().q;
        let [batch, heads, queries, _] = shape;
        let mut out = vec![0.0; shape.iter().product()];
        let mut ln_evidence = vec![0.0; batch * heads * queries];
        self.forward_into(
            operands,
            &mut RowsMut::new(&mut out, shape)?,
            &mut ln_evidence,
        )?;
        Ok(Posterior { out, ln_evidence })
    }

    /// [`Plan::forward`] into memory of the caller; whatever is there is overwritten.
    ///
    /// # Errors
    /// If the operands or results have other shapes than the plan's.
    pub fn forward_into(
        &self,
        operands: &Operands<'_>,
        out: &mut RowsMut<'_>,
        ln_evidence: &mut [f32],
    ) -> Result<(), KernelError> {
        let inputs = self.inputs(operands)?;
        KernelError::unless_shaped("output", out.shape(), self.shapes().q)?;
        self.unless_evidence(ln_evidence)?;
        forward::forward(&inputs, out, ln_evidence);
        Ok(())
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
        let shapes = self.shapes();
        let zeros = |shape: &[usize]| vec![0.0; shape.iter().product()];
        let mut of = Gradients {
            q: zeros(&shapes.q),
            k: zeros(&shapes.k),
            v: zeros(&shapes.v),
            ln_weights: zeros(&[shapes.prior_heads, shapes.lags.count()]),
            temperature: shapes.temperature.map_or(Vec::new(), |shape| zeros(&shape)),
            key_prior: shapes.key_prior.map_or(Vec::new(), |shape| zeros(&shape)),
        };
        let mut into = GradientsMut {
            q: RowsMut::new(&mut of.q, shapes.q)?,
            k: RowsMut::new(&mut of.k, shapes.k)?,
            v: RowsMut::new(&mut of.v, shapes.v)?,
            ln_weights: &mut of.ln_weights,
            temperature: &mut of.temperature,
            key_prior: &mut of.key_prior,
        };
        let out = Rows::new(out, shapes.q)?;
        self.backward_into(operands, &out, ln_evidence, out_gradient, &mut into)?;
        Ok(of)
    }

    /// [`Plan::backward`] into memory of the caller; whatever is there is overwritten.
    ///
    /// # Errors
    /// As there, and if a gradient has another shape than its operand.
    pub fn backward_into(
        &self,
        operands: &Operands<'_>,
        out: &Rows<'_>,
        ln_evidence: &[f32],
        out_gradient: &Rows<'_>,
        gradients: &mut GradientsMut<'_>,
    ) -> Result<(), KernelError> {
        let inputs = self.inputs(operands)?;
        let shapes = self.shapes();
        for (what, got, expected) in [
            ("output", out.shape(), shapes.q),
            ("gradient of the output", out_gradient.shape(), shapes.q),
            ("gradient of q", gradients.q.shape(), shapes.q),
            ("gradient of k", gradients.k.shape(), shapes.k),
            ("gradient of v", gradients.v.shape(), shapes.v),
        ] {
            KernelError::unless_shaped(what, got, expected)?;
        }
        self.unless_evidence(ln_evidence)?;
        let of_prior = [shapes.prior_heads, shapes.lags.count()];
        let got = gradients.ln_weights.len();
        KernelError::unless_long("gradient of the log-prior", got, &of_prior)?;
        for (what, got, shape) in [
            (
                "gradient of the temperature",
                &gradients.temperature,
                &shapes.temperature,
            ),
            (
                "gradient of the prior over keys",
                &gradients.key_prior,
                &shapes.key_prior,
            ),
        ] {
            let shape: &[usize] = shape.as_ref().map_or(&[0], |shape| shape);
            KernelError::unless_long(what, got.len(), shape)?;
        }
        backward::backward(&inputs, *out, ln_evidence, *out_gradient, gradients);
        Ok(())
    }

    fn unless_evidence(&self, got: &[f32]) -> Result<(), KernelError> {
        let [batch, heads, queries, _] = self.shapes().q;
        KernelError::unless_long("ln evidence", got.len(), &[batch, heads, queries])
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
