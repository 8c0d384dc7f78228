//! The fused operation as one step of Burn's autodiff graph.

use super::{Context, FusedAttention, FusedKernel, Operands, Posterior};
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, TensorMetadata};

#[derive(Debug)]
struct AttentionStep;

impl<B: FusedKernel> Backward<B, 6> for AttentionStep {
    type State = (Operands<B>, Posterior<B>, Context);

    fn backward(
        self,
        ops: Ops<Self::State, 6>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (operands, posterior, context) = ops.state;
        let out_gradient = gradients.consume::<B>(&ops.node);
        let of = B::backward(&operands, &posterior, out_gradient, &context);
        let computed = [
            of.q,
            of.k,
            of.v,
            of.ln_weights,
            of.temperature,
            of.key_prior,
        ];
        for (parent, gradient) in ops.parents.into_iter().zip(computed) {
            if let Some(node) = parent {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: FusedKernel, C: CheckpointStrategy> FusedAttention for Autodiff<B, C> {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        ln_weights: FloatTensor<Self>,
        temperature: FloatTensor<Self>,
        key_prior: FloatTensor<Self>,
        key_remainders: FloatTensor<Self>,
        context: Context,
    ) -> FloatTensor<Self> {
        let nodes = [
            q.node(),
            k.node(),
            v.node(),
            ln_weights.node(),
            temperature.node(),
            key_prior.node(),
        ];
        let operands = Operands::<B> {
            q: q.into_primitive(),
            k: k.into_primitive(),
            v: v.into_primitive(),
            ln_weights: ln_weights.into_primitive(),
            temperature: temperature.into_primitive(),
            key_prior: key_prior.into_primitive(),
            key_remainders: key_remainders.into_primitive(),
        };
        let dtype = operands.q.dtype();
        let posterior = B::forward(&operands, &context);
        let out = B::narrowed(posterior.out.clone(), dtype);
        match AttentionStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish((operands, posterior, context), out),
            OpsKind::UnTracked(step) => step.finish(out),
        }
    }
}
