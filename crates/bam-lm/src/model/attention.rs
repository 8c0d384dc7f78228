//! A layer's attention in a pass: [`BayesianAttention`] on whole rows or after a cache, with queries and
//! keys rotated where the layer rotates.

use super::adaptive::{AdaptiveTemperature, Gates};
use super::kv_cache::LayerCache;
use super::products::float_type;
use super::rotary::rotate;
use crate::Error;
use bam_attention::nn::{self, BayesianAttention, Projected};
use bam_attention::{Documents, Implementation, LogPrior, Options, Skipping};
use burn::tensor::Tensor;
use std::ops::Range;
use std::sync::Arc;

/// Everything that the layers of a forward pass share.
pub(crate) struct Pass<'a> {
    pub implementation: Implementation,
    /// Keys that may be left unread, where a cache says so.
    pub skipping: Option<Skipping>,
    /// Tokens before the first one of this pass.
    pub offset: usize,
    pub documents: Option<Arc<Documents>>,
    /// Angles of the positions, where any layer rotates.
    pub rotary: Option<(Tensor<2>, Tensor<2>)>,
    /// Told what every layer attends to, where there is a cache.
    pub observer: Option<&'a Observer<'a>>,
}

/// The tokens that a layer's rows look at.
pub(crate) enum Sight<'a> {
    /// The tokens of this pass, under the layer's prior.
    Pass(&'a LogPrior),
    /// And those before them, in a cache that holds the prior.
    Cache(&'a mut LayerCache),
}

pub(crate) type Observer<'a> = dyn Fn(&Attended) + 'a;

/// Queries and keys of some neighbouring heads of a layer.
pub(crate) struct Attended {
    pub layer: usize,
    /// Position of the first row.
    pub first_row: usize,
    pub call: nn::Attended,
}

/// A layer's attention, and what is the layer's own about it.
#[derive(Clone, Copy)]
pub(crate) struct Layer<'a> {
    pub attention: &'a BayesianAttention,
    pub index: usize,
    /// Whether queries and keys are rotated here.
    pub rotates: bool,
    /// Keys at this distance and beyond are hidden.
    pub window: Option<usize>,
    /// The temperature of its rows, where it is not one for all.
    pub adaptive: Option<&'a AdaptiveTemperature>,
}

impl Layer<'_> {
    /// The output for the rows `read` of `x`, `[batch, read, dim]`.
    pub(crate) fn forward(
        self,
        x: Tensor<3>,
        sight: Sight<'_>,
        pass: &Pass<'_>,
        read: Range<usize>,
    ) -> Result<Tensor<3>, Error> {
        let stream = x.dtype();
        let rows = x.clone().narrow(1, read.start, read.len());
        let gates = self.adaptive.map(|adaptive| adaptive.gates(rows));
        let x = x.cast(float_type(&self.attention.query));
        let queries = x.clone().narrow(1, read.start, read.len());
        let heads = self.attention.project(queries, x)?;
        let out = self.attend(heads, gates, sight, pass, read)?;
        Ok(self.attention.project_out(out).cast(stream))
    }

    /// The output for one token of each of several rows, `[rows, 1, dim]`, each with its own cache. The
    /// projections are those of all rows together.
    pub(crate) fn decode_step(
        self,
        x: Tensor<3>,
        passes: &[Pass<'_>],
        caches: Vec<&mut LayerCache>,
    ) -> Result<Tensor<3>, Error> {
        let gates = self.adaptive.map(|adaptive| adaptive.gates(x.clone()));
        let all = self.attention.project(x.clone(), x)?;
        let mut outs = Vec::with_capacity(caches.len());
        for (row, cache) in caches.into_iter().enumerate() {
            let [q, k, v] = [&all.q, &all.k, &all.v].map(|t| t.clone().narrow(0, row, 1));
            let ln_forget = all.ln_forget.clone().map(|t| t.narrow(0, row, 1));
            let heads = Projected { q, k, v, ln_forget };
            let sight = Sight::Cache(cache);
            let gates = gates.as_ref().map(|gates| gates.of_row(row));
            outs.push(self.attend(heads, gates, sight, &passes[row], 0..1)?);
        }
        Ok(self.attention.project_out(Tensor::cat(outs, 0)))
    }

    /// The heads' expectations of the values, side by side: `[batch, read, dim]`.
    fn attend(
        self,
        Projected { q, k, v, ln_forget }: Projected,
        gates: Option<Gates>,
        sight: Sight<'_>,
        pass: &Pass<'_>,
        read: Range<usize>,
    ) -> Result<Tensor<3>, Error> {
        let length = k.dims()[1];
        let angles = pass.rotary.as_ref().filter(|_| self.rotates);
        let turn = |x: Tensor<4>, rows: Range<usize>| match angles {
            None => x,
            Some((cos, sin)) => {
                let [cos, sin] = [cos, sin].map(|t| t.clone().narrow(0, rows.start, rows.len()));
                let products = x.dtype();
                rotate(x.cast(cos.dtype()), &(cos, sin)).cast(products)
            }
        };
        let heads = Projected {
            k: turn(k, 0..length),
            v,
            q: turn(q, read.clone()),
            ln_forget,
        };
        let first_row = pass.offset + read.start;
        let mut options = Options::causal(pass.implementation).with_query_offset(first_row);
        if let Some(skipping) = pass.skipping {
            options.skipping = skipping;
        }
        options.documents.clone_from(&pass.documents);
        if let Some((adaptive, gates)) = self.adaptive.zip(gates) {
            let keys = match sight {
                Sight::Pass(_) => length,
                Sight::Cache(_) => pass.offset + length,
            };
            options.window = self.window;
            options.temperature = Some(adaptive.temperature(gates, keys, &options)?);
        }
        let out = match sight {
            Sight::Pass(log_prior) => self.attention.attend(heads, log_prior, options)?,
            Sight::Cache(cache) => {
                let tell = pass.observer.map(|observer| {
                    move |call| {
                        observer(&Attended {
                            layer: self.index,
                            first_row,
                            call,
                        });
                    }
                });
                let observer = tell.as_ref().map(|tell| tell as &dyn Fn(nn::Attended));
                let groups = &mut cache.groups;
                let (before, attention) = (pass.offset, self.attention);
                attention.attend_cached(heads, groups, before, options, observer)?
            }
        };
        Ok(out)
    }
}
