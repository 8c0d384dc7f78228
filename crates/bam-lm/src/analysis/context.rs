//! Long rows from the parameters alone: how far heads can look, which keys
//! suffice, and what a cache then needs.

use super::prior::heads;
use crate::Error;
use crate::model::{Horizons, Transformer};
use bam_prior::LogitBound;
use bam_record::{Context, ContextHead};

/// Every head's certified horizon in rows of up to `length` keys, where at most the share `epsilon`
/// of a row's posterior may lie beyond; see [`Horizons`].
///
/// # Errors
/// Those of [`Transformer::horizons`].
pub fn context(model: &Transformer, length: usize, epsilon: f64) -> Result<Context, Error> {
    let bounds = model.logit_bounds();
    let certified = model.horizons_under(&bounds, length, epsilon)?;
    let without_content: Vec<Vec<LogitBound>> = bounds
        .iter()
        .map(|heads| {
            let heads = heads.iter();
            heads
                .map(|bound| LogitBound {
                    content: 0.0,
                    ..*bound
                })
                .collect()
        })
        .collect();
    let of_priors = model.horizons_under(&without_content, length, epsilon)?;
    let heads: Vec<ContextHead> = heads(model, length)?
        .heads
        .into_iter()
        .map(|head| {
            let of = |horizons: &Horizons| horizons.layers()[head.layer][head.head];
            ContextHead {
                content_bound: bounds[head.layer][head.head].content,
                prior_horizon: of(&of_priors),
                horizon: of(&certified),
                keys: of(&certified).map_or(length, |horizon| horizon + 1),
                layer: head.layer,
                head: head.head,
                class: head.class,
            }
        })
        .collect();
    let looks_beyond = |lag: usize| heads.iter().filter(|head| head.keys > lag + 1).count();
    let powers = std::iter::successors(Some(1), |lag: &usize| lag.checked_mul(2));
    Ok(Context {
        length,
        train_length: model.config().train_length,
        epsilon,
        beyond: powers
            .take_while(|lag| *lag < length)
            .map(|lag| (lag, looks_beyond(lag)))
            .collect(),
        reach: heads.iter().map(|head| head.keys - 1).max().unwrap_or(0),
        heads,
        cache_bytes: bytes(model, model.config().cached_keys(length, None)),
        certified_cache_bytes: bytes(model, model.config().cached_keys(length, Some(&certified))),
    })
}

