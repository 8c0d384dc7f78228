//! Special tokens by their roles: which begins a text, which end an answer.
//!
//! A `tokenizer.json` names special tokens and says nothing of their roles. Those are in the files beside it,
//! as `transformers` writes them; only where these are silent does a token's own name decide.

use super::text::parse_json;
use super::{DataError, bounded};
use crate::atomic_file;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Special tokens by role.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpecialTokens {
    /// Names as chat templates know them, `bos_token` and the like; a list of names where there are several.
    pub names: BTreeMap<String, Value>,
    /// The token that is called the beginning.
    pub bos: Option<u32>,
    /// The same, where texts are to begin with it.
    pub beginning: Option<u32>,
    /// The token that ends documents. An id of a tokenizer's own.
    pub eos: Option<u32>,
    /// All tokens that end an answer.
    pub ends: Vec<u32>,
    /// The token that fills up rows.
    pub pad: Option<u32>,
}

/// Roles that have one token each, as `transformers` calls them.
const ROLES: [&str; 7] = [BOS, EOS, UNK, "sep_token", PAD, "cls_token", "mask_token"];
const ADD_BOS: &str = "add_bos_token";
const BOS: &str = "bos_token";
const EOS: &str = "eos_token";
const UNK: &str = "unk_token";
const PAD: &str = "pad_token";
/// Lists of further special tokens.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// Names of beginnings and of ends, where no file says which token is one.
const BEGINNINGS: [&str; 5] = [
    "<s>",
    "<|begin_of_text|>",
    "<bos>",
    "<|startoftext|>",
    "<|endoftext|>",
];
const ENDS: [&str; 4] = ["</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>"];

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const MODEL_CONFIG: &str = "config.json";
/// Larger files are refused before they are parsed.
const FILE_LIMIT: u64 = 1 << 24;

/// The roles that files give to tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Roles {
    /// By name; `None` where a file says that there is none.
    names: BTreeMap<String, Option<Value>>,
    add_bos: Option<bool>,
    bos: Option<u32>,
    ends: Vec<u32>,
    pad: Option<u32>,
}

/// A tokenizer's part in finding roles.
pub(super) struct Vocabulary<'a> {
    /// The id of a token.
    pub id: &'a dyn Fn(&str) -> Option<u32>,
    /// The id of a special token.
    pub special: &'a dyn Fn(&str) -> Option<u32>,
    /// The name of a token.
    pub name: &'a dyn Fn(u32) -> Option<String>,
    /// The `tokenizer.json`.
    pub json: &'a Value,
}

impl Roles {
    /// Reads what the files of a folder say; nothing where it has none of them.
    pub(super) fn read(folder: &Path) -> Result<Self, DataError> {
        let mut roles = Self::default();
        for file in [TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP] {
            let path = folder.join(file);
            let fields = object(&path)?;
            let wrong =
                |field: &str, expected: &str, got: &Value| wrong(&path, field, expected, got);
            for role in ROLES {
                if let Some(said) = fields.get(role) {
                    let expected = "a token's text, {\"content\": …} or null";
                    let name = name(said).ok_or_else(|| wrong(role, expected, said))?;
                    let entry = roles.names.entry(role.to_owned());
                    entry.or_insert(name.map(Value::from));
                }
            }
            for list in LISTS {
                match &fields.get(list).unwrap_or(&Value::Null) {
                    Value::Array(several) => {
                        let several: Vec<Value> = several
                            .iter()
                            .filter_map(name)
                            .flatten()
                            .map(Value::from)
                            .collect();
                        let entry = roles.names.entry(list.to_owned());
                        entry.or_insert(Some(several.into()));
                    }
                    Value::Object(named) => {
                        for (role, said) in named {
                            let name = name(said).flatten().map(Value::from);
                            roles.names.entry(role.clone()).or_insert(name);
                        }
                    }
                    _ => {}
                }
            }
            match fields.get(ADD_BOS) {
                None | Some(Value::Null) => {}
                Some(Value::Bool(add)) => roles.add_bos = roles.add_bos.or(Some(*add)),
                Some(got) => return Err(wrong(ADD_BOS, "true or false", got)),
            }
        }
        for file in [GENERATION_CONFIG, MODEL_CONFIG] {
            let path = folder.join(file);
            let fields = object(&path)?;
            let one = |field: &str| ids(&path, &fields, field);
            roles.bos = roles.bos.or(one("bos_token_id")?.first().copied());
            roles.ends.extend(one("eos_token_id")?);
            roles.pad = roles.pad.or(one("pad_token_id")?.first().copied());
        }
        Ok(roles)
    }

