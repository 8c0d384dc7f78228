//! Priors on finite rows: mass lags, quantiles, entropy and class.

mod null_control;

use bam_prior::{
    Class, Component, Gaussian, GeneralizedGaussian, KerpleLog, Laplace, MassLags, Mixture,
    PositionalPrior, Prior, RowSummary, StudentT, Table, Uniform, alibi_slopes,
};
use null_control::{holds, near, refuted};
use proptest::prelude::*;
use serde::Deserialize;

fn row(prior: &impl PositionalPrior, keys: usize) -> RowSummary {
    RowSummary::new(prior, keys).unwrap()
}

fn generalized(location: f64, scale: f64, shape: f64) -> Prior {
    GeneralizedGaussian::new(location, scale, shape)
        .unwrap()
        .into()
}

/// Priors of every temper, far beyond what training would reach.
fn wild() -> impl Strategy<Value = Prior> {
    let magnitude = || (-9.0..9.0).prop_map(|exponent: f64| 10_f64.powf(exponent));
    prop_oneof![
        Just(Prior::from(Uniform)),
        magnitude().prop_map(|slope| Laplace::new(slope).unwrap().into()),
        (-1e7..1e3, magnitude()).prop_map(|(mu, s)| Gaussian::new(mu, s).unwrap().into()),
        (-1e7..1e3, magnitude(), -9.0..90.0).prop_map(|(mu, a, b)| generalized(mu, a, b)),
        (-1e3..1e1, 0.001..2.0, -2.0..2.0).prop_map(|(mu, a, b)| generalized(mu, a, b)),
        (magnitude(), magnitude()).prop_map(|(a, b)| KerpleLog::new(a, b).unwrap().into()),
        (-1e4..1e2, magnitude(), magnitude())
            .prop_map(|(mu, s, nu)| StudentT::new(mu, s, nu).unwrap().into()),
        prop::collection::vec(-1e300..1e300, 1..9).prop_map(|t| Table::new(t).unwrap().into()),
    ]
}

fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![
        prop::sample::select(vec![1, 2, 3, 63, 65, 100, 257, 2000]),
        1..700_usize
    ]
}

#[test]
fn quantile_is_the_first_distance_that_holds_the_mass() {
    let cases = (wild(), lengths(), 0.001..1.0);
    type Quantile = fn(&RowSummary, f64) -> usize;
    let law = |quantile: Quantile, (prior, keys, p): (Prior, usize, f64)| {
        let row = row(&prior, keys);
        let r = quantile(&row, p);
        prop_assert!(r < keys);
        prop_assert!(row.mass_within(r) >= p * (1.0 - 1e-15));
        prop_assert!(r == 0 || row.mass_within(r - 1) < p * (1.0 + 1e-15));
        Ok(())
    };
    holds(&cases, |case| law(|row, p| row.quantile(p).unwrap(), case));
    refuted(&cases, |case| {
        law(|row, p| row.quantile(p).unwrap() + 1, case)
    });
    refuted(&cases, |case| {
        law(|row, p| (p * (row.keys() - 1) as f64).ceil() as usize, case)
    });
}

#[test]
fn summaries_stay_within_their_bounds() {
    let law = |entropy: fn(&RowSummary) -> f64, (prior, keys): (Prior, usize)| {
        let row = row(&prior, keys);
        let most = (keys as f64).ln();
        let entropy = entropy(&row);
        prop_assert!(
            entropy >= 0.0 && entropy <= most * (1.0 + 1e-14) + 1e-15,
            "{}",
            entropy
        );
        prop_assert!((0.0..=(keys - 1) as f64).contains(&row.mean_distance()));
        let MassLags { p50, p90, p99 } = row.mass_lags();
        prop_assert!(p50 <= p90 && p90 <= p99 && p99 < keys);
        let quantiles = [0.1, 0.5, 0.9, 0.99, 1.0].map(|p| row.quantile(p).unwrap());
        prop_assert!(quantiles.is_sorted());
        prop_assert_eq!(&quantiles[1..4], &[p50, p90, p99]);
        prop_assert!((0..keys).map(|r| row.mass_within(r)).is_sorted());
        prop_assert_eq!(
            [keys - 1, keys, usize::MAX].map(|r| row.mass_within(r)),
            [1.0; 3]
        );
        Ok(())
    };
    let cases = (wild(), lengths());
    holds(&cases, |case| law(RowSummary::entropy, case));
    refuted(&cases, |case| {
        law(|row| row.entropy() / std::f64::consts::LN_2, case)
    }); // bits
}

