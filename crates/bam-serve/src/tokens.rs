//! Texts to tokens and back, and the tokenizer's own facts.

use super::app::App;
use super::error::ApiError;
use super::json;
use super::request::{Detokenize, Tokenize};
use super::template::ChatTemplate;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

#[derive(Debug, Serialize, JsonSchema)]
pub struct Tokenized {
    count: usize,
    max_model_len: usize,
    tokens: Vec<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_strs: Option<Vec<String>>,
}

pub async fn tokenize(
    State(app): State<Arc<App>>,
    body: Bytes,
) -> Result<Json<Tokenized>, ApiError> {
    let asked: Tokenize = json::parse(&body)?;
    app.check_model(asked.model.as_deref())?;
    // Text is only text, as for completions. But lm_eval asks for the ids of the tokens that
    // `/tokenizer_info` names by those names, and wants nothing added.
    let named = match asked.add_special_tokens {
        Some(false) => app.tokenizer.special_named(&asked.prompt),
        _ => None,
    };
    let begin = asked.add_special_tokens.unwrap_or(true);
    let tokens = match named {
        Some(id) => vec![id as i32],
        None => {
            app.encoder
                .encode(&app.tokenizer, "prompt", asked.prompt, begin)
                .await?
        }
    };
    let spell = |id: &i32| app.spelling(*id).0.to_owned();
    let spelled = asked.return_token_strs.unwrap_or(false);
    Ok(Json(Tokenized {
        count: tokens.len(),
        max_model_len: app.longest_sequence(),
        token_strs: spelled.then(|| tokens.iter().map(spell).collect()),
        tokens,
    }))
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Detokenized {
    prompt: String,
}

pub async fn detokenize(
    State(app): State<Arc<App>>,
    body: Bytes,
) -> Result<Json<Detokenized>, ApiError> {
    let asked: Detokenize = json::parse(&body)?;
    app.check_model(asked.model.as_deref())?;
    let tokens = app.check_tokens("tokens", &asked.tokens)?;
    let prompt = app.decode("tokens", &tokens)?;
    Ok(Json(Detokenized { prompt }))
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct TokenizerInfo {
    tokenizer_class: &'static str,
    bos_token: Option<String>,
    eos_token: Option<String>,
    unk_token: Option<String>,
    pad_token: Option<String>,
    vocab_size: usize,
    model_max_length: usize,
    add_bos_token: bool,
    chat_template: Option<String>,
}

pub async fn tokenizer_info(State(app): State<Arc<App>>) -> Json<TokenizerInfo> {
    let special = app.tokenizer.special();
    let name = |role: &str| special.name(role).map(str::to_owned);
    let template = app.template.as_ref().and_then(ChatTemplate::source);
    Json(TokenizerInfo {
        tokenizer_class: "PreTrainedTokenizerFast",
        bos_token: name("bos_token"),
        eos_token: name("eos_token"),
        unk_token: app.tokenizer.unknown(),
        pad_token: name("pad_token"),
        vocab_size: app.tokenizer.vocabulary_size(),
        model_max_length: app.longest_sequence(),
        add_bos_token: app.tokenizer.bos().is_some(),
        chat_template: template.map(str::to_owned),
    })
}