    /// The roles of a tokenizer's tokens.
    pub(super) fn of(&self, tokens: &Vocabulary) -> SpecialTokens {
        let said = |role: &str| self.names.get(role);
        let named = |role: &str| {
            let name = said(role)?.as_ref()?.as_str()?;
            (tokens.id)(name)
        };
        let is_token = |id: &u32| (tokens.name)(*id).is_some();
        let first = |names: &[&str]| names.iter().find_map(|name| (tokens.special)(name));
        let usual = first(&BEGINNINGS);
        let around = Around::of(tokens);
        let guessed = around.before.or(usual);
        let bos = match said(BOS) {
            // A file that says that there is none is taken at its word.
            Some(None) => None,
            Some(Some(_)) => named(BOS).or(guessed),
            None => self.bos.filter(is_token).or(guessed),
        };
        let beginning = match (self.add_bos, around.says, said(BOS)) {
            (Some(add), ..) => bos.filter(|_| add),
            (None, true, _) => around.before,
            // It is the tokenizer's, and nothing puts it before a text.
            (None, false, Some(_)) => None,
            (None, false, None) => usual,
        };
        let mut ends: Vec<u32> = Vec::new();
        for end in named(EOS).into_iter().chain(self.ends.iter().copied()) {
            if !ends.contains(&end) {
                ends.push(end);
            }
        }
        if !ends.iter().any(is_token) {
            // A token, so none of those that are not.
            ends.extend(around.after.or_else(|| first(&ENDS)));
        }
        let eos = ends.iter().copied().find(is_token);
        let padding = &tokens.json["padding"]["pad_token"];
        // A row of ids may be filled up with ends; to a tokenizer an end is no filling.
        let filling = self.pad.filter(|id| !ends.contains(id));
        let pad = named(PAD)
            .or(filling)
            .or_else(|| (tokens.id)(padding.as_str()?));
        // A name that the vocabulary has not says nothing.
        let is_known = |name: &Value| name.as_str().is_none_or(|name| (tokens.id)(name).is_some());
        let mut names = BTreeMap::new();
        for (role, stated) in &self.names {
            match stated {
                Some(Value::Array(several)) => {
                    let known = several.iter().filter(|name| is_known(name)).cloned();
                    names.insert(role.clone(), Value::from_iter(known));
                }
                Some(name) if is_known(name) => drop(names.insert(role.clone(), name.clone())),
                _ => {}
            }
        }
        for (role, id) in [(BOS, bos), (EOS, eos), (PAD, pad)] {
            if let Some(name) = id.and_then(tokens.name)
                && !names.contains_key(role)
                && said(role) != Some(&None)
            {
                names.insert(role.to_owned(), name.into());
            }
        }
        SpecialTokens {
            names,
            bos,
            beginning,
            eos,
            ends,
            pad,
        }
    }
}

impl SpecialTokens {
    /// A role's token, by its name.
    #[must_use]
    pub fn name(&self, role: &str) -> Option<&str> {
        self.names.get(role)?.as_str()
    }

    /// Says the same in the files beside a `tokenizer.json`, which keep what else they say.
    pub(super) fn write(&self, folder: &Path) -> Result<(), DataError> {
        for (name, own) in [
            (TOKENIZER_CONFIG, self.tokenizer_config()),
            (GENERATION_CONFIG, self.generation_config()),
        ] {
            let path = folder.join(name);
            let mut fields = object(&path)?;
            fields.extend(own);
            let json = format!("{:#}\n", Value::Object(fields));
            atomic_file::write(&path, json.as_bytes()).map_err(DataError::io("write", &path))?;
        }
        Ok(())
    }

