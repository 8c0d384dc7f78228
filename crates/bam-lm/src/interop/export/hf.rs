//! A folder that `transformers` loads: our `config.json` with what it needs to find the code beside
//! it, and the tokenizer's own settings. Weights are those of every model folder.

use crate::Error;
use crate::model::Transformer;
use bam_data::Tokenizer;
use serde_json::{Map, Value, json};

/// Files of Python code, with their names.
pub const CODE: [(&str, &str); 3] = [
    ("configuration_bam.py", include_str!("configuration_bam.py")),
    ("modeling_bam.py", include_str!("modeling_bam.py")),
    ("sight_bam.py", include_str!("sight_bam.py")),
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
            "AutoModel": "modeling_bam.BamModel",
            "AutoModelForCausalLM": "modeling_bam.BamForCausalLM",
            "AutoModelForSequenceClassification": "modeling_bam.BamForSequenceClassification",
        }),
    )]);
    let ids = |tokenizer| generation_config(tokenizer, Map::new());
    fields.extend(tokenizer.into_iter().flat_map(ids));
    Ok(fields)
}

/// Names of tokens that pad, where no file says which token does.
const PADDINGS: [&str; 5] = [
    "<pad>",
    "[PAD]",
    "<|pad|>",
    "<|padding|>",
    "<|finetune_right_pad_id|>",
];

/// The token that pads. Collators take no label where it stands, so it is the one that ends documents only where
/// the vocabulary has no other: a model trained further would never learn to end. A beginning is no label to miss.
fn padding(tokenizer: &Tokenizer) -> Option<u32> {
    let special = tokenizer.special();
    let named = |name: &str| tokenizer.special_named(name);
    let unknown = tokenizer.unknown().and_then(|name| named(&name));
    let mut padding = special.pad.into_iter();
    let mut others = PADDINGS
        .into_iter()
        .filter_map(named)
        .chain(special.bos)
        .chain(unknown);
    let is_no_end = |id: &u32| Some(*id) != special.eos;
    let found = padding.find(is_no_end).or_else(|| others.find(is_no_end));
    found.or(special.eos)
}

/// `pad_token`, where it is not the end: a tokenizer that has none is refused by collators, and asks to be given one.
fn pad_token(tokenizer: &Tokenizer) -> Option<(String, Value)> {
    let id = padding(tokenizer).filter(|id| tokenizer.eos() != Some(*id));
    Some(("pad_token".to_owned(), tokenizer.spelling(id?)?.into()))
}

/// Removes special tokens that the vocabulary has not, and names them: a tokenizer in Python would add them, and the
/// model has no rows for them.
pub fn without_strangers(tokenizer: &Tokenizer, own: &mut Map<String, Value>) -> Vec<String> {
    let mut strangers = Vec::new();
    let mut is_known = |token: &Value| {
        let name = token["content"].as_str().or(token.as_str());
        let known = name.is_none_or(|name| tokenizer.token_id(name).is_some());
        if !known {
            strangers.extend(name.map(str::to_owned));
        }
        known
    };
    own.retain(|field, said| match (field.as_str(), said) {
        ("additional_special_tokens" | "extra_special_tokens", Value::Array(several)) => {
            several.retain(&mut is_known);
            true
        }
        ("added_tokens_decoder" | "extra_special_tokens", Value::Object(several)) => {
            several.retain(|_, token| is_known(token));
            true
        }
        (field, said) => !field.ends_with("_token") || is_known(said),
    });
    strangers.sort();
    strangers.dedup();
    strangers
}

/// `tokenizer_config.json`, from the one that the model came with, if any.
///
/// The class is the one that does what `tokenizer.json` says: those of models add tokens that the model has no rows
/// for, read other vocabularies than theirs wrongly, or are missing from other versions of transformers.
#[must_use]
pub fn tokenizer_config(tokenizer: &Tokenizer, own: Map<String, Value>) -> Map<String, Value> {
    let mut config = Map::from_iter([
        ("clean_up_tokenization_spaces".to_owned(), false.into()),
        // As transformers says that there is none.
        ("model_max_length".to_owned(), 1e30.into()),
    ]);
    config.extend(tokenizer.special().tokenizer_config());
    config.extend(own);
    config.remove("auto_map");
    let class = "PreTrainedTokenizerFast".into();
    config.insert("tokenizer_class".into(), class);
    // What a tokenizer gives is what the model takes, so no token_type_ids, whatever another model took.
    let inputs = json!(["input_ids", "attention_mask"]);
    config.insert("model_input_names".into(), inputs);
    config.extend(pad_token(tokenizer));
    config
}

/// `special_tokens_map.json`, from the one that the model came with, if any.
#[must_use]
pub fn special_tokens(tokenizer: &Tokenizer, own: Map<String, Value>) -> Map<String, Value> {
    let names = tokenizer.special().names.clone().into_iter();
    names.chain(own).chain(pad_token(tokenizer)).collect()
}

/// `generation_config.json`, from the one that the model came with, if any. Rows of a batch are always padded
/// with some token.
#[must_use]
pub fn generation_config(tokenizer: &Tokenizer, own: Map<String, Value>) -> Map<String, Value> {
    let said = tokenizer.special().generation_config().into_iter();
    let padding = padding(tokenizer).map(|id| ("pad_token_id".to_owned(), id.into()));
    said.chain(own).chain(padding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bam_prior::Family;

    /// A family that is new here is new there.
    #[test]
    fn the_python_code_knows_every_family_and_its_parameters() {
        let [(_, configuration), (_, modeling), _] = CODE;
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
