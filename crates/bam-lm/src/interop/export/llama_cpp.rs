//! Models as llama.cpp reads them: what its architectures can say, and a refusal of the rest.
//!
//! GGUF has no key for a prior of a head's own. What it can say:
//!
//! | Here | There |
//! |---|---|
//! | ALiBi with its own slopes, whatever family says them | architecture `refact`: RMS norm, SwiGLU, ALiBi with a maximal bias of 8 |
//! | rotary | architecture `llama`, whose pairs are neighbours as ours are, so nothing is permuted |
//!
//! Source: `src/llama-model.cpp` and `gguf-py/gguf/constants.py` of llama.cpp.

use super::gguf::{Entry, Gguf, refused};
use super::vocabulary;
use crate::Error;
use crate::analysis::prior::distributions;
use crate::model::encoding::Position;
use crate::model::{Design, ModelConfig, Transformer};
use crate::settings;
use bam_data::{ChatTemplates, Tokenizer};
use bam_prior::{PositionalPrior, Prior};

/// The architecture that says what the model does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Architecture {
    Refact,
    Llama,
}

impl Architecture {
    fn name(self) -> &'static str {
        match self {
            Self::Refact => "refact",
            Self::Llama => "llama",
        }
    }
}

/// Twice the logarithm to base 2 of the steepest slope of many heads: ALiBi's, and the only one that
/// `refact` has.
const MAX_ALIBI_BIAS: f32 = 8.0;
/// Slopes nearer than this are the same; what they differ by is below what `f32` keeps of them.
const SLOPE_TOLERANCE: f64 = 1e-6;

const EMBEDDINGS: &str = "tok_embeddings.weight";
const OUTPUT: &str = "output.weight";

/// A model as a GGUF file, under a name that programs show.
///
/// # Errors
/// If llama.cpp has no architecture or no tokenizer that says what these do; names what.
pub fn gguf(
    model: &Transformer,
    tokenizer: &Tokenizer,
    templates: &ChatTemplates,
    name: &str,
) -> Result<Gguf, Error> {
    let config = model.config();
    let architecture = architecture(model)?;
    let mut file = Gguf::default();
    let mut text = |key: &str, value: &str| file.entry(key, Entry::Text(value.to_owned()));
    text("general.architecture", architecture.name());
    text("general.type", "model");
    text("general.name", name);
    describe(&mut file, config, architecture);
    vocabulary::describe(&mut file, tokenizer, config.vocabulary)?;
    for (name, source) in &templates.named {
        let key = "tokenizer.chat_template";
        let key = match name.as_str() {
            ChatTemplates::DEFAULT => key.to_owned(),
            name => format!("{key}.{name}"),
        };
        file.entry(key, Entry::Text(source.clone()));
    }
    let further = templates.named.keys().cloned();
    let further: Vec<String> = further
        .filter(|name| name != ChatTemplates::DEFAULT)
        .collect();
    if !further.is_empty() {
        file.entry("tokenizer.chat_templates", Entry::Texts(further));
    }
    let mut tensors = model.to_tensors();
    if config.design.tied_head {
        tensors.insert(OUTPUT.into(), tensors[EMBEDDINGS].clone());
    }
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, (shape, values)) in tensors {
        if name.contains("prior.") {
            // Said by the architecture.
            continue;
        }
        let theirs = tensor_name(&name).ok_or_else(|| {
            refused(
                "tensors of a LLaMA-like decoder",
                format!("the tensor {name}"),
            )
        })?;
        file.tensor(theirs, shape, values);
    }
    Ok(file)
}

