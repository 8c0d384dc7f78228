//! The count of what a block left out.

use super::tiling::Tiling;
use cubecl::prelude::*;

/// Numbers per block in a log: those of [`Counts`].
pub(super) const OF_LOG: usize = 3;

/// The part of one unit.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Counts {
    /// Tiles in sight.
    pub seen: f32,
    /// Those of them that were left out.
    pub left_out: f32,
    /// The largest share of a row that they can have held.
    pub dropped: f32,
}

#[cube]
impl Counts {
    pub fn none() -> Counts {
        Counts {
            seen: f32::new(0.0),
            left_out: f32::new(0.0),
            dropped: f32::new(0.0),
        }
    }

    /// Adds up what the units of a cube counted, in their order.
    pub fn write(
        &self,
        log: &mut Tensor<f32>,
        at: usize,
        told: &mut Shared<[f32]>,
        #[comptime] t: Tiling,
    ) {
        let units = comptime!(t.units());
        sync_cube();
        told[UNIT_POS as usize] = self.seen;
        told[units + UNIT_POS as usize] = self.left_out;
        told[2 * units + UNIT_POS as usize] = self.dropped;
        sync_cube();
        if (UNIT_POS as usize) < OF_LOG {
            let mut sum = f32::new(0.0);
            for unit in 0..units {
                sum += told[UNIT_POS as usize * units + unit];
            }
            log[at + UNIT_POS as usize] = sum;
        }
    }
}
