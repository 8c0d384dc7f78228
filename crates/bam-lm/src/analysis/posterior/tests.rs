use super::*;
use crate::analysis::measured::measured;
use crate::testing::{lively, small};
use bam_attention::testing::{Case, KeyNumbers, oracle, signed_numbers};
use bam_attention::{Implementation, attend};
use burn::tensor::{Device, Tensor, TensorData};

const ENCODINGS: [&str; 13] = [
    "fox+bam",
    "fox+ssmax-content",
    "bam+ssmax",
    "bam+ssmax-content",
    "alibi:2,student_t:4",
    "nope",
    "rotary+ssmax",
    "rotary_local+ssmax",
    "sinusoidal",
    "rotary_local:7,bam+ssmax",
    "alibi+ssmax-content,rotary_local",
    "bam+adaptive",
    "rotary_local:7,alibi+adaptive-content",
];

fn tokens(length: usize) -> Vec<i32> {
    let numbers = signed_numbers(length, 15.0, length as u64);
    numbers.iter().map(|x| (x + 15.0) as i32).collect()
}

/// A layer's call as the oracle takes it, with these values.
fn case(attended: &Attended, values: &[f32]) -> Case {
    let [batch, heads, queries, dim] = attended.call.q.dims();
    let [_, key_heads, keys, _] = attended.call.k.dims();
    let layer = Layer::new(attended);
    Case {
        batch,
        heads,
        key_heads,
        queries,
        keys,
        dim,
        offset: attended.call.options.query_offset,
        causal: true,
        window: attended.call.options.window,
        documents: None,
        temperature: (layer.temperature)
            .map(|(values, scope)| (values, scope == TemperatureScope::LikelihoodAndPrior)),
        key_prior: attended
            .call
            .options
            .key_prior
            .as_ref()
            .map(|of| KeyNumbers {
                high: host_values(of.values.clone()),
                low: host_values(of.remainders.clone().expect("sums have some")),
                heads: of.values.dims()[1],
                scope: of.scope,
            }),
        q: layer.q,
        k: layer.k,
        v: values.to_vec(),
        ln_weights: layer.ln_weights,
        first_lag: attended.call.log_prior.lags().first(),
        lags: attended.call.log_prior.lags().count(),
    }
}

/// `Σ weights·v` for every head and row, as attention's output is laid out.
fn means(
    row_posteriors: &[RowPosterior],
    case: &Case,
    weights: impl Fn(&RowPosterior) -> Vec<f64>,
) -> Vec<f64> {
    let group = case.heads / case.key_heads;
    let mut out = Vec::new();
    for row in row_posteriors {
        let of_head = &case.v[row.head / group * case.keys * case.dim..];
        let mut mean = vec![0.0; case.dim];
        for (j, p) in weights(row).into_iter().enumerate() {
            let value = &of_head[(row.first_key + j) * case.dim..][..case.dim];
            let sums = mean.iter_mut().zip(value);
            sums.for_each(|(sum, v)| *sum += p * f64::from(*v));
        }
        out.extend(mean);
    }
    out
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f64::max)
}

