//! The parameters of a model in a fixed order: their names in checkpoints and what they are.

use super::block::Norm;
use super::config::PriorScope;
use super::encoding::HeadGroup;
use super::transformer::Transformer;
use bam_attention::nn::PositionalPrior;
use bam_prior::Role;
use burn::module::{ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::nn::Linear;
use burn::tensor::Tensor;
use std::ops::Range;

/// The kind of a parameter; decides its learning rate, its decay, and its layout in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterKind {
    /// A weight matrix or the embeddings.
    Matrix,
    /// Gains of a norm, or biases.
    Vector,
    /// Of a prior.
    Prior(Role),
    /// Scale of scalable softmax, or the weights that an adaptive temperature is made with.
    SsmaxScale,
}

/// A parameter that is learned or stored.
#[derive(Clone, Debug)]
pub struct ParameterInfo {
    /// The name in checkpoints, the reference's.
    pub name: String,
    /// Burn's id.
    pub id: ParamId,
    /// Its kind.
    pub kind: ParameterKind,
    /// Whether training changes it.
    pub trainable: bool,
    /// The shape in checkpoints.
    pub stored_shape: Vec<usize>,
    /// Whether the file holds the transpose.
    pub transposed: bool,
    /// The query heads that it is about, the same number of values each: of a prior or a scale.
    pub heads: Range<usize>,
}

impl Transformer {
    /// Every parameter, in the order of the reference's checkpoints; none is drawn for it.
    #[must_use]
    pub fn parameters(&self) -> Vec<ParameterInfo> {
        let mut list = List(Vec::new());
        let embeddings = &self.tok_embeddings.weight;
        list.matrix("tok_embeddings.weight".into(), embeddings, false);
        list.norm("embedding_norm", self.embedding_norm.as_ref());
        for (index, block) in self.layers.iter().enumerate() {
            let name = |rest: &str| format!("layers.{index}.{rest}");
            let attention = &block.attention;
            list.linear(&name("attention.wq"), Some(&attention.query));
            list.linear(&name("attention.wk"), Some(&attention.key));
            list.linear(&name("attention.wv"), Some(&attention.value));
            list.linear(&name("attention.wo"), attention.output.as_ref());
            list.linear(&name("attention.wf"), attention.forget.as_ref());
            if let Some(scale) = &attention.ssmax_scale {
                let heads = scale.lazy_shape()[0];
                list.add(
                    name("attention.seq_scale"),
                    scale,
                    ParameterKind::SsmaxScale,
                    true,
                    vec![1, heads, 1, 1],
                    false,
                );
                list.of_heads(0..heads);
            }
            if let Some(adaptive) = &block.adaptive {
                for (part, linear) in [("beta", &adaptive.beta), ("gamma", &adaptive.gamma)] {
                    let name = name(&format!("attention.temperature.{part}.weight"));
                    list.of_rows(name, &linear.weight);
                }
            }
            if self.config.prior_scope == PriorScope::Layer {
                let kinds = self.config.head_groups(index);
                list.prior(&name("attention.prior"), &attention.prior, kinds);
            }
            let feed_forward = &block.feed_forward;
            list.linear(&name("feed_forward.w1"), Some(&feed_forward.w1));
            list.linear(&name("feed_forward.w2"), Some(&feed_forward.w2));
            list.linear(&name("feed_forward.w3"), feed_forward.w3.as_ref());
            list.norm(&name("attention_norm"), Some(&block.attention_norm));
            list.norm(&name("ffn_norm"), Some(&block.ffn_norm));
        }
        list.norm("norm", self.norm.as_ref());
        list.linear("output", self.output.as_ref());
        if let Some(shared) = &self.prior {
            list.prior("prior", shared, self.config.head_groups(0));
        }
        list.0
    }
}

struct List(Vec<ParameterInfo>);

impl List {
    fn add<const D: usize>(
        &mut self,
        name: String,
        param: &Param<Tensor<D>>,
        kind: ParameterKind,
        trainable: bool,
        stored_shape: Vec<usize>,
        transposed: bool,
    ) {
        self.0.push(ParameterInfo {
            name,
            id: param.id,
            kind,
            trainable,
            stored_shape,
            transposed,
            heads: 0..0,
        });
    }

