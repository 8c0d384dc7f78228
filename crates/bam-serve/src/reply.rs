//! Answers as one JSON object or as server-sent events.

use super::App;
use super::answer::Piece;
use super::error::ApiError;
use super::request::Generation;
use async_stream::stream;
use axum::Json;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{Stream, StreamExt};
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::sync::Arc;

/// How an endpoint writes a choice.
pub trait Form: Send + 'static {
    /// A choice, whole or a part of it in a stream.
    fn choice(&mut self, app: &App, index: usize, piece: &Piece, part: bool) -> Value;
}

/// Tokens that were read and generated.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub prompt: usize,
    pub generated: usize,
}

impl Usage {
    fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.generated,
            "total_tokens": self.prompt + self.generated,
        })
    }
}

/// What all parts of a reply have in common.
pub struct Reply<F> {
    pub head: Map<String, Value>,
    pub usage: Usage,
    pub form: F,
}

/// Identity, kind, time and model of a reply.
pub fn head(app: &App, prefix: &str, object: &str) -> Map<String, Value> {
    let id = format!("{prefix}-{:032x}", rand::random::<u128>());
    let head = json!({
        "id": id,
        "object": object,
        "created": super::unix_seconds(),
        "model": app.name,
    });
    match head {
        Value::Object(head) => head,
        _ => Map::new(),
    }
}

/// JSON has no −∞.
pub fn finite(ln_p: f64) -> f64 {
    ln_p.max(-9999.0)
}

/// Sends answers as the client wants them.
pub async fn send<F: Form>(
    app: Arc<App>,
    mut reply: Reply<F>,
    answers: Vec<impl Stream<Item = Result<Piece, ApiError>> + Send + 'static>,
    generation: &Generation,
) -> Result<Response, ApiError> {
    if generation.stream {
        let events = events(app, reply, answers, generation.stream_usage);
        return Ok(Sse::new(events)
            .keep_alive(KeepAlive::default())
            .into_response());
    }
    let wholes = answers.into_iter().map(whole);
    let wholes = futures_util::future::try_join_all(wholes).await?;
    reply.usage.generated = wholes.iter().map(|piece| piece.generated).sum();
    let choices = wholes.iter().enumerate();
    let choices: Vec<Value> = choices
        .map(|(index, piece)| reply.form.choice(&app, index, piece, false))
        .collect();
    reply.head.insert("choices".into(), choices.into());
    reply.head.insert("usage".into(), reply.usage.json());
    Ok(Json(reply.head).into_response())
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
    mut reply: Reply<F>,
    answers: Vec<impl Stream<Item = Result<Piece, ApiError>> + Send + 'static>,
    with_usage: bool,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let numbered = answers.into_iter().enumerate();
    let mut pieces: SelectAll<Numbered> = numbered
        .map(|(index, answer)| answer.map(move |piece| (index, piece)).boxed())
        .collect();
    stream! {
        while let Some((index, piece)) = pieces.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    yield Ok(Event::default().data(error.json().to_string()));
                    yield Ok(Event::default().data("[DONE]"));
                    return;
                }
            };
            reply.usage.generated += piece.generated;
            let choice = reply.form.choice(&app, index, &piece, true);
            let mut part = reply.head.clone();
            part.insert("choices".into(), vec![choice].into());
            if with_usage {
                part.insert("usage".into(), Value::Null);
            }
            yield Ok(Event::default().data(Value::Object(part).to_string()));
        }
        if with_usage {
            let mut last = reply.head.clone();
            last.insert("choices".into(), Value::Array(Vec::new()));
            last.insert("usage".into(), reply.usage.json());
            yield Ok(Event::default().data(Value::Object(last).to_string()));
        }
        yield Ok(Event::default().data("[DONE]"));
    }
}
