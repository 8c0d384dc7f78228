//! Many rows at once: prompts are read in pieces, tokens are generated one for each row in turn.
//!
//! A turn reads at most [`CHUNK`] tokens of prompts, shared out fairly, then generates one token of
//! every row that is ready, all in one pass. So a long prompt holds nobody up for longer than a piece
//! of it. Rows that begin alike share what was read of them (`prefixes.rs`).
//!
//! The memory of all caches together is bounded. A row is given room for its prompt and for some tokens
//! of its answer; rows wait, in the order in which they came, until there is that much. The room grows
//! with the answer, not with what the answer might come to. Where there is none left, the row that came
//! last is set back: it waits again, and is read again when there is room. So the first one always gets
//! on, and every row ends.

mod prefixes;
mod row;

use super::generate::Sampling;
use super::prior::host_values;
use super::{
    CHUNK, Cache, CachePriors, Horizons, LONGEST_ROW, ModelConfig, TokenRows, TokenScore,
    Transformer,
};
use crate::Error;
use bam_attention::Skipping;
use bam_record::Belief;
use prefixes::{Kept, Prefixes};
use row::{Active, Row};
use std::collections::VecDeque;
use std::sync::Arc;

/// What a row is to be read and continued for.
#[derive(Clone, Debug, Default)]
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
    /// Whether the heads are asked what they believed at the prompt's last token. Such a row keeps all keys;
    /// it is neither continued nor scored.
    pub beliefs: bool,
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
    /// The prompt was read: tokens that did not have to be read again, and what was asked for.
    Prompt {
        /// Tokens taken over from another row.
        reused: usize,
        /// One per token of the prompt but the first; empty if not asked for.
        scores: Vec<TokenScore>,
        /// One per layer and head, in this order; empty if not asked for.
        beliefs: Vec<Belief>,
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
    /// What a row's cache can do without.
    fn horizons_of(&self, request: &Request) -> Option<&Horizons> {
        self.horizons.as_deref().filter(|_| !request.beliefs)
    }

    /// The longest row that there is memory for.
    fn longest(&self, config: &ModelConfig, horizons: Option<&Horizons>) -> usize {
        let (mut fits, mut too_many) = (0, horizons.map_or(LONGEST_ROW, Horizons::keys) + 1);
        while too_many - fits > 1 {
            let tokens = fits + (too_many - fits) / 2;
            match bytes_of(config, tokens, horizons) <= self.cache_bytes {
                true => fits = tokens,
                false => too_many = tokens,
            }
        }
        fits
    }
}

/// Bytes of the keys and values of a row of so many tokens.
fn bytes_of(config: &ModelConfig, tokens: usize, horizons: Option<&Horizons>) -> usize {
    2 * config.cached_keys(tokens, horizons) * config.head_dim() * size_of::<f32>()
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
    /// How often a row was set back for want of memory, in all.
    pub set_back: u64,
}

