//! One answer: events of a sequence as pieces of text, with their tokens.

use super::app::App;
use super::error::ApiError;
use super::text::AnswerText;
use async_stream::try_stream;
use bam_lm::engine::scheduler::{Finish, SequenceEvent};
use bam_lm::model::TokenScore;
use futures_util::Stream;
use schemars::JsonSchema;
use serde::Serialize;
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
    /// The reason, if the answer ends here.
    pub finish: Option<FinishReason>,
}

/// The reason that an answer ended for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    Stop,
    Length,
}

/// A prompt, and where its answer ends.
#[derive(Clone, Debug)]
pub struct Question {
    pub prompt: Arc<[i32]>,
    /// The prompt's text, where it is said again.
    pub echo: Option<Arc<str>>,
    pub stops: Arc<[String]>,
    /// Tokens that end it, and are no part of its text.
    pub ends: Arc<[i32]>,
}

/// The pieces of an answer as they come; after an error, nothing more.
pub fn pieces(
    app: Arc<App>,
    question: Question,
    mut events: UnboundedReceiver<SequenceEvent>,
) -> impl Stream<Item = Result<Piece, ApiError>> + Send {
    let begun = Instant::now();
    try_stream! {
        let text = AnswerText::new(&app.tokenizer, &question.stops);
        let mut text = text.after(&question.prompt).map_err(ApiError::failed)?;
        let before = question.echo.as_ref().map_or(0, |echo| echo.chars().count());
        let mut first = true;
        // Tokens wait for their text, which may turn out to be a stop string.
        let mut waiting = Vec::new();
        let mut generated = 0;
        loop {
            let (said, finish) = match app.next(&mut events).await? {
                SequenceEvent::Prompt { reused, scores, .. } => {
                    app.metrics.prompt(question.prompt.len(), reused);
                    if let Some(echo) = &question.echo {
                        yield said_again(&app, &question.prompt, echo, scores)?;
                    }
                    continue;
                }
                SequenceEvent::Token { id, score } => {
                    if std::mem::take(&mut first) {
                        app.metrics.first_token(begun.elapsed());
                    }
                    generated += 1;
                    waiting.push(AnswerToken { id, at: before + text.decoded(), score });
                    let said = match question.ends.contains(&id) {
                        true => String::new(),
                        false => text.push(id).map_err(ApiError::failed)?,
                    };
                    (said, None)
                }
                SequenceEvent::End(Finish::Failed(message)) => Err(ApiError::failed(message))?,
                SequenceEvent::End(Finish::End) => (text.finish(), Some(FinishReason::Stop)),
                SequenceEvent::End(Finish::Length) => (text.finish(), Some(FinishReason::Length)),
            };
            let finish = if text.is_stopped() { Some(FinishReason::Stop) } else { finish };
            let all = finish.is_some() && !text.is_stopped();
            let certain = waiting.partition_point(|token| all || text.has_said(token.at - before));
            if finish.is_some() || certain > 0 || !said.is_empty() {
                yield Piece {
                    text: said,
                    tokens: waiting.drain(..certain).collect(),
                    generated: std::mem::take(&mut generated),
                    finish,
                };
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
            text.push(id).map_err(ApiError::failed)?;
        }
    }
    Ok(Piece {
        text: echo.to_owned(),
        tokens,
        generated: 0,
        finish: None,
    })
}