    /// Says of the last one which heads it is about.
    fn of_heads(&mut self, heads: Range<usize>) {
        if let Some(last) = self.0.last_mut() {
            last.heads = heads;
        }
    }

    fn matrix(&mut self, name: String, param: &Param<Tensor<2>>, transposed: bool) {
        let [rows, columns] = param.lazy_shape().dims();
        let shape = if transposed {
            vec![columns, rows]
        } else {
            vec![rows, columns]
        };
        self.add(name, param, ParameterKind::Matrix, true, shape, transposed);
    }

    fn vector(&mut self, name: String, param: &Param<Tensor<1>>) {
        let shape = param.lazy_shape().to_vec();
        self.add(name, param, ParameterKind::Vector, true, shape, false);
    }

    /// Makes temperatures of rows; a row of the file's matrix is a head's.
    fn of_rows(&mut self, name: String, param: &Param<Tensor<2>>) {
        let [width, heads] = param.lazy_shape().dims();
        let shape = vec![heads, width];
        self.add(name, param, ParameterKind::SsmaxScale, true, shape, true);
        self.of_heads(0..heads);
    }

    /// A projection's matrix and bias.
    fn linear(&mut self, prefix: &str, linear: Option<&Linear>) {
        let Some(linear) = linear else { return };
        self.matrix(format!("{prefix}.weight"), &linear.weight, true);
        if let Some(bias) = &linear.bias {
            self.vector(format!("{prefix}.bias"), bias);
        }
    }

    fn norm(&mut self, prefix: &str, norm: Option<&Norm>) {
        let Some(norm) = norm else { return };
        self.vector(format!("{prefix}.weight"), norm.gains());
        if let Some(bias) = norm.bias() {
            self.vector(format!("{prefix}.bias"), bias);
        }
    }

    /// `prefix.scale` and so on; several groups of heads are told apart by `prefix.0.scale`.
    fn prior(&mut self, prefix: &str, prior: &PositionalPrior, kinds: &[HeadGroup]) {
        let mut end = 0;
        for (index, (group, HeadGroup { prior: kind, .. })) in
            prior.groups.iter().zip(kinds).enumerate()
        {
            let heads = group.heads();
            let first = end;
            end += heads;
            if !kind.stored() {
                continue;
            }
            let specs = group.family().parameters(heads);
            for (param, spec) in group.theta.iter().zip(specs) {
                let name = match kinds.len() {
                    1 => format!("{prefix}.{}", spec.name),
                    _ => format!("{prefix}.{index}.{}", spec.name),
                };
                let shape = match spec.width {
                    1 => vec![1, heads, 1, 1],
                    width => vec![heads, width],
                };
                let trainable = group.learns(spec.role);
                self.add(
                    name,
                    param,
                    ParameterKind::Prior(spec.role),
                    trainable,
                    shape,
                    false,
                );
                self.of_heads(first..end);
            }
        }
    }
}

/// Calls a function with every float parameter, whatever its rank.
pub(crate) trait EachParameter {
    fn visit<const D: usize>(&mut self, id: ParamId, tensor: Tensor<D>);
}

/// Replaces the value of every float parameter, whatever its rank.
pub(crate) trait ReplaceParameter {
    fn replace<const D: usize>(&mut self, id: ParamId, tensor: Tensor<D>) -> Tensor<D>;
}

pub(crate) struct Visiting<'a, V>(pub &'a mut V);

impl<V: EachParameter> ModuleVisitor for Visiting<'_, V> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.visit(param.id, param.val());
    }
}

pub(crate) struct Replacing<'a, R>(pub &'a mut R);

impl<R: ReplaceParameter> ModuleMapper for Replacing<'_, R> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = param.consume();
        let learned = tensor.is_require_grad();
        let replaced = self.0.replace(id, tensor).detach();
        let replaced = if learned {
            replaced.require_grad()
        } else {
            replaced
        };
        Param::from_mapped_value(id, replaced, mapper)
    }
}
