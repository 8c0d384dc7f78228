//! The tile registers where there are none.

/// Rows of a tile, columns of its sums, and pairs in one of its rows.
pub(crate) const SIDE: usize = 16;

/// There are none here.
pub(crate) enum Tiles {}

impl Tiles {
    pub(crate) fn new() -> Option<Self> {
        None
    }

    pub(crate) fn product(
        &self,
        _: (&[u32], usize),
        _: [usize; 3],
        _: &[u32],
        _: (&mut [f32], usize),
    ) {
        match *self {}
    }
}
