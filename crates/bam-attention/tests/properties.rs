//! Any shape with any options: the fused operation against the definition and, in every gradient,
//! against the reference.

use bam_attention::Implementation::{Fused, Reference};
use bam_attention::testing::{Case, OnTensors, Shape, instructions, oracle};
use bam_attention::{KeyPriorScope, Options};
use proptest::prelude::*;

/// The numbers that make a case; short to print when one fails.
#[derive(Clone, Copy, Debug)]
struct Recipe {
    batch: usize,
    key_heads: usize,
    group: usize,
    queries: usize,
    cached: usize,
    dim: usize,
    full: bool,
    window: Option<usize>,
    documents: Option<usize>,
    temperature: Option<bool>,
    /// By query head, and scaled.
    key_prior: Option<(bool, bool)>,
    seed: u32,
}

fn recipes() -> impl Strategy<Value = Recipe> {
    let shape = (
        1usize..4,
        1usize..4,
        1usize..4,
        1usize..140,
        0usize..140,
        1usize..70,
    );
    let options = (
        any::<bool>(),
        proptest::option::of(0usize..150),
        proptest::option::of(1usize..6),
        proptest::option::of(any::<bool>()),
        proptest::option::of(any::<(bool, bool)>()),
        any::<u32>(),
    );
    (shape, options).prop_map(|(shape, options)| {
        let (batch, key_heads, group, queries, cached, dim) = shape;
        let (full, window, documents, temperature, key_prior, seed) = options;
        Recipe {
            batch,
            key_heads,
            group,
            queries,
            cached,
            dim,
            full,
            window,
            documents,
            temperature,
            key_prior,
            seed,
        }
    })
}

impl Recipe {
    fn case(self) -> Case {
        let shape = Shape {
            batch: self.batch,
            heads: self.key_heads * self.group,
            key_heads: self.key_heads,
            queries: self.queries,
            keys: self.queries + self.cached,
            dim: self.dim,
        };
        let mut case = Case::random(&shape, u64::from(self.seed));
        if self.full {
            case = case.full();
        }
        if let Some(count) = self.documents {
            case = case.with_documents(count);
        }
        if let Some(on_prior) = self.temperature {
            case = case.with_temperature(on_prior);
        }
        if let Some((by_query_head, scaled)) = self.key_prior {
            let scope = match scaled {
                true => KeyPriorScope::Scaled,
                false => KeyPriorScope::Added,
            };
            case = case.with_key_prior(by_query_head, scope);
        }
        case.window = self.window;
        case
    }
}

/// `‖a − b‖`, relative to `‖b‖` or to the terms that cancel in it, of which there is a `g·v` a row: in
/// rows of one key nothing else is left.
fn relative_error(a: &[f32], b: &[f32], case: &Case) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let terms = (case.batch * case.heads * case.queries * case.dim) as f64;
    difference / norm(&mut b.iter().map(|x| f64::from(*x))).max(terms.sqrt())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 3,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_call_means_the_same(recipe in recipes()) {
        let case = recipe.case();
        let how = |options: Options| {
            let available = instructions();
            let instructions = available[recipe.seed as usize % available.len()];
            options.with_instructions(instructions)
        };
        let fused = case.passes(how, Fused).unwrap();
        let reference = case.passes(|as_it_is| as_it_is, Reference).unwrap();
        let expected = oracle(&case);
        let error = |out: &[f32]| {
            let differences = out.iter().zip(&expected);
            differences.map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
        };
        prop_assert!(fused.iter().flatten().all(|x| x.is_finite()));
        // What the reference is off by in the same precision, times a small factor.
        let allowed = 4.0 * error(&reference[0]).max(3.0 * f64::from(f32::EPSILON));
        prop_assert!(allowed < 1e-4, "the reference is off by {}", allowed / 4.0);
        prop_assert!(error(&fused[0]) <= allowed, "{} > {allowed}", error(&fused[0]));
        let names = ["q", "k", "v", "ln_weights", "temperature", "key_prior"];
        for ((name, fused), reference) in names.iter().zip(&fused[1..]).zip(&reference[1..]) {
            let error = relative_error(fused, reference, &case);
            prop_assert!(error < 2e-5, "gradient of {name} is off by {error:e}");
        }
    }
}