/// The posterior is the softmax of the definition in `f64`, and its mean of any values is what
/// attention gives; the prior's mean is not.
#[test]
fn posteriors_are_what_attention_attends_to() {
    for encoding in ENCODINGS {
        for length in [1, 2, 63, 65] {
            let model = lively(small(encoding), 11, &Device::flex());
            let ids = TokenRows::new(1, tokens(length), 31).unwrap();
            let mut cache = model.cache(1, length + 7).unwrap();
            let layers = RefCell::new(0);
            let observer = |attended: &Attended| {
                *layers.borrow_mut() += 1;
                let values = signed_numbers(attended.call.k.shape().num_elements(), 3.0, 5);
                let case = case(attended, &values);
                let mut row_posteriors = Vec::new();
                let rows: Vec<usize> = (0..length).collect();
                let layer = Layer::new(attended);
                layer.tell(&rows, &mut |row: RowPosterior| row_posteriors.push(row));
                row_posteriors.sort_by_key(|row| (row.head, row.row));
                let of = |p: &f32| f64::from(*p);
                let ours = means(&row_posteriors, &case, |b| {
                    b.posterior.iter().map(of).collect()
                });

                // Each of the posterior's numbers was rounded to f32 once.
                let definition = oracle(&case);
                let rounding = 4.0 * f64::from(f32::EPSILON) * 3.0;
                let off = largest_difference(&ours, &definition);
                assert!(off < rounding, "{encoding} {length}: {off}");

                let shape = attended.call.k.dims();
                let v = TensorData::new(values, shape);
                let v = Tensor::from_data(v, &Device::flex());
                let (q, k) = (attended.call.q.clone(), attended.call.k.clone());
                let mut options = attended.call.options.clone();
                options.implementation = Implementation::Fused;
                let out = attend(q, k, v, &attended.call.log_prior, &options).unwrap();
                let out: Vec<f64> = host_values(out).iter().map(of).collect();
                // A logit in f32 is off by a few units of its size, and so is its weight.
                let largest = row_posteriors.iter().flat_map(|b| {
                    let logits = b.content.iter().map(|c| (b.temperature * of(c)).abs());
                    logits.zip(&b.ln_prior).zip(&b.posterior)
                });
                let matters = largest.filter(|(_, p)| **p > 1e-9);
                let size = matters.map(|((c, prior), _)| c + of(prior).abs());
                let size = size.fold(1.0, f64::max);
                let tolerance = rounding * (case.dim + 8) as f64 * size;
                let off = largest_difference(&ours, &out);
                assert!(off < tolerance, "{encoding} {length}: {off} of {tolerance}");

                if length > 2 {
                    let prior = |b: &RowPosterior| b.ln_prior.iter().map(|p| of(p).exp()).collect();
                    let prior = means(&row_posteriors, &case, prior);
                    let off = largest_difference(&prior, &definition);
                    assert!(off > 1000.0 * tolerance, "{encoding}: {off}");
                }
            };
            model
                .observe(&ids, &mut cache, 0..length, &observer)
                .unwrap();
            assert_eq!(layers.into_inner(), 2);
        }
    }
}

#[test]
fn bayes_rule_holds_in_every_entry() {
    for encoding in ENCODINGS {
        let model = lively(small(encoding), 12, &Device::flex());
        let row_posteriors = row_posteriors(&model, &tokens(40), &[0, 1, 39]).unwrap();
        for row in &row_posteriors {
            let sum = |values: &[f32], of: fn(f64) -> f64| -> f64 {
                values.iter().map(|x| of(f64::from(*x))).sum()
            };
            let own = f64::from(f32::EPSILON) * 100.0;
            assert!((sum(&row.posterior, |p| p) - 1.0).abs() < own);
            assert!((sum(&row.ln_prior, f64::exp) - 1.0).abs() < own);
            let evidence: f64 = (row.ln_prior.iter().zip(&row.content))
                .map(|(p, c)| (f64::from(*p) + row.temperature * f64::from(*c)).exp())
                .sum();
            assert!((evidence.ln() - row.ln_evidence).abs() < own);
            // KL of the posterior is Σ p ln p − Σ p ln prior.
            let ln = |p: f64| if p > 0.0 { p * p.ln() } else { 0.0 };
            let cross: f64 = (row.posterior.iter().zip(&row.ln_prior))
                .map(|(p, ln_prior)| f64::from(*p) * f64::from(*ln_prior))
                .sum();
            let (entropy, divergence) = entropy_and_divergence(row);
            assert!((entropy + sum(&row.posterior, ln)).abs() < 10.0 * own);
            assert!((divergence - (-entropy - cross)).abs() < 10.0 * own);
        }
        let last_is_local = ["rotary_local+ssmax", "alibi+ssmax-content,rotary_local"];
        let hidden = last_is_local.contains(&encoding);
        let last = row_posteriors.last().unwrap();
        assert_eq!((last.row, last.layer, last.head), (39, 1, 5));
        assert_eq!(last.first_key, if hidden { 24 } else { 0 });
    }
}

