//! Many sequences at once: prompts are read in pieces, tokens are generated one for each sequence in turn.
//!
//! A step reads at most [`CHUNK`] tokens of prompts, shared out fairly, then generates one token of
//! every sequence that is ready, all in one pass. So a long prompt holds nobody up for longer than a piece
//! of it. Sequences that begin alike share what was read of them (`prefix_cache.rs`).
//!
//! The memory of all caches together is bounded. A sequence is given room for its prompt and for some tokens
//! of its answer; sequences wait, in the order in which they came, until there is that much. The room grows
//! with the answer, not with what the answer might come to. Where there is none left, the sequence that came
//! last is preempted: it waits again, and is read again when there is room. So the first one always gets
//! on, and every sequence ends.

mod prefix_cache;
mod request;
mod sequence;

use crate::Error;
use crate::model::{
    CHUNK, CachePriors, Horizons, KvCache, LONGEST_SEQUENCE, ModelConfig, TokenRows, TokenScore,
    Transformer, host_values,
};
use bam_attention::Skipping;
use prefix_cache::{Prefix, PrefixCache};
pub use request::{Finish, Generate, Listener, PROMPT_TOP, Request, SequenceEvent};
use sequence::{Active, Sequence};
use std::collections::VecDeque;
use std::sync::Arc;

/// Bounds of the work.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Sequences that are worked on at once.
    pub active: usize,
    /// Bytes of all caches.
    pub cache_bytes: usize,
    /// The keys that may be left unread.
    pub skipping: Skipping,
    /// The horizons of caches; they keep everything where there are none.
    pub horizons: Option<Arc<Horizons>>,
}

impl Limits {
    /// The horizons of a sequence's cache.
    fn horizons_of(&self, request: &Request) -> Option<&Horizons> {
        self.horizons
            .as_deref()
            .filter(|_| !request.needs_all_keys())
    }

