//! A model behind OpenAI's protocol, and a page to look into it.
//!
//! ```text
//! routes ─ request ─→ engine ═ thread: Scheduler (bam-lm) ═→ events
//!                                                             │
//!          reply  ←─ completion, chat ←─ answer (text) ←──────┘
//! ```
//!
//! Requests are parsed into rows, the one thread that has the model works on all rows at once, and what
//! happens to a row comes back as events. A client that leaves drops its end of the events, and the row
//! is given up.

#![forbid(unsafe_code)]

mod answer;
mod body;
mod chat;
mod completion;
mod encode;
mod engine;
mod error;
mod metrics;
mod page;
mod reply;
mod request;
mod routes;
mod text;

use axum::http::StatusCode;
use bam_data::Tokenizer;
use bam_lm::engine::scheduler::{Limits, Request, Scheduler, SequenceEvent};
use bam_lm::model::{ModelConfig, Transformer};
use body::Bodies;
pub use chat::ChatTemplate;
use encode::Encoder;
use engine::Engine;
use error::ApiError;
pub use error::ServeError;
use metrics::Metrics;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

/// The choices of whoever starts a server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What clients call the model.
    pub name: String,
    /// How many rows are worked on, and in how much memory.
    pub limits: Limits,
    /// Rows that may wait; more are refused with 429.
    pub queue: usize,
    /// The largest request body, in bytes.
    pub max_body: usize,
    /// The key that clients must send, where there is one.
    pub api_key: Option<String>,
    /// Origins of pages that are let in; `*` is any.
    pub cors: Vec<String>,
    /// What requests have to finish in once the server is asked to stop.
    pub grace: Duration,
}

/// A notice for whoever watches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Asked to stop: requests that run may finish.
    Stopping,
    /// Some requests did not finish within [`Settings::grace`].
    Unfinished,
}

/// What all requests share.
struct App {
    name: String,
    created: u64,
    config: ModelConfig,
    limits: Limits,
    tokenizer: Arc<Tokenizer>,
    /// The text of every token of the model, and its bytes.
    spellings: Vec<(String, Vec<u8>)>,
    template: Option<ChatTemplate>,
    engine: Engine,
    metrics: Metrics,
    api_key: Option<String>,
    /// Origins that are let in; `*` is any.
    cors: Vec<String>,
    bodies: Bodies,
    encoder: Encoder,
    /// Whether only this machine can reach the server.
    loopback: bool,
    /// Turns true when requests had their time after the server was asked to stop.
    over: watch::Receiver<bool>,
}

/// For the last words of answers that were cut.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl App {
    fn longest_row(&self) -> usize {
        Scheduler::longest_sequence(&self.config, &self.limits)
    }

    /// A request that names a model means this one.
    fn check_model(&self, name: Option<&str>) -> Result<(), ApiError> {
        match name {
            Some(other) if other != self.name => {
                let other: String = other.chars().take(100).collect();
                Err(ApiError {
                    param: Some("model"),
                    code: Some("model_not_found"),
                    ..ApiError::new(
                        StatusCode::NOT_FOUND,
                        format!("model: expected {}, got {other}", self.name),
                    )
                })
            }
            _ => Ok(()),
        }
    }

    fn check_request(&self, request: &Request) -> Result<(), ApiError> {
        let checked = Scheduler::check(&self.config, &self.limits, request);
        checked.map_err(|error| ApiError {
            code: matches!(error, bam_lm::Error::TooLong { .. })
                .then_some("context_length_exceeded"),
            ..ApiError::invalid("prompt", error.to_string())
        })
    }

    /// Text as the model's tokens, after the token that begins a document if wanted.
    async fn encode(&self, text: String, begin: bool) -> Result<Vec<i32>, ApiError> {
        self.encoder.encode(&self.tokenizer, text, begin).await
    }

    /// What happens next to a row.
    async fn next(
        &self,
        events: &mut UnboundedReceiver<SequenceEvent>,
    ) -> Result<SequenceEvent, ApiError> {
        let mut over = self.over.clone();
        tokio::select! {
            event = events.recv() => {
                event.ok_or_else(|| ApiError::internal("the model failed; the server goes on"))
            }
            _ = over.wait_for(|over| *over) => Err(ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the server stopped before the answer's end",
            )),
        }
    }

    /// The text of a token by itself, and its bytes.
    fn spelling(&self, token: i32) -> (&str, &[u8]) {
        let at = usize::try_from(token).unwrap_or(usize::MAX);
        let there = self.spellings.get(at);
        there.map_or(("", &[]), |(name, bytes)| (name, bytes))
    }
}

fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Serves `model` on `listener` until `stop` is done, and then for as long as requests that run need, at
/// most [`Settings::grace`].
///
/// # Errors
/// If the listener or the server's threads can't be used.
pub fn run(
    model: Transformer,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    settings: Settings,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
    notify: impl Fn(Notice) + Send + Sync + 'static,
) -> Result<(), ServeError> {
    let config = model.config().clone();
    let spell = tokenizer.stream_decoder();
    let spellings = (0..config.vocabulary as u32).map(|id| spell.spell(id).unwrap_or_default());
    let spellings: Vec<(String, Vec<u8>)> = spellings.collect();
    let longest_token = spellings.iter().map(|(_, bytes)| bytes.len()).max();
    let longest_row = Scheduler::longest_sequence(&config, &settings.limits);
    drop(spell);
    let address = listener
        .local_addr()
        .map_err(ServeError::io("the address"))?;
    let (engine, thread) = Engine::start(model, settings.limits.clone(), settings.queue);
    let (over, told) = watch::channel(false);
    let app = App {
        name: settings.name,
        created: unix_seconds(),
        config,
        limits: settings.limits,
        template,
        tokenizer: Arc::new(tokenizer),
        spellings,
        engine: engine.clone(),
        metrics: Metrics::default(),
        api_key: settings.api_key,
        cors: settings.cors,
        bodies: Bodies::new(settings.max_body),
        encoder: Encoder::new(longest_row, longest_token.unwrap_or(0)),
        loopback: address.ip().to_canonical().is_loopback(),
        over: told,
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(ServeError::io("the server's threads"))?
        .block_on(serve(app, over, listener, settings.grace, stop, notify))?;
    engine.close();
    // Whoever is still waited for was told to go; the thread ends with the rows.
    let _ = thread.join();
    Ok(())
}

async fn serve(
    app: App,
    over: watch::Sender<bool>,
    listener: TcpListener,
    grace: Duration,
    stop: impl Future<Output = ()> + Send + 'static,
    notify: impl Fn(Notice) + Send + Sync + 'static,
) -> Result<(), ServeError> {
    let failed = ServeError::io;
    listener
        .set_nonblocking(true)
        .map_err(failed("the listener"))?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(failed("the listener"))?;
    let (stopping, stopped) = watch::channel(false);
    let notify = Arc::new(notify);
    let notify_stop = Arc::clone(&notify);
    tokio::spawn(async move {
        stop.await;
        notify_stop(Notice::Stopping);
        let _ = stopping.send(true);
    });
    let wait = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which is an end too.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let router = routes::router(Arc::new(app));
    let server = axum::serve(listener, router).with_graceful_shutdown(wait(stopped.clone()));
    let patience = async {
        wait(stopped).await;
        tokio::time::sleep(grace).await;
    };
    let mut server = std::pin::pin!(server.into_future());
    tokio::select! {
        ended = &mut server => ended.map_err(failed("the server"))?,
        () = patience => {
            notify(Notice::Unfinished);
            let _ = over.send(true);
            // Who does not take the last words in time is left.
            let _ = tokio::time::timeout(LAST_WORDS, server).await;
        }
    }
    Ok(())
}