    /// Fields of a `tokenizer_config.json` that say the same.
    #[must_use]
    pub fn tokenizer_config(&self) -> Map<String, Value> {
        let names = self.names.clone().into_iter();
        let mut fields: Map<String, Value> = names.collect();
        match (self.bos, self.beginning) {
            (None, _) => fields.insert(BOS.into(), Value::Null),
            (Some(_), None) => fields.insert(ADD_BOS.into(), false.into()),
            (Some(bos), Some(first)) if bos == first => fields.insert(ADD_BOS.into(), true.into()),
            // The tokenizer's post-processor says which.
            _ => None,
        };
        fields
    }

    /// Fields of a `generation_config.json` that say the same.
    #[must_use]
    pub fn generation_config(&self) -> Map<String, Value> {
        let ends = match self.ends[..] {
            [] => None,
            [end] => Some(json!(end)),
            _ => Some(json!(self.ends)),
        };
        let fields = [
            ("bos_token_id", self.bos.map(Value::from)),
            ("eos_token_id", ends),
            ("pad_token_id", self.pad.map(Value::from)),
        ];
        let said = fields.into_iter();
        said.filter_map(|(name, id)| Some((name.to_owned(), id?)))
            .collect()
    }
}

/// Special tokens that the tokenizer's own post-processor puts around a text.
#[derive(Default)]
struct Around {
    /// Whether there is one that puts any.
    says: bool,
    before: Option<u32>,
    after: Option<u32>,
}

impl Around {
    fn of(tokens: &Vocabulary) -> Self {
        let mut around = Self::default();
        around.see(&tokens.json["post_processor"], tokens);
        around
    }

    fn see(&mut self, processor: &Value, tokens: &Vocabulary) {
        let pair = |of: &Value| (tokens.id)(of[0].as_str()?);
        match processor["type"].as_str() {
            Some("Sequence") => {
                let several = processor["processors"].as_array();
                several
                    .into_iter()
                    .flatten()
                    .for_each(|one| self.see(one, tokens));
            }
            Some("TemplateProcessing") => {
                let template = processor["single"].as_array();
                let template = template.map_or(&[][..], Vec::as_slice);
                let special = |of: Option<&Value>| (tokens.id)(of?["SpecialToken"]["id"].as_str()?);
                self.says |= template.iter().any(|of| !of["SpecialToken"].is_null());
                self.before = self.before.or(special(template.first()));
                self.after = self.after.or(special(template.last()));
            }
            Some("BertProcessing" | "RobertaProcessing") => {
                self.says = true;
                self.before = pair(&processor["cls"]);
                self.after = pair(&processor["sep"]);
            }
            _ => {}
        }
    }
}

/// A token's name, written as a text or as an object; the inner `None` is null.
fn name(said: &Value) -> Option<Option<String>> {
    match said {
        Value::Null => Some(None),
        Value::String(name) => Some(Some(name.clone())),
        other => Some(Some(other["content"].as_str()?.to_owned())),
    }
}

/// Ids that a field holds: one, several or none. Numbers below zero are how some say none.
fn ids(path: &Path, fields: &Map<String, Value>, field: &str) -> Result<Vec<u32>, DataError> {
    let said = fields.get(field).unwrap_or(&Value::Null);
    let several = match said {
        Value::Null => return Ok(Vec::new()),
        Value::Array(several) => several.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut found = Vec::with_capacity(several.len());
    for id in several {
        match id.as_i64() {
            Some(id) if id < 0 => {}
            Some(id) if u32::try_from(id).is_ok() => found.push(id as u32),
            _ => return Err(wrong(path, field, "a token's id or a list of them", said)),
        }
    }
    Ok(found)
}

/// A file's fields; none where it is not there.
pub(super) fn object(path: &Path) -> Result<Map<String, Value>, DataError> {
    let failed = |reason: String| DataError::TokenizerSettings {
        path: path.to_owned(),
        reason,
    };
    if !path.is_file() {
        return Ok(Map::new());
    }
    let bytes = bounded::read(path, FILE_LIMIT)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(failed(format!(
            "expected at most {FILE_LIMIT} bytes, got more"
        )));
    }
    parse_json(&bytes).map_err(|error| failed(format!("expected a JSON object, got {error}")))
}

pub(super) fn wrong(path: &Path, field: &str, expected: &str, got: &Value) -> DataError {
    let got: String = got.to_string().chars().take(60).collect();
    DataError::TokenizerSettings {
        path: path.to_owned(),
        reason: format!("{field}: expected {expected}, got {got}"),
    }
}
