//! LLaMA: rotary pairs or no positions, RMS norm, SwiGLU, grouped key heads.

use super::keys::Keys;
use super::layout::{Layout, Options, plain_config, position};
use super::renaming::Renaming;
use crate::Error;
use crate::model::{Design, ModelConfig};
use serde_json::json;

struct Llama;

pub(super) fn read(
    keys: &mut Keys,
    options: &Options,
) -> Result<(ModelConfig, Box<dyn Layout>), Error> {
    let dim: usize = keys.need("hidden_size")?;
    let heads: usize = keys.need("num_attention_heads")?;
    keys.only("hidden_act", &[json!("silu")])?;
    keys.only_known("head_dim", dim > 0 && heads > 0, json!(dim / heads.max(1)))?;
    let theta = theta(keys)?;
    let stated: Option<String> = keys.take("position_embedding_type")?;
    let usual = match stated.as_deref() {
        None | Some("rope" | "rotary") => "rotary",
        Some("nope" | "none") => "nope",
        Some("alibi") => "alibi",
        Some(other) => {
            let expected = "rope, nope or alibi";
            return Err(keys.wrong("position_embedding_type", expected, other));
        }
    };
    let train_length = keys.need("max_position_embeddings")?;
    let config = ModelConfig {
        encoding: position(options, usual, &["rotary", "nope", "alibi"])?,
        dim,
        layers: keys.need("num_hidden_layers")?,
        heads,
        key_heads: keys.take("num_key_value_heads")?.unwrap_or(heads),
        hidden: keys.need("intermediate_size")?,
        vocabulary: keys.need("vocab_size")?,
        train_length: options.train_length.unwrap_or(train_length),
        norm_epsilon: keys.take("rms_norm_eps")?.unwrap_or(1e-6),
        rotary_theta: theta,
        design: Design {
            attention_bias: keys.take("attention_bias")?.unwrap_or(false),
            feed_forward_bias: keys.take("mlp_bias")?.unwrap_or(false),
            tied_head: keys.take("tie_word_embeddings")?.unwrap_or(false),
            ..Design::default()
        },
        ..plain_config()
    };
    Ok((config, Box::new(Llama)))
}

/// The base of the angles. Files of today say it in one place, older ones in two.
fn theta(keys: &mut Keys) -> Result<f64, Error> {
    let old = keys.take("rope_theta")?;
    let mut theta = None;
    for place in ["rope_parameters", "rope_scaling"] {
        let mut rope = keys.object(place)?;
        theta = theta.or(rope.take("rope_theta")?);
        rope.only("rope_type", &[json!("default")])?;
        rope.only("type", &[json!("default")])?;
        rope.only("partial_rotary_factor", &[json!(1.0), json!(1)])?;
        rope.finish()?;
    }
    keys.only("partial_rotary_factor", &[json!(1.0), json!(1)])?;
    Ok(theta.or(old).unwrap_or(10_000.0))
}

impl Layout for Llama {
    fn prefix(&self) -> &'static str {
        "model."
    }

    fn embeddings(&self) -> &'static str {
        "embed_tokens"
    }

    fn biases(&self, config: &ModelConfig) -> Vec<(&'static str, bool, &'static str)> {
        let design = &config.design;
        let (attention, feed_forward) = (design.attention_bias, design.feed_forward_bias);
        vec![
            ("attention_bias", attention, ".self_attn.q_proj.bias"),
            ("mlp_bias", feed_forward, ".mlp.up_proj.bias"),
        ]
    }

    fn rename(&self, config: &ModelConfig, model: &mut Renaming) -> Result<(), Error> {
        let (dim, hidden) = (config.dim, config.hidden);
        let keys = [config.key_heads * config.head_dim(), dim];
        let rotates = config.encoding.rotates();
        let turned = |heads: usize| {
            move |values: Vec<f32>| match rotates {
                true => [interleaved(&values, heads, config.head_dim())],
                false => [values],
            }
        };
        model.keep("norm", "norm", &[dim], false)?;
        for index in 0..config.layers {
            let mut layer = model.layer("layers", index);
            layer.keep("input_layernorm", "attention_norm", &[dim], false)?;
            layer.keep("post_attention_layernorm", "ffn_norm", &[dim], false)?;
            let bias = config.design.attention_bias;
            let (q, k) = (turned(config.heads), turned(config.key_heads));
            layer.split("self_attn.q_proj", ["attention.wq"], &[dim, dim], bias, q)?;
            layer.split("self_attn.k_proj", ["attention.wk"], &keys, bias, k)?;
            layer.keep("self_attn.v_proj", "attention.wv", &keys, bias)?;
            layer.keep("self_attn.o_proj", "attention.wo", &[dim, dim], bias)?;
            let bias = config.design.feed_forward_bias;
            layer.keep("mlp.gate_proj", "feed_forward.w1", &[hidden, dim], bias)?;
            layer.keep("mlp.down_proj", "feed_forward.w2", &[dim, hidden], bias)?;
            layer.keep("mlp.up_proj", "feed_forward.w3", &[hidden, dim], bias)?;
            check_frequencies(&mut layer, config)?;
        }
        Ok(())
    }
}

/// Older files hold the frequencies of a layer too; they have to be what `rope_theta` makes them.
fn check_frequencies(layer: &mut Renaming, config: &ModelConfig) -> Result<(), Error> {
    let (files, name) = layer.files("self_attn.rotary_emb.inv_freq");
    if !files.has(&name) {
        return Ok(());
    }
    let (width, theta) = (config.head_dim(), config.rotary_theta);
    let stored = files.take(&name, &[width / 2])?;
    for (pair, stored) in stored.iter().enumerate() {
        let expected = theta.powf(-((2 * pair) as f64) / width as f64);
        // They may have been written in half precision.
        if (f64::from(*stored) - expected).abs() > 0.01 * expected {
            let expected = format!("{expected:e} at index {pair} (rope_theta {theta})");
            return Err(files.wrong(&name, expected, &stored.to_string()));
        }
    }
    Ok(())
}

/// Rows of every head from halves to pairs: `transformers` turns row `i` with row `i + D/2`, we turn
/// neighbours.
fn interleaved(values: &[f32], heads: usize, head_dim: usize) -> Vec<f32> {
    let width = values.len() / (heads * head_dim);
    let half = head_dim / 2;
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks_exact(head_dim * width) {
        for row in 0..head_dim {
            let from = row % 2 * half + row / 2;
            out.extend(&head[from * width..][..width]);
        }
    }
    out
}
