//! One answer: events of a row as pieces of text, with their tokens.

use super::App;
use super::error::ApiError;
use super::text::AnswerText;
use async_stream::stream;
use axum::http::StatusCode;
use bam_data::DataError;
use bam_lm::engine::scheduler::{Finish, SequenceEvent};
use bam_lm::model::TokenScore;
use futures_util::Stream;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::UnboundedReceiver;

/// A token of an answer or of its prompt.
#[derive(Clone, Debug)]
pub struct AnswerToken {
    pub id: i32,
    /// Characters of the answer's text before it.
    pub at: usize,
    /// None for the first token of a prompt, which nothing comes before, and where none was asked for.
    pub score: Option<TokenScore>,
}

/// A piece of an answer.
#[derive(Debug, Default)]
pub struct Piece {
    pub text: String,
    /// The tokens whose text this is, or what was said before.
    pub tokens: Vec<AnswerToken>,
    /// Tokens that were generated, also those of a stop string.
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
    mut events: UnboundedReceiver<SequenceEvent>,
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
        let before = question.echo.as_ref().map_or(0, |echo| echo.chars().count());
        let mut first = true;
        // Tokens wait for their text, which may turn out to be a stop string.
        let mut waiting = Vec::new();
        let mut generated = 0;
        loop {
            let event = match app.next(&mut events).await {
                Ok(event) => event,
                Err(error) => {
                    yield Err(error);
                    return;
                }
            };
            let (said, finish) = match event {
                SequenceEvent::Prompt { reused, scores, .. } => {
                    app.metrics.prompt(question.prompt.len(), reused);
                    if let Some(echo) = &question.echo {
                        yield said_again(&app, &question.prompt, echo, scores);
                    }
                    continue;
                }
                SequenceEvent::Token { id, score } => {
                    if std::mem::take(&mut first) {
                        app.metrics.first_token(begun.elapsed());
                    }
                    generated += 1;
                    waiting.push(AnswerToken { id, at: before + text.decoded(), score });
                    (text.push(id), None)
                }
                SequenceEvent::End(Finish::Failed(message)) => {
                    yield Err(ApiError::internal(message));
                    return;
                }
                SequenceEvent::End(Finish::End) => (Ok(text.finish()), Some("stop")),
                SequenceEvent::End(Finish::Length) => (Ok(text.finish()), Some("length")),
            };
            let finish = if text.is_stopped() { Some("stop") } else { finish };
            let said = match said {
                Ok(said) => said,
                Err(error) => {
                    yield Err(undecodable(&error));
                    return;
                }
            };
            let all = finish.is_some() && !text.is_stopped();
            let certain = waiting.partition_point(|token| all || text.has_said(token.at - before));
            if finish.is_some() || certain > 0 || !said.is_empty() {
                yield Ok(Piece {
                    text: said,
                    tokens: waiting.drain(..certain).collect(),
                    generated: std::mem::take(&mut generated),
                    finish,
                });
            }
            if finish.is_some() {
                app.metrics.finished(begun.elapsed());
                return;
            }
        }
    }
}

/// The prompt as the first piece of its answer.
fn said_again(
    app: &App,
    prompt: &[i32],
    echo: &str,
    scores: Vec<TokenScore>,
) -> Result<Piece, ApiError> {
    // Places are told beside scores, and nowhere else.
    let placed = !scores.is_empty();
    let scores = std::iter::once(None).chain(scores.into_iter().map(Some));
    let scores = scores.chain(std::iter::repeat(None));
    let most = echo.chars().count();
    let mut text = AnswerText::new(&app.tokenizer, &[]);
    let mut tokens = Vec::with_capacity(prompt.len());
    for (&id, score) in prompt.iter().zip(scores) {
        // Some tokenizers change a text, whose own words are said again.
        let at = text.decoded().min(most);
        tokens.push(AnswerToken { id, at, score });
        if placed {
            text.push(id).map_err(|error| undecodable(&error))?;
        }
    }
    Ok(Piece {
        text: echo.to_owned(),
        tokens,
        generated: 0,
        finish: None,
    })
}

fn undecodable(error: &DataError) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}
