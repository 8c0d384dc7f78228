//! Many rows at once: prompts are read in pieces, tokens are generated one for each row in turn.
//!
//! A turn reads at most [`CHUNK`] tokens of prompts, shared out fairly, then generates one token of
//! every row that is ready, all in one pass. So a long prompt holds nobody up for longer than a piece
//! of it. Rows that begin alike share what was read of them (`prefixes.rs`). The memory of all caches
//! together is bounded: rows wait, in order, until there is room.

use super::generate::Sampling;
use super::prefixes::{Kept, Prefixes};
use super::prior::host_values;
use super::{
    CHUNK, Cache, CachePriors, Horizons, LONGEST_ROW, ModelConfig, TokenRows, TokenScore,
    Transformer, score_of,
};
use crate::Error;
use bam_attention::Skipping;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a row is to be read and continued for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The tokens to read.
    pub prompt: Vec<i32>,
    /// Tokens to generate at most.
    pub tokens: usize,
    /// How they are drawn.
    pub sampling: Sampling,
    /// The token that ends the row.
    pub end: Option<i32>,
    /// Whether the prompt's own tokens are scored.
    pub score_prompt: bool,
    /// Whether generated tokens are scored, and how many of the most probable tokens a score names.
    pub top: Option<usize>,
}

/// The most probable tokens that the score of a prompt's token names.
pub const PROMPT_TOP: usize = 5;

/// Why a row ended.
#[derive(Debug)]
pub enum Finish {
    /// The end token came.
    End,
    /// As many tokens as were asked for.
    Length,
    /// The model failed.
    Failed(String),
}

/// What happens to a row, in this order: the prompt once, tokens, the end.
#[derive(Debug)]
pub enum Event {
    /// The prompt was read: tokens that did not have to be read again, and, if asked for, the scores of
    /// its tokens but the first.
    Prompt {
        /// Tokens taken over from another row.
        reused: usize,
        /// One per token of the prompt but the first; empty if not asked for.
        scores: Vec<TokenScore>,
    },
    /// A token was generated; the end token too.
    Token {
        /// Its id.
        id: i32,
        /// How probable it was, if asked for.
        score: Option<TokenScore>,
    },
    /// The row ended.
    End(Finish),
}

/// Who asked for a row.
pub trait Listener: Send {
    /// Takes an event.
    fn hear(&mut self, event: Event);

    /// Whether nobody listens any more: the row is given up.
    fn is_gone(&self) -> bool;
}

/// What may be used.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Rows that are worked on at once.
    pub active: usize,
    /// Bytes of all caches.
    pub cache_bytes: usize,
    /// What may be left unread.
    pub skipping: Skipping,
    /// What caches can do without; they keep everything where there are none.
    pub horizons: Option<Arc<Horizons>>,
}

impl Limits {
    /// Bytes of the keys and values of a row of so many tokens.
    fn bytes_of(&self, config: &ModelConfig, tokens: usize) -> usize {
        let keys = config.cached_keys(tokens, self.horizons.as_deref());
        2 * keys * config.head_dim() * size_of::<f32>()
    }
}

/// Where the work stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Rows that wait for room.
    pub waiting: usize,
    /// Rows that are worked on.
    pub active: usize,
    /// Bytes of their caches and of kept prefixes.
    pub cache_bytes: usize,
    /// Tokens of prompts that were read, in all.
    pub read: u64,
    /// Tokens of prompts that were taken over, in all.
    pub reused: u64,
    /// Tokens generated, in all.
    pub generated: u64,
}

/// Rows that wait, rows that are worked on, and beginnings that are kept.
pub struct Scheduler<'m> {
    model: &'m Transformer,
    limits: Limits,
    waiting: VecDeque<(Request, Box<dyn Listener>)>,
    active: Vec<Row>,
    kept: Prefixes,
    /// Over the longest row so far; grows by doubling.
    priors: Option<CachePriors>,
    load: Load,
}

