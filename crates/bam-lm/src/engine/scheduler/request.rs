//! Requests, and what is heard of them.

use crate::engine::generate::Sampling;
use crate::model::TokenScore;
use bam_record::RowPosterior;
use std::sync::Arc;

/// A prompt, and what is wanted of it.
#[derive(Clone, Debug)]
pub enum Request {
    /// Row posteriors at the prompt's last token. Such a sequence keeps all keys.
    Inspect {
        /// The tokens to read.
        prompt: Vec<i32>,
    },
    /// Scores of its tokens, tokens after it, or both.
    Generate(Generate),
}

/// A prompt to be continued, scored or both.
#[derive(Clone, Debug, Default)]
pub struct Generate {
    /// The tokens to read.
    pub prompt: Vec<i32>,
    /// Tokens to generate at most; with 0 the prompt is only read.
    pub max_tokens: usize,
    /// The way to draw them.
    pub sampling: Sampling,
    /// The tokens that end the sequence.
    pub ends: Arc<[i32]>,
    /// Whether the prompt's own tokens are scored.
    pub score_prompt: bool,
    /// Whether generated tokens are scored, and how many of the most probable tokens a score names.
    pub top: Option<usize>,
}

impl Request {
    /// The tokens to read.
    #[must_use]
    pub fn prompt(&self) -> &[i32] {
        match self {
            Self::Inspect { prompt } => prompt,
            Self::Generate(generate) => &generate.prompt,
        }
    }

    /// Tokens to generate at most.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.generate().map_or(0, |generate| generate.max_tokens)
    }

    /// Whether the prompt's own tokens are scored.
    pub(super) fn scores_prompt(&self) -> bool {
        self.generate()
            .is_some_and(|generate| generate.score_prompt)
    }

    /// Whether every key is needed, whatever horizons say.
    pub(super) fn needs_all_keys(&self) -> bool {
        matches!(self, Self::Inspect { .. })
    }

    pub(super) fn generate(&self) -> Option<&Generate> {
        match self {
            Self::Inspect { .. } => None,
            Self::Generate(generate) => Some(generate),
        }
    }
}

/// The most probable tokens that the score of a prompt's token names.
pub const PROMPT_TOP: usize = 5;

/// The end of a sequence.
#[derive(Debug)]
pub enum Finish {
    /// An end token came.
    End,
    /// As many tokens as were asked for.
    Length,
    /// The model failed.
    Failed(String),
}

/// Events of a sequence, in this order: the prompt once, tokens, the end.
#[derive(Debug)]
pub enum SequenceEvent {
    /// The prompt was read: tokens that did not have to be read again, and what was asked for.
    Prompt {
        /// Tokens taken over from another sequence.
        reused: usize,
        /// One per token of the prompt but the first; empty if not asked for.
        scores: Vec<TokenScore>,
        /// One per layer and head, in this order; empty if not asked for.
        row_posteriors: Vec<RowPosterior>,
    },
    /// A token was generated; an end token too.
    Token {
        /// Its id.
        id: i32,
        /// Its probability, if asked for.
        score: Option<TokenScore>,
    },
    /// The sequence ended.
    End(Finish),
}

/// The receiver of a sequence's events.
pub trait Listener: Send {
    /// Takes an event.
    fn hear(&mut self, event: SequenceEvent);

    /// Whether nobody listens any more: the sequence is given up.
    fn is_gone(&self) -> bool;
}
