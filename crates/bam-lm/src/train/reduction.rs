//! The gradient of a batch whose parts are several ranks': added in the order of parts, whoever computed them.
//!
//! Addition of floats is not associative, so sums by rank would depend on the number of ranks. Here rank `r` owns the numbers of
//! its [share](Shares) and is given them of every part:
//!
//! ```text
//! round k     parts kN … kN + N−1, one on each of N ranks
//! exchange    rank r sends part kN + r's numbers of share q to rank q, for all q        (reduce-scatter in a fixed order)
//! addition    rank q: sum ← (((sum + part kN) + part kN + 1) + …), its share of it
//! ```
//!
//! The sum is that of one process, bit by bit. A round is exchanged while the next one is computed.

use super::gradients::{Gradients, each_part};
use super::shares::Shares;
use super::workers::Workers;
use crate::Error;
use crate::device::is_here;
use crate::model::{Numbers, Transformer, host_values};
use crate::ranks::Ranks;
use bam_attention::Implementation;
use bam_data::Batch;
use bam_kernel::layers::sum_of_squares;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};

/// Numbers of one exchange, all ranks' together: 32 MiB.
pub(super) const BUCKET: usize = 1 << 23;

/// The sum of a batch's gradients, a share of it on each rank.
#[derive(Debug)]
pub(super) struct Reduced {
    /// This rank's share.
    pub own: Vec<f32>,
    /// Mean cross-entropy of the batch, nats per token.
    pub loss: f64,
    /// Euclidean norm of the whole gradient.
    pub norm: f64,
}

