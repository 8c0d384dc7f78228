//! The optimizer's state in shares, one on each rank: ZeRO's first stage (arXiv 1910.02054).
//!
//! A step of a number needs no other number, so shares that are stepped apart are what one process would have.

use super::{Correction, Moments, RAdam};
use crate::model::checkpoint::NamedTensors;
use crate::model::{EachParameter, ParameterInfo, Transformer, Visiting, host_values};
use crate::ranks::Ranks;
use crate::train::shares::Shares;
use burn::module::{Module, ParamId};
use burn::tensor::{Tensor, TensorData};
use std::collections::HashMap;

impl RAdam {
    /// One step of a rank's share, given the sum of its gradients and what that is to be multiplied by: the share's new values.
    pub(in crate::train) fn step_share(
        &mut self,
        model: &Transformer,
        (shares, rank): (&Shares, usize),
        (gradients, factor): (&[f32], f64),
        rate: f64,
    ) -> Vec<f32> {
        let infos = model.parameters().into_iter().map(|info| (info.id, info));
        let mut update = UpdateShare {
            correction: self.next(),
            optimizer: self,
            infos: infos.collect(),
            of: shares.parts_of(rank),
            gradients,
            factor,
            rate,
            values: vec![0.0; gradients.len()],
        };
        model.visit(&mut Visiting(&mut update));
        update.values
    }

    /// Made by all ranks: the state of all shares as [`RAdam::to_tensors`] has it, on rank 0; nothing elsewhere.
    pub(in crate::train) fn gathered_tensors(
        &self,
        ranks: &dyn Ranks,
        shares: &Shares,
    ) -> NamedTensors {
        let own = shares.of(ranks.rank()).len();
        let mut tensors = NamedTensors::new();
        type Pick = fn(&Moments) -> &Tensor<1>;
        for (part, pick) in [
            ("first", (|of| &of.first) as Pick),
            ("second", |of| &of.second),
        ] {
            let mut values = vec![0.0; own];
            for (id, (_, within)) in shares.parts_of(ranks.rank()) {
                if let Some(moments) = self.moments.get(&id) {
                    values[within].copy_from_slice(&host_values(pick(moments).clone()));
                }
            }
            let all = shares.gathered_by_the_first(ranks, &values);
            for parameter in shares.parameters().iter().filter(|_| ranks.leads()) {
                let values = all[parameter.range.clone()].to_vec();
                let name = format!("{part}.{}", parameter.name);
                tensors.insert(name, (vec![values.len()], values));
            }
        }
        tensors
    }
}

struct UpdateShare<'a> {
    optimizer: &'a mut RAdam,
    infos: HashMap<ParamId, ParameterInfo>,
    of: HashMap<ParamId, crate::train::shares::Part>,
    gradients: &'a [f32],
    factor: f64,
    correction: Correction,
    rate: f64,
    values: Vec<f32>,
}

impl EachParameter for UpdateShare<'_> {
    fn visit<const D: usize>(&mut self, id: ParamId, tensor: Tensor<D>) {
        let (Some((of_parameter, within)), Some(info)) = (self.of.remove(&id), self.infos.get(&id))
        else {
            return;
        };
        let step = (self.optimizer).step_of(info.kind, self.factor, self.correction, self.rate);
        let tensor = match tensor.is_autodiff() {
            true => tensor.inner(),
            false => tensor,
        };
        let numbers = tensor.shape().num_elements();
        let value: Tensor<1> = tensor.reshape([numbers]).slice([of_parameter]);
        let gradient = TensorData::new(self.gradients[within.clone()].to_vec(), [within.len()]);
        let gradient = Tensor::from_data(gradient, &value.device());
        let value = self.optimizer.take(id, step, value, gradient);
        self.values[within].copy_from_slice(&host_values(value));
    }
}
