//! LLaMA: rotary pairs or no positions, RMS norm, SwiGLU, grouped key heads.

use super::keys::Keys;
use super::tensors::TensorFiles;
use super::{Architecture, EMBEDDINGS, Options, insert, keep, plain_config, position};
use crate::Error;
use crate::encoding::Position;
use crate::model::checkpoint::NamedTensors;
use crate::model::{Design, ModelConfig};
use serde_json::json;

pub(super) struct Llama {
    dim: usize,
    hidden: usize,
    heads: usize,
    key_heads: usize,
    layers: usize,
    vocabulary: usize,
    train_length: usize,
    norm_epsilon: f64,
    theta: f64,
    /// `rotary`, `nope` or `alibi`.
    position: &'static str,
    attention_bias: bool,
    mlp_bias: bool,
    tied: bool,
}

impl Llama {
    pub(super) fn read(keys: &mut Keys) -> Result<Self, Error> {
        let dim: usize = keys.need("hidden_size")?;
        let heads: usize = keys.need("num_attention_heads")?;
        keys.only("hidden_act", &[json!("silu")])?;
        keys.only("head_dim", &[json!(dim / heads.max(1))])?;
        // Files of today say it in one place, older ones in two.
        let old_theta = keys.take("rope_theta")?;
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
        let stated: Option<String> = keys.take("position_embedding_type")?;
        let position = match stated.as_deref() {
            None | Some("rope" | "rotary") => "rotary",
            Some("nope" | "none") => "nope",
            Some("alibi") => "alibi",
            Some(other) => {
                let expected = "rope, nope or alibi";
                return Err(keys.wrong("position_embedding_type", expected, other));
            }
        };
        Ok(Self {
            dim,
            hidden: keys.need("intermediate_size")?,
            heads,
            key_heads: keys.take("num_key_value_heads")?.unwrap_or(heads),
            layers: keys.need("num_hidden_layers")?,
            vocabulary: keys.need("vocab_size")?,
            train_length: keys.need("max_position_embeddings")?,
            norm_epsilon: keys.take("rms_norm_eps")?.unwrap_or(1e-6),
            theta: theta.or(old_theta).unwrap_or(10_000.0),
            position,
            attention_bias: keys.take("attention_bias")?.unwrap_or(false),
            mlp_bias: keys.take("mlp_bias")?.unwrap_or(false),
            tied: keys.take("tie_word_embeddings")?.unwrap_or(false),
        })
    }
}

impl Architecture for Llama {
    fn prefix(&self) -> &'static str {
        "model."
    }

    fn embeddings(&self) -> &'static str {
        "embed_tokens.weight"
    }

    fn config(&self, options: &Options, _keys: &Keys) -> Result<ModelConfig, Error> {
        Ok(ModelConfig {
            encoding: position(options, self.position, &["rotary", "nope", "alibi"])?,
            dim: self.dim,
            layers: self.layers,
            heads: self.heads,
            key_heads: self.key_heads,
            hidden: self.hidden,
            vocabulary: self.vocabulary,
            train_length: options.train_length.unwrap_or(self.train_length),
            norm_epsilon: self.norm_epsilon,
            rotary_theta: self.theta,
            design: Design {
                attention_bias: self.attention_bias,
                feed_forward_bias: self.mlp_bias,
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
        let key_width = config.key_heads * config.head_dim();
        let rotates = config.encoding.position == Position::Rotary;
        let mut tensors = NamedTensors::new();
        let to = &mut tensors;
        keep(
            files,
            to,
            ("embed_tokens.weight", EMBEDDINGS),
            &[config.vocabulary, dim],
        )?;
        keep(files, to, ("norm.weight", "norm.weight"), &[dim])?;
        for layer in 0..config.layers {
            let theirs = |part: &str| format!("layers.{layer}.{part}");
            for (from, as_ours) in [
                ("input_layernorm", "attention_norm"),
                ("post_attention_layernorm", "ffn_norm"),
            ] {
                let (from, as_ours) = (theirs(from) + ".weight", theirs(as_ours) + ".weight");
                keep(files, to, (&from, &as_ours), &[dim])?;
            }
            for (from, as_ours, [rows, columns], heads, bias) in [
                (
                    "self_attn.q_proj",
                    "attention.wq",
                    [dim, dim],
                    config.heads,
                    self.attention_bias,
                ),
                (
                    "self_attn.k_proj",
                    "attention.wk",
                    [key_width, dim],
                    config.key_heads,
                    self.attention_bias,
                ),
                (
                    "self_attn.v_proj",
                    "attention.wv",
                    [key_width, dim],
                    0,
                    self.attention_bias,
                ),
                (
                    "self_attn.o_proj",
                    "attention.wo",
                    [dim, dim],
                    0,
                    self.attention_bias,
                ),
                (
                    "mlp.gate_proj",
                    "feed_forward.w1",
                    [hidden, dim],
                    0,
                    self.mlp_bias,
                ),
                (
                    "mlp.down_proj",
                    "feed_forward.w2",
                    [dim, hidden],
                    0,
                    self.mlp_bias,
                ),
                (
                    "mlp.up_proj",
                    "feed_forward.w3",
                    [hidden, dim],
                    0,
                    self.mlp_bias,
                ),
            ] {
                let mut part = |kind: &str, shape: &[usize]| {
                    let mut values = files.take(&format!("{}.{kind}", theirs(from)), shape)?;
                    if rotates && heads > 0 {
                        values = interleaved(&values, heads, config.head_dim());
                    }
                    insert(to, &format!("{}.{kind}", theirs(as_ours)), shape, values);
                    Ok::<_, Error>(())
                };
                part("weight", &[rows, columns])?;
                if bias {
                    part("bias", &[rows])?;
                }
            }
            self.check_frequencies(&theirs("self_attn.rotary_emb.inv_freq"), config, files)?;
        }
        Ok(tensors)
    }
}

impl Llama {
    /// Older files hold the frequencies too; they have to be what `rope_theta` makes them.
    fn check_frequencies(
        &self,
        name: &str,
        config: &ModelConfig,
        files: &mut TensorFiles,
    ) -> Result<(), Error> {
        if !files.has(name) {
            return Ok(());
        }
        let width = config.head_dim();
        let stored = files.take(name, &[width / 2])?;
        for (pair, stored) in stored.iter().enumerate() {
            let expected = self.theta.powf(-((2 * pair) as f64) / width as f64);
            // They may have been written in half precision.
            if (f64::from(*stored) - expected).abs() > 0.01 * expected {
                let expected = format!("{expected:e} at index {pair} (rope_theta {})", self.theta);
                return Err(files.wrong(name, expected, &stored.to_string()));
            }
        }
        Ok(())
    }
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