/// A row that is worked on.
struct Row {
    request: Request,
    listener: Box<dyn Listener>,
    cache: Cache,
    /// The prompt and what was generated; the cache holds all but, at times, the last.
    tokens: Vec<i32>,
    /// Of the tokens of the prompt but the first, as far as it was read.
    scores: Vec<TokenScore>,
    reused: usize,
    /// After the last token that was read; empty before.
    logits: Vec<f32>,
    generated: usize,
    random: ChaCha8Rng,
}

impl<'m> Scheduler<'m> {
    /// Nothing to do yet.
    #[must_use]
    pub fn new(model: &'m Transformer, limits: Limits) -> Self {
        Self {
            model,
            limits,
            waiting: VecDeque::new(),
            active: Vec::new(),
            kept: Prefixes::default(),
            priors: None,
            load: Load::default(),
        }
    }

    /// The longest row, prompt and generated tokens together, that there is memory for.
    #[must_use]
    pub fn longest_row(config: &ModelConfig, limits: &Limits) -> usize {
        let horizons = limits.horizons.as_deref();
        let (mut fits, mut too_many) = (0, horizons.map_or(LONGEST_ROW, Horizons::keys) + 1);
        while too_many - fits > 1 {
            let tokens = fits + (too_many - fits) / 2;
            match limits.bytes_of(config, tokens) <= limits.cache_bytes {
                true => fits = tokens,
                false => too_many = tokens,
            }
        }
        fits
    }

    /// Checks a request before it is added.
    ///
    /// # Errors
    /// If the prompt is empty, has a token outside the vocabulary or there is no memory for the row, or
    /// the sampling can't be.
    pub fn check(config: &ModelConfig, limits: &Limits, request: &Request) -> Result<(), Error> {
        request.sampling.checked()?;
        TokenRows::new(1, request.prompt.clone(), config.vocabulary)?;
        let longest = Self::longest_row(config, limits);
        let length = request.prompt.len().saturating_add(request.tokens);
        if length > longest {
            return Err(Error::Value {
                what: "prompt and tokens to generate",
                expected: format!("at most {longest} tokens, which is what memory holds"),
                got: format!("{} and {}", request.prompt.len(), request.tokens),
            });
        }
        Ok(())
    }

    /// Adds a row to those that wait. One that [`Scheduler::check`] refuses fails at once.
    pub fn add(&mut self, request: Request, mut listener: Box<dyn Listener>) {
        match Self::check(self.model.config(), &self.limits, &request) {
            Ok(()) => self.waiting.push_back((request, listener)),
            Err(error) => listener.hear(Event::End(Finish::Failed(error.to_string()))),
        }
    }