/// Of that many keys and as many values.
fn bytes(model: &Transformer, keys: usize) -> u64 {
    2 * (keys * model.config().head_dim() * size_of::<f32>()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::posterior::each_row_posterior;
    use crate::testing::{lively, small};
    use bam_attention::testing::signed_numbers;
    use bam_record::RowPosterior;
    use burn::tensor::Device;

    const LENGTH: usize = 257;

    /// The largest share that a row of random texts has beyond the head's horizon.
    fn worst(model: &Transformer, horizon: impl Fn(usize, usize) -> Option<usize>) -> f64 {
        let mut worst: f64 = 0.0;
        for seed in 0..4 {
            let tokens: Vec<i32> = signed_numbers(LENGTH, 15.0, seed)
                .iter()
                .map(|x| (x + 15.0) as i32)
                .collect();
            let rows: Vec<usize> = (0..LENGTH).collect();
            each_row_posterior(model, &tokens, &rows, |row: RowPosterior| {
                if let Some(horizon) = horizon(row.layer, row.head) {
                    let beyond = row.posterior.iter().rev().skip(horizon + 1);
                    worst = worst.max(beyond.map(|p| f64::from(*p)).sum());
                }
            })
            .unwrap();
        }
        worst
    }

    /// Random texts never pass a certified horizon; they pass the prior's, which knows no content,
    /// and one that takes queries and keys to be of length 1.
    #[test]
    fn no_text_looks_beyond() {
        let mut certified = 0;
        for (encoding, epsilon) in [
            ("bam", 1e-3),
            ("bam+ssmax", 1e-3),
            ("bam+ssmax-content", 1e-2),
            ("alibi+ssmax", 1e-2),
            ("alibi:2,kerple_power:4", 1e-2),
            ("laplace,bam+ssmax", 1e-2),
        ] {
            let model = lively(small(encoding), 3, &Device::flex());
            let context = context(&model, LENGTH, epsilon).unwrap();
            let of = |layer: usize, head: usize| &context.heads[layer * 6 + head];
            let share = worst(&model, |layer, head| of(layer, head).horizon);
            assert!(share <= epsilon, "{encoding}: {share}");
            certified += context.heads.iter().filter(|h| h.horizon.is_some()).count();
            let share = worst(&model, |layer, head| of(layer, head).prior_horizon);
            assert!(share > epsilon, "{encoding}: the prior alone is no bound");
            let mut bounds = model.logit_bounds();
            for bound in bounds.iter_mut().flatten() {
                bound.content = 1.0 / (model.config().head_dim() as f64).sqrt();
            }
            let of_units = model.horizons_under(&bounds, LENGTH, epsilon).unwrap();
            let share = worst(&model, |layer, head| of_units.layers()[layer][head]);
            assert!(share > epsilon, "{encoding}: the norms matter");
        }
        assert!(certified >= 5, "only {certified} heads of 60 are certified");
    }

    #[test]
    fn the_numbers_fit_each_other() {
        let model = lively(small("alibi"), 4, &Device::flex());
        let long = context(&model, 100_000, 1e-6).unwrap();
        assert_eq!(long.heads.len(), 12);
        let beyond = |lag: usize| long.heads.iter().filter(|head| head.keys > lag + 1).count();
        assert_eq!(long.beyond[0], (1, beyond(1)));
        assert_eq!(long.beyond.last().unwrap(), &(65_536, beyond(65_536)));
        for head in &long.heads {
            // A Laplace prior always ends, and content only ever carries farther.
            let horizon = head.horizon.unwrap();
            assert!(horizon > head.prior_horizon.unwrap());
            assert_eq!(head.keys, horizon + 1);
            assert!(horizon <= long.reach);
        }
        // 2 layers, 3 key heads of 4 numbers.
        assert_eq!(long.cache_bytes, 2 * 2 * 3 * 4 * 4 * 100_000);
        assert!(long.certified_cache_bytes < long.cache_bytes / 4);
        let uniform = context(&lively(small("rotary"), 4, &Device::flex()), 99, 1e-6).unwrap();
        assert!(uniform.heads.iter().all(|head| head.horizon.is_none()));
        assert_eq!(
            (uniform.reach, uniform.certified_cache_bytes),
            (98, uniform.cache_bytes)
        );
        // What a layer hides can't be seen, and a layer beside it is certified by its own prior.
        let of = |encoding| context(&lively(small(encoding), 4, &Device::flex()), 100_000, 1e-6);
        let two = of("rotary_local:9,alibi").unwrap();
        assert!(two.heads[..6].iter().all(|head| head.horizon == Some(8)));
        assert!(two.heads[6..].iter().all(|head| head.horizon.is_some()));
        for (head, alone) in two.heads.iter().zip(&long.heads).skip(6) {
            assert_eq!(head.prior_horizon, alone.prior_horizon);
        }
        assert_eq!(two.cache_bytes, 2 * 3 * 4 * 4 * (9 + 100_000));
        // Rows may be as sharp as a text makes them.
        let own = context(
            &lively(small("alibi,alibi+adaptive"), 4, &Device::flex()),
            100_000,
            1e-6,
        );
        let own = own.unwrap().heads;
        assert!(own[..6].iter().all(|head| head.horizon.is_some()));
        assert!(own[6..].iter().all(|head| head.horizon.is_none()));
        let hidden = context(&lively(small("rotary_local"), 4, &Device::flex()), 99, 1e-6).unwrap();
        assert!(hidden.heads.iter().all(|head| head.horizon == Some(15)));
        assert!(context(&model, 0, 1e-6).is_err());
        assert!(context(&model, 9, 0.0).is_err());
    }
}
