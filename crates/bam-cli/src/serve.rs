//! `bam serve`: a model behind OpenAI's protocol, and a page to look into it.
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

use crate::args::ServeArgs;
use crate::{console, runs};
use anyhow::Context;
use axum::http::StatusCode;
use bam_lm::data::Tokenizer;
use bam_lm::model::ModelConfig;
use bam_lm::model::scheduler::{Event, Limits, Request, Scheduler};
use body::Bodies;
use chat::ChatTemplate;
use encode::Encoder;
use engine::Engine;
use error::ApiError;
use metrics::Metrics;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

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
        Scheduler::longest_row(&self.config, &self.limits)
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
            code: Some("context_length_exceeded"),
            ..ApiError::invalid("prompt", error.to_string())
        })
    }

    /// Text as the model's tokens, after the token that begins a document if wanted.
    async fn encode(&self, text: String, begin: bool) -> Result<Vec<i32>, ApiError> {
        self.encoder.encode(&self.tokenizer, text, begin).await
    }

    /// What happens next to a row.
    async fn next(&self, events: &mut UnboundedReceiver<Event>) -> Result<Event, ApiError> {
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

pub fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let api_key = api_key(args)?;
    let model = runs::load_model(&args.model)?;
    let tokenizer = runs::load_tokenizer(&args.model, &model)?;
    let config = model.config().clone();
    let limits = Limits {
        active: args.parallel as usize,
        cache_bytes: args.cache_memory,
        skipping: args.skip,
        horizons: match args.certified_cache {
            None => None,
            Some(epsilon) => {
                let longest = args.longest.tokens(config.train_length);
                Some(Arc::new(model.horizons(longest, epsilon)?))
            }
        },
    };
    let spell = tokenizer.stream_decoder();
    let spellings = (0..config.vocabulary as u32).map(|id| spell.spell(id).unwrap_or_default());
    let spellings: Vec<(String, Vec<u8>)> = spellings.collect();
    let longest_token = spellings.iter().map(|(_, bytes)| bytes.len()).max();
    let longest_token = longest_token.unwrap_or(0);
    let longest_row = Scheduler::longest_row(&config, &limits);
    drop(spell);
    let (engine, thread) = Engine::start(model, limits.clone(), args.queue as usize);
    let (over, told) = watch::channel(false);
    let app = App {
        name: match &args.name {
            Some(name) => name.clone(),
            None => folder_name(&args.model)?,
        },
        created: unix_seconds(),
        config,
        limits,
        template: ChatTemplate::find(&args.model, &tokenizer)?,
        tokenizer: Arc::new(tokenizer),
        spellings,
        engine: engine.clone(),
        metrics: Metrics::default(),
        api_key,
        cors: args.cors.clone(),
        bodies: Bodies::new(args.max_body),
        encoder: Encoder::new(longest_row, longest_token),
        loopback: args.listen.ip().to_canonical().is_loopback(),
        over: told,
    };
    if app.longest_row() == 0 {
        anyhow::bail!(
            "--cache-memory: expected room for a token, got {}",
            args.cache_memory
        );
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the server's threads")?
        .block_on(serve(app, over, args))?;
    engine.close();
    // Whoever is still waited for was told to go; the thread ends with the rows.
    let _ = thread.join();
    Ok(ExitCode::SUCCESS)
}

async fn serve(app: App, over: watch::Sender<bool>, args: &ServeArgs) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("--listen {}", args.listen))?;
    let address = listener.local_addr().context("the address")?;
    let mut out = std::io::stdout().lock();
    // Whoever starts the server by a program waits for this line.
    writeln!(
        out,
        "{} on http://{address}, contexts up to {} tokens",
        app.name,
        app.longest_row()
    )?;
    out.flush()?;
    drop(out);
    if !app.loopback && app.api_key.is_none() {
        console::note("anyone who reaches this address can use the server; see --api-key-file");
    }
    let (stop, stopped) = watch::channel(false);
    console::catch_interrupts();
    tokio::spawn(async move {
        while !console::interrupted() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        console::note("stopping: requests may finish; Ctrl-C again stops at once");
        let _ = stop.send(true);
    });
    let wait = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which is an end too.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let router = routes::router(Arc::new(app));
    let server = axum::serve(listener, router).with_graceful_shutdown(wait(stopped.clone()));
    let grace = async {
        wait(stopped).await;
        tokio::time::sleep(Duration::from_secs(args.grace)).await;
    };
    let mut server = std::pin::pin!(server.into_future());
    tokio::select! {
        ended = &mut server => ended.context("the server")?,
        () = grace => {
            console::note("some requests did not finish in time");
            let _ = over.send(true);
            // Who does not take the last words in time is left.
            let _ = tokio::time::timeout(LAST_WORDS, server).await;
        }
    }
    Ok(())
}

/// The folder's own name, also of `.` and `..`.
fn folder_name(dir: &Path) -> anyhow::Result<String> {
    let whole = dir
        .canonicalize()
        .with_context(|| format!("{}", dir.display()))?;
    let name = whole.file_name().unwrap_or_default();
    Ok(name.to_string_lossy().into_owned())
}

/// The key of a file or of the environment. Where there is one that no client could send, the server does
/// not start: it would be open, or closed to everybody.
fn api_key(args: &ServeArgs) -> anyhow::Result<Option<String>> {
    let (key, origin) = match &args.api_key_file {
        Some(file) => {
            let origin = file.display().to_string();
            (std::fs::read(file).with_context(|| origin.clone())?, origin)
        }
        None => match std::env::var_os("BAM_API_KEY") {
            Some(key) => (key.into_encoded_bytes(), "BAM_API_KEY".to_owned()),
            None => return Ok(None),
        },
    };
    // The key itself is not for messages.
    let Ok(key) = String::from_utf8(key) else {
        anyhow::bail!("{origin}: expected a key in UTF-8, got other bytes");
    };
    let key = key.trim();
    anyhow::ensure!(!key.is_empty(), "{origin}: expected a key, got none");
    anyhow::ensure!(
        !key.chars().any(char::is_control),
        "{origin}: expected a key of one line without control characters, got some"
    );
    Ok(Some(key.to_owned()))
}
