use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A seeded permutation of `0..size` that is computed, not stored.
///
/// A Feistel network permutes the smallest range of an even number of bits that holds `size`; where it
/// leads outside of `0..size` it is applied again until it leads back (cycle walking: Black and Rogaway,
/// "Ciphers with arbitrary finite domains", 2002). That range is less than four times `size`, so this
/// takes fewer than four steps on average, and no memory.
#[derive(Clone, Debug)]
pub(super) struct Permutation {
    size: u64,
    /// Bits of each half.
    half: u32,
    keys: [u64; ROUNDS],
}

const ROUNDS: usize = 6;

impl Permutation {
    /// The permutation numbered `stream` among those of a seed.
    pub(super) fn new(size: u64, seed: u64, stream: u64) -> Self {
        let mut random = generator(seed, stream);
        let bits = u64::BITS - size.saturating_sub(1).leading_zeros();
        Self {
            size,
            half: bits.div_ceil(2).max(1),
            keys: std::array::from_fn(|_| random.next_u64()),
        }
    }

    /// The place of `index`. Must be below the size.
    pub(super) fn apply(&self, index: u64) -> u64 {
        debug_assert!(index < self.size);
        let mut image = self.feistel(index);
        while image >= self.size {
            image = self.feistel(image);
        }
        image
    }

    fn feistel(&self, value: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (value >> self.half, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half | right
    }
}

/// A generator for one purpose: other streams of the same seed are independent of it.
pub(super) fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    random
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}