/// A prior's own masses, times any factor, are the prior again.
#[test]
fn masses_are_a_distribution_whatever_they_sum_to() {
    let cases = (wild(), lengths(), 0.01..100.0);
    let law = |bent: f64, (prior, keys, factor): (Prior, usize, f64)| {
        let expected = row(&prior, keys);
        let mass = |r: usize| match r {
            0 => expected.mass_within(0),
            r => expected.mass_within(r) - expected.mass_within(r - 1),
        };
        let masses: Vec<f64> = (0..keys).map(|r| factor * mass(r).powf(bent)).collect();
        let got = RowSummary::of_masses(&masses).unwrap();
        near(
            got.mean_distance(),
            expected.mean_distance(),
            1e-9 * keys as f64,
        )?;
        near(
            got.mass_within(keys / 2),
            expected.mass_within(keys / 2),
            1e-9,
        )
    };
    holds(&cases, |case| law(1.0, case));
    refuted(&cases, |case| law(0.5, case));
    for (masses, named) in [
        (vec![0.0, f64::NAN], "distance 1"),
        (vec![-1.0], "distance 0"),
        (vec![0.0; 3], "sum"),
        (vec![], "sum"),
    ] {
        let error = RowSummary::of_masses(&masses).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn uniform_rows_in_closed_form() {
    let law = |prior: Prior, keys: usize| {
        let row = row(&prior, keys);
        let n = keys as f64;
        near(row.entropy(), n.ln(), 1e-14 * (1.0 + n.ln()))?;
        near(row.mean_distance(), (n - 1.0) / 2.0, 1e-12 * n)?;
        prop_assert_eq!(row.mass_lags().p50, keys.div_ceil(2) - 1);
        prop_assert_eq!(row.class(), Class::Flat);
        Ok(())
    };
    holds(&lengths(), |keys| law(Uniform.into(), keys));
    holds(&lengths(), |keys| law(generalized(-3.0, 0.5, 0.0), keys));
    refuted(&lengths(), |keys| law(generalized(-3.0, 0.5, 0.01), keys));
}

#[test]
fn laplace_rows_in_closed_form() {
    let cases = (0.0001..2.0, lengths(), 0.0..1.0);
    type Case = (f64, usize, f64);
    let law = |prior: fn(f64) -> Prior, (slope, keys, part): Case| {
        let row = row(&prior(slope), keys);
        let r = (part * keys as f64) as usize;
        let geometric = |keys: usize| -(-slope * keys as f64).exp_m1();
        near(
            row.mass_within(r),
            geometric(r + 1) / geometric(keys),
            1e-12,
        )
    };
    holds(&cases, |case| {
        law(|slope| Laplace::new(slope).unwrap().into(), case)
    });
    holds(&cases, |case| {
        law(|slope| generalized(0.0, slope, 1.0), case)
    });
    refuted(&cases, |case| {
        law(|slope| generalized(-1.0, slope, 1.0), case)
    });
}

#[derive(Deserialize)]
struct Golden {
    prior: Prior,
    keys: usize,
    entropy: f64,
    mean_distance: f64,
    mass_lags: MassLags,
    mass_within_10: f64,
}

fn disagrees_with_golden_rows(impostor: impl Fn(Prior) -> Prior) -> bool {
    let lines = include_str!("golden/rows.jsonl").lines();
    let mut rows = lines.map(|line| serde_json::from_str::<Golden>(line).unwrap());
    rows.any(|golden| {
        let row = row(&impostor(golden.prior), golden.keys);
        let off = |got: f64, exact: f64| (got - exact).abs() > 1e-12 * exact.abs().max(1e-30);
        off(row.entropy(), golden.entropy)
            || off(row.mean_distance(), golden.mean_distance)
            || off(row.mass_within(10), golden.mass_within_10)
            || row.mass_lags() != golden.mass_lags
    })
}

#[test]
fn rows_agree_with_golden_numbers() {
    assert!(!disagrees_with_golden_rows(|prior| prior));
    assert!(disagrees_with_golden_rows(|prior| match prior {
        Prior::GeneralizedGaussian(law) => generalized(0.0, law.scale(), law.shape()),
        other => other,
    }));
}

#[test]
fn alibi_heads_are_local() {
    for heads in [1, 3, 6, 8, 12, 16] {
        for slope in alibi_slopes(heads).unwrap() {
            let prior = Laplace::new(slope).unwrap();
            assert_eq!(row(&prior, 64_000).class(), Class::Local, "slope {slope}");
            assert_eq!(row(&prior, 103).class(), Class::Local, "slope {slope}");
        }
    }
    assert_eq!(
        row(&Laplace::new(2_f64.powi(-8)).unwrap(), 100).class(),
        Class::Flat
    );
}

#[test]
fn negative_shapes_are_anti_local_where_they_suppress() {
    for keys in [10, 512, 64_000] {
        for (scale, shape) in [
            (0.5, -0.25),
            (1.0, -0.5),
            (2.0, -1.0),
            (0.004, -1.0),
            (0.5, -3.0),
        ] {
            let prior = generalized(0.0, scale, shape);
            assert_eq!(
                row(&prior, keys).class(),
                Class::AntiLocal,
                "{prior:?} on {keys}"
            );
        }
        // ε^β·a is far below one nat: every key keeps its weight.
        for (scale, shape) in [(1e-4, -0.5), (0.004, -0.1), (1.0, -0.001)] {
            let prior = generalized(0.0, scale, shape);
            assert_eq!(
                row(&prior, keys).class(),
                Class::Flat,
                "{prior:?} on {keys}"
            );
        }
    }
}

#[test]
fn class_follows_the_mass_not_the_family() {
    let slab = |weight: f64| -> Prior {
        let peak = Laplace::new(0.5).unwrap().into();
        let peak = Component {
            weight: 1.0 - weight,
            prior: peak,
        };
        Mixture::new(vec![
            peak,
            Component {
                weight,
                prior: Uniform.into(),
            },
        ])
        .unwrap()
        .into()
    };
    let cases = [
        (slab(1e-6), Class::Local),
        (slab(0.5), Class::Flat),
        (generalized(-100.0, 0.01, 2.0), Class::Local), // a window, near
        (generalized(-9000.0, 0.01, 2.0), Class::AntiLocal), // a window, far
        (generalized(-1e7, 0.5, 1.0), Class::AntiLocal), // beyond the row: the farther, the more
        (generalized(50.0, 0.5, 1.0), Class::Local),    // in the future: the nearer, the more
        (KerpleLog::new(1.0, 1.0).unwrap().into(), Class::Local),
        (KerpleLog::new(0.15, 1.0).unwrap().into(), Class::Local),
        (KerpleLog::new(0.11, 1.0).unwrap().into(), Class::Flat),
        (
            Table::new(vec![-2.0, 0.0]).unwrap().into(),
            Class::AntiLocal,
        ), // hides itself
        (Table::new(vec![2.0, 0.0]).unwrap().into(), Class::Flat), // one key of 10⁴ stands out
    ];
    for (prior, class) in cases {
        assert_eq!(row(&prior, 10_000).class(), class, "{prior:?}");
    }
}

#[test]
fn class_does_not_depend_on_the_unit_of_lag() {
    let law = |power: i32, (reach, keys): (f64, usize)| {
        let class = |n: usize, slope| row(&Laplace::new(slope).unwrap(), n).class();
        let slope = reach / keys as f64;
        prop_assert_eq!(
            class(keys, slope),
            class(7 * keys, slope * 7_f64.powi(power))
        );
        Ok(())
    };
    let cases = (prop_oneof![0.01..0.35, 0.45..100.0], 200..600_usize);
    holds(&cases, |case| law(-1, case));
    refuted(&cases, |case| law(0, case));
}

#[test]
fn a_million_keys() {
    let keys = 1_000_000;
    let local = row(&Laplace::new(0.5).unwrap(), keys);
    assert_eq!(
        local.mass_lags(),
        MassLags {
            p50: 1,
            p90: 4,
            p99: 9
        }
    );
    let anti_local = row(&generalized(0.0, 1.0, -0.5), keys);
    assert_eq!(anti_local.class(), Class::AntiLocal);
    assert!((anti_local.entropy() - (keys as f64).ln()).abs() < 1e-2);
    let far = row(&generalized(-1e9, 3.0, 2.0), keys);
    assert_eq!((far.mass_lags().p50, far.entropy()), (keys - 1, 0.0));
}

#[test]
fn questions_outside_of_the_row_are_errors() {
    assert!(RowSummary::new(&Uniform, 0).is_err());
    let row = row(&Uniform, 10);
    for p in [0.0, -0.1, 1.1, f64::NAN] {
        assert!(row.quantile(p).is_err(), "{p}");
    }
    assert_eq!(
        (row.quantile(0.5).unwrap(), row.quantile(1.0).unwrap()),
        (4, 9)
    );
}

#[test]
fn summaries_serialise_as_records() {
    let text = serde_json::to_string(&row(&Table::new(vec![-9.0, 0.0]).unwrap(), 2)).unwrap();
    assert!(
        text.starts_with(r#"{"keys":2,"class":"anti_local","mass_lags":{"p50":1,"#),
        "{text}"
    );
    assert_eq!(Class::AntiLocal.to_string(), "anti-local");
    assert_eq!(format!("{:>6}", Class::Flat), "  flat");
}
