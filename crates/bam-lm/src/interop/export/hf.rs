//! A folder that `transformers` loads: our `config.json` with what it needs to find the code beside
//! it, and the tokenizer's own settings. Weights are those of every model folder.

use crate::Error;
use crate::model::Transformer;
use bam_data::Tokenizer;
use serde_json::{Map, Value, json};

/// Files of Python code, with their names.
pub const CODE: [(&str, &str); 2] = [
    ("configuration_bam.py", include_str!("configuration_bam.py")),
    ("modeling_bam.py", include_str!("modeling_bam.py")),
];

/// Fields of a configuration that `modeling_bam.py` reads, or may leave unread. A field that is not here is
/// a design that it does not know.
const KNOWN_FIELDS: [&str; 20] = [
    "model_type",
    "architectures",
    "position_embedding_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "train_length",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
    "attn_prior",
    "ssmax",
    "torch_dtype",
    "dtype",
    "history",
    "design",
];

/// Fields for `config.json` besides the model's own.
///
/// # Errors
/// If the model is of a design that the Python code does not know.
pub fn config_fields(
    model: &Transformer,
    tokenizer: Option<&Tokenizer>,
) -> Result<Map<String, Value>, Error> {
    let own = serde_json::to_value(model.config()).expect("a config is plain data");
    let names = own.as_object().into_iter().flat_map(Map::keys);
    for name in names {
        if !KNOWN_FIELDS.contains(&name.as_str()) {
            return Err(Error::Value {
                what: "export to transformers",
                expected: "a model of the designs that modeling_bam.py knows".into(),
                got: format!("the field {name} = {}", own[name]),
            });
        }
    }
    let mut fields = Map::from_iter([(
        "auto_map".to_owned(),
        json!({
            "AutoConfig": "configuration_bam.BamConfig",
            "AutoModelForCausalLM": "modeling_bam.BamForCausalLM",
        }),
    )]);
    fields.extend(tokenizer.into_iter().flat_map(generation_config));
    Ok(fields)
}

/// `tokenizer_config.json`: the class that reads any `tokenizer.json`, and no maximum length.
#[must_use]
pub fn tokenizer_config(tokenizer: &Tokenizer) -> Map<String, Value> {
    let mut config = Map::from_iter([
        (
            "tokenizer_class".to_owned(),
            "PreTrainedTokenizerFast".into(),
        ),
        ("clean_up_tokenization_spaces".to_owned(), false.into()),
        // Else transformers 4 adds token_type_ids, which the model refuses.
        (
            "model_input_names".to_owned(),
            json!(["input_ids", "attention_mask"]),
        ),
        // As transformers says that there is none.
        ("model_max_length".to_owned(), 1e30.into()),
    ]);
    config.extend(tokenizer.special().tokenizer_config());
    config
}

/// `special_tokens_map.json`.
#[must_use]
pub fn special_tokens(tokenizer: &Tokenizer) -> Map<String, Value> {
    tokenizer.special().names.clone().into_iter().collect()
}

/// `generation_config.json`. Rows of a batch are padded with the token that ends documents, if there is no
/// other.
#[must_use]
pub fn generation_config(tokenizer: &Tokenizer) -> Map<String, Value> {
    let mut config = tokenizer.special().generation_config();
    if let Some(end) = tokenizer.eos() {
        config.entry("pad_token_id").or_insert(end.into());
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use bam_prior::Family;

    /// A family that is new here is new there.
    #[test]
    fn the_python_code_knows_every_family_and_its_parameters() {
        let [(_, configuration), (_, modeling)] = CODE;
        for family in Family::ALL {
            let parameters = family.parameters(1);
            let name = match family.name() {
                "generalized_gaussian" => "bam",
                "uniform" => "nope",
                name => name,
            };
            let known = |code: &str, what: &str| {
                assert!(code.contains(what), "{name}: {what} is missing");
            };
            known(configuration, &format!("\"{name}\""));
            known(modeling, &format!("\"{name}\": ("));
            for spec in parameters {
                known(modeling, &format!("\"{}\": {}", spec.name, spec.width));
            }
        }
    }
}
