use std::sync::Arc;

use rand::RngCore;

use super::{
    DataError, TokenStore,
    permutation::{Permutation, generator},
};

/// A row of a batch: consecutive tokens of the stream, and for each the token that follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub tokens: Vec<i32>,
    /// `targets[i]` follows `tokens[i]` in the stream, so all but the last are `tokens[i + 1]`.
    pub targets: Vec<i32>,
    /// The document that `tokens[i]` belongs to, counted from 0 within the row, ascending. The tokens
    /// that begin and end a document belong to it.
    pub document_ids: Vec<i32>,
    /// The weight of each target's cross-entropy in the mean loss; 1 for plain text.
    pub weights: Vec<f32>,
}

/// Rows that can be asked for in any order: the same index always gives the same row, so a run that is
/// resumed sees what it would have seen.
pub trait RowSource: Send + Sync {
    /// Tokens in a row.
    fn length(&self) -> usize;

    /// Row `index` of an endless sequence.
    ///
    /// # Errors
    ///
    /// If the tokens cannot be read.
    fn row(&self, index: u64) -> Result<Row, DataError>;
}

/// Documents packed end to end and cut into rows.
///
/// The stream is all documents in order, each with its beginning (BOS) before and its end (EOS) after it,
/// where the tokenizer has them. Rows of `length` tokens are cut from it one after another, each with
/// the next token as its last target, so neighbours share one token and every token is a target once.
/// The rest at the end, less than a row, is no target in that epoch.
///
/// Shuffled rows come in a new order every epoch. Row `index` is number `π(index mod rows)` of the
/// stream, where `π` is a permutation that is computed from `(seed, index div rows)` without a table, so
/// any row is reached at once. The cuts are also moved by an offset drawn from the same, smaller than
/// what is left over: across epochs every token comes to be a target.
#[derive(Clone, Debug)]
pub struct PackedRows {
    store: Arc<TokenStore>,
    length: usize,
    order: Order,
    rows: u64,
    /// Largest offset at which all rows still fit.
    slack: u64,
}

#[derive(Clone, Copy, Debug)]
enum Order {
    Stream,
    Shuffled { seed: u64 },
}

impl PackedRows {
    /// Rows in an order drawn anew each epoch.
    ///
    /// # Errors
    ///
    /// For a length of 0 or beyond 2³¹-2, or a stream too short for one row.
    pub fn new(
        store: impl Into<Arc<TokenStore>>,
        length: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        Self::with_order(store.into(), length, Order::Shuffled { seed })
    }

    /// Rows in the order of the stream, from its beginning, the same in every epoch: for validation.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn in_order(store: impl Into<Arc<TokenStore>>, length: usize) -> Result<Self, DataError> {
        Self::with_order(store.into(), length, Order::Stream)
    }

    fn with_order(store: Arc<TokenStore>, length: usize, order: Order) -> Result<Self, DataError> {
        /// Document ids are i32, and a row may hold a document a token.
        const LENGTH_LIMIT: usize = i32::MAX as usize - 1;
        if !(1..=LENGTH_LIMIT).contains(&length) {
            return Err(DataError::RowLength {
                length,
                maximum: LENGTH_LIMIT,
            });
        }
        let tokens = store.tokens() + store.documents() * boundary_tokens(&store);
        let targets = tokens.saturating_sub(1);
        let rows = targets / length as u64;
        if rows == 0 {
            return Err(DataError::NotEnoughTokens {
                tokens,
                needed: length as u64 + 1,
            });
        }
        Ok(Self {
            store,
            length,
            order,
            rows,
            slack: targets % length as u64,
        })
    }

    #[must_use]
    pub fn rows_per_epoch(&self) -> u64 {
        self.rows
    }

    /// Tokens in the stream, beginnings and ends of documents included.
    #[must_use]
    pub fn stream_tokens(&self) -> u64 {
        self.rows * self.length as u64 + self.slack + 1
    }

    #[must_use]
    pub fn store(&self) -> &TokenStore {
        &self.store
    }

    /// Place in the stream of the first token of a row.
    #[must_use]
    pub fn position(&self, index: u64) -> u64 {
        let (epoch, within) = (index / self.rows, index % self.rows);
        let length = self.length as u64;
        match self.order {
            Order::Stream => within * length,
            Order::Shuffled { seed } => {
                // Streams come in pairs: one for the permutation, one for the offset.
                let permutation = Permutation::new(self.rows, seed, epoch.wrapping_mul(2));
                let mut random = generator(seed, epoch.wrapping_mul(2).wrapping_add(1));
                // Slack is below 2^31, so the bias is below 2^-33.
                let offset = random.next_u64() % (self.slack + 1);
                offset + permutation.apply(within) * length
            }
        }
    }

    /// `length + 1` tokens from a place in the stream, with the documents of the first `length`.
    fn cut(&self, position: u64) -> Result<Row, DataError> {
        let stream = Stream::new(&self.store);
        let end = position + self.length as u64 + 1;
        let first = stream.document_at(position);
        let text_start = stream.text_before(first, position);
        let text_end = stream.text_before(stream.document_at(end - 1), end);
        let text = self.store.read(text_start..text_end)?;
        let mut text = text.into_iter();

        let mut tokens = Vec::with_capacity(self.length + 1);
        let mut document_ids = Vec::with_capacity(self.length + 1);
        let mut document = first;
        let mut id = 0;
        let mut at = position;
        while at < end {
            let range = stream.range(document);
            let text_range = stream.text_range(document);
            let stop = range.end.min(end);
            let begin_here = at < text_range.start;
            let text_here = stop
                .min(text_range.end)
                .saturating_sub(at.max(text_range.start));
            let end_here = stop > text_range.end;
            tokens.extend(stream.bos.filter(|_| begin_here));
            tokens.extend(text.by_ref().take(text_here as usize));
            tokens.extend(stream.eos.filter(|_| end_here));
            if tokens.len() > document_ids.len() {
                document_ids.resize(tokens.len(), id);
                id += 1;
            }
            at = stop;
            document += 1;
        }
        let tokens: Vec<i32> = tokens
            .into_iter()
            // Vocabularies are limited to 2^24.
            .map(|token| token as i32)
            .collect();
        let targets = tokens[1..].to_vec();
        document_ids.truncate(self.length);
        Ok(Row {
            tokens: tokens[..self.length].to_vec(),
            targets,
            document_ids,
            weights: vec![1.0; self.length],
        })
    }
}

