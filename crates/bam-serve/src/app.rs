//! The state that all requests share.

use super::body::Bodies;
use super::encode::Encoder;
use super::engine::Engine;
use super::error::ApiError;
use super::json::{Whole, shown};
use super::metrics::Metrics;
use super::template::ChatTemplate;
use bam_data::Tokenizer;
use bam_lm::engine::scheduler::{Limits, Request, Scheduler, SequenceEvent};
use bam_lm::model::{ModelConfig, Transformer};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

/// The choices of whoever starts a server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The model's name for clients.
    pub name: String,
    /// Bounds of the sequences that are worked on, and of their memory.
    pub limits: Limits,
    /// Sequences that may wait; more are refused with 429.
    pub queue: usize,
    /// The largest request body, in bytes.
    pub max_body: usize,
    /// The key that clients must send, where there is one.
    pub api_key: Option<String>,
    /// Origins of pages that are let in; `*` is any.
    pub cors: Vec<String>,
    /// Time for requests to finish in once the server is asked to stop.
    pub grace: Duration,
}

pub struct App {
    pub settings: Settings,
    pub created: u64,
    pub config: ModelConfig,
    pub tokenizer: Arc<Tokenizer>,
    /// The text of every token of the model, and its bytes.
    spellings: Vec<(String, Vec<u8>)>,
    pub template: Option<ChatTemplate>,
    pub engine: Engine,
    pub metrics: Metrics,
    pub bodies: Bodies,
    pub encoder: Encoder,
    /// Whether only this machine can reach the server.
    pub loopback: bool,
    /// Turns true when requests had their time after the server was asked to stop.
    over: watch::Receiver<bool>,
}

pub fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl App {
    /// Starts the engine; its thread ends after it is closed.
    pub fn start(
        model: Transformer,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
        settings: Settings,
        loopback: bool,
        over: watch::Receiver<bool>,
    ) -> (Self, JoinHandle<()>) {
        let config = model.config().clone();
        let spell = tokenizer.stream_decoder();
        let spellings = (0..config.vocabulary as u32).map(|id| spell.spell(id).unwrap_or_default());
        let spellings: Vec<(String, Vec<u8>)> = spellings.collect();
        drop(spell);
        let longest_token = spellings.iter().map(|(_, bytes)| bytes.len()).max();
        let longest_sequence = Scheduler::longest_sequence(&config, &settings.limits);
        let (engine, thread) = Engine::start(model, settings.limits.clone(), settings.queue);
        let app = Self {
            created: unix_seconds(),
            config,
            tokenizer: Arc::new(tokenizer),
            spellings,
            template,
            engine,
            metrics: Metrics::default(),
            bodies: Bodies::new(settings.max_body),
            encoder: Encoder::new(longest_sequence, longest_token.unwrap_or(0)),
            loopback,
            over,
            settings,
        };
        (app, thread)
    }

    pub fn longest_sequence(&self) -> usize {
        self.encoder.longest_sequence
    }

    /// A request that names a model means this one.
    pub fn check_model(&self, name: Option<&str>) -> Result<(), ApiError> {
        match name {
            Some(other) if other != self.settings.name => Err(ApiError::Model {
                expected: self.settings.name.clone(),
                got: shown(other),
            }),
            _ => Ok(()),
        }
    }

    /// Hands sequences that a field asks for to the engine, all or none.
    pub fn submit(
        &self,
        field: &'static str,
        sequences: Vec<Request>,
    ) -> Result<Vec<UnboundedReceiver<SequenceEvent>>, ApiError> {
        for sequence in &sequences {
            Scheduler::check(&self.config, &self.settings.limits, sequence)
                .map_err(|error| ApiError::sequence(field, &error))?;
        }
        self.engine.submit(sequences)
    }

    /// A sequence's next event.
    pub async fn next(
        &self,
        events: &mut UnboundedReceiver<SequenceEvent>,
    ) -> Result<SequenceEvent, ApiError> {
        let mut over = self.over.clone();
        tokio::select! {
            event = events.recv() => {
                event.ok_or_else(|| ApiError::failed("the model failed; the server goes on"))
            }
            _ = over.wait_for(|over| *over) => Err(ApiError::Cut),
        }
    }

    /// The text of a token by itself, and its bytes.
    pub fn spelling(&self, token: i32) -> (&str, &[u8]) {
        let at = usize::try_from(token).unwrap_or(usize::MAX);
        let there = self.spellings.get(at);
        there.map_or(("", &[]), |(name, bytes)| (name, bytes))
    }

    /// Tokens that a field of a request names, as the model's.
    pub fn check_tokens(&self, field: &str, tokens: &[Whole<0>]) -> Result<Vec<i32>, ApiError> {
        let vocabulary = self.config.vocabulary;
        let known = tokens.iter().map(|&Whole(id)| match usize::try_from(id) {
            Ok(token) if token < vocabulary => Ok(id as i32),
            _ => {
                let expected = format!("token ids from 0 to {}", vocabulary - 1);
                Err(ApiError::expected(field, &expected, id))
            }
        });
        known.collect()
    }

    pub fn decode(&self, field: &str, tokens: &[i32]) -> Result<String, ApiError> {
        let known: Vec<u32> = tokens.iter().map(|id| *id as u32).collect();
        let decoded = self.tokenizer.decode(&known);
        decoded.map_err(|error| ApiError::text(field, &error))
    }
}
