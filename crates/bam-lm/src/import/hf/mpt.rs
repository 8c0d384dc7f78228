//! MPT: ALiBi, layer norms without bias, exact GELU, a tied head.

use super::keys::Keys;
use super::tensors::TensorFiles;
use super::{Architecture, EMBEDDINGS, Options, insert, keep, plain_config, position};
use crate::Error;
use crate::model::checkpoint::NamedTensors;
use crate::model::{Activation, Design, ModelConfig, NormKind};
use serde_json::json;

/// The largest exponent of ALiBi's slopes where nothing else is said.
const USUAL_BIAS_MAX: f64 = 8.0;

pub(super) struct Mpt {
    dim: usize,
    heads: usize,
    layers: usize,
    vocabulary: usize,
    expansion: usize,
    train_length: usize,
    norm_epsilon: f64,
    alibi: bool,
    bias_max: f64,
    softmax_scale: Option<f64>,
    clip_qkv: Option<f64>,
    tied: bool,
}

impl Mpt {
    pub(super) fn read(keys: &mut Keys) -> Result<Self, Error> {
        let mut attention = keys.object("attn_config")?;
        attention.only("attn_type", &[json!("multihead_attention")])?;
        for (key, off) in [
            ("qk_ln", json!(false)),
            ("qk_gn", json!(false)),
            ("prefix_lm", json!(false)),
            ("rope", json!(false)),
            ("attn_uses_sequence_id", json!(false)),
            ("sliding_window_size", json!(-1)),
            ("attn_logit_softcapping", json!(null)),
        ] {
            attention.only(key, &[off])?;
        }
        for harmless in ["attn_pdrop", "attn_impl", "model_type"] {
            let _ = attention.take::<serde_json::Value>(harmless)?;
        }
        let heads = keys.need("n_heads")?;
        attention.only("kv_n_heads", &[json!(heads)])?;
        let mpt = Self {
            dim: keys.need("d_model")?,
            heads,
            layers: keys.need("n_layers")?,
            vocabulary: keys.need("vocab_size")?,
            expansion: keys.take("expansion_ratio")?.unwrap_or(4),
            train_length: keys.need("max_seq_len")?,
            norm_epsilon: keys.take("layer_norm_epsilon")?.unwrap_or(1e-5),
            // Nobody but the class of `transformers` leaves it out, and that means yes.
            alibi: attention.take("alibi")?.unwrap_or(true),
            bias_max: attention.take("alibi_bias_max")?.unwrap_or(USUAL_BIAS_MAX),
            softmax_scale: attention.take("softmax_scale")?,
            clip_qkv: attention.take("clip_qkv")?.filter(|limit| *limit != 0.0),
            tied: keys.take("tie_word_embeddings")?.unwrap_or(true),
        };
        attention.finish()?;
        keys.only("no_bias", &[json!(true)])?;
        keys.only("logit_scale", &[])?;
        keys.only(
            "norm_type",
            &[json!("low_precision_layernorm"), json!("layernorm")],
        )?;
        let mut feed_forward = keys.object("ffn_config")?;
        feed_forward.only("ffn_type", &[json!("mptmlp")])?;
        feed_forward.finish()?;
        // With ALiBi there are none, whatever it says; a tensor of them would be unknown.
        let _ = keys.take::<bool>("learned_pos_emb")?;
        if !mpt.alibi {
            return Err(keys.wrong(
                "attn_config.alibi",
                "true (learned positions are not supported)",
                "false",
            ));
        }
        if mpt.clip_qkv.is_some() && mpt.softmax_scale.is_some() {
            let got = "both";
            return Err(keys.wrong("attn_config", "clip_qkv or softmax_scale", got));
        }
        Ok(mpt)
    }

    /// What the usual scale `1/√D` of the scores has to be multiplied by.
    fn sharpening(&self, config: &ModelConfig) -> f64 {
        let root = (config.head_dim() as f64).sqrt();
        self.softmax_scale.map_or(1.0, |scale| scale * root)
    }
}

