//! A prior over keys: one number per key, beside the one per lag.

use crate::error::KernelError;

/// Whether a temperature multiplies the prior over keys too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum KeyPriorScope {
    /// `τ·(…) + u`: it is added after the temperature.
    Added,
    /// `τ·(… + u)`: it is scaled with the rest.
    Scaled,
}

/// A log-weight per key, `u` of `[batch, heads, keys]`, in natural units and up to a constant per row: how much a key
/// counts, whoever asks and wherever from. `heads` are the key heads, or the query heads. `−∞` hides a key.
///
/// Running sums over many tokens grow beyond what `f32` resolves: at 10⁴ its neighbours are 10⁻³ apart. Such numbers come in
/// pairs, [`KeyPrior::with_remainders`]; only differences of the numbers of one row's keys are ever rounded.
#[derive(Clone, Copy, Debug)]
pub struct KeyPrior<'a> {
    high: &'a [f32],
    low: Option<&'a [f32]>,
    shape: [usize; 3],
    scope: KeyPriorScope,
}

impl<'a> KeyPrior<'a> {
    /// All numbers one after the other, `[batch, heads, keys]`.
    ///
    /// # Errors
    /// If there are more or fewer than the shape says.
    pub fn new(
        values: &'a [f32],
        shape: [usize; 3],
        scope: KeyPriorScope,
    ) -> Result<Self, KernelError> {
        KernelError::unless_long("prior over keys", values.len(), &shape)?;
        Ok(Self {
            high: values,
            low: None,
            shape,
            scope,
        })
    }

    /// The rest that `f32` left of each number: `u` is the sum of the two.
    ///
    /// # Errors
    /// If there are more or fewer than numbers.
    pub fn with_remainders(self, low: &'a [f32]) -> Result<Self, KernelError> {
        KernelError::unless_long("remainders of the prior over keys", low.len(), &self.shape)?;
        Ok(Self {
            low: Some(low),
            ..self
        })
    }

    /// Numbers in double precision as pairs: rounded to `f32`, and what that left of them, rounded too. Together they
    /// are off by `2⁻⁴⁸` of the number at most.
    #[must_use]
    pub fn pairs(values: &[f64]) -> (Vec<f32>, Vec<f32>) {
        let pair = |value: &f64| {
            let high = *value as f32;
            let left = value - f64::from(high);
            (high, if high.is_finite() { left as f32 } else { 0.0 })
        };
        values.iter().map(pair).unzip()
    }

    pub(crate) fn shape(&self) -> [usize; 3] {
        self.shape
    }

    pub(crate) fn scope(&self) -> KeyPriorScope {
        self.scope
    }

    /// The pairs of one head's keys.
    pub(crate) fn of_head(&self, batch: usize, head: usize) -> impl Iterator<Item = [f32; 2]> {
        let [_, heads, keys] = self.shape;
        let of_head = (batch * heads + head) * keys;
        let low = self.low.map(|low| &low[of_head..][..keys]);
        let high = self.high[of_head..][..keys].iter().enumerate();
        high.map(move |(key, high)| [*high, low.map_or(0.0, |low| low[key])])
    }
}
