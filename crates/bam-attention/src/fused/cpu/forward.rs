//! Forward: per row a running maximum, a running evidence and a running expectation of the values.

use super::Inputs;
use super::tile::{
    GROUP, KEYS, KeyTile, QueryBlock, accumulate_product, by_row, exp, padded_dim, rows_in_sight,
    tiles,
};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// `(out [b, h, i, d], ln evidence [b, h, i])`.
pub(super) fn forward(inputs: &Inputs<'_>) -> (Vec<f32>, Vec<f32>) {
    let (queries, dim) = (inputs.queries(), inputs.dim);
    let block = rows_per_block(dim);
    let mut out = vec![f32::NAN; inputs.batch * inputs.heads * queries * dim];
    let mut ln_evidence = vec![f32::NAN; inputs.batch * inputs.heads * queries];
    let arch = Arch::new();
    out.par_chunks_mut(queries * dim)
        .zip(ln_evidence.par_chunks_mut(queries))
        .enumerate()
        .flat_map(|(index, (out, ln_evidence))| {
            out.par_chunks_mut(block * dim)
                .zip(ln_evidence.par_chunks_mut(block))
                .enumerate()
                .map(move |(number, rows)| (index, number, rows))
        })
        .for_each(|(index, number, (out, ln_evidence))| {
            let first = number * block;
            arch.dispatch(Block {
                inputs,
                batch: index / inputs.heads,
                head: index % inputs.heads,
                rows: first..(first + block).min(queries),
                out,
                ln_evidence,
            });
        });
    (out, ln_evidence)
}

/// As many rows as keep their queries and outputs in the second-level cache beside a tile, so that
/// a tile is loaded for many rows.
fn rows_per_block(dim: usize) -> usize {
    (8192 / padded_dim(dim)).clamp(32, 256)
}

struct Block<'a> {
    inputs: &'a Inputs<'a>,
    batch: usize,
    head: usize,
    rows: Range<usize>,
    out: &'a mut [f32],
    ln_evidence: &'a mut [f32],
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            inputs,
            batch,
            head,
            rows,
            ..
        } = self;
        let (dim, padded) = (inputs.dim, padded_dim(inputs.dim));
        let queries = QueryBlock::new(inputs, batch, head, rows.clone());
        let padded_rows = rows.len().next_multiple_of(GROUP);
        let mut running = Running {
            largest: vec![f32::NEG_INFINITY; padded_rows],
            evidence: vec![0.0; padded_rows],
            weighted_values: vec![0.0; padded_rows * padded],
        };
        let (mut keys, mut values) = (KeyTile::new(dim), KeyTile::new(dim));
        let mut weights = [0.0; GROUP * KEYS];
        for first_key in tiles(inputs, batch, rows.clone()) {
            keys.load(first_key, inputs.keys(), |key| {
                inputs.unless_padding(&inputs.k, batch, head, key)
            });
            values.load(first_key, inputs.keys(), |key| {
                inputs.unless_padding(&inputs.v, batch, head, key)
            });
            for r0 in rows_in_sight(inputs, rows.clone(), first_key).step_by(GROUP) {
                queries.logits(simd, inputs, r0, &keys, &mut weights);
                for (r, line) in weights.chunks_exact_mut(KEYS).enumerate() {
                    running.weigh(simd, r0 + r, line, padded);
                }
                let sums = &mut running.weighted_values[r0 * padded..][..GROUP * padded];
                accumulate_product(simd, by_row(&weights, KEYS), &values.by_key, padded, sums);
            }
        }
        for (r, out) in self.out.chunks_exact_mut(dim).enumerate() {
            let evidence = running.evidence[r];
            let sums = &running.weighted_values[r * padded..][..dim];
            if evidence > 0.0 {
                self.ln_evidence[r] = running.largest[r] + evidence.ln();
                out.iter_mut()
                    .zip(sums)
                    .for_each(|(out, sum)| *out = sum / evidence);
            } else {
                self.ln_evidence[r] = f32::INFINITY;
                out.fill(0.0);
            }
        }
    }
}

/// The online softmax of a block: sums relative to the largest logit so far.
struct Running {
    largest: Vec<f32>,
    evidence: Vec<f32>,
    weighted_values: Vec<f32>,
}

impl Running {
    /// Turns a row's logits over one tile into weights `exp(logit − largest)` and adds them to its
    /// evidence; what was summed before shrinks where the tile holds a new largest logit.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, simd: S, r: usize, line: &mut [f32], padded: usize) {
        let (line, _) = S::as_mut_simd_f32s(line);
        let mut tile_largest = simd.splat_f32s(f32::NEG_INFINITY);
        for logit in line.iter() {
            tile_largest = simd.max_f32s(tile_largest, *logit);
        }
        let tile_largest = simd.reduce_max_f32s(tile_largest);
        if tile_largest > self.largest[r] {
            let shrink = (self.largest[r] - tile_largest).exp();
            self.evidence[r] *= shrink;
            for sum in &mut self.weighted_values[r * padded..][..padded] {
                *sum *= shrink;
            }
            self.largest[r] = tile_largest;
        }
        if self.largest[r] == f32::NEG_INFINITY {
            line.fill(simd.splat_f32s(0.0));
            return;
        }
        let largest = simd.splat_f32s(self.largest[r]);
        let mut evidence = simd.splat_f32s(0.0);
        for logit in line.iter_mut() {
            *logit = exp(simd, simd.sub_f32s(*logit, largest));
            evidence = simd.add_f32s(evidence, *logit);
        }
        self.evidence[r] += simd.reduce_sum_f32s(evidence);
    }
}