/// Made by all ranks: their parts of a batch, and the sum of all parts.
///
/// # Errors
/// Those of [`each_part`], on the rank that has them; the others wait for it.
pub(super) fn reduced(
    model: &Transformer,
    batch: &Batch,
    implementation: Implementation,
    parts: usize,
    workers: &Workers,
    shares: &Shares,
) -> Result<Reduced, Error> {
    let ranks = &*workers.ranks;
    let mut losses = Vec::new();
    let (sender, receiver) = sync_channel(0);
    let own = std::thread::scope(|scope| {
        let adding = scope.spawn(move || added(&receiver, parts, ranks, shares));
        let computed = each_part(model, batch, implementation, parts, workers, |part| {
            let part = HostPart::new(part, shares)?;
            losses.push(part.loss);
            // Where nobody receives, joining says why.
            let _ = sender.send(part);
            Ok(())
        });
        drop(sender);
        let own = adding.join();
        computed?;
        Ok::<_, Error>(own.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    // Every part was added, or its rank has failed.
    let own = own.unwrap_or_default();
    let (loss, norm) = loss_and_norm(&own, &losses, &model.device(), ranks, shares);
    Ok(Reduced { own, loss, norm })
}

/// A part's gradients in the processor's memory.
struct HostPart {
    loss: f32,
    /// By learned parameter, in the order of shares.
    of: Vec<Numbers>,
}

impl HostPart {
    fn new(mut gradients: Gradients, shares: &Shares) -> Result<Self, Error> {
        let cpu = crate::device::cpu();
        let loss = host_values(Tensor::cat(std::mem::take(&mut gradients.losses), 0))[0];
        let of = shares.parameters().iter().map(|parameter| {
            let missing = || Error::Value {
                what: "ranks",
                expected: "a gradient of every parameter that learns".into(),
                got: format!("none of {}", parameter.name),
            };
            let (gradient, _) = gradients.take(parameter.id).ok_or_else(missing)?;
            let here = is_here(&gradient);
            Ok(Numbers::of(if here {
                gradient
            } else {
                gradient.to_device(&cpu)
            }))
        });
        Ok(Self {
            loss,
            of: of.collect::<Result<_, Error>>()?,
        })
    }

    /// Appends the numbers of a range.
    fn copy(&self, shares: &Shares, range: &Range<usize>, to: &mut Vec<f32>) {
        let parameters = shares.parameters();
        let first = parameters.partition_point(|parameter| parameter.range.end <= range.start);
        let met = parameters.iter().zip(&self.of).skip(first);
        for (parameter, numbers) in met.take_while(|(of, _)| of.range.start < range.end) {
            let start = range.start.max(parameter.range.start) - parameter.range.start;
            let end = range.end.min(parameter.range.end) - parameter.range.start;
            to.extend_from_slice(&numbers.get()[start..end]);
        }
    }
}

/// This rank's share of the sum of all parts; `None` where a part of its own did not come.
fn added(
    own_parts: &Receiver<HostPart>,
    parts: usize,
    ranks: &dyn Ranks,
    shares: &Shares,
) -> Option<Vec<f32>> {
    let (rank, size) = (ranks.rank(), ranks.size());
    let mut sum = vec![0.0; shares.of(rank).len()];
    let bucket = BUCKET.div_ceil(size);
    for first in (0..parts).step_by(size) {
        let of_round = size.min(parts - first);
        let part = match rank < of_round {
            true => Some(own_parts.recv().ok()?),
            false => None,
        };
        for begin in (0..shares.largest()).step_by(bucket) {
            let within = |rank: usize| {
                let share = shares.of(rank);
                let at = |offset: usize| share.end.min(share.start + offset);
                at(begin)..at(begin + bucket)
            };
            let mut given = Vec::new();
            let to: Vec<Range<usize>> = (0..size)
                .map(|other| {
                    let start = given.len();
                    if let Some(part) = &part {
                        part.copy(shares, &within(other), &mut given);
                    }
                    start..given.len()
                })
                .collect();
            let length = within(rank).len();
            let counts: Vec<usize> = (0..size)
                .map(|other| if other < of_round { length } else { 0 })
                .collect();
            let got = ranks.exchange(&given, &to, &counts);
            let sum = &mut sum[begin.min(shares.of(rank).len())..][..length];
            for (place, of_part) in got.chunks(length.max(1)).enumerate() {
                match first + place {
                    // Zero and the first would be another number where that is −0.
                    0 => sum.copy_from_slice(of_part),
                    _ => sum.iter_mut().zip(of_part).for_each(|(sum, of)| *sum += of),
                }
            }
        }
    }
    Some(sum)
}

/// A rank's word on a step.
#[derive(Serialize, Deserialize)]
struct Word {
    /// As bits: JSON has no infinity.
    losses: Vec<u32>,
    squares: Vec<u64>,
}

/// Mean cross-entropy and norm as [`Gradients::loss_and_norm`] computes them.
fn loss_and_norm(
    own: &[f32],
    losses: &[f32],
    device: &Device,
    ranks: &dyn Ranks,
    shares: &Shares,
) -> (f64, f64) {
    let start = shares.of(ranks.rank()).start;
    let squares = shares.pieces_of(ranks.rank()).map(|piece| {
        let numbers = &own[piece.start - start..piece.end - start];
        squares(numbers, device).to_bits()
    });
    let words = ranks.gather_values(&Word {
        losses: losses.iter().map(|loss| loss.to_bits()).collect(),
        squares: squares.collect(),
    });
    // Part p is the (p ÷ N)th of rank p mod N.
    let parts = words.iter().map(|word| word.losses.len()).sum::<usize>();
    let loss = |part: usize| words[part % words.len()].losses[part / words.len()];
    let loss = (0..parts).map(|part| f64::from(f32::from_bits(loss(part))));
    let squares = words.iter().flat_map(|word| &word.squares);
    let mut pieces = shares.pieces().iter().zip(squares).peekable();
    let squares = shares.parameters().iter().map(|parameter| {
        let next = || pieces.next_if(|(piece, _)| piece.end <= parameter.range.end);
        let of_pieces = std::iter::from_fn(next).map(|(_, bits)| f64::from_bits(*bits));
        of_pieces.sum::<f64>() as f32
    });
    (loss.sum(), squares.map(f64::from).sum::<f64>().sqrt())
}

/// `Σ x²` of a piece, where the model is.
fn squares(numbers: &[f32], device: &Device) -> f64 {
    if crate::device::is_cpu(device) {
        return sum_of_squares(numbers);
    }
    let data = TensorData::new(numbers.to_vec(), [numbers.len()]);
    let squares = Tensor::<1>::from_data(data, &device.clone().inner())
        .square()
        .sum();
    f64::from(host_values(squares)[0])
}

impl Gradients {
    /// Those of all ranks' shares together, on a device.
    pub(super) fn whole(numbers: &[f32], shares: &Shares, device: &Device) -> Self {
        let device = device.clone().inner();
        let of = shares
            .by_parameter(numbers)
            .into_iter()
            .map(|(id, numbers)| {
                let size = numbers.len();
                (
                    id,
                    Tensor::from_data(TensorData::new(numbers, [size]), &device),
                )
            });
        let mut whole = Self::default();
        whole.of = of.collect();
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu;
    use crate::ranks::threads;
    use crate::testing::small;
    use crate::train::Learn;
    use bam_attention::testing::signed_numbers;

    /// Parts of gradients of a small model, and the share of their sum that each of so many ranks has, end to end.
    fn sum(parts: &[Vec<f32>], size: usize, whole: bool) -> Vec<f32> {
        let model = small("bam+ssmax").init(&cpu());
        let shares = Shares::new(&model, &Learn::default(), size, whole);
        let of_ranks = threads::run(size, |ranks| {
            let (sender, receiver) = sync_channel(parts.len());
            for part in parts.iter().skip(ranks.rank()).step_by(size) {
                let mut of = Gradients::whole(part, &shares, &cpu());
                of.losses.push(Tensor::from_data([0.0], &cpu()));
                sender.send(HostPart::new(of, &shares).unwrap()).unwrap();
            }
            added(&receiver, parts.len(), &*ranks, &shares).unwrap()
        });
        of_ranks.concat()
    }

    fn bits(numbers: &[f32]) -> Vec<u32> {
        numbers.iter().map(|number| number.to_bits()).collect()
    }

    fn added_up<'a>(parts: impl Iterator<Item = &'a Vec<f32>>) -> Vec<f32> {
        let add = |sum: Vec<f32>, part: &Vec<f32>| {
            sum.iter().zip(part).map(|(sum, of)| sum + of).collect()
        };
        parts
            .fold(None, |sum, part| {
                Some(sum.map_or(part.clone(), |sum| add(sum, part)))
            })
            .unwrap()
    }

    #[test]
    fn sums_are_those_of_one_process() {
        let model = small("bam+ssmax").init(&cpu());
        let numbers = Shares::new(&model, &Learn::default(), 1, true).of(0).len();
        for count in [1, 2, 5, 8, 13] {
            let parts = (0..count).map(|part| signed_numbers(numbers, 1.0, part));
            let mut parts: Vec<Vec<f32>> = parts.collect();
            // −0 in all parts is −0 in the sum.
            parts.iter_mut().for_each(|part| part[0] = -0.0);
            let expected = bits(&added_up(parts.iter()));
            for size in [1, 2, 3, 8] {
                for whole in [false, true] {
                    assert_eq!(
                        bits(&sum(&parts, size, whole)),
                        expected,
                        "{count} on {size}"
                    );
                }
            }
        }
    }

    /// Null control: sums by rank that are then added, as most programs do it, are other numbers.
    #[test]
    fn sums_by_rank_are_other_numbers() {
        let parts: Vec<Vec<f32>> = (0..8).map(|part| signed_numbers(1000, 1.0, part)).collect();
        let by_rank = |size: usize| {
            let of_ranks = (0..size).map(|rank| added_up(parts.iter().skip(rank).step_by(size)));
            bits(&added_up(of_ranks.collect::<Vec<_>>().iter()))
        };
        assert_eq!(by_rank(1), by_rank(8));
        assert_ne!(by_rank(1), by_rank(2));
        assert_ne!(by_rank(2), by_rank(3));
    }
}
