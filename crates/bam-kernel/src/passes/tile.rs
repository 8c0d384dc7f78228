//! One tile of keys and values, where the products can read it.

use super::inputs::Inputs;
use super::product::{Aligned, Strips, aligned};
use crate::key_norms::TILE;
use crate::operands::Rows;
use pulp::Simd;

/// Keys and values of a tile, `[TILE, padded dim]` each, zeros where there is none and at padding.
pub(super) struct KeyTile<'a> {
    pub first: usize,
    k: TileRows<'a>,
    v: TileRows<'a>,
}

/// A tile's rows of one operand, one after the other: where they lie, if they lie so, or copied.
pub(super) struct TileRows<'a> {
    in_place: Option<&'a [f32]>,
    copy: Aligned<f32>,
}

impl<'a> KeyTile<'a> {
    pub fn new(inputs: &Inputs<'a>) -> Self {
        Self {
            first: 0,
            k: TileRows::new(inputs),
            v: TileRows::new(inputs),
        }
    }

    pub fn keys(&self) -> &[f32] {
        self.k.rows()
    }

    pub fn values(&self) -> &[f32] {
        self.v.rows()
    }

    /// Reads the tile that begins at key `first`.
    #[inline(always)]
    pub fn load(&mut self, inputs: &Inputs<'a>, batch: usize, key_head: usize, first: usize) {
        self.first = first;
        self.k.load(inputs, &inputs.k, (batch, key_head), first);
        self.v.load(inputs, &inputs.v, (batch, key_head), first);
    }
}

impl<'a> TileRows<'a> {
    pub fn new(inputs: &Inputs<'a>) -> Self {
        Self {
            in_place: None,
            copy: aligned(0.0, TILE * inputs.padded_dim()),
        }
    }

    pub fn rows(&self) -> &[f32] {
        self.in_place.unwrap_or(&self.copy)
    }

    #[inline(always)]
    pub fn load(
        &mut self,
        inputs: &Inputs<'a>,
        from: &Rows<'a>,
        (batch, head): (usize, usize),
        first: usize,
    ) {
        let padded = inputs.padded_dim();
        let count = TILE.min(inputs.keys() - first);
        let whole = count == TILE && inputs.plan.documents().is_none();
        self.in_place = match whole {
            true => from.in_place((batch, head, first), TILE, padded),
            false => None,
        };
        if self.in_place.is_some() {
            return;
        }
        for (index, to) in self.copy.chunks_exact_mut(padded).enumerate() {
            let key = first + index;
            if index < count && !inputs.plan.is_padding_key(batch, key) {
                from.load(batch, head, key, to);
            } else {
                to.fill(0.0);
            }
        }
    }
}

/// Reads a tile's rows of one operand into strips, zeros where there is none and at padding.
#[inline(always)]
pub(super) fn load_strips<S: Simd>(
    inputs: &Inputs<'_>,
    from: &Rows<'_>,
    (batch, head): (usize, usize),
    first: usize,
    room: &mut [f32],
    strips: &mut Strips,
) {
    for index in 0..TILE {
        let key = first + index;
        if key < inputs.keys() && !inputs.plan.is_padding_key(batch, key) {
            strips.write::<S>(index, from.read((batch, head, key), room), 1.0);
        } else {
            strips.write::<S>(index, &[], 1.0);
        }
    }
}
