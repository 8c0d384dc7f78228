//! Sizes that a kernel is made for.

/// Numbers of 16 bits in the 16 bytes that a row of an 8 × 8 matrix has in shared memory.
pub(super) const LINE: usize = 8;

/// The way in which a pass takes products: see the files of [`units`](super::units).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Products {
    Plain,
    /// By matrix instructions whose registers are known.
    Mma,
    /// By cooperative matrices of so many rows, columns and numbers in between.
    Cmma((usize, usize, usize)),
}

impl std::fmt::Display for Products {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain => write!(formatter, "plain"),
            Self::Mma => write!(formatter, "mma 16x8x16"),
            Self::Cmma((m, n, k)) => write!(formatter, "cmma {m}x{n}x{k}"),
        }
    }
}

/// The cut of a pass into blocks, tiles and units. A **block** is what a cube keeps (query rows, or keys
/// in the pass over keys); a **tile** is what streams past it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tiling {
    /// Room for the head dimension; what is beyond it counts as zeros.
    pub width: usize,
    /// Rows of a block.
    pub rows: usize,
    /// Columns of a tile.
    pub columns: usize,
    pub units_y: usize,
    pub units_x: usize,
    /// Numbers along the summed axis that are in shared memory at a time.
    pub step: usize,
    /// Whether loops over registers are written out. A software device keeps them in memory anyway, and
    /// compiles loops a hundred times sooner.
    pub unroll: bool,
    pub products: Products,
    /// Operands of a block, which stay in shared memory unless plain units multiply.
    pub kept: usize,
    /// Whether the numbers between a block and a tile are laid out for all units.
    pub lays_out: bool,
}

impl Tiling {
    /// For many rows.
    pub fn forward(width: usize, of: Limits) -> Self {
        Self::square(
            if width > 128 { 32 } else { 64 },
            Self::across(width),
            width,
            of,
        )
    }

    /// For the rows of one step of decoding, where time goes to reading keys.
    pub fn decode(queries: usize, width: usize, of: Limits) -> Self {
        let units_x = width.min(64);
        // Rows of wide heads are shared out: a unit has registers for few of them.
        let units_y = match queries {
            1 => 64 / units_x,
            _ => (64 / units_x).max(width / 64),
        };
        Self {
            rows: queries.next_power_of_two().max(units_y),
            columns: 64,
            units_y,
            units_x,
            ..Self::forward(width, of)
        }
    }

    /// For the gradients of queries, which stay in registers beside the products over a tile.
    pub fn by_rows(width: usize, of: Limits) -> Self {
        let rows = if width > 64 { 32 } else { 64 };
        let whole = Self::square(rows, 8, width, of);
        Self {
            columns: whole.columns.min(if width == 128 { 32 } else { 64 }),
            ..whole
        }
    }

    /// For the gradients of keys and of values, which both stay in registers.
    pub fn by_keys(width: usize, of: Limits) -> Self {
        Self::square(if width > 128 { 16 } else { 32 }, 8, width, of)
    }

    /// Units across for sums that are as wide as a head: as `cargo xtask cuda-check` finds registers for them.
    fn across(width: usize) -> usize {
        if width == 128 { 16 } else { 8 }
    }

    fn square(rows: usize, units_x: usize, width: usize, of: Limits) -> Self {
        let whole = Self {
            width,
            rows,
            columns: 64,
            units_y: 16,
            units_x,
            step: 16,
            unroll: !of.software,
            products: Products::Plain,
            kept: 1,
            lays_out: true,
        };
        if whole.shared_bytes() <= of.shared_bytes && !of.software {
            return whole;
        }
        Self {
            rows: rows.min(32),
            columns: 32,
            step: 8,
            ..whole
        }
    }

    /// Rows that a unit holds.
    pub fn rows_held(&self) -> usize {
        self.rows / self.units_y
    }

    /// Columns that a unit holds.
    pub fn columns_held(&self) -> usize {
        self.columns / self.units_x
    }

    /// Columns of the output that a unit holds.
    pub fn out_held(&self) -> usize {
        self.width / self.units_x
    }

    pub fn units(&self) -> usize {
        self.units_y * self.units_x
    }

    /// One apart from a row of a block: units that read one column then meet different banks.
    pub fn row_pitch(&self) -> usize {
        self.rows + 1
    }

    pub fn column_pitch(&self) -> usize {
        self.columns + 1
    }

