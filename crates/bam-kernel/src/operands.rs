//! The numbers of a call, as slices: each is checked against its own shape where it is made.

use crate::error::KernelError;
use crate::key_prior::KeyPrior;
use crate::position::Lags;
use crate::prior_ranges::PriorRanges;
use half::bf16;

/// Numbers as a caller stores them.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// The upper half of single precision; widened exactly.
    Bf16(&'a [bf16]),
}

impl<'a> From<&'a [f32]> for Values<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::F32(values)
    }
}

impl<'a> From<&'a Vec<f32>> for Values<'a> {
    fn from(values: &'a Vec<f32>) -> Self {
        Self::F32(values)
    }
}

impl<'a> From<&'a [bf16]> for Values<'a> {
    fn from(values: &'a [bf16]) -> Self {
        Self::Bf16(values)
    }
}

impl<'a> From<&'a Vec<bf16>> for Values<'a> {
    fn from(values: &'a Vec<bf16>) -> Self {
        Self::Bf16(values)
    }
}

/// A pair of numbers as tiles hold it: the first in the low half.
pub(crate) fn paired(first: bf16, second: bf16) -> u32 {
    u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16
}

impl Values<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }
}

/// Rows of `[batch, head, row, dim]`: the numbers of a row are neighbours in memory, whatever the order
/// of the first three axes.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    values: Values<'a>,
    shape: [usize; 4],
    strides: [usize; 3],
}

impl<'a> Rows<'a> {
    /// All numbers one after the other, `[batch, heads, rows, dim]`.
    ///
    /// # Errors
    /// If there are more or fewer than the shape says.
    pub fn new(values: impl Into<Values<'a>>, shape: [usize; 4]) -> Result<Self, KernelError> {
        let values = values.into();
        let [_, heads, rows, dim] = shape;
        KernelError::unless_long("rows", values.len(), &shape)?;
        Ok(Self {
            values,
            shape,
            strides: [heads * rows * dim, rows * dim, dim],
        })
    }

    /// The row `(b, h, i)` begins at number `b·strides[0] + h·strides[1] + i·strides[2]`; a stride of 0
    /// repeats.
    ///
    /// # Errors
    /// If a row ends beyond the slice.
    pub fn strided(
        values: impl Into<Values<'a>>,
        shape: [usize; 4],
        strides: [usize; 3],
    ) -> Result<Self, KernelError> {
        let values = values.into();
        match Self::reach(shape, strides) {
            Some(reach) if reach <= values.len() => Ok(Self {
                values,
                shape,
                strides,
            }),
            reach => Err(KernelError::length(
                "rows",
                &shape,
                reach,
                "at least ",
                values.len(),
            )),
        }
    }

    /// Numbers from the first to the last one that [`Rows::strided`] reads; `None` beyond what memory can hold.
    #[must_use]
    pub fn reach(shape: [usize; 4], strides: [usize; 3]) -> Option<usize> {
        if shape.contains(&0) {
            return Some(0);
        }
        let mut axes = shape.iter().zip(strides);
        axes.try_fold(shape[3], |sum, (n, stride)| {
            sum.checked_add((n - 1).checked_mul(stride)?)
        })
    }

    /// `[batch, heads, rows, dim]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Whether the numbers are `bf16`.
    pub(crate) fn are_narrow(&self) -> bool {
        matches!(self.values, Values::Bf16(_))
    }

    /// The first number of a row.
    fn first(&self, batch: usize, head: usize, row: usize) -> usize {
        let [by_batch, by_head, by_row] = self.strides;
        batch * by_batch + head * by_head + row * by_row
    }

    /// A row of numbers that are `bf16`.
    pub(crate) fn narrow(&self, batch: usize, head: usize, row: usize) -> &[bf16] {
        let Values::Bf16(values) = self.values else {
            unreachable!("the caller looked");
        };
        &values[self.first(batch, head, row)..][..self.shape[3]]
    }

    /// `count` rows of `dim` numbers from `row` on, where they lie one after the other in `f32`.
    pub(crate) fn in_place(
        &self,
        (batch, head, row): (usize, usize, usize),
        count: usize,
        dim: usize,
    ) -> Option<&'a [f32]> {
        match self.values {
            Values::F32(values) if self.shape[3] == dim && self.strides[2] == dim => {
                Some(&values[self.first(batch, head, row)..][..count * dim])
            }
            _ => None,
        }
    }

    /// A row: where it lies, or widened at the beginning of `room`.
    #[inline(always)]
    pub(crate) fn read<'r>(
        &'r self,
        (batch, head, row): (usize, usize, usize),
        room: &'r mut [f32],
    ) -> &'r [f32] {
        match self.values {
            Values::F32(values) => &values[self.first(batch, head, row)..][..self.shape[3]],
            Values::Bf16(_) => {
                self.load(batch, head, row, room);
                &room[..self.shape[3]]
            }
        }
    }

    /// Copies a row to the beginning of `to`, widened where it is narrow.
    #[inline(always)]
    pub(crate) fn load(&self, batch: usize, head: usize, row: usize, to: &mut [f32]) {
        let (first, dim) = (self.first(batch, head, row), self.shape[3]);
        let to = &mut to[..dim];
        match self.values {
            Values::F32(values) => to.copy_from_slice(&values[first..][..dim]),
            Values::Bf16(values) => {
                for (to, value) in to.iter_mut().zip(&values[first..][..dim]) {
                    *to = value.to_f32();
                }
            }
        }
    }
}

