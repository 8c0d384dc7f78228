//! The one way from prompts to answers, of completions and of chats.

use super::answer::{Question, pieces};
use super::app::App;
use super::error::ApiError;
use super::reply::{Form, send};
use super::request::Generation;
use axum::response::Response;
use bam_lm::engine::scheduler::{Generate, Request};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A prompt as tokens.
pub struct Prompt {
    pub tokens: Vec<i32>,
    /// Its text, where the answer says it again.
    pub echo: Option<String>,
}

/// Prompts, and the wishes for all their answers.
pub struct Job {
    /// The field of the request that the prompts are of.
    pub field: &'static str,
    pub prompts: Vec<Prompt>,
    /// Tokens to generate, at most.
    pub tokens: usize,
    pub score_prompt: bool,
    /// The number of most probable tokens that are named, where log-probabilities are wanted.
    pub top: Option<usize>,
    pub generation: Generation,
}

impl Job {
    /// Answers the prompts, choices of a prompt side by side.
    pub async fn answer<F: Form>(self, app: Arc<App>, form: F) -> Result<Response, ApiError> {
        let generation = self.generation;
        let stops = app.check_tokens("stop_token_ids", &generation.stop_tokens)?;
        let own = app.tokenizer.special().ends.iter().map(|id| *id as i32);
        let ends: BTreeSet<i32> = own.chain(stops).collect();
        let ends: Arc<[i32]> = ends.into_iter().collect();
        let prompt_tokens = self.prompts.iter().map(|prompt| prompt.tokens.len()).sum();
        let (mut questions, mut sequences) = (Vec::new(), Vec::new());
        for prompt in self.prompts {
            let question = Question {
                prompt: prompt.tokens.into(),
                echo: prompt.echo.map(Into::into),
                stops: Arc::clone(&generation.stops),
                ends: Arc::clone(&ends),
            };
            for choice in 0..generation.choices {
                sequences.push(Request::Generate(Generate {
                    prompt: question.prompt.to_vec(),
                    max_tokens: self.tokens,
                    sampling: generation.sampling(choice),
                    ends: Arc::clone(&ends),
                    score_prompt: self.score_prompt,
                    top: self.top,
                }));
                questions.push(question.clone());
            }
        }
        let events = app.submit(self.field, sequences)?;
        let answers = questions.into_iter().zip(events);
        let answers = answers.map(|(question, events)| pieces(Arc::clone(&app), question, events));
        send(&app, form, prompt_tokens, answers.collect(), &generation).await
    }
}