/// Rows that wait, rows that are worked on, and beginnings that are kept.
pub struct Scheduler<'m> {
    model: &'m Transformer,
    limits: Limits,
    /// By their number.
    waiting: VecDeque<Row>,
    active: Vec<Active>,
    kept: Prefixes,
    /// Over the longest cache so far; grows by doubling.
    priors: Option<CachePriors>,
    load: Load,
    /// Rows that came so far.
    came: u64,
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
            came: 0,
        }
    }

    /// The longest row, prompt and generated tokens together, that there is memory for.
    #[must_use]
    pub fn longest_row(config: &ModelConfig, limits: &Limits) -> usize {
        limits.longest(config, limits.horizons.as_deref())
    }

    /// Checks a request before it is added.
    ///
    /// # Errors
    /// If the prompt is empty, has a token outside the vocabulary or there is no memory for the row, or
    /// the sampling can't be.
    pub fn check(config: &ModelConfig, limits: &Limits, request: &Request) -> Result<(), Error> {
        request.sampling.checked()?;
        TokenRows::new(1, request.prompt.clone(), config.vocabulary)?;
        if request.beliefs && (request.tokens > 0 || request.score_prompt) {
            return Err(Error::Value {
                what: "a row whose heads are asked",
                expected: "no tokens to generate and no scores".into(),
                got: format!("{} tokens", request.tokens),
            });
        }
        let longest = limits.longest(config, limits.horizons_of(request));
        let length = request.prompt.len().saturating_add(request.tokens);
        if length > longest {
            return Err(Error::TooLong {
                longest,
                prompt: request.prompt.len(),
                tokens: request.tokens,
            });
        }
        Ok(())
    }

    /// Adds a row to those that wait. One that [`Scheduler::check`] refuses fails at once.
    pub fn add(&mut self, request: Request, mut listener: Box<dyn Listener>) {
        match Self::check(self.model.config(), &self.limits, &request) {
            Ok(()) => {
                self.came += 1;
                self.waiting
                    .push_back(Row::new(request, listener, self.came));
            }
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
        self.waiting.retain(|row| !row.listener.is_gone());
        while let Some(index) = self
            .active
            .iter()
            .position(|active| active.row.listener.is_gone())
        {
            self.retire(index, None);
        }
        self.admit();
        self.read_prompts();
        self.generate();
    }

    fn active_bytes(&self) -> usize {
        self.active.iter().map(|active| active.bytes).sum()
    }

    fn bytes_of(&self, row: &Row, tokens: usize) -> usize {
        let horizons = self.limits.horizons_of(&row.request);
        bytes_of(self.model.config(), tokens, horizons)
    }

    /// Beginnings are kept only where no row needs the memory.
    fn shrink_kept(&mut self) {
        let room = self.limits.cache_bytes.saturating_sub(self.active_bytes());
        self.kept.shrink_to(room);
    }

    /// Takes in rows that wait, in order, as long as there is room.
    fn admit(&mut self) {
        while self.active.len() < self.limits.active {
            let Some(row) = self.waiting.front() else {
                return;
            };
            let reserved = row.reserve(row.tokens.len());
            let bytes = self.bytes_of(row, reserved);
            if self.active_bytes() + bytes > self.limits.cache_bytes {
                return;
            }
            let Some(mut row) = self.waiting.pop_front() else {
                return;
            };
            match self.begin(&mut row, reserved) {
                Err(error) => {
                    let failed = Finish::Failed(error.to_string());
                    row.listener.hear(Event::End(failed));
                }
                Ok(cache) => {
                    self.load.reused += cache.length() as u64;
                    self.active.push(Active::new(row, cache, reserved, bytes));
                }
            }
            self.shrink_kept();
        }
    }

    /// A cache for a row, with what another row has read of the same beginning; its scores too.
    fn begin(&mut self, row: &mut Row, reserved: usize) -> Result<Cache, Error> {
        let donor = self.donor(row);
        let reused = donor.as_ref().map_or(0, |(length, _)| *length);
        let soon = (reused + CHUNK).min(row.tokens.len());
        let capacity = Active::capacity(soon, reserved);
        self.reach(capacity)?;
        let priors = self.priors.as_ref().expect("they were just made");
        let horizons = self.limits.horizons_of(&row.request);
        let cache = self.model.cache_with(1, capacity, priors, horizons)?;
        let mut cache = cache.with_skipping(self.limits.skipping);
        let Some((length, donor)) = donor else {
            return Ok(cache);
        };
        let (other, scores) = match donor {
            Donor::Active(index) => {
                let active = &self.active[index];
                (&active.cache, &active.row.scores)
            }
            Donor::Kept(index) => {
                let kept = self.kept.take_note(index);
                (&kept.cache, &kept.scores)
            }
        };
        cache.take_over(other, length)?;
        if row.scores_prompt() {
            row.scores = scores[..length].to_vec();
        }
        Ok(cache)
    }

    /// Who has read the longest common beginning, and how long it is.
    fn donor(&self, row: &Row) -> Option<(usize, Donor)> {
        let alike = |tokens: &[i32], cache: &Cache, scores: &[TokenScore]| {
            let pairs = tokens.iter().zip(&row.tokens);
            let alike = pairs.take_while(|(a, b)| a == b).count();
            // The last token is read in any case: its logits are wanted.
            let wanted = alike.min(row.tokens.len() - 1);
            let most = match row.scores_prompt() {
                // A prompt that is to be scored can take over only what was scored. The score after the
                // last token taken over is of the token behind it, so that has to be alike as well.
                true => wanted.min(alike.saturating_sub(1)).min(scores.len()),
                false => wanted,
            };
            let can = cache.can_give(most) && (cache.holds_all() || !row.request.beliefs);
            if can { most } else { 0 }
        };
        let active = self.active.iter().enumerate().map(|(index, active)| {
            let read = &active.row.tokens[..active.cache.length()];
            let alike = alike(read, &active.cache, &active.row.scores);
            (alike, Donor::Active(index))
        });
        let kept = self.kept.iter().enumerate().map(|(index, kept)| {
            let alike = alike(&kept.tokens, &kept.cache, &kept.scores);
            (alike, Donor::Kept(index))
        });
        let best = active.chain(kept).max_by_key(|(alike, _)| *alike);
        best.filter(|(alike, _)| *alike > 0)
    }

    /// Sees to priors over rows of that capacity.
    fn reach(&mut self, capacity: usize) -> Result<(), Error> {
        if self.priors.as_ref().is_none_or(|p| p.capacity() < capacity) {
            let reach = capacity.next_power_of_two().min(LONGEST_ROW);
            self.priors = Some(self.model.priors(reach)?);
        }
        Ok(())
    }

    /// Sees to a cache with room for so many tokens, for which memory is reserved.
    fn grow(&mut self, index: usize, tokens: usize) -> Result<(), Error> {
        let active = &self.active[index];
        if tokens <= active.cache.capacity() {
            return Ok(());
        }
        let capacity = Active::capacity(tokens, active.reserved);
        self.reach(capacity)?;
        let priors = self.priors.as_ref().expect("they were just made");
        let active = &mut self.active[index];
        let horizons = self.limits.horizons_of(&active.row.request);
        self.model
            .grow(&mut active.cache, capacity, priors, horizons)
    }

    /// Reads on in the prompts, each a piece, until [`CHUNK`] tokens are read.
    fn read_prompts(&mut self) {
        let mut budget = CHUNK;
        let mut index = 0;
        while index < self.active.len() && budget > 0 {
            let active = &self.active[index];
            if active.is_ready() {
                index += 1;
                continue;
            }
            let (start, end) = (active.cache.length(), active.piece_end(budget));
            let read = self
                .grow(index, end)
                .and_then(|()| self.active[index].read_to(self.model, end));
            match read {
                Ok(()) => {
                    budget -= end - start;
                    self.load.read += (end - start) as u64;
                    index += 1;
                }
                Err(error) => self.retire(index, Some(Finish::Failed(error.to_string()))),
            }
        }
        // Whoever was reading goes behind the others, so that all get their turn.
        if let Some(first) = self.active.iter().position(|active| !active.is_ready()) {
            self.active[first..].rotate_left(1);
        }
    }

    /// One token of every row that is ready.
    fn generate(&mut self) {
        let mut index = 0;
        while index < self.active.len() {
            let active = &mut self.active[index];
            if !active.is_ready() {
                index += 1;
                continue;
            }
            let before = active.row.generated();
            let finish = active.draw();
            self.load.generated += (active.row.generated() - before) as u64;
            match finish {
                None => index += 1,
                Some(finish) => self.retire(index, Some(finish)),
            }
        }
        self.make_room();
        let mut ready: Vec<&mut Active> = self
            .active
            .iter_mut()
            .filter(|active| active.is_ready())
            .collect();
        if ready.is_empty() {
            return;
        }
        let tokens: Vec<i32> = ready
            .iter()
            .map(|active| *active.row.tokens.last().expect("one was drawn"))
            .collect();
        let mut caches: Vec<&mut Cache> = ready.iter_mut().map(|row| &mut row.cache).collect();
        match self.model.step(&tokens, &mut caches) {
            Ok(logits) => {
                let vocabulary = self.model.config().vocabulary;
                let logits = host_values(logits);
                for (active, logits) in ready.iter_mut().zip(logits.chunks_exact(vocabulary)) {
                    active.logits.copy_from_slice(logits);
                }
            }
            Err(error) => {
                let message = error.to_string();
                while let Some(row) = self.active.iter().position(Active::is_ready) {
                    self.retire(row, Some(Finish::Failed(message.clone())));
                }
            }
        }
    }

    /// Room for the token that every ready row has drawn: those that came first have the right of way.
    fn make_room(&mut self) {
        let ready = self.active.iter().filter(|active| active.is_ready());
        let mut numbers: Vec<u64> = ready.map(|active| active.row.number).collect();
        numbers.sort_unstable();
        for number in numbers {
            // It may have been set back for one that came before.
            let Some(index) = self.place_of(number) else {
                continue;
            };
            let tokens = self.active[index].row.tokens.len();
            if tokens > self.active[index].reserved && !self.reserve_more(number, tokens) {
                continue;
            }
            let index = self.place_of(number).expect("it has its room");
            if let Err(error) = self.grow(index, tokens) {
                self.retire(index, Some(Finish::Failed(error.to_string())));
            }
        }
    }

    fn place_of(&self, number: u64) -> Option<usize> {
        let mut active = self.active.iter();
        active.position(|active| active.row.number == number)
    }

    /// Sets memory aside for more tokens of a row, and sets rows back that came after it where there is
    /// none; the row itself, if it came last.
    fn reserve_more(&mut self, number: u64, tokens: usize) -> bool {
        while let Some(index) = self.place_of(number) {
            let active = &self.active[index];
            let reserved = active.row.reserve(tokens);
            let bytes = self.bytes_of(&active.row, reserved);
            if self.active_bytes() - active.bytes + bytes <= self.limits.cache_bytes {
                let active = &mut self.active[index];
                (active.reserved, active.bytes) = (reserved, bytes);
                self.shrink_kept();
                return true;
            }
            let rows = self.active.iter().enumerate();
            let last = rows.max_by_key(|(_, active)| active.row.number);
            // Alone a row always has room: it was checked when it came.
            self.set_back(last.expect("there is this one").0);
        }
        false
    }

    /// Lets a row wait again, before those that came after it.
    fn set_back(&mut self, index: usize) {
        let active = self.active.remove(index);
        self.load.set_back += 1;
        let (row, cache) = active.set_back();
        let bytes = self.bytes_of(&row, cache.capacity());
        self.keep(row.tokens.clone(), row.scores.clone(), cache, bytes);
        let after = self.waiting.iter();
        let place = after.take_while(|other| other.number < row.number).count();
        self.waiting.insert(place, row);
    }

    /// Ends a row; what was read of it is kept for others.
    fn retire(&mut self, index: usize, finish: Option<Finish>) {
        let Active { mut row, cache, .. } = self.active.remove(index);
        let bytes = self.bytes_of(&row, cache.capacity());
        let failed = matches!(finish, Some(Finish::Failed(_)));
        if let Some(finish) = finish {
            row.listener.hear(Event::End(finish));
        }
        if !failed {
            self.keep(row.tokens, row.scores, cache, bytes);
        }
    }

    /// Keeps what was read of a row's tokens, in a cache of so many bytes, as long as there is memory.
    fn keep(&mut self, mut tokens: Vec<i32>, scores: Vec<TokenScore>, cache: Cache, bytes: usize) {
        if cache.length() == 0 {
            return;
        }
        tokens.truncate(cache.length());
        self.kept.keep(Kept {
            bytes: bytes + scores.len() * BYTES_OF_SCORE,
            tokens,
            cache,
            scores,
        });
        self.shrink_kept();
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