/// A log-weight per head and lag, `[heads, lags]`, in natural units and up to a constant per head.
#[derive(Clone, Copy, Debug)]
pub struct LogWeights<'a> {
    values: &'a [f32],
    heads: usize,
    lags: Lags,
    ranges: Option<&'a PriorRanges>,
}

impl<'a> LogWeights<'a> {
    /// Head after head; column `c` holds the lag `lags.first() + c`.
    ///
    /// # Errors
    /// If there are more or fewer numbers than heads times lags.
    pub fn new(values: &'a [f32], heads: usize, lags: Lags) -> Result<Self, KernelError> {
        KernelError::unless_long("log-prior", values.len(), &[heads, lags.count()])?;
        Ok(Self {
            values,
            heads,
            lags,
            ranges: None,
        })
    }

    /// With the ranges of **these** weights, found before. Those of others make skipping drop what they
    /// hold small.
    ///
    /// # Errors
    /// If they are of other heads or lags.
    pub fn with_ranges(self, ranges: &'a PriorRanges) -> Result<Self, KernelError> {
        let own = [self.heads, self.lags.count()];
        KernelError::unless_shaped("ranges of the log-prior", ranges.shape(), own)?;
        Ok(Self {
            ranges: Some(ranges),
            ..self
        })
    }

    pub(crate) fn values(&self) -> &'a [f32] {
        self.values
    }

    pub(crate) fn ranges(&self) -> Option<&'a PriorRanges> {
        self.ranges
    }

    pub(crate) fn heads(&self) -> usize {
        self.heads
    }

    pub(crate) fn lags(&self) -> Lags {
        self.lags
    }
}

/// The part of a logit that a temperature multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum TemperatureScope {
    /// `τ·(q·k/√D + ln w)`: likelihood and prior, the reference's default ("prior scaled").
    LikelihoodAndPrior,
    /// `τ·q·k/√D + ln w`: the likelihood only ("content scaled").
    Likelihood,
}

/// A factor `[batch or 1, heads, rows]` on the logits of each row.
#[derive(Clone, Copy, Debug)]
pub struct Temperature<'a> {
    values: &'a [f32],
    shape: [usize; 3],
    scope: TemperatureScope,
}

impl<'a> Temperature<'a> {
    /// All numbers one after the other, `[batch, heads, rows]`, or 1 instead of the batch.
    ///
    /// # Errors
    /// If there are more or fewer than the shape says.
    pub fn new(
        values: &'a [f32],
        shape: [usize; 3],
        scope: TemperatureScope,
    ) -> Result<Self, KernelError> {
        KernelError::unless_long("temperature", values.len(), &shape)?;
        Ok(Self {
            values,
            shape,
            scope,
        })
    }

    pub(crate) fn shape(&self) -> [usize; 3] {
        self.shape
    }

    pub(crate) fn scope(&self) -> TemperatureScope {
        self.scope
    }

    /// The place of a row's number among the values.
    pub(crate) fn index(&self, batch: usize, head: usize, row: usize) -> usize {
        let [batches, heads, rows] = self.shape;
        let batch = if batches == 1 { 0 } else { batch };
        (batch * heads + head) * rows + row
    }

    /// The number of a row.
    pub(crate) fn at(&self, batch: usize, head: usize, row: usize) -> f32 {
        self.values[self.index(batch, head, row)]
    }
}

/// The numbers of a call.
#[derive(Clone, Copy, Debug)]
pub struct Operands<'a> {
    /// `[batch, query heads, queries, dim]`.
    pub q: Rows<'a>,
    /// `[batch, key heads, keys, dim]`.
    pub k: Rows<'a>,
    /// `[batch, key heads, keys, dim]`.
    pub v: Rows<'a>,
    /// `[query heads, lags]`.
    pub ln_weights: LogWeights<'a>,
    /// `[batch or 1, query heads, queries]`.
    pub temperature: Option<Temperature<'a>>,
    /// `[batch, query heads or key heads, keys]`.
    pub key_prior: Option<KeyPrior<'a>>,
}

/// The shapes of a call's numbers, for [`Plan::new`](crate::Plan::new).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shapes {
    /// `[batch, query heads, queries, dim]`.
    pub q: [usize; 4],
    /// `[batch, key heads, keys, dim]`.
    pub k: [usize; 4],
    /// `[batch, key heads, keys, dim]`.
    pub v: [usize; 4],
    /// Heads of the log-weights.
    pub prior_heads: usize,
    /// Lags of the log-weights.
    pub lags: Lags,
    /// `[batch or 1, query heads, queries]`.
    pub temperature: Option<[usize; 3]>,
    /// `[batch, query heads or key heads, keys]`.
    pub key_prior: Option<[usize; 3]>,
}

impl Operands<'_> {
    /// Their shapes.
    #[must_use]
    pub fn shapes(&self) -> Shapes {
        Shapes {
            q: self.q.shape(),
            k: self.k.shape(),
            v: self.v.shape(),
            prior_heads: self.ln_weights.heads(),
            lags: self.ln_weights.lags(),
            temperature: self.temperature.map(|of| of.shape()),
            key_prior: self.key_prior.map(|of| of.shape()),
        }
    }
}