/// The choice of rows, and of where the text is cut into pieces, changes nothing but the rounding.
#[test]
fn rows_do_not_depend_on_each_other() {
    let length = CHUNK + 70;
    let model = lively(small("bam+ssmax"), 13, &Device::flex());
    let tokens = tokens(length);
    let rows = [3, 700, CHUNK - 1, CHUNK, CHUNK + 69];
    let all = row_posteriors(&model, &tokens, &rows).unwrap();
    assert_eq!(all.len(), rows.len() * 12);
    let differ = |one: &[RowPosterior], part: &[RowPosterior]| -> f64 {
        let pairs = one.iter().zip(part).flat_map(|(one, part)| {
            assert_eq!(
                (one.row, one.layer, one.head),
                (part.row, part.layer, part.head)
            );
            one.posterior.iter().zip(&part.posterior)
        });
        pairs
            .map(|(a, b)| f64::from((a - b).abs()))
            .fold(0.0, f64::max)
    };
    for (index, row) in rows.iter().enumerate() {
        let one = row_posteriors(&model, &tokens, &[*row]).unwrap();
        let off = differ(&one, &all[index * 12..][..12]);
        assert!(off < 1e-3, "{row}: {off}");
    }
    // Null control: another text.
    let mut other = tokens.clone();
    other[2] = (other[2] + 9) % 31;
    let off = differ(&row_posteriors(&model, &other, &rows).unwrap(), &all);
    assert!(off > 1e-2, "{off}");
}

#[test]
fn a_model_without_scores_believes_its_prior() {
    let mut config = small("alibi");
    config.layers = 1;
    let model = config.init(&Device::flex());
    let mut tensors = model.to_tensors();
    let (_, values) = tensors.get_mut("layers.0.attention.wq.weight").unwrap();
    values.fill(0.0);
    let silent = model
        .with_tensors(tensors, std::path::Path::new("silent"))
        .unwrap();
    let on_text = measured(&silent, "text", &tokens(100), 7).unwrap();
    assert_eq!((on_text.length, on_text.rows), (100, 7));
    for head in &on_text.heads {
        assert_eq!(head.prior_mass_lags, head.posterior_mass_lags);
        assert!(head.divergence < 1e-6 && head.ln_evidence.abs() < 1e-6);
        let (last, prior, posterior) = *head.masses.last().unwrap();
        assert_eq!((last, prior), (99.0, 1.0));
        assert_eq!(posterior, 1.0);
    }
    // The slope 1/4 on long rows: p(r) = (1 − e^−¼)·e^(−r/4), whose entropy is known.
    let q = (-0.25_f64).exp();
    let entropy = -(1.0 - q).ln() + 0.25 * q / (1.0 - q);
    assert!((on_text.heads[0].entropy - entropy).abs() < 1e-3);
    let talking = lively(config, 14, &Device::flex());
    let on_text = measured(&talking, "text", &tokens(100), 7).unwrap();
    assert!(on_text.heads.iter().all(|head| head.divergence > 0.01));
}

#[test]
fn rows_that_are_not_there_are_refused() {
    let model = small("bam").init(&Device::flex());
    let error = row_posteriors(&model, &[1, 2, 3], &[3])
        .unwrap_err()
        .to_string();
    assert_eq!(error, "row: expected a position below the 3 tokens, got 3");
    let error = row_posteriors(&model, &[1, 31, 3], &[2])
        .unwrap_err()
        .to_string();
    assert_eq!(error, "token 1: expected an id from 0 to 30, got 31");
    assert!(row_posteriors(&model, &[], &[]).unwrap().is_empty());
    let error = measured(&model, "text", &[1], 0).unwrap_err().to_string();
    assert!(error.contains("1 row, got 1 tokens and 0 rows"), "{error}");
    assert_eq!(measured(&model, "text", &[1], 9).unwrap().rows, 1);
}