fn describe(file: &mut Gguf, config: &ModelConfig, architecture: Architecture) {
    let name = architecture.name();
    let mut count = |key: &str, value: usize| {
        file.entry(format!("{name}.{key}"), Entry::U32(value as u32));
    };
    count("context_length", config.train_length);
    count("embedding_length", config.dim);
    count("block_count", config.layers);
    count("feed_forward_length", config.hidden);
    count("attention.head_count", config.heads);
    count("attention.head_count_kv", config.key_heads);
    count("vocab_size", config.vocabulary);
    let mut number = |key: &str, value: f32| {
        file.entry(format!("{name}.{key}"), Entry::F32(value));
    };
    number(
        "attention.layer_norm_rms_epsilon",
        config.norm_epsilon as f32,
    );
    match architecture {
        Architecture::Refact => number("attention.max_alibi_bias", MAX_ALIBI_BIAS),
        Architecture::Llama => {
            number("rope.freq_base", config.rotary_theta as f32);
            let head_dim = config.head_dim() as u32;
            file.entry(format!("{name}.rope.dimension_count"), Entry::U32(head_dim));
        }
    }
    // All tensors are f32.
    file.entry("general.file_type", Entry::U32(0));
}

fn architecture(model: &Transformer) -> Result<Architecture, Error> {
    check_design(model.config().design)?;
    let encoding = &model.config().encoding;
    let Some(all) = encoding.of_all_layers() else {
        let expected = "one encoding for all layers: GGUF has no key for that of each";
        return Err(refused(expected, format!("{encoding}")));
    };
    if all.temperature.is_some() {
        let expected =
            "a model without scalable softmax or another temperature, for which GGUF has no key";
        return Err(refused(expected, format!("{encoding}")));
    }
    if encoding.forgets() {
        let expected = "a model without forget gates, for which GGUF has no key";
        return Err(refused(expected, format!("{encoding}")));
    }
    match &all.position {
        Position::Rotary => Ok(Architecture::Llama),
        Position::Prior(_) => match off_alibi(model)? {
            None => Ok(Architecture::Refact),
            Some(head) => Err(refused(
                "ALiBi with its own slopes, or rotary: GGUF has no key for a head's prior",
                format!("{head} ({encoding})"),
            )),
        },
        Position::Sinusoidal | Position::RotaryLocal { .. } => Err(refused(
            "ALiBi with its own slopes, or rotary",
            encoding.to_string(),
        )),
    }
}

/// Both architectures are built as our usual models are. A head that is the embeddings is written
/// twice.
fn check_design(design: Design) -> Result<(), Error> {
    let usual = Design {
        tied_head: design.tied_head,
        ..Design::default()
    };
    if design == usual {
        return Ok(());
    }
    let [expected, got] = settings::in_words(&usual, &design);
    let expected = format!(
        "a LLaMA-like decoder (RMS norm, SwiGLU, no biases, residuals before the norms) with {expected}"
    );
    Err(refused(&expected, got))
}

/// The first head whose prior is not what llama.cpp computes for ALiBi, in words.
fn off_alibi(model: &Transformer) -> Result<Option<String>, Error> {
    let slopes = their_slopes(model.config().heads);
    for layer in 0..model.config().layers {
        for (head, prior) in distributions(model, layer).into_iter().enumerate() {
            let prior = prior?;
            let same = slope(&prior).is_some_and(|slope| {
                (slope - slopes[head]).abs() <= SLOPE_TOLERANCE * slopes[head]
            });
            if !same {
                let values = prior.parameters().into_iter().take(4);
                let values = values.map(|of| format!(" {} {:.4}", of.name, of.value));
                let values: String = values.collect();
                return Ok(Some(format!(
                    "head {layer}.{head}, {}{values}, for a slope of {:.4}",
                    prior.family(),
                    slopes[head]
                )));
            }
        }
    }
    Ok(None)
}

/// The slope of a linear decay, whichever family says it; a constant does not matter.
fn slope(prior: &Prior) -> Option<f64> {
    match prior {
        Prior::Laplace(_) => prior.parameters().first().map(|slope| slope.value),
        Prior::GeneralizedGaussian(_) => {
            let of = |name: &str| {
                let parameters = prior.parameters();
                parameters.iter().find(|p| p.name == name).map(|p| p.value)
            };
            (of("shape")? == 1.0 && of("location")? == 0.0).then(|| of("scale"))?
        }
        _ => None,
    }
}