    /// The longest sequence that there is memory for.
    fn longest(&self, config: &ModelConfig, horizons: Option<&Horizons>) -> usize {
        let (mut fits, mut too_many) = (0, horizons.map_or(LONGEST_SEQUENCE, Horizons::keys) + 1);
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

/// Bytes of the keys and values of a sequence of so many tokens.
fn bytes_of(config: &ModelConfig, tokens: usize, horizons: Option<&Horizons>) -> usize {
    2 * config.cached_keys(tokens, horizons) * config.head_dim() * size_of::<f32>()
}

/// The state of the work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sequences that wait for room.
    pub waiting: usize,
    /// Sequences that are worked on.
    pub active: usize,
    /// Bytes of their caches and of kept prefixes.
    pub cache_bytes: usize,
    /// Tokens of prompts that were read, in all.
    pub read: u64,
    /// Tokens of prompts that were taken over, in all.
    pub reused: u64,
    /// Tokens generated, in all.
    pub generated: u64,
    /// Preemptions of a sequence for want of memory, in all.
    pub preemptions: u64,
}

/// Sequences that wait, sequences that are worked on, and the prefix cache.
pub struct Scheduler<'m> {
    model: &'m Transformer,
    limits: Limits,
    /// By their number.
    waiting: VecDeque<Sequence>,
    active: Vec<Active>,
    prefix_cache: PrefixCache,
    /// Over the longest cache so far; grows by doubling.
    priors: Option<CachePriors>,
    load: Load,
    /// Sequences that came so far.
    arrived: u64,
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
            prefix_cache: PrefixCache::default(),
            priors: None,
            load: Load::default(),
            arrived: 0,
        }
    }

    /// The longest sequence, prompt and generated tokens together, that there is memory for.
    #[must_use]
    pub fn longest_sequence(config: &ModelConfig, limits: &Limits) -> usize {
        limits.longest(config, limits.horizons.as_deref())
    }

    /// Checks a request before it is added.
    ///
    /// # Errors
    /// [`Error::TooLong`] if there is no memory for the sequence; others if the prompt is empty or has a
    /// token outside the vocabulary, or the sampling can't be.
    pub fn check(config: &ModelConfig, limits: &Limits, request: &Request) -> Result<(), Error> {
        if let Some(generate) = request.generate() {
            generate.sampling.checked()?;
        }
        TokenRows::new(1, request.prompt().to_vec(), config.vocabulary)?;
        let longest = limits.longest(config, limits.horizons_of(request));
        let (prompt, max_tokens) = (request.prompt().len(), request.max_tokens());
        if prompt.saturating_add(max_tokens) > longest {
            return Err(Error::TooLong {
                longest,
                prompt,
                max_tokens,
            });
        }
        Ok(())
    }

    /// Adds a sequence to those that wait. One that [`Scheduler::check`] refuses fails at once.
    pub fn add(&mut self, request: Request, mut listener: Box<dyn Listener>) {
        match Self::check(self.model.config(), &self.limits, &request) {
            Ok(()) => {
                self.arrived += 1;
                self.waiting
                    .push_back(Sequence::new(request, listener, self.arrived));
            }
            Err(error) => listener.hear(SequenceEvent::End(Finish::Failed(error.to_string()))),
        }
    }

    /// The state of the work.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            waiting: self.waiting.len(),
            active: self.active.len(),
            cache_bytes: self.active_bytes() + self.prefix_cache.bytes(),
            ..self.load
        }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.active.is_empty()
    }

    /// One step.
    pub fn step(&mut self) {
        self.waiting.retain(|sequence| !sequence.listener.is_gone());
        while let Some(index) = self
            .active
            .iter()
            .position(|active| active.sequence.listener.is_gone())
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

    fn bytes_of(&self, sequence: &Sequence, tokens: usize) -> usize {
        let horizons = self.limits.horizons_of(&sequence.request);
        bytes_of(self.model.config(), tokens, horizons)
    }

    /// The prefix cache has what memory no sequence needs.
    fn shrink_prefix_cache(&mut self) {
        let room = self.limits.cache_bytes.saturating_sub(self.active_bytes());
        self.prefix_cache.shrink_to(room);
    }

    /// Takes in sequences that wait, in order, as long as there is room.
    fn admit(&mut self) {
        while self.active.len() < self.limits.active {
            let Some(sequence) = self.waiting.front() else {
                return;
            };
            let reserved = sequence.reserve(sequence.tokens.len());
            let bytes = self.bytes_of(sequence, reserved);
            if self.active_bytes() + bytes > self.limits.cache_bytes {
                return;
            }
            let Some(mut sequence) = self.waiting.pop_front() else {
                return;
            };
            match self.begin(&mut sequence, reserved) {
                Err(error) => {
                    let failed = Finish::Failed(error.to_string());
                    sequence.listener.hear(SequenceEvent::End(failed));
                }
                Ok(cache) => {
                    self.load.reused += cache.length() as u64;
                    self.active
                        .push(Active::new(sequence, cache, reserved, bytes));
                }
            }
            self.shrink_prefix_cache();
        }
    }

    /// A cache for a sequence, with the prefix that another sequence has read; its scores too.
    fn begin(&mut self, sequence: &mut Sequence, reserved: usize) -> Result<KvCache, Error> {
        let prefix = self.longest_prefix(sequence);
        let reused = prefix.as_ref().map_or(0, |(length, _)| *length);
        let soon = (reused + CHUNK).min(sequence.tokens.len());
        let capacity = Active::capacity(soon, reserved);
        self.reach(capacity)?;
        let priors = self.priors.as_ref().expect("they were just made");
        let horizons = self.limits.horizons_of(&sequence.request);
        let cache = self.model.cache_with(1, capacity, priors, horizons)?;
        let mut cache = cache.with_skipping(self.limits.skipping);
        let Some((length, prefix)) = prefix else {
            return Ok(cache);
        };
        let (other, scores) = match prefix {
            PrefixSource::Active(index) => {
                let active = &self.active[index];
                (&active.cache, &active.sequence.scores)
            }
            PrefixSource::Cached(index) => {
                let kept = self.prefix_cache.touch(index);
                (&kept.cache, &kept.scores)
            }
        };
        cache.take_over(other, length)?;
        if sequence.scores_prompt() {
            sequence.scores = scores[..length].to_vec();
        }
        Ok(cache)
    }

    /// The longest prefix in common with another sequence: its length, and who has read it.
    fn longest_prefix(&self, sequence: &Sequence) -> Option<(usize, PrefixSource)> {
        let alike = |tokens: &[i32], cache: &KvCache, scores: &[TokenScore]| {
            let pairs = tokens.iter().zip(&sequence.tokens);
            let alike = pairs.take_while(|(a, b)| a == b).count();
            // The last token is read in any case: its logits are wanted.
            let wanted = alike.min(sequence.tokens.len() - 1);
            let most = match sequence.scores_prompt() {
                // A prompt that is to be scored can take over only what was scored. The score after the
                // last token taken over is of the token behind it, so that has to be alike as well.
                true => wanted.min(alike.saturating_sub(1)).min(scores.len()),
                false => wanted,
            };
            let can =
                cache.can_give(most) && (cache.holds_all() || !sequence.request.needs_all_keys());
            if can { most } else { 0 }
        };
        let active = self.active.iter().enumerate().map(|(index, active)| {
            let read = &active.sequence.tokens[..active.cache.length()];
            let alike = alike(read, &active.cache, &active.sequence.scores);
            (alike, PrefixSource::Active(index))
        });
        let kept = self.prefix_cache.iter().enumerate().map(|(index, kept)| {
            let alike = alike(&kept.tokens, &kept.cache, &kept.scores);
            (alike, PrefixSource::Cached(index))
        });
        let best = active.chain(kept).max_by_key(|(alike, _)| *alike);
        best.filter(|(alike, _)| *alike > 0)
    }

    /// Sees to priors over sequences of that capacity.
    fn reach(&mut self, capacity: usize) -> Result<(), Error> {
        if self.priors.as_ref().is_none_or(|p| p.capacity() < capacity) {
            let reach = capacity.next_power_of_two().min(LONGEST_SEQUENCE);
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
        let horizons = self.limits.horizons_of(&active.sequence.request);
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

    /// One token of every sequence that is ready.
    fn generate(&mut self) {
        let mut index = 0;
        while index < self.active.len() {
            let active = &mut self.active[index];
            if !active.is_ready() {
                index += 1;
                continue;
            }
            let before = active.sequence.generated();
            let finish = active.draw();
            self.load.generated += (active.sequence.generated() - before) as u64;
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
            .map(|active| *active.sequence.tokens.last().expect("one was drawn"))
            .collect();
        let mut caches: Vec<&mut KvCache> =
            ready.iter_mut().map(|active| &mut active.cache).collect();
        match self.model.decode_step(&tokens, &mut caches) {
            Ok(logits) => {
                let vocabulary = self.model.config().vocabulary;
                let logits = host_values(logits);
                for (active, logits) in ready.iter_mut().zip(logits.chunks_exact(vocabulary)) {
                    active.logits.copy_from_slice(logits);
                }
            }
            Err(error) => {
                let message = error.to_string();
                while let Some(index) = self.active.iter().position(Active::is_ready) {
                    self.retire(index, Some(Finish::Failed(message.clone())));
                }
            }
        }
    }

    /// Room for the token that every ready sequence has drawn: those that came first have the right of way.
    fn make_room(&mut self) {
        let ready = self.active.iter().filter(|active| active.is_ready());
        let mut numbers: Vec<u64> = ready.map(|active| active.sequence.number).collect();
        numbers.sort_unstable();
        for number in numbers {
            // It may have been preempted for one that came before.
            let Some(index) = self.place_of(number) else {
                continue;
            };
            let tokens = self.active[index].sequence.tokens.len();
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
        active.position(|active| active.sequence.number == number)
    }

    /// Sets memory aside for more tokens of a sequence, and preempts sequences that came after it where there is
    /// none; the sequence itself, if it came last.
    fn reserve_more(&mut self, number: u64, tokens: usize) -> bool {
        while let Some(index) = self.place_of(number) {
            let active = &self.active[index];
            let reserved = active.sequence.reserve(tokens);
            let bytes = self.bytes_of(&active.sequence, reserved);
            if self.active_bytes() - active.bytes + bytes <= self.limits.cache_bytes {
                let active = &mut self.active[index];
                (active.reserved, active.bytes) = (reserved, bytes);
                self.shrink_prefix_cache();
                return true;
            }
            let sequences = self.active.iter().enumerate();
            let last = sequences.max_by_key(|(_, active)| active.sequence.number);
            // Alone a sequence always has room: it was checked when it came.
            self.preempt(last.expect("there is this one").0);
        }
        false
    }

    /// Lets a sequence wait again, before those that came after it.
    fn preempt(&mut self, index: usize) {
        let active = self.active.remove(index);
        self.load.preemptions += 1;
        let (sequence, cache) = active.preempt();
        let bytes = self.bytes_of(&sequence, cache.capacity());
        self.keep(
            sequence.tokens.clone(),
            sequence.scores.clone(),
            cache,
            bytes,
        );
        let after = self.waiting.iter();
        let place = after
            .take_while(|other| other.number < sequence.number)
            .count();
        self.waiting.insert(place, sequence);
    }

    /// Ends a sequence; what was read of it is kept for others.
    fn retire(&mut self, index: usize, finish: Option<Finish>) {
        let Active {
            mut sequence,
            cache,
            ..
        } = self.active.remove(index);
        let bytes = self.bytes_of(&sequence, cache.capacity());
        let failed = matches!(finish, Some(Finish::Failed(_)));
        if let Some(finish) = finish {
            sequence.listener.hear(SequenceEvent::End(finish));
        }
        if !failed {
            self.keep(sequence.tokens, sequence.scores, cache, bytes);
        }
    }

    /// Keeps what was read of a sequence's tokens, in a cache of so many bytes, as long as there is memory.
    fn keep(
        &mut self,
        mut tokens: Vec<i32>,
        scores: Vec<TokenScore>,
        cache: KvCache,
        bytes: usize,
    ) {
        if cache.length() == 0 {
            return;
        }
        tokens.truncate(cache.length());
        self.prefix_cache.insert(Prefix {
            bytes: bytes + scores.len() * BYTES_OF_SCORE,
            tokens,
            cache,
            scores,
        });
        self.shrink_prefix_cache();
    }
}

/// A sequence that has read a prefix.
enum PrefixSource {
    Active(usize),
    Cached(usize),
}

/// Memory of a score of a prompt's token, about.
const BYTES_OF_SCORE: usize = size_of::<TokenScore>() + PROMPT_TOP * size_of::<(i32, f64)>();

#[cfg(test)]
mod tests;