impl RowSource for PackedRows {
    fn length(&self) -> usize {
        self.length
    }

    fn row(&self, index: u64) -> Result<Row, DataError> {
        self.cut(self.position(index))
    }
}

/// The places of documents in the stream, beginnings and ends counted.
struct Stream<'a> {
    /// The end of each document's text, in tokens of text.
    ends: &'a [u64],
    bos: Option<u32>,
    eos: Option<u32>,
}

impl<'a> Stream<'a> {
    fn new(store: &'a TokenStore) -> Self {
        Self {
            ends: store.ends(),
            bos: store.tokenizer().bos,
            eos: store.tokenizer().eos,
        }
    }

    /// Place in the stream just after a document.
    fn end(&self, document: usize) -> u64 {
        let boundaries = u64::from(self.bos.is_some()) + u64::from(self.eos.is_some());
        self.ends[document] + (document as u64 + 1) * boundaries
    }

    fn range(&self, document: usize) -> std::ops::Range<u64> {
        let start = document.checked_sub(1).map_or(0, |before| self.end(before));
        start..self.end(document)
    }

    /// The document's own text, in places of the stream.
    fn text_range(&self, document: usize) -> std::ops::Range<u64> {
        let range = self.range(document);
        range.start + u64::from(self.bos.is_some())..range.end - u64::from(self.eos.is_some())
    }

    /// The document that holds a place of the stream.
    fn document_at(&self, position: u64) -> usize {
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.end(middle) <= position {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Tokens of text before a place of the stream that is in, or just after, `document`.
    fn text_before(&self, document: usize, position: u64) -> u64 {
        let text = self.text_range(document);
        let before = document
            .checked_sub(1)
            .map_or(0, |before| self.ends[before]);
        before + position.clamp(text.start, text.end) - text.start
    }
}

fn boundary_tokens(store: &TokenStore) -> u64 {
    let tokenizer = store.tokenizer();
    u64::from(tokenizer.bos.is_some()) + u64::from(tokenizer.eos.is_some())
}

/// Some consecutive rows, row after row, ready to become a tensor of shape `[rows, length]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub rows: usize,
    pub length: usize,
    pub tokens: Vec<i32>,
    pub targets: Vec<i32>,
    pub document_ids: Vec<i32>,
    pub weights: Vec<f32>,
}

impl Batch {
    /// Rows `first..first + rows` of a source.
    ///
    /// # Errors
    ///
    /// For a batch without rows or past the last index, or where a row cannot be read.
    pub fn read(source: &dyn RowSource, first: u64, rows: usize) -> Result<Self, DataError> {
        let end = first
            .checked_add(rows as u64)
            .filter(|_| rows > 0)
            .ok_or(DataError::BatchRows { first, rows })?;
        let length = source.length();
        let mut batch = Self {
            rows,
            length,
            tokens: Vec::with_capacity(rows * length),
            targets: Vec::with_capacity(rows * length),
            document_ids: Vec::with_capacity(rows * length),
            weights: Vec::with_capacity(rows * length),
        };
        for index in first..end {
            let row = source.row(index)?;
            batch.tokens.extend(row.tokens);
            batch.targets.extend(row.targets);
            batch.document_ids.extend(row.document_ids);
            batch.weights.extend(row.weights);
        }
        Ok(batch)
    }
}