/// The slopes as llama.cpp computes them, from the number of heads and the maximal bias.
fn their_slopes(heads: usize) -> Vec<f64> {
    let lower = 1_usize << heads.ilog2();
    let base = |bias: f32| (-bias / lower as f32).exp2();
    let (m0, m1) = (base(MAX_ALIBI_BIAS), base(MAX_ALIBI_BIAS / 2.0));
    let slope = |head: usize| match head < lower {
        true => m0.powi(head as i32 + 1),
        false => m1.powi(2 * (head - lower) as i32 + 1),
    };
    (0..heads).map(|head| f64::from(slope(head))).collect()
}

fn tensor_name(ours: &str) -> Option<String> {
    let whole = match ours {
        EMBEDDINGS => "token_embd.weight",
        "norm.weight" => "output_norm.weight",
        OUTPUT => "output.weight",
        _ => {
            let (layer, part) = ours.strip_prefix("layers.")?.split_once('.')?;
            let part = match part {
                "attention.wq.weight" => "attn_q",
                "attention.wk.weight" => "attn_k",
                "attention.wv.weight" => "attn_v",
                "attention.wo.weight" => "attn_output",
                "attention_norm.weight" => "attn_norm",
                "ffn_norm.weight" => "ffn_norm",
                "feed_forward.w1.weight" => "ffn_gate",
                "feed_forward.w2.weight" => "ffn_down",
                "feed_forward.w3.weight" => "ffn_up",
                _ => return None,
            };
            return Some(format!("blk.{layer}.{part}.weight"));
        }
    };
    Some(whole.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Activation, NormKind, Residual};
    use crate::testing::small;
    use burn::tensor::Device;

    /// Two roads to the same slopes, for numbers of heads that are powers of two and that are not.
    #[test]
    fn slopes_are_the_same_for_any_number_of_heads() {
        for heads in [1, 2, 3, 6, 8, 12, 16, 20, 31, 64] {
            let ours = bam_prior::alibi_slopes(heads).unwrap();
            for (ours, theirs) in ours.iter().zip(their_slopes(heads)) {
                assert!((ours - theirs).abs() <= SLOPE_TOLERANCE * ours, "{heads}");
            }
        }
    }

    #[test]
    fn a_linear_decay_is_known_whoever_says_it() {
        let bam = |location, shape| {
            let law = bam_prior::GeneralizedGaussian::new(location, 0.5, shape).unwrap();
            slope(&Prior::from(law))
        };
        assert_eq!(bam(0.0, 1.0), Some(0.5));
        assert_eq!(bam(0.0, 1.01), None);
        assert_eq!(bam(-1.0, 1.0), None);
        assert_eq!(slope(&Prior::from(bam_prior::Uniform)), None);
    }

    #[test]
    fn other_designs_are_refused() {
        let of = |design: Design| {
            let config = ModelConfig {
                design,
                ..small("alibi")
            };
            architecture(&config.init(&Device::flex()))
        };
        let usual = Design::default();
        for design in [
            Design {
                norm: NormKind::Layer,
                ..usual
            },
            Design {
                norm: NormKind::LayerWithoutBias,
                ..usual
            },
            Design {
                activation: Activation::Gelu,
                ..usual
            },
            Design {
                gated: false,
                ..usual
            },
            Design {
                attention_bias: true,
                ..usual
            },
            Design {
                clip_qkv: Some(3.0),
                ..usual
            },
            Design {
                attention_residual: Residual::Normed,
                ..usual
            },
            Design {
                final_norm: false,
                ..usual
            },
        ] {
            let message = of(design).unwrap_err().to_string();
            assert!(message.contains("RMS norm, SwiGLU"), "{message}");
            assert!(!message.contains("Design"), "{message}");
            let [expected, got] = settings::in_words(&usual, &design);
            assert_eq!(expected.split(", ").count(), 1, "{expected}");
            for said in [format!("with {expected};"), format!("got {got}")] {
                assert!(message.contains(&said), "{message}");
            }
        }
        // Null control: a tied head can be said.
        for tied_head in [false, true] {
            let design = Design { tied_head, ..usual };
            assert_eq!(of(design).unwrap(), Architecture::Refact);
        }
    }
}
