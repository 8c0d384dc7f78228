//! Bloom: ALiBi, layer norms and biases everywhere, GELU by tanh, a norm after the embeddings.

use super::keys::Keys;
use super::layout::{Layout, Options, plain_config, position};
use super::renaming::Renaming;
use crate::Error;
use crate::model::{Activation, Design, ModelConfig, NormKind, Residual};

/// The length that the published models were trained at; some configurations do not say it.
const USUAL_LENGTH: usize = 2048;

struct Bloom;

pub(super) fn read(
    keys: &mut Keys,
    options: &Options,
) -> Result<(ModelConfig, Box<dyn Layout>), Error> {
    let named = |keys: &mut Keys, old: &str, new_name: &str| {
        let (old, new) = (keys.take(old)?, keys.take(new_name)?);
        let value: Option<usize> = old.or(new);
        value.map_or_else(|| keys.need(new_name), Ok)
    };
    // Older configurations have other names.
    let dim = named(keys, "n_embed", "hidden_size")?;
    let heads = named(keys, "n_head", "num_attention_heads")?;
    let behind = keys.take("apply_residual_connection_post_layernorm")?;
    let residual = match behind.unwrap_or(false) {
        true => Residual::Normed,
        false => Residual::Stream,
    };
    let train_length = keys.take("seq_length")?.unwrap_or(USUAL_LENGTH);
    let config = ModelConfig {
        encoding: position(options, "alibi", &["alibi", "nope"])?,
        dim,
        layers: named(keys, "n_layer", "num_hidden_layers")?,
        heads,
        key_heads: heads,
        hidden: keys.take("n_inner")?.unwrap_or(dim.saturating_mul(4)),
        vocabulary: keys.need("vocab_size")?,
        train_length: options.train_length.unwrap_or(train_length),
        norm_epsilon: keys.take("layer_norm_epsilon")?.unwrap_or(1e-5),
        design: Design {
            norm: NormKind::Layer,
            activation: Activation::GeluTanh,
            gated: false,
            attention_bias: true,
            feed_forward_bias: true,
            attention_residual: residual,
            feed_forward_residual: residual,
            embedding_norm: true,
            tied_head: keys.take("tie_word_embeddings")?.unwrap_or(true),
            ..Design::default()
        },
        ..plain_config()
    };
    Ok((config, Box::new(Bloom)))
}

impl Layout for Bloom {
    fn prefix(&self) -> &'static str {
        "transformer."
    }

    fn embeddings(&self) -> &'static str {
        "word_embeddings"
    }

    fn rename(&self, config: &ModelConfig, model: &mut Renaming) -> Result<(), Error> {
        let (dim, hidden, bias) = (config.dim, config.hidden, true);
        model.keep("word_embeddings_layernorm", "embedding_norm", &[dim], bias)?;
        model.keep("ln_f", "norm", &[dim], bias)?;
        for index in 0..config.layers {
            let mut layer = model.layer("h", index);
            layer.keep("input_layernorm", "attention_norm", &[dim], bias)?;
            layer.keep("post_attention_layernorm", "ffn_norm", &[dim], bias)?;
            layer.split(
                "self_attention.query_key_value",
                ["attention.wq", "attention.wk", "attention.wv"],
                &[dim, dim],
                bias,
                |fused| split_heads(&fused, config.heads),
            )?;
            layer.keep("self_attention.dense", "attention.wo", &[dim, dim], bias)?;
            let (up, down) = ([hidden, dim], [dim, hidden]);
            layer.keep("mlp.dense_h_to_4h", "feed_forward.w1", &up, bias)?;
            layer.keep("mlp.dense_4h_to_h", "feed_forward.w2", &down, bias)?;
        }
        Ok(())
    }
}

/// Rows of `[head][q, k, v]` as all queries, all keys, all values.
fn split_heads(fused: &[f32], heads: usize) -> [Vec<f32>; 3] {
    let each = fused.len() / (3 * heads);
    let parts = || fused.chunks_exact(each);
    [0, 1, 2].map(|part| parts().skip(part).step_by(3).flatten().copied().collect())
}
