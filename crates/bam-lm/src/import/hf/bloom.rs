//! Bloom: ALiBi, layer norms and biases everywhere, GELU by tanh, a norm after the embeddings.

use super::keys::Keys;
use super::tensors::TensorFiles;
use super::{Architecture, EMBEDDINGS, Options, insert, keep, plain_config, position};
use crate::Error;
use crate::model::checkpoint::NamedTensors;
use crate::model::{Activation, Design, ModelConfig, NormKind, Residual};

/// What the published models were trained at; some configurations do not say it.
const USUAL_LENGTH: usize = 2048;

pub(super) struct Bloom {
    dim: usize,
    heads: usize,
    layers: usize,
    vocabulary: usize,
    hidden: usize,
    train_length: usize,
    norm_epsilon: f64,
    residual: Residual,
    tied: bool,
}

impl Bloom {
    pub(super) fn read(keys: &mut Keys) -> Result<Self, Error> {
        let named = |keys: &mut Keys, old: &str, new: &str| {
            let (old, new) = (keys.take(old)?, keys.take(new)?);
            let value: Option<usize> = old.or(new);
            value.ok_or_else(|| keys.wrong("config", "a value for it", "none"))
        };
        // Older configurations have other names.
        let dim = named(keys, "n_embed", "hidden_size")?;
        let behind = keys.take("apply_residual_connection_post_layernorm")?;
        Ok(Self {
            dim,
            heads: named(keys, "n_head", "num_attention_heads")?,
            layers: named(keys, "n_layer", "num_hidden_layers")?,
            vocabulary: keys.need("vocab_size")?,
            hidden: keys.take("n_inner")?.unwrap_or(dim.saturating_mul(4)),
            train_length: keys.take("seq_length")?.unwrap_or(USUAL_LENGTH),
            norm_epsilon: keys.take("layer_norm_epsilon")?.unwrap_or(1e-5),
            residual: match behind.unwrap_or(false) {
                true => Residual::Normed,
                false => Residual::Stream,
            },
            tied: keys.take("tie_word_embeddings")?.unwrap_or(true),
        })
    }
}

impl Architecture for Bloom {
    fn prefix(&self) -> &'static str {
        "transformer."
    }

    fn embeddings(&self) -> &'static str {
        "word_embeddings.weight"
    }

    fn config(&self, options: &Options, _keys: &Keys) -> Result<ModelConfig, Error> {
        Ok(ModelConfig {
            encoding: position(options, "alibi", &["alibi", "nope"])?,
            dim: self.dim,
            layers: self.layers,
            heads: self.heads,
            key_heads: self.heads,
            hidden: self.hidden,
            vocabulary: self.vocabulary,
            train_length: options.train_length.unwrap_or(self.train_length),
            norm_epsilon: self.norm_epsilon,
            design: Design {
                norm: NormKind::Layer,
                activation: Activation::GeluTanh,
                gated: false,
                attention_bias: true,
                feed_forward_bias: true,
                attention_residual: self.residual,
                feed_forward_residual: self.residual,
                embedding_norm: true,
                tied_head: self.tied,
                ..Design::default()
            },
            ..plain_config()
        })
    }

    fn tensors(
        &self,
        config: &ModelConfig,
        files: &mut TensorFiles,
    ) -> Result<NamedTensors, Error> {
        let (dim, hidden) = (config.dim, config.hidden);
        let mut tensors = NamedTensors::new();
        let to = &mut tensors;
        keep(
            files,
            to,
            ("word_embeddings.weight", EMBEDDINGS),
            &[config.vocabulary, dim],
        )?;
        for (kind, columns) in [("weight", Some(dim)), ("bias", None)] {
            let norm =
                |theirs: &str, ours: &str| (format!("{theirs}.{kind}"), format!("{ours}.{kind}"));
            for (theirs, ours) in [
                norm("word_embeddings_layernorm", "embedding_norm"),
                norm("ln_f", "norm"),
            ] {
                keep(files, to, (&theirs, &ours), &[dim])?;
            }
            let shape = |rows: usize, columns: Option<usize>| -> Vec<usize> {
                std::iter::once(rows).chain(columns).collect()
            };
            let wide = columns.map(|_| hidden);
            for layer in 0..config.layers {
                let theirs = |part: &str| format!("h.{layer}.{part}.{kind}");
                let ours = |part: &str| format!("layers.{layer}.{part}.{kind}");
                for (from, as_ours, shape) in [
                    ("input_layernorm", "attention_norm", vec![dim]),
                    ("post_attention_layernorm", "ffn_norm", vec![dim]),
                    ("self_attention.dense", "attention.wo", shape(dim, columns)),
                    (
                        "mlp.dense_h_to_4h",
                        "feed_forward.w1",
                        shape(hidden, columns),
                    ),
                    ("mlp.dense_4h_to_h", "feed_forward.w2", shape(dim, wide)),
                ] {
                    keep(files, to, (&theirs(from), &ours(as_ours)), &shape)?;
                }
                let fused = theirs("self_attention.query_key_value");
                let fused = files.take(&fused, &shape(3 * dim, columns))?;
                let parts = split_heads(&fused, config.heads);
                for (part, values) in ["wq", "wk", "wv"].into_iter().zip(parts) {
                    insert(
                        to,
                        &ours(&format!("attention.{part}")),
                        &shape(dim, columns),
                        values,
                    );
                }
            }
        }
        Ok(tensors)
    }
}

/// Rows of `[head][q, k, v]` as all queries, all keys, all values.
fn split_heads(fused: &[f32], heads: usize) -> [Vec<f32>; 3] {
    let each = fused.len() / (3 * heads);
    let parts = || fused.chunks_exact(each);
    [0, 1, 2].map(|part| parts().skip(part).step_by(3).flatten().copied().collect())
}