/// `2^(−max·i/n)` for `i = 1..=n`, `n` the next power of two; of those, where there are fewer heads,
/// every other one from the second on, then from the first on.
fn slopes(heads: usize, bias_max: f64) -> Vec<f64> {
    let n = heads.next_power_of_two();
    let slope = |i: usize| (-bias_max * i as f64 / n as f64).exp2();
    if n == heads {
        return (1..=n).map(slope).collect();
    }
    let others = (1..=n).step_by(2);
    (2..=n)
        .step_by(2)
        .chain(others)
        .take(heads)
        .map(slope)
        .collect()
}

impl Architecture for Mpt {
    fn prefix(&self) -> &'static str {
        "transformer."
    }

    fn embeddings(&self) -> &'static str {
        "wte.weight"
    }

    fn config(&self, options: &Options, keys: &Keys) -> Result<ModelConfig, Error> {
        if !(self.bias_max > 0.0 && self.bias_max <= 64.0) {
            let got = self.bias_max.to_string();
            return Err(keys.wrong("attn_config.alibi_bias_max", "from 0 to 64", &got));
        }
        // Other slopes than ALiBi's are those of a Laplace prior, whose parameters are stored.
        let usual = if self.bias_max == USUAL_BIAS_MAX {
            "alibi"
        } else {
            "laplace"
        };
        Ok(ModelConfig {
            encoding: position(options, usual, &["alibi", "nope"])?,
            dim: self.dim,
            layers: self.layers,
            heads: self.heads,
            key_heads: self.heads,
            hidden: self.dim.saturating_mul(self.expansion),
            vocabulary: self.vocabulary,
            train_length: options.train_length.unwrap_or(self.train_length),
            norm_epsilon: self.norm_epsilon,
            design: Design {
                norm: NormKind::LayerWithoutBias,
                activation: Activation::Gelu,
                gated: false,
                clip_qkv: self.clip_qkv,
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
            ("wte.weight", EMBEDDINGS),
            &[config.vocabulary, dim],
        )?;
        keep(files, to, ("norm_f.weight", "norm.weight"), &[dim])?;
        let sharpening = self.sharpening(config) as f32;
        for layer in 0..config.layers {
            let theirs = |part: &str| format!("blocks.{layer}.{part}.weight");
            let ours = |part: &str| format!("layers.{layer}.{part}.weight");
            let mut keep = |from: &str, as_ours: &str, shape: &[usize]| {
                keep(files, to, (&theirs(from), &ours(as_ours)), shape)
            };
            keep("norm_1", "attention_norm", &[dim])?;
            keep("norm_2", "ffn_norm", &[dim])?;
            keep("attn.out_proj", "attention.wo", &[dim, dim])?;
            keep("ffn.up_proj", "feed_forward.w1", &[hidden, dim])?;
            keep("ffn.down_proj", "feed_forward.w2", &[dim, hidden])?;
            let mut fused = files.take(&theirs("attn.Wqkv"), &[3 * dim, dim])?;
            let v = fused.split_off(2 * dim * dim);
            let k = fused.split_off(dim * dim);
            fused.iter_mut().for_each(|x| *x *= sharpening);
            for (part, values) in [("wq", fused), ("wk", k), ("wv", v)] {
                insert(to, &ours(&format!("attention.{part}")), &[dim, dim], values);
            }
        }
        if config.encoding.to_string() == "laplace" {
            let scales = slopes(self.heads, self.bias_max).into_iter();
            let scales = scales.map(|slope| slope.ln() as f32).collect();
            insert(to, "prior.scale", &[1, self.heads, 1, 1], scales);
        }
        Ok(tensors)
    }
}

#[cfg(test)]
mod tests {
    use super::slopes;

    #[test]
    fn the_usual_slopes_are_alibis() {
        for heads in 1..70 {
            let ours = bam_prior::alibi_slopes(heads).unwrap();
            let theirs = slopes(heads, 8.0);
            assert_eq!(ours.len(), theirs.len());
            for (a, b) in ours.iter().zip(theirs) {
                assert!((a - b).abs() < 1e-15, "{heads}");
            }
        }
        assert_ne!(slopes(4, 4.0), slopes(4, 8.0));
    }
}
