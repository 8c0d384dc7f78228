//! A sequence: what was asked for and what came of it; and, while it is worked on, its cache.

use super::request::{Finish, Listener, PROMPT_TOP, Request, SequenceEvent};
use crate::Error;
use crate::analysis::posterior;
use crate::model::{KvCache, TokenScore, Transformer, score_of};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Tokens that there is room for at a time, at least.
const STEP: usize = 256;

/// A sequence that waits.
pub(super) struct Sequence {
    pub request: Request,
    pub listener: Box<dyn Listener>,
    /// In the order in which sequences came.
    pub number: u64,
    /// The prompt and what was generated.
    pub tokens: Vec<i32>,
    /// Of the tokens of the prompt but the first, as far as it was read.
    pub scores: Vec<TokenScore>,
    /// Whether the listener heard of the prompt.
    told: bool,
    random: ChaCha8Rng,
}

impl Sequence {
    pub fn new(request: Request, listener: Box<dyn Listener>, number: u64) -> Self {
        let seed = request
            .generate()
            .map_or(0, |generate| generate.sampling.seed);
        Self {
            tokens: request.prompt().to_vec(),
            random: ChaCha8Rng::seed_from_u64(seed),
            request,
            listener,
            number,
            scores: Vec::new(),
            told: false,
        }
    }

    /// Tokens generated so far.
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.request.prompt().len()
    }

    /// Whether tokens that are read are scored.
    pub fn scores_prompt(&self) -> bool {
        self.request.scores_prompt() && !self.told
    }

    /// Tokens to reserve for a sequence that comes to so many: some more, but never beyond its end.
    pub fn reserve(&self, tokens: usize) -> usize {
        let end = self.request.prompt().len() + self.request.max_tokens();
        (tokens + STEP.max(tokens / 8)).min(end)
    }
}

/// A sequence that is worked on.
pub(super) struct Active {
    pub sequence: Sequence,
    /// Holds all of the tokens but, at times, the last.
    pub cache: KvCache,
    /// Tokens that memory is set aside for; the cache grows up to there.
    pub reserved: usize,
    /// Bytes of so many.
    pub bytes: usize,
    /// Tokens to read before any is generated.
    until: usize,
    reused: usize,
    /// After the last token that was read; empty before.
    pub logits: Vec<f32>,
}

impl Active {
    /// The cache holds what need not be read again.
    pub fn new(sequence: Sequence, cache: KvCache, reserved: usize, bytes: usize) -> Self {
        Self {
            until: sequence.tokens.len(),
            reused: cache.length(),
            sequence,
            cache,
            reserved,
            bytes,
            logits: Vec::new(),
        }
    }

    /// The capacity of a cache that is to hold so many tokens soon: some more, so that it is rarely
    /// copied, but never beyond what is reserved.
    pub fn capacity(tokens: usize, reserved: usize) -> usize {
        (tokens + STEP.max(tokens / 4)).min(reserved)
    }

    /// Whether all was read, so that a token can be drawn.
    pub fn is_ready(&self) -> bool {
        self.cache.length() >= self.until
    }

    /// The end of a piece of at most so many tokens.
    pub fn piece_end(&self, most: usize) -> usize {
        (self.cache.length() + most).min(self.until)
    }

    /// Reads up to there.
    pub fn read_to(&mut self, model: &Transformer, end: usize) -> Result<(), Error> {
        let start = self.cache.length();
        let last = end == self.until;
        let piece = &self.sequence.tokens[start..end];
        let mut row_posteriors = Vec::new();
        if let Request::Inspect { .. } = self.sequence.request {
            let (before, own) = piece.split_at(piece.len() - usize::from(last));
            if !before.is_empty() {
                model.prefill(before, &mut self.cache, 0, |_, _| ())?;
            }
            if let [token] = own {
                row_posteriors = posterior::of_next(model, *token, &mut self.cache)?;
            }
        } else if self.sequence.scores_prompt() {
            let scores = &mut self.sequence.scores;
            // The first token of a piece was predicted by the end of the piece before.
            if start > scores.len() {
                scores.push(score_of(&self.logits, piece[0], PROMPT_TOP));
            }
            let (more, after) = model.score(piece, &mut self.cache, 0, PROMPT_TOP)?;
            scores.extend(more);
            self.logits = after;
        } else if last {
            self.logits = model.prefill_to_logits(piece, &mut self.cache)?;
        } else {
            model.prefill(piece, &mut self.cache, 0, |_, _| ())?;
        }
        if last && !self.sequence.told {
            self.sequence.told = true;
            let (reused, scores) = (self.reused, self.sequence.scores.clone());
            self.sequence.listener.hear(SequenceEvent::Prompt {
                reused,
                scores,
                row_posteriors,
            });
        }
        Ok(())
    }

    /// Draws the next token, if there is to be one; why the sequence ends, if it does.
    pub fn draw(&mut self) -> Option<Finish> {
        let Sequence {
            request,
            listener,
            tokens,
            random,
            ..
        } = &mut self.sequence;
        let Some(request) = request.generate() else {
            return Some(Finish::Length);
        };
        let end = request.prompt.len() + request.max_tokens;
        if tokens.len() == end {
            return Some(Finish::Length);
        }
        let id = request.sampling.draw(&self.logits, random);
        let score = request.top.map(|top| score_of(&self.logits, id, top));
        tokens.push(id);
        listener.hear(SequenceEvent::Token { id, score });
        if request.ends.contains(&id) {
            return Some(Finish::End);
        }
        (tokens.len() == end).then_some(Finish::Length)
    }

    /// The sequence alone, to be read again. Scores of a prompt that was not read to its end are made again.
    pub fn preempt(mut self) -> (Sequence, KvCache) {
        if !self.sequence.told {
            self.sequence.scores.clear();
        }
        (self.sequence, self.cache)
    }
}