    /// Where the work stands.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            waiting: self.waiting.len(),
            active: self.active.len(),
            cache_bytes: self.active_bytes() + self.kept.bytes(),
            ..self.load
        }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.active.is_empty()
    }

    /// One turn.
    pub fn turn(&mut self) {
        self.waiting.retain(|(_, listener)| !listener.is_gone());
        while let Some(row) = self.active.iter().position(|row| row.listener.is_gone()) {
            self.retire(row, None);
        }
        self.admit();
        self.read_prompts();
        self.generate();
    }

    fn active_bytes(&self) -> usize {
        let rows = self.active.iter();
        rows.map(|row| {
            self.limits
                .bytes_of(self.model.config(), row.cache.capacity())
        })
        .sum()
    }

    /// Takes in rows that wait, in order, as long as there is room.
    fn admit(&mut self) {
        while self.active.len() < self.limits.active {
            let Some((request, _)) = self.waiting.front() else {
                return;
            };
            let capacity = request.prompt.len() + request.tokens;
            let bytes = self.limits.bytes_of(self.model.config(), capacity);
            if self.active_bytes() + bytes > self.limits.cache_bytes {
                return;
            }
            let Some((request, mut listener)) = self.waiting.pop_front() else {
                return;
            };
            match self.row_cache(capacity, &request) {
                Err(error) => listener.hear(Event::End(Finish::Failed(error.to_string()))),
                Ok((cache, scores)) => {
                    let reused = cache.length();
                    self.load.reused += reused as u64;
                    self.active.push(Row {
                        tokens: request.prompt.clone(),
                        random: ChaCha8Rng::seed_from_u64(request.sampling.seed),
                        request,
                        listener,
                        cache,
                        scores,
                        reused,
                        logits: Vec::new(),
                        generated: 0,
                    });
                }
            }
            let room = self.limits.cache_bytes.saturating_sub(self.active_bytes());
            self.kept.shrink_to(room);
        }
    }

    /// A cache for a row, with what another row has read of the same beginning, and its scores.
    fn row_cache(
        &mut self,
        capacity: usize,
        request: &Request,
    ) -> Result<(Cache, Vec<TokenScore>), Error> {
        if self.priors.as_ref().is_none_or(|p| p.capacity() < capacity) {
            let reach = capacity.next_power_of_two().min(LONGEST_ROW);
            self.priors = Some(self.model.priors(reach)?);
        }
        let priors = self.priors.as_ref().expect("they were just made");
        let horizons = self.limits.horizons.as_deref();
        let cache = self.model.cache_with(1, capacity, priors, horizons)?;
        let mut cache = cache.with_skipping(self.limits.skipping);
        let alike = |tokens: &[i32], cache: &Cache, scores: &[TokenScore]| {
            let pairs = tokens.iter().zip(&request.prompt);
            let alike = pairs.take_while(|(a, b)| a == b).count();
            // The last token is read in any case: its logits are wanted.
            let wanted = alike.min(request.prompt.len() - 1);
            let most = match request.score_prompt {
                // A prompt that is to be scored can take over only what was scored. The score after the
                // last token taken over is of the token behind it, so that has to be alike as well.
                true => wanted.min(alike.saturating_sub(1)).min(scores.len()),
                false => wanted,
            };
            if cache.can_give(most) { most } else { 0 }
        };
        let active = self.active.iter().enumerate().map(|(index, row)| {
            let read = &row.tokens[..row.cache.length()];
            (alike(read, &row.cache, &row.scores), Donor::Active(index))
        });
        let kept = self.kept.iter().enumerate().map(|(index, kept)| {
            let alike = alike(&kept.tokens, &kept.cache, &kept.scores);
            (alike, Donor::Kept(index))
        });
        let best = active.chain(kept).max_by_key(|(alike, _)| *alike);
        let Some((length @ 1.., donor)) = best else {
            return Ok((cache, Vec::new()));
        };
        let (other, scores) = match donor {
            Donor::Active(index) => {
                let row = &self.active[index];
                (&row.cache, &row.scores)
            }
            Donor::Kept(index) => {
                let kept = self.kept.take_note(index);
                (&kept.cache, &kept.scores)
            }
        };
        cache.take_over(other, length)?;
        let scores = match request.score_prompt {
            true => scores[..length].to_vec(),
            false => Vec::new(),
        };
        Ok((cache, scores))
    }

    /// Reads on in the prompts, each a piece, until [`CHUNK`] tokens are read.
    fn read_prompts(&mut self) {
        let mut budget = CHUNK;
        let mut index = 0;
        while index < self.active.len() && budget > 0 {
            let row = &mut self.active[index];
            if row.is_ready() {
                index += 1;
                continue;
            }
            match row.read_on(self.model, budget) {
                Ok(read) => {
                    budget -= read;
                    self.load.read += read as u64;
                    index += 1;
                }
                Err(error) => self.retire(index, Some(Finish::Failed(error.to_string()))),
            }
        }
        // Whoever was reading goes behind the others, so that all get their turn.
        if let Some(first) = self.active.iter().position(|row| !row.is_ready()) {
            self.active[first..].rotate_left(1);
        }
    }

    /// One token of every row that is ready.
    fn generate(&mut self) {
        let mut index = 0;
        while index < self.active.len() {
            let row = &mut self.active[index];
            if !row.is_ready() {
                index += 1;
                continue;
            }
            let before = row.generated;
            let finish = row.draw();
            self.load.generated += (row.generated - before) as u64;
            match finish {
                None => index += 1,
                Some(finish) => self.retire(index, Some(finish)),
            }
        }
        let mut ready: Vec<&mut Row> = self
            .active
            .iter_mut()
            .filter(|row| row.is_ready())
            .collect();
        if ready.is_empty() {
            return;
        }
        let tokens: Vec<i32> = ready
            .iter()
            .map(|row| *row.tokens.last().expect("one was drawn"))
            .collect();
        let mut caches: Vec<&mut Cache> = ready.iter_mut().map(|row| &mut row.cache).collect();
        match self.model.step(&tokens, &mut caches) {
            Ok(logits) => {
                let vocabulary = self.model.config().vocabulary;
                let logits = host_values(logits);
                for (row, logits) in ready.iter_mut().zip(logits.chunks_exact(vocabulary)) {
                    row.logits.copy_from_slice(logits);
                }
            }
            Err(error) => {
                let message = error.to_string();
                while let Some(row) = self.active.iter().position(Row::is_ready) {
                    self.retire(row, Some(Finish::Failed(message.clone())));
                }
            }
        }
    }

    /// Ends a row; what was read of it is kept for others.
    fn retire(&mut self, index: usize, finish: Option<Finish>) {
        let mut row = self.active.remove(index);
        let failed = matches!(finish, Some(Finish::Failed(_)));
        if let Some(finish) = finish {
            row.listener.hear(Event::End(finish));
        }
        if failed || row.cache.length() == 0 {
            return;
        }
        row.tokens.truncate(row.cache.length());
        let bytes = self
            .limits
            .bytes_of(self.model.config(), row.cache.capacity());
        self.kept.keep(Kept {
            bytes: bytes + row.scores.len() * BYTES_OF_SCORE,
            tokens: row.tokens,
            cache: row.cache,
            scores: row.scores,
        });
        let room = self.limits.cache_bytes.saturating_sub(self.active_bytes());
        self.kept.shrink_to(room);
    }
}

