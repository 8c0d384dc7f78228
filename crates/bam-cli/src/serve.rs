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
use axum::http::HeaderValue;
use axum::http::StatusCode;
use bam_lm::data::Tokenizer;
use bam_lm::model::ModelConfig;
use bam_lm::model::scheduler::{Limits, Request, Scheduler};
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

/// What all requests share.
struct App {
    name: String,
    created: u64,
    config: ModelConfig,
    limits: Limits,
    tokenizer: Arc<Tokenizer>,
    /// The text of every token of the model.
    spellings: Vec<String>,
    template: Option<ChatTemplate>,
    engine: Engine,
    metrics: Metrics,
    api_key: Option<String>,
    cors: Vec<HeaderValue>,
    bodies: Bodies,
    encoder: Encoder,
    /// Whether only this machine can reach the server.
    loopback: bool,
}

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

    fn spelling(&self, token: i32) -> &str {
        let at = usize::try_from(token).unwrap_or(usize::MAX);
        self.spellings.get(at).map_or("", String::as_str)
    }
}

fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

pub fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let model = runs::load_model(&args.model)?;
    let tokenizer = runs::load_tokenizer(&args.model, &model)?;
    let config = model.config().clone();
    let limits = Limits {
        active: args.parallel as usize,
        cache_bytes: args.cache_memory,
        skipping: args.skip,
        horizons: match args.certified_cache {
            None => None,
            Some(epsilon) => Some(Arc::new(model.horizons(args.longest, epsilon)?)),
        },
    };
    let spell = tokenizer.stream_decoder();
    let spellings = (0..config.vocabulary as u32).map(|id| spell.spell(id).unwrap_or_default());
    let spellings: Vec<String> = spellings.collect();
    let longest_token = spellings.iter().map(String::len).max().unwrap_or(0);
    let longest_row = Scheduler::longest_row(&config, &limits);
    drop(spell);
    let (engine, thread) = Engine::start(model, limits.clone(), args.queue as usize);
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
        api_key: api_key(args)?,
        cors: args
            .cors
            .iter()
            .map(|origin| origin.parse().with_context(|| format!("--cors {origin}")))
            .collect::<anyhow::Result<_>>()?,
        bodies: Bodies::new(args.max_body),
        encoder: Encoder::new(longest_row, longest_token),
        loopback: args.listen.ip().is_loopback(),
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
        .block_on(serve(app, args))?;
    engine.close();
    // Whoever is still waited for was told to go; the thread ends with the rows.
    let _ = thread.join();
    Ok(ExitCode::SUCCESS)
}

async fn serve(app: App, args: &ServeArgs) -> anyhow::Result<()> {
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
    let (stop, stopped) = tokio::sync::watch::channel(false);
    console::catch_interrupts();
    tokio::spawn(async move {
        while !console::interrupted() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        console::note("stopping: requests may finish; Ctrl-C again stops at once");
        let _ = stop.send(true);
    });
    let wait = |mut stopped: tokio::sync::watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which is an end too.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let router = routes::router(Arc::new(app));
    let server = axum::serve(listener, router).with_graceful_shutdown(wait(stopped.clone()));
    let grace = async {
        wait(stopped).await;
        tokio::time::sleep(Duration::from_secs(args.grace)).await;
    };
    tokio::select! {
        ended = server => ended.context("the server")?,
        () = grace => console::note("some requests did not finish in time"),
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

fn api_key(args: &ServeArgs) -> anyhow::Result<Option<String>> {
    let key = match &args.api_key_file {
        Some(file) => {
            std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?
        }
        None => match std::env::var("BAM_API_KEY") {
            Ok(key) => key,
            Err(_) => return Ok(None),
        },
    };
    let key = key.trim();
    anyhow::ensure!(!key.is_empty(), "the API key: expected text, got none");
    Ok(Some(key.to_owned()))
}