    /// Numbers of shared memory for what is being multiplied.
    pub fn stage(&self) -> usize {
        let products = self.step * (self.row_pitch() + self.column_pitch());
        products.max(self.step * self.width)
    }

    /// Log-weights between a block and a tile.
    pub fn lags(&self) -> usize {
        self.rows + self.columns - 1
    }

    /// Numbers of shared memory for what the units of a cube tell each other.
    pub fn told(&self) -> usize {
        3 * self.units()
    }

    /// Columns of a tile for which a prior over keys has numbers in shared memory.
    pub fn keyed(&self, is_there: bool) -> usize {
        if is_there { self.columns } else { 1 }
    }

    /// Lines of 16 bytes from a row to the next for `mma`.
    pub fn line_pitch(&self) -> usize {
        self.width / LINE + 1
    }

    /// Numbers of shared memory for what `mma` lays out.
    pub fn laid_out(&self) -> usize {
        if self.lays_out {
            self.columns * self.row_pitch()
        } else {
            1
        }
    }

    /// For `mma`, four planes. Going back, a unit holds two products over a tile beside its sums;
    /// with tiles half as wide they all have registers.
    pub fn mma(width: usize, kept: usize, lays_out: bool) -> Self {
        let rows = 64;
        Self {
            width,
            rows,
            columns: if kept > 1 { 32 } else { 64 },
            units_y: rows / 2,
            units_x: 4,
            step: 16,
            unroll: true,
            products: Products::Mma,
            kept,
            lays_out,
        }
    }

    /// For cooperative matrices of numbers of so many bytes, if there is shared memory for it.
    pub fn cmma(
        width: usize,
        kept: usize,
        shape: (usize, usize, usize),
        bytes: usize,
        of: Limits,
    ) -> Option<Self> {
        let cut = |side| Self {
            width,
            rows: side,
            columns: side,
            units_y: 16,
            units_x: 8,
            step: 16,
            unroll: true,
            products: Products::Cmma(shape),
            kept,
            lays_out: true,
        };
        let fits = |t: &Self| {
            let operands = (kept * t.rows + 2 * t.columns) * padded(width);
            let weights = t.rows * padded(t.columns);
            bytes * (operands + weights) + 4 * (weights + t.beside_products()) <= of.shared_bytes
        };
        [32, 16].map(cut).into_iter().find(fits)
    }

    /// Bytes of shared memory that plain units take.
    fn shared_bytes(&self) -> usize {
        let fragment = self.columns * self.row_pitch();
        4 * (self.stage() + fragment + self.beside_products())
    }

    /// Numbers of shared memory that a pass takes beside its products.
    fn beside_products(&self) -> usize {
        let across = self.rows * self.units_x;
        // Going back by keys, three of them for a prior over keys.
        let per_row = 7 * self.rows.max(self.columns) + self.units();
        across + self.told() + self.lags() + per_row
    }
}

/// The part of a device that tilings depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Shared memory of a cube.
    pub shared_bytes: usize,
    /// Whether a processor stands in for a GPU: it compiles every number that a unit holds apart.
    pub software: bool,
}

/// Numbers from a row to the next for `cmma`: 16 to 32 bytes more than there are, so that rows begin at different banks
/// and where matrices may be read.
pub(super) fn padded(numbers: usize) -> usize {
    numbers + 8
}

/// Room for a head dimension: few sizes, so that few kernels are compiled.
pub(super) fn width(dim: usize) -> usize {
    dim.next_power_of_two().max(16)
}

/// The largest head dimension that there are kernels for.
pub(crate) const LARGEST_DIM: usize = 256;

/// The largest room for a head that units beside matrices have registers for.
pub(super) const WIDEST_MATRIX: usize = 128;

/// The most tensors that a kernel is given: those of the pass over rows going back.
pub(crate) const MOST_TENSORS: usize = 20;

/// Up to so many rows, keys are split instead of rows.
pub(super) const FEW: usize = 8;

/// Parts into which the keys of a block are split, so that few blocks leave nothing idle: of sizes only.
pub(super) fn splits(blocks: usize, keys: usize, columns: usize) -> usize {
    let tiles = keys.div_ceil(columns);
    (256 / blocks.max(1)).min(tiles / 4).max(1)
}

/// Cubes that share the blocks of rows of a head; each keeps a row of diagonal sums.
pub(super) fn segments(heads: usize, blocks: usize) -> usize {
    512usize.div_ceil(heads).min(blocks)
}