impl Row {
    /// Whether the prompt was read.
    fn is_ready(&self) -> bool {
        self.cache.length() >= self.request.prompt.len()
    }

    /// Reads a piece of the prompt of at most `most` tokens; how many.
    fn read_on(&mut self, model: &Transformer, most: usize) -> Result<usize, Error> {
        let start = self.cache.length();
        let end = (start + most).min(self.request.prompt.len());
        let last = end == self.request.prompt.len();
        let piece = &self.tokens[start..end];
        if self.request.score_prompt {
            // The first token of a piece was predicted by the end of the piece before.
            if start > self.scores.len() {
                self.scores
                    .push(score_of(&self.logits, piece[0], PROMPT_TOP));
            }
            let (scores, after) = model.score(piece, &mut self.cache, 0, PROMPT_TOP)?;
            self.scores.extend(scores);
            self.logits = after;
        } else if last {
            self.logits = model.read_to_logits(piece, &mut self.cache)?;
        } else {
            model.read(piece, &mut self.cache, 0, |_, _| ())?;
        }
        if last {
            let (reused, scores) = (self.reused, self.scores.clone());
            self.listener.hear(Event::Prompt { reused, scores });
        }
        Ok(end - start)
    }

    /// Draws the next token; why the row ends, if it does.
    fn draw(&mut self) -> Option<Finish> {
        if self.generated == self.request.tokens {
            return Some(Finish::Length);
        }
        let id = self.request.sampling.draw(&self.logits, &mut self.random);
        let score = self.request.top.map(|top| score_of(&self.logits, id, top));
        self.generated += 1;
        self.tokens.push(id);
        self.listener.hear(Event::Token { id, score });
        if Some(id) == self.request.end {
            return Some(Finish::End);
        }
        (self.generated == self.request.tokens).then_some(Finish::Length)
    }
}

/// Where the beginning of a row comes from.
enum Donor {
    Active(usize),
    Kept(usize),
}

/// What a score of a prompt's token takes in memory, about.
const BYTES_OF_SCORE: usize = size_of::<TokenScore>() + PROMPT_TOP * size_of::<(i32, f64)>();

#[cfg(test)]
mod tests;
