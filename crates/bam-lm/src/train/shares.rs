//! The learned parameters of a model end to end, and the share of them that each rank adds, measures and steps.

use super::learn::Learn;
use crate::model::Transformer;
use crate::ranks::Ranks;
use bam_kernel::layers::TASK;
use burn::module::ParamId;
use std::collections::HashMap;
use std::ops::Range;

/// The learned parameters end to end, in the model's order, cut into a share for each rank.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shares {
    parameters: Vec<Learned>,
    /// Pieces whose squares are summed by one rank each: [`TASK`] numbers of a parameter, as one process sums them, or all of
    /// it. No share begins in the middle of one.
    pieces: Vec<Range<usize>>,
    /// Share `r` is `cuts[r]..cuts[r + 1]`.
    cuts: Vec<usize>,
}

/// A part of a parameter: its place in the parameter, and in a share.
pub(super) type Part = (Range<usize>, Range<usize>);

/// A learned parameter.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Learned {
    pub id: ParamId,
    pub name: String,
    /// Its place among all numbers.
    pub range: Range<usize>,
}

impl Shares {
    /// As equal as whole pieces allow. `whole`: a parameter is one piece, since a device sums it in an order of its own.
    pub(super) fn new(model: &Transformer, learn: &Learn, size: usize, whole: bool) -> Self {
        let (mut parameters, mut pieces, mut end) = (Vec::new(), Vec::new(), 0);
        let learned = model.parameters().into_iter();
        for info in learned.filter(|info| learn.includes(info)) {
            let range = end..end + info.stored_shape.iter().product::<usize>();
            end = range.end;
            let piece = if whole { range.len() } else { TASK };
            let starts = range.clone().step_by(piece.max(1));
            pieces.extend(starts.map(|start| start..end.min(start + piece)));
            parameters.push(Learned {
                id: info.id,
                name: info.name,
                range,
            });
        }
        let cut = |rank: usize| {
            let fair = (end as u128 * rank as u128 / size as u128) as usize;
            let starts = pieces.iter().map(|piece: &Range<usize>| piece.start);
            let nearest = starts.chain([end]).min_by_key(|start| start.abs_diff(fair));
            nearest.unwrap_or(0)
        };
        let mut cuts: Vec<usize> = (0..=size).map(cut).collect();
        cuts[size] = end;
        Self {
            parameters,
            pieces,
            cuts,
        }
    }

    /// The share of a rank.
    pub(super) fn of(&self, rank: usize) -> Range<usize> {
        self.cuts[rank]..self.cuts[rank + 1]
    }

    /// Numbers of the largest share.
    pub(super) fn largest(&self) -> usize {
        let sizes = (1..self.cuts.len()).map(|rank| self.of(rank - 1).len());
        sizes.max().unwrap_or(0)
    }

    pub(super) fn parameters(&self) -> &[Learned] {
        &self.parameters
    }

    pub(super) fn pieces(&self) -> &[Range<usize>] {
        &self.pieces
    }

    /// The pieces of a share.
    pub(super) fn pieces_of(&self, rank: usize) -> impl Iterator<Item = &Range<usize>> {
        let share = self.of(rank);
        let within =
            move |piece: &&Range<usize>| share.start <= piece.start && piece.end <= share.end;
        self.pieces.iter().filter(within)
    }

    /// The parts of parameters that a rank's share is made of.
    pub(super) fn parts_of(&self, rank: usize) -> HashMap<ParamId, Part> {
        let share = self.of(rank);
        let parts = self.parameters.iter().filter_map(|parameter| {
            let all = &parameter.range;
            let (start, end) = (all.start.max(share.start), all.end.min(share.end));
            let less = |by: usize| start - by..end - by;
            (start < end).then(|| (parameter.id, (less(all.start), less(share.start))))
        });
        parts.collect()
    }

    /// All numbers on every rank, from those that each has of its share.
    pub(super) fn gathered(&self, ranks: &dyn Ranks, own: &[f32]) -> Vec<f32> {
        let size = ranks.size();
        let counts: Vec<usize> = (0..size).map(|rank| self.of(rank).len()).collect();
        ranks.exchange(own, &vec![0..own.len(); size], &counts)
    }

    /// All numbers by their parameters.
    pub(super) fn by_parameter(&self, all: &[f32]) -> HashMap<ParamId, Vec<f32>> {
        let parameters = self.parameters.iter();
        parameters
            .map(|of| (of.id, all[of.range.clone()].to_vec()))
            .collect()
    }

    /// [`Self::gathered`] on rank 0 alone; nothing elsewhere.
    pub(super) fn gathered_by_the_first(&self, ranks: &dyn Ranks, own: &[f32]) -> Vec<f32> {
        let size = ranks.size();
        let to = (0..size).map(|rank| 0..if rank == 0 { own.len() } else { 0 });
        let counts = (0..size).map(|rank| {
            if ranks.leads() {
                self.of(rank).len()
            } else {
                0
            }
        });
        ranks.exchange(own, &to.collect::<Vec<_>>(), &counts.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu;
    use crate::model::ModelConfig;
    use crate::testing::small;

    #[test]
    fn shares_are_whole_pieces_and_together_all() {
        let wide = ModelConfig {
            vocabulary: 3 * TASK / 24,
            ..small("bam+ssmax")
        };
        let model = wide.init(&cpu());
        for size in [1, 2, 3, 8, 64] {
            for whole in [false, true] {
                let shares = Shares::new(&model, &Learn::default(), size, whole);
                let all: usize = (0..size).map(|rank| shares.of(rank).len()).sum();
                let in_pieces = (0..size).flat_map(|rank| shares.pieces_of(rank).cloned());
                assert_eq!(in_pieces.collect::<Vec<_>>(), shares.pieces());
                let of_parameters = shares.parameters().iter().map(|of| of.range.len());
                assert_eq!(all, of_parameters.sum::<usize>());
                assert!(shares.largest() >= all / size);
            }
            let shares = Shares::new(&model, &Learn::default(), size, false);
            let off = shares.largest() - shares.cuts[size] / size;
            assert!(off <= TASK, "{size} ranks: {off}");
        }
    }
}
