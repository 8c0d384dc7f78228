//! `/v1/completions`.

use super::answer::{AnswerToken, Piece, Question, pieces};
use super::error::ApiError;
use super::reply::{Reply, Usage};
use super::request::{Completion, Prompts};
use super::{App, reply};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use bam_lm::engine::scheduler::{Generate, Request};
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub async fn completions(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, ApiError> {
    let completion = Completion::parse(&body)?;
    drop(body);
    app.check_model(completion.model.as_deref())?;
    let rows = completion.prompts.count() * completion.generation.choices;
    if rows > app.engine.most_rows() {
        let expected = format!("at most {} prompts times n", app.engine.most_rows());
        return Err(ApiError::expected("prompt", &expected, rows));
    }
    let questions = questions(&app, &completion).await?;
    let generation = &completion.generation;
    let mut requests = Vec::new();
    for (index, question) in questions.iter().enumerate() {
        let sampling = generation.sampling(index % generation.choices);
        let request = Request::Generate(Generate {
            prompt: question.prompt.to_vec(),
            max_tokens: completion.tokens,
            sampling,
            end: app.tokenizer.eos().map(|id| id as i32),
            score_prompt: completion.echo && completion.logprobs.is_some(),
            top: completion.logprobs,
        });
        app.check_request(&request)?;
        requests.push(request);
    }
    let prompt_tokens = questions
        .iter()
        .step_by(generation.choices)
        .map(|question| question.prompt.len())
        .sum();
    let events = app.engine.submit(requests)?;
    let answers = questions
        .into_iter()
        .zip(events)
        .map(|(question, events)| pieces(Arc::clone(&app), question, events))
        .collect();
    let usage = Usage {
        prompt: prompt_tokens,
        generated: 0,
    };
    let form = Form {
        top: completion.logprobs,
        token_ids: completion.token_ids,
    };
    let head = reply::head(&app, "cmpl", "text_completion");
    reply::send(
        app,
        Reply { head, usage, form },
        answers,
        &completion.generation,
    )
    .await
}

/// A question per choice, choices of a prompt side by side.
async fn questions(app: &Arc<App>, completion: &Completion) -> Result<Vec<Question>, ApiError> {
    let prompts: Vec<(Vec<i32>, String)> = match &completion.prompts {
        Prompts::Tokens(rows) => {
            let mut prompts = Vec::new();
            for row in rows {
                let tokens = app.check_tokens("prompt", row)?;
                let text = match completion.echo {
                    true => app.decode(&tokens)?,
                    false => String::new(),
                };
                prompts.push((tokens, text));
            }
            prompts
        }
        Prompts::Texts(texts) => {
            let mut prompts = Vec::new();
            for text in texts {
                prompts.push((
                    app.encode(text.clone(), completion.begin).await?,
                    text.clone(),
                ));
            }
            prompts
        }
    };
    let stops: Arc<[String]> = completion.generation.stops.clone().into();
    let mut questions = Vec::new();
    for (mut tokens, text) in prompts {
        if tokens.is_empty() {
            // Nothing is the beginning of a document.
            let begin = app.tokenizer.bos().or(app.tokenizer.eos());
            let begin = begin.filter(|_| matches!(completion.prompts, Prompts::Texts(_)));
            let none = || ApiError::expected("prompt", "at least one token", "none");
            tokens.push(begin.ok_or_else(none)? as i32);
        }
        let question = Question {
            prompt: tokens.into(),
            echo: completion.echo.then(|| text.into()),
            stops: Arc::clone(&stops),
        };
        questions.extend(std::iter::repeat_n(question, completion.generation.choices));
    }
    Ok(questions)
}

/// Completions as JSON.
struct Form {
    /// The most probable tokens that are named, where log-probabilities are wanted.
    top: Option<usize>,
    token_ids: bool,
}

impl reply::Form for Form {
    fn choice(&mut self, app: &App, index: usize, piece: &Piece, _: bool) -> Value {
        let logprobs = self
            .top
            .map_or(Value::Null, |top| logprobs(app, top, &piece.tokens));
        let mut choice = json!({
            "index": index,
            "text": piece.text,
            "logprobs": logprobs,
            "finish_reason": piece.finish,
        });
        if self.token_ids {
            choice["token_ids"] = piece.tokens.iter().map(|token| token.id).collect();
        }
        choice
    }
}

/// Log-probabilities as completions have them.
fn logprobs(app: &App, top: usize, tokens: &[AnswerToken]) -> Value {
    let mut names = Vec::new();
    let (mut of_tokens, mut of_top, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    for token in tokens {
        let name = app.spelling(token.id).0;
        offsets.push(token.at);
        of_tokens.push(
            token
                .score
                .as_ref()
                .map(|s| reply::finite(s.ln_probability)),
        );
        of_top.push(token.score.as_ref().map(|score| {
            let mut map: Map<String, Value> = score
                .top
                .iter()
                .take(top)
                .map(|(id, ln_p)| (app.spelling(*id).0.to_owned(), reply::finite(*ln_p).into()))
                .collect();
            map.insert(name.to_owned(), reply::finite(score.ln_probability).into());
            map
        }));
        names.push(name);
    }
    json!({
        "tokens": names,
        "token_logprobs": of_tokens,
        "top_logprobs": of_top,
        "text_offset": offsets,
    })
}

impl App {
    /// Tokens that a field of a request names, as the model's.
    pub fn check_tokens(&self, field: &'static str, row: &[i64]) -> Result<Vec<i32>, ApiError> {
        let vocabulary = self.config.vocabulary;
        row.iter()
            .map(|&id| match usize::try_from(id) {
                Ok(token) if token < vocabulary => Ok(id as i32),
                _ => Err(ApiError::expected(
                    field,
                    &format!("token ids from 0 to {}", vocabulary - 1),
                    id,
                )),
            })
            .collect()
    }

    pub fn decode(&self, tokens: &[i32]) -> Result<String, ApiError> {
        let known: Vec<u32> = tokens.iter().map(|id| *id as u32).collect();
        self.tokenizer
            .decode(&known)
            .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, error.to_string()))
    }
}
