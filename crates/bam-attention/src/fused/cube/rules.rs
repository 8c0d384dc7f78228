//! The options of a call as kernels know them: what is fixed when one is made, and what is a number.

use cubecl::prelude::*;

/// The options that kernels are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rules {
    pub causal: bool,
    pub window: bool,
    pub documents: bool,
    pub temperature: Factor,
    pub key_prior: KeyTerm,
    pub skipping: Skips,
    /// Whether tiles are counted.
    pub counts: bool,
}

/// The terms of a logit that a temperature multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Factor {
    None,
    Likelihood,
    LikelihoodAndPrior,
}

/// The prior over keys in a logit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum KeyTerm {
    None,
    Added,
    /// Multiplied by the temperature.
    Scaled,
}

/// The tiles that may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Skips {
    Off,
    Exact,
    Certified,
}

impl Rules {
    pub fn has_temperature(&self) -> bool {
        self.temperature != Factor::None
    }

    pub fn scales_prior(&self) -> bool {
        self.temperature == Factor::LikelihoodAndPrior
    }

    pub fn has_key_prior(&self) -> bool {
        self.key_prior != KeyTerm::None
    }

    pub fn scales_keys(&self) -> bool {
        self.key_prior == KeyTerm::Scaled
    }

    pub fn skips(&self) -> bool {
        self.skipping != Skips::Off
    }

    /// Whether every tile is judged before it is read.
    pub fn judges(&self) -> bool {
        self.skips() || self.documents || self.counts
    }

    pub fn is_certified(&self) -> bool {
        self.skipping == Skips::Certified
    }
}

/// Positions and factors of a call.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Numbers {
    /// Position of the first query.
    pub offset: i32,
    /// Keys at this distance and beyond are hidden.
    pub window: i32,
    /// The lag of the first log-weight.
    pub first_lag: i32,
    /// `1/√D`.
    pub scale: f32,
    /// `ln ε` where skipping is certified.
    pub ln_epsilon: f32,
}

/// The keys that the queries `first..end` (rows, not positions) see by position: first key and end.
#[cube]
pub(super) fn keys_in_sight(
    first: i32,
    end: i32,
    keys: i32,
    of: &Numbers,
    #[comptime] rules: Rules,
) -> (i32, i32) {
    let mut from = i32::new(0);
    let mut to = keys;
    if comptime!(rules.causal) {
        to = min(to, of.offset + end);
    }
    if comptime!(rules.window) {
        from = max(from, of.offset + first - (of.window - 1));
        to = min(to, of.offset + end - 1 + of.window);
    }
    (from, to)
}

/// The queries (rows) that see one of the keys `first..end` by position: first row and end.
#[cube]
pub(super) fn rows_in_sight(
    first: i32,
    end: i32,
    rows: i32,
    of: &Numbers,
    #[comptime] rules: Rules,
) -> (i32, i32) {
    let mut from = i32::new(0);
    let mut to = rows;
    if comptime!(rules.causal) {
        from = max(from, first - of.offset);
    }
    if comptime!(rules.window) {
        from = max(from, first - of.offset - (of.window - 1));
        to = min(to, end - 1 - of.offset + of.window);
    }
    (from, to)
}

/// Whether a row sees a key at that lag.
#[cube]
pub(super) fn sees(lag: i32, of: &Numbers, #[comptime] rules: Rules) -> bool {
    let mut seen = true;
    if comptime!(rules.causal) {
        seen = lag <= 0;
    }
    if comptime!(rules.window) {
        seen = seen && lag < of.window && -lag < of.window;
    }
    seen
}

/// Whether a query of one document sees a key of another: padding sees nothing and is not seen.
#[cube]
pub(super) fn shares(query: i32, key: i32) -> bool {
    query == key && key != i32::new(PADDING)
}

/// [`bam_kernel::Documents::PADDING`], which is `i32::MIN`.
pub(super) const PADDING: i64 = i32::MIN as i64;
