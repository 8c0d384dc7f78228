//! `/v1/completions`.

use super::answer::{AnswerToken, FinishReason, Piece};
use super::app::App;
use super::error::ApiError;
use super::generate::{Job, Prompt};
use super::json;
use super::prompts::Prompts;
use super::reply::{Form, finite};
use super::request::{Completion, USUAL_TOKENS};
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

const FIELD: &str = "prompt";

pub async fn completions(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, ApiError> {
    let completion: Completion = json::parse(&body)?;
    drop(body);
    let generation = completion.generation()?;
    app.check_model(completion.model.as_deref())?;
    let (count, most) = (
        completion.prompt.count() * generation.choices,
        app.engine.most(),
    );
    if count > most {
        let expected = format!("at most {most} prompts times n");
        return Err(ApiError::expected(FIELD, &expected, count));
    }
    let echo = completion.echo.unwrap_or(false);
    let top = completion.logprobs.map(json::Whole::count);
    let begin = completion.add_special_tokens.unwrap_or(true);
    let job = Job {
        field: FIELD,
        prompts: prompts(&app, completion.prompt, echo, begin).await?,
        tokens: completion
            .max_tokens
            .map_or(USUAL_TOKENS, json::Whole::count),
        score_prompt: echo && top.is_some(),
        top,
        generation,
    };
    let token_ids = completion.return_token_ids.unwrap_or(false);
    job.answer(app, Completions { top, token_ids }).await
}

async fn prompts(
    app: &App,
    prompts: Prompts,
    echo: bool,
    begin: bool,
) -> Result<Vec<Prompt>, ApiError> {
    let nothing = || ApiError::expected(FIELD, "at least one token", "none");
    let mut all = Vec::with_capacity(prompts.count());
    match prompts {
        Prompts::Tokens(prompts) => {
            for tokens in prompts {
                let tokens = app.check_tokens(FIELD, &tokens)?;
                if tokens.is_empty() {
                    return Err(nothing());
                }
                let echo = echo.then(|| app.decode(FIELD, &tokens)).transpose()?;
                all.push(Prompt { tokens, echo });
            }
        }
        Prompts::Texts(texts) => {
            for text in texts {
                let echo = echo.then(|| text.clone());
                let mut tokens = app
                    .encoder
                    .encode(&app.tokenizer, FIELD, text, begin)
                    .await?;
                if tokens.is_empty() {
                    // Nothing is the beginning of a document.
                    tokens.push(app.tokenizer.nothing().ok_or_else(nothing)? as i32);
                }
                all.push(Prompt { tokens, echo });
            }
        }
    }
    Ok(all)
}

/// Completions as JSON.
struct Completions {
    /// The number of most probable tokens that are named, where log-probabilities are wanted.
    top: Option<usize>,
    token_ids: bool,
}

/// One answer, or the next part of it in a stream.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CompletionChoice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<FinishReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<i32>>,
}

/// Log-probabilities as completions have them: lists with an element for each token.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f64>>,
    top_logprobs: Vec<Option<BTreeMap<String, f64>>>,
    /// Characters of the text before each token.
    text_offset: Vec<usize>,
}

impl Form for Completions {
    const ID: &'static str = "cmpl";
    const OBJECT: &'static str = "text_completion";
    const PART: &'static str = Self::OBJECT;
    type Choice = CompletionChoice;

    fn choice(&mut self, app: &App, index: usize, piece: Piece, _: bool) -> CompletionChoice {
        let ids = || piece.tokens.iter().map(|token| token.id).collect();
        CompletionChoice {
            index,
            logprobs: self.top.map(|top| logprobs(app, top, &piece.tokens)),
            finish_reason: piece.finish,
            token_ids: self.token_ids.then(ids),
            text: piece.text,
        }
    }
}

fn logprobs(app: &App, top: usize, tokens: &[AnswerToken]) -> CompletionLogprobs {
    let mut all = CompletionLogprobs::default();
    let name = |id| app.spelling(id).0.to_owned();
    for token in tokens {
        let score = token.score.as_ref();
        let own = score.map(|score| finite(score.ln_probability));
        all.tokens.push(name(token.id));
        all.text_offset.push(token.at);
        all.token_logprobs.push(own);
        all.top_logprobs.push(score.map(|score| {
            let top = score.top.iter().take(top);
            let top = top.map(|(id, ln_p)| (name(*id), finite(*ln_p)));
            let mut likeliest = BTreeMap::new();
            // Of tokens of one name, such as ids without one, the likeliest is told.
            for (name, ln_p) in top.chain(own.map(|own| (name(token.id), own))) {
                let told = likeliest.entry(name).or_insert(ln_p);
                *told = ln_p.max(*told);
            }
            likeliest
        }));
    }
    all
}
