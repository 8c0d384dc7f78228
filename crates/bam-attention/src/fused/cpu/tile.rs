//! One tile of keys and values, copied where the products can read it.

use super::super::bound::TILE;
use super::{Inputs, Rows};

/// Keys and values of a tile, `[TILE, padded dim]` each, zeros where there is none and at padding.
pub(super) struct KeyTile {
    pub first: usize,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    padded: usize,
}

impl KeyTile {
    pub fn new(inputs: &Inputs<'_>) -> Self {
        let padded = inputs.padded_dim();
        Self {
            first: 0,
            k: vec![0.0; TILE * padded],
            v: vec![0.0; TILE * padded],
            padded,
        }
    }

    /// Reads the tile that begins at key `first`.
    #[inline(always)]
    pub fn load(&mut self, inputs: &Inputs<'_>, batch: usize, key_head: usize, first: usize) {
        self.first = first;
        let count = TILE.min(inputs.keys() - first);
        for (to, from) in [(&mut self.k, &inputs.k), (&mut self.v, &inputs.v)] {
            let from: &Rows<'_> = from;
            for (index, to) in to.chunks_exact_mut(self.padded).enumerate() {
                let key = first + index;
                if index < count && !inputs.call.is_padding_key(batch, key) {
                    from.load(batch, key_head, key, to);
                } else {
                    to.fill(0.0);
                }
            }
        }
    }
}
