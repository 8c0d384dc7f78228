//! MPT: ALiBi, layer norms without bias, exact GELU, a tied head.

use super::keys::Keys;
use super::layout::{Layout, Options, plain_config, position};
use super::renaming::Renaming;
use crate::Error;
use crate::model::{Activation, Design, ModelConfig, NormKind};
use serde_json::json;

/// The largest exponent of ALiBi's slopes where nothing else is said.
const USUAL_BIAS_MAX: f64 = 8.0;

struct Mpt {
    bias_max: f64,
    /// The factor on the usual scale `1/√D` of the scores.
    sharpening: f64,
}

pub(super) fn read(
    keys: &mut Keys,
    options: &Options,
) -> Result<(ModelConfig, Box<dyn Layout>), Error> {
    let mut attention = keys.object("attn_config")?;
    let (dim, heads): (usize, usize) = (keys.need("d_model")?, keys.need("n_heads")?);
    attention.only_known("kv_n_heads", heads > 0, json!(heads))?;
    nothing_else(keys, &mut attention)?;
    // Nobody but the class of `transformers` leaves it out, and that means yes.
    let alibi = attention.take("alibi")?.unwrap_or(true);
    let bias_max = attention.take("alibi_bias_max")?.unwrap_or(USUAL_BIAS_MAX);
    let softmax_scale: Option<f64> = attention.take("softmax_scale")?;
    let clip_qkv = attention.take("clip_qkv")?.filter(|limit| *limit != 0.0);
    attention.finish()?;
    if !alibi {
        let expected = "true (learned positions are not supported)";
        return Err(keys.wrong("attn_config.alibi", expected, "false"));
    }
    if clip_qkv.is_some() && softmax_scale.is_some() {
        let got = "both";
        return Err(keys.wrong("attn_config", "clip_qkv or softmax_scale", got));
    }
    if !(bias_max > 0.0 && bias_max <= 64.0) {
        let got = bias_max.to_string();
        return Err(keys.wrong("attn_config.alibi_bias_max", "from 0 to 64", &got));
    }
    // Other slopes than ALiBi's are those of a Laplace prior, whose parameters are stored.
    let usual = if bias_max == USUAL_BIAS_MAX {
        "alibi"
    } else {
        "laplace"
    };
    let train_length = keys.need("max_seq_len")?;
    let config = ModelConfig {
        encoding: position(options, usual, &["alibi", "nope"])?,
        dim,
        layers: keys.need("n_layers")?,
        heads,
        key_heads: heads,
        hidden: dim.saturating_mul(keys.take("expansion_ratio")?.unwrap_or(4)),
        vocabulary: keys.need("vocab_size")?,
        train_length: options.train_length.unwrap_or(train_length),
        norm_epsilon: keys.take("layer_norm_epsilon")?.unwrap_or(1e-5),
        design: Design {
            norm: NormKind::LayerWithoutBias,
            activation: Activation::Gelu,
            gated: false,
            clip_qkv,
            tied_head: keys.take("tie_word_embeddings")?.unwrap_or(true),
            ..Design::default()
        },
        ..plain_config()
    };
    let root = (dim as f64 / heads as f64).sqrt();
    let sharpening = softmax_scale.map_or(1.0, |scale| scale * root);
    let layout = Mpt {
        bias_max,
        sharpening,
    };
    Ok((config, Box::new(layout)))
}

/// Refuses what would be computed otherwise, and takes what changes nothing.
fn nothing_else(keys: &mut Keys, attention: &mut Keys) -> Result<(), Error> {
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
    Ok(())
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

impl Layout for Mpt {
    fn prefix(&self) -> &'static str {
        "transformer."
    }

    fn embeddings(&self) -> &'static str {
        "wte"
    }

    fn rename(&self, config: &ModelConfig, model: &mut Renaming) -> Result<(), Error> {
        let (dim, hidden, bias) = (config.dim, config.hidden, false);
        model.keep("norm_f", "norm", &[dim], bias)?;
        let parts = |mut fused: Vec<f32>| {
            let v = fused.split_off(2 * dim * dim);
            let k = fused.split_off(dim * dim);
            let sharpening = self.sharpening as f32;
            fused.iter_mut().for_each(|x| *x *= sharpening);
            [fused, k, v]
        };
        for index in 0..config.layers {
            let mut layer = model.layer("blocks", index);
            layer.keep("norm_1", "attention_norm", &[dim], bias)?;
            layer.keep("norm_2", "ffn_norm", &[dim], bias)?;
            layer.keep("attn.out_proj", "attention.wo", &[dim, dim], bias)?;
            layer.keep("ffn.up_proj", "feed_forward.w1", &[hidden, dim], bias)?;
            layer.keep("ffn.down_proj", "feed_forward.w2", &[dim, hidden], bias)?;
            let ours = ["attention.wq", "attention.wk", "attention.wv"];
            layer.split("attn.Wqkv", ours, &[dim, dim], bias, parts)?;
        }
        if config.encoding.to_string() == "laplace" {
            let scales = slopes(config.heads, self.bias_max).into_iter();
            let scales = scales.map(|slope| slope.ln() as f32).collect();
            model.add("prior.scale", &[1, config.heads, 1, 1], scales);
        }
        Ok(())
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
