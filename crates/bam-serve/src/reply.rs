//! Answers as one JSON object or as server-sent events.

use super::answer::Piece;
use super::app::{App, unix_seconds};
use super::error::ApiError;
use super::request::Generation;
use async_stream::stream;
use axum::Json;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{Stream, StreamExt};
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// An endpoint's way to write answers.
pub trait Form: Send + 'static {
    /// The beginning of a reply's identity.
    const ID: &'static str;
    /// The kind of a whole reply.
    const OBJECT: &'static str;
    /// The kind of a part of one, in a stream.
    const PART: &'static str;
    type Choice: Serialize + Clone + Send;

    /// A choice, whole or a part of it in a stream.
    fn choice(&mut self, app: &App, index: usize, piece: Piece, part: bool) -> Self::Choice;
}

/// An answer to every choice, or the next part of one in a stream.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Reply<C> {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<C>,
    /// Null in a stream's parts but the last, if it was asked for there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required, with = "Usage")]
    usage: Option<Option<Usage>>,
}

/// Tokens that were read and generated.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
        }
    }
}

/// JSON has no −∞.
pub fn finite(ln_p: f64) -> f64 {
    ln_p.max(-9999.0)
}

/// Sends answers as the client wants them.
pub async fn send<F: Form>(
    app: &Arc<App>,
    mut form: F,
    prompt_tokens: usize,
    answers: Vec<impl Stream<Item = Result<Piece, ApiError>> + Send + 'static>,
    generation: &Generation,
) -> Result<Response, ApiError> {
    let mut reply = Reply {
        id: format!("{}-{:032x}", F::ID, rand::random::<u128>()),
        object: if generation.stream {
            F::PART
        } else {
            F::OBJECT
        },
        created: unix_seconds(),
        model: app.settings.name.clone(),
        choices: Vec::new(),
        usage: None,
    };
    if generation.stream {
        let app = Arc::clone(app);
        let events = events(
            app,
            reply,
            form,
            prompt_tokens,
            answers,
            generation.stream_usage,
        );
        let events = Sse::new(events).keep_alive(KeepAlive::default());
        return Ok(events.into_response());
    }
    let wholes = futures_util::future::try_join_all(answers.into_iter().map(whole)).await?;
    let generated = wholes.iter().map(|piece| piece.generated).sum();
    let wholes = wholes.into_iter().enumerate();
    let choices = wholes.map(|(index, piece)| form.choice(app, index, piece, false));
    reply.choices = choices.collect();
    reply.usage = Some(Some(Usage::new(prompt_tokens, generated)));
    Ok(Json(reply).into_response())
}

/// All pieces of an answer as one.
async fn whole(pieces: impl Stream<Item = Result<Piece, ApiError>>) -> Result<Piece, ApiError> {
    let mut whole = Piece::default();
    let mut pieces = std::pin::pin!(pieces);
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        whole.text += &piece.text;
        whole.tokens.extend(piece.tokens);
        whole.generated += piece.generated;
        whole.finish = piece.finish;
    }
    Ok(whole)
}

type Numbered = BoxStream<'static, (usize, Result<Piece, ApiError>)>;

fn events<F: Form>(
    app: Arc<App>,
    head: Reply<F::Choice>,
    mut form: F,
    prompt_tokens: usize,
    answers: Vec<impl Stream<Item = Result<Piece, ApiError>> + Send + 'static>,
    with_usage: bool,
) -> impl Stream<Item = Result<Event, axum::Error>> {
    let numbered = answers.into_iter().enumerate();
    let mut pieces: SelectAll<Numbered> = numbered
        .map(|(index, answer)| answer.map(move |piece| (index, piece)).boxed())
        .collect();
    let part = move |choices, usage: Option<Usage>| Reply {
        choices,
        usage: with_usage.then_some(usage),
        ..head.clone()
    };
    stream! {
        let mut generated = 0;
        while let Some((index, piece)) = pieces.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    yield Event::default().json_data(error.body());
                    yield Ok(Event::default().data("[DONE]"));
                    return;
                }
            };
            generated += piece.generated;
            let choice = form.choice(&app, index, piece, true);
            yield Event::default().json_data(part(vec![choice], None));
        }
        if with_usage {
            let usage = Usage::new(prompt_tokens, generated);
            yield Event::default().json_data(part(Vec::new(), Some(usage)));
        }
        yield Ok(Event::default().data("[DONE]"));
    }
}
