//! One answer: events of a row as pieces of text, with their tokens.

use super::App;
use super::error::ApiError;
use super::text::AnswerText;
use async_stream::stream;
use axum::http::StatusCode;
use bam_lm::data::DataError;
use bam_lm::model::TokenScore;
use bam_lm::model::scheduler::{Event, Finish};
use futures_util::Stream;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedReceiver;

/// A token of an answer or of its prompt.
#[derive(Clone, Debug)]
pub struct AnswerToken {
    pub id: i32,
    /// None for the first token of a prompt, which nothing comes before, and where none was asked for.
    pub score: Option<TokenScore>,
}

/// A piece of an answer.
#[derive(Debug, Default)]
pub struct Piece {
    pub text: String,
    pub tokens: Vec<AnswerToken>,
    /// Tokens of the answer, without those of the prompt.
    pub generated: usize,
    /// Why the answer ends here, if it does.
    pub finish: Option<&'static str>,
}

/// What an answer follows, and where it ends.
#[derive(Clone, Debug)]
pub struct Question {
    pub prompt: Arc<[i32]>,
    /// The prompt's text, where it is said again.
    pub echo: Option<Arc<str>>,
    pub stops: Arc<[String]>,
}

/// The pieces of an answer as they come; after an error, nothing more.
pub fn pieces(
    app: Arc<App>,
    question: Question,
    mut events: UnboundedReceiver<Event>,
) -> impl Stream<Item = Result<Piece, ApiError>> + Send {
    let begun = Instant::now();
    stream! {
        let mut text = match AnswerText::new(&app.tokenizer, &question.stops).after(&question.prompt) {
            Ok(text) => text,
            Err(error) => {
                yield Err(undecodable(&error));
                return;
            }
        };
        let mut first = true;
        while let Some(event) = events.recv().await {
            match event {
                Event::Prompt { reused, scores, .. } => {
                    app.metrics.prompt(question.prompt.len(), reused);
                    if let Some(echo) = &question.echo {
                        yield Ok(said_again(&question.prompt, echo, scores));
                    }
                }
                Event::Token { id, score } => {
                    if std::mem::take(&mut first) {
                        app.metrics.first_token(begun.elapsed());
                    }
                    match text.push(id) {
                        Ok(text) => yield Ok(Piece {
                            text,
                            tokens: vec![AnswerToken { id, score }],
                            generated: 1,
                            finish: None,
                        }),
                        Err(error) => {
                            yield Err(undecodable(&error));
                            return;
                        }
                    }
                    if text.is_stopped() {
                        app.metrics.finished(begun.elapsed());
                        yield Ok(end(String::new(), "stop"));
                        return;
                    }
                }
                Event::End(finish) => {
                    let rest = text.finish();
                    let why = match finish {
                        _ if text.is_stopped() => "stop",
                        Finish::End => "stop",
                        Finish::Length => "length",
                        Finish::Failed(message) => {
                            yield Err(ApiError::internal(message));
                            return;
                        }
                    };
                    app.metrics.finished(begun.elapsed());
                    yield Ok(end(rest, why));
                    return;
                }
            }
        }
        yield Err(ApiError::internal("the model failed; the server goes on"));
    }
}

fn end(text: String, why: &'static str) -> Piece {
    Piece {
        text,
        finish: Some(why),
        ..Piece::default()
    }
}

/// The prompt as the first piece of its answer.
fn said_again(prompt: &[i32], echo: &str, scores: Vec<TokenScore>) -> Piece {
    let scores = std::iter::once(None).chain(scores.into_iter().map(Some));
    let scores = scores.chain(std::iter::repeat(None));
    let tokens = prompt.iter().zip(scores);
    Piece {
        text: echo.to_owned(),
        tokens: tokens
            .map(|(id, score)| AnswerToken { id: *id, score })
            .collect(),
        generated: 0,
        finish: None,
    }
}

fn undecodable(error: &DataError) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}
