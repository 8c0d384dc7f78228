//! `/v1/chat/completions`, where the model's folder has a chat template.

use super::answer::{AnswerToken, FinishReason, Piece};
use super::app::App;
use super::error::ApiError;
use super::generate::{Job, Prompt};
use super::json;
use super::message::Role;
use super::reply::{Form, finite};
use super::request::Chat;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

const FIELD: &str = "messages";
/// Tokens that are generated, at most, if a chat does not say.
const USUAL_TOKENS: usize = 4096;

pub async fn chat(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, ApiError> {
    let chat: Chat = json::parse(&body)?;
    drop(body);
    let generation = chat.generation()?;
    app.check_model(chat.model.as_deref())?;
    let template = app.template.as_ref().ok_or(ApiError::NoTemplate)?;
    let text = template.render(chat.read(&app.tokenizer)?)?;
    let tokens = app
        .encoder
        .encode(&template.tokenizer, FIELD, text, false)
        .await?;
    let room = app.longest_sequence().saturating_sub(tokens.len());
    let top = chat.top();
    let job = Job {
        field: FIELD,
        prompts: vec![Prompt { tokens, echo: None }],
        tokens: chat.tokens().unwrap_or(room.min(USUAL_TOKENS)),
        score_prompt: false,
        top,
        generation,
    };
    let begun = vec![false; job.generation.choices];
    job.answer(Arc::clone(&app), Chats { top, begun }).await
}

/// Chat completions as JSON.
struct Chats {
    top: Option<usize>,
    /// Whether a choice's first part, which names the role, was sent.
    begun: Vec<bool>,
}

/// One answer with its `message`, or the next part of it, `delta`, in a stream.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ChatChoice {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required, with = "Answer")]
    message: Option<Answer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Answer>,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<FinishReason>,
}

/// A message of the model, or the next part of it.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    /// Always null, of a whole message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "()")]
    refusal: Option<()>,
}

/// Log-probabilities as chats have them.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ChatLogprobs {
    content: Vec<ChatToken>,
    /// Always null.
    refusal: (),
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ChatToken {
    #[serde(flatten)]
    token: ScoredToken,
    top_logprobs: Vec<ScoredToken>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ScoredToken {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
}

impl Form for Chats {
    const ID: &'static str = "chatcmpl";
    const OBJECT: &'static str = "chat.completion";
    const PART: &'static str = "chat.completion.chunk";
    type Choice = ChatChoice;

    fn choice(&mut self, app: &App, index: usize, piece: Piece, part: bool) -> ChatChoice {
        let logprobs = self.top.map(|top| ChatLogprobs {
            content: logprobs(app, top, &piece.tokens),
            refusal: (),
        });
        let begins = !std::mem::replace(&mut self.begun[index], true);
        let says = begins || !piece.text.is_empty() || piece.finish.is_none();
        let answer = Answer {
            role: begins.then_some(Role::Assistant),
            content: says.then_some(piece.text),
            refusal: (!part).then_some(()),
        };
        let (message, delta) = match part {
            false => (Some(answer), None),
            true => (None, Some(answer)),
        };
        ChatChoice {
            index,
            message,
            delta,
            logprobs,
            finish_reason: piece.finish,
        }
    }
}

fn logprobs(app: &App, top: usize, tokens: &[AnswerToken]) -> Vec<ChatToken> {
    let entry = |id: i32, ln_p: f64| {
        let (name, bytes) = app.spelling(id);
        ScoredToken {
            token: name.to_owned(),
            logprob: finite(ln_p),
            bytes: bytes.to_vec(),
        }
    };
    let scored = tokens
        .iter()
        .filter_map(|token| Some((token.id, token.score.as_ref()?)));
    let scored = scored.map(|(id, score)| {
        let top = score.top.iter().take(top);
        ChatToken {
            token: entry(id, score.ln_probability),
            top_logprobs: top.map(|(id, ln_p)| entry(*id, *ln_p)).collect(),
        }
    });
    scored.collect()
}
