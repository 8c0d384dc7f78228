//! The boundary: any layout in memory means the same, and what does not fit is refused in words.

use bam_kernel::testing::Case;
use bam_kernel::{
    Call, Instructions, KeyPrior, KeyPriorScope, Lags, LogWeights, Operands, Plan, PriorRanges,
    Rows, Shapes, Temperature, TemperatureScope, Visibility,
};

/// Batch 2, 4 query heads, 2 key heads, 3 queries, 5 keys, width 6.
const SHAPES: Shapes = Shapes {
    q: [2, 4, 3, 6],
    k: [2, 2, 5, 6],
    v: [2, 2, 5, 6],
    prior_heads: 4,
    lags: Lags::causal(5),
    temperature: None,
    key_prior: None,
};

fn call() -> Call {
    Call {
        offset: 2,
        ..Call::causal()
    }
}

fn refused(call: Call, shapes: Shapes) -> String {
    Plan::new(call, shapes).unwrap_err().to_string()
}

#[test]
fn shapes_that_do_not_fit() {
    assert!(Plan::new(call(), SHAPES).is_ok());
    for (shapes, expected) in [
        (
            Shapes {
                k: [1, 2, 5, 6],
                ..SHAPES
            },
            "k: expected shape [2, 2, 5, 6], got [1, 2, 5, 6]",
        ),
        (
            Shapes {
                v: [2, 2, 5, 8],
                ..SHAPES
            },
            "v: expected shape [2, 2, 5, 6], got [2, 2, 5, 8]",
        ),
        (
            Shapes {
                q: [2, 0, 3, 6],
                ..SHAPES
            },
            "query heads: expected at least 1, got 0",
        ),
        (
            Shapes {
                k: [2, 3, 5, 6],
                v: [2, 3, 5, 6],
                ..SHAPES
            },
            "query heads: expected a multiple of the 3 key heads, got 4",
        ),
        (
            Shapes {
                prior_heads: 2,
                ..SHAPES
            },
            "log-prior: expected shape [4, 5], got [2, 5]",
        ),
        (
            Shapes {
                lags: Lags::causal(4),
                ..SHAPES
            },
            "log-prior: expected the lags -4..=0, got -3..=0",
        ),
        (
            Shapes {
                temperature: Some([2, 1, 3]),
                ..SHAPES
            },
            "temperature: expected shape [2, 4, 3], got [2, 1, 3]",
        ),
        (
            Shapes {
                key_prior: Some([2, 3, 5]),
                ..SHAPES
            },
            "prior over keys: expected shape [2, 4, 5], got [2, 3, 5]",
        ),
        (
            Shapes {
                key_prior: Some([2, 2, 3]),
                ..SHAPES
            },
            "prior over keys: expected shape [2, 2, 5], got [2, 2, 3]",
        ),
    ] {
        assert_eq!(refused(call(), shapes), expected);
    }
    let late = Call {
        offset: 3,
        ..call()
    };
    let lags = Lags::causal(9);
    assert_eq!(
        refused(late, Shapes { lags, ..SHAPES }),
        "keys of causal attention: expected shape at least offset + queries = 6, got 5"
    );
    let both_ways = Call {
        visibility: Visibility::Full,
        ..call()
    };
    assert_eq!(
        refused(both_ways, SHAPES),
        "log-prior: expected the lags -4..=2, got -4..=0"
    );
    // A window needs no lags beyond it.
    let lags = Lags::causal(2);
    let near = Call {
        window: Some(2),
        ..call()
    };
    assert!(Plan::new(near, Shapes { lags, ..SHAPES }).is_ok());
    let available = Instructions::available();
    let absent = Instructions::ALL
        .into_iter()
        .find(|one| !available.contains(one));
    let instructions = absent.expect("no processor has both NEON and AVX2");
    assert_eq!(
        refused(
            Call {
                instructions,
                ..call()
            },
            SHAPES
        ),
        format!("instructions: expected some that this processor has, got {instructions:?}")
    );
}

#[test]
fn slices_that_are_not_as_long_as_their_shape() {
    let numbers = vec![0.0f32; 24];
    let scope = TemperatureScope::Likelihood;
    let message = |error: Option<bam_kernel::KernelError>| error.unwrap().to_string();
    for (got, expected) in [
        (
            message(Rows::new(&numbers, [1, 2, 3, 5]).err()),
            "rows: expected 30 numbers for the shape [1, 2, 3, 5], got 24",
        ),
        (
            message(Rows::new(&numbers, [usize::MAX, 2, 3, 5]).err()),
            "rows: expected over 18446744073709551615 numbers for the shape [18446744073709551615, 2, 3, 5], got 24",
        ),
        (
            message(Rows::strided(&numbers, [1, 2, 3, 4], [24, 13, 4]).err()),
            "rows: expected at least 25 numbers for the shape [1, 2, 3, 4], got 24",
        ),
        (
            message(LogWeights::new(&numbers, 5, Lags::causal(5)).err()),
            "log-prior: expected 25 numbers for the shape [5, 5], got 24",
        ),
        (
            message(Temperature::new(&numbers, [1, 4, 7], scope).err()),
            "temperature: expected 28 numbers for the shape [1, 4, 7], got 24",
        ),
        (
            message(KeyPrior::new(&numbers, [1, 4, 7], KeyPriorScope::Added).err()),
            "prior over keys: expected 28 numbers for the shape [1, 4, 7], got 24",
        ),
        // 2⁶⁴ + 24 numbers, which are 24 where the count goes round.
        (
            message(KeyPrior::new(&numbers, [(1 << 62) + 6, 4, 1], KeyPriorScope::Added).err()),
            "prior over keys: expected over 18446744073709551615 numbers for the shape [4611686018427387910, 4, 1], got 24",
        ),
        (
            message(
                KeyPrior::new(&numbers, [1, 4, 6], KeyPriorScope::Added)
                    .unwrap()
                    .with_remainders(&numbers[1..])
                    .err(),
            ),
            "remainders of the prior over keys: expected 24 numbers for the shape [1, 4, 6], got 23",
        ),
    ] {
        assert_eq!(got, expected);
    }
    assert!(Rows::strided(&numbers, [1, 2, 3, 4], [24, 12, 4]).is_ok());
    let weights = LogWeights::new(&numbers, 4, Lags::causal(6)).unwrap();
    assert!(weights.with_ranges(&PriorRanges::new(&numbers, 6)).is_ok());
    assert_eq!(
        message(weights.with_ranges(&PriorRanges::new(&numbers, 8)).err()),
        "ranges of the log-prior: expected shape [4, 6], got [3, 8]"
    );
}

fn operands(case: &Case) -> Operands<'_> {
    case.operands([&case.q, &case.k, &case.v].map(Into::into))
        .unwrap()
}

#[test]
fn numbers_of_another_plan() {
    let [case, other] = [8, 9].map(|length| Case::random(&[1, 1, 1, length, length, 4].into(), 1));
    let plan = Plan::new(case.call().unwrap(), operands(&case).shapes()).unwrap();
    let message = plan.forward(&operands(&other)).unwrap_err().to_string();
    assert!(
        message.starts_with("operands: expected shape Shapes { q: [1, 1, 8, 4]"),
        "{message}"
    );
    let of = plan.forward(&operands(&case)).unwrap();
    let gradient = Rows::new(&other.q, [1, 1, 9, 4]).unwrap();
    let backward = |ln_evidence: &[f32], gradient: &Rows<'_>| {
        let gradients = plan.backward(&operands(&case), &of.out, ln_evidence, gradient);
        gradients.unwrap_err().to_string()
    };
    assert_eq!(
        backward(&of.ln_evidence, &gradient),
        "gradient of the output: expected shape [1, 1, 8, 4], got [1, 1, 9, 4]"
    );
    let gradient = Rows::new(&case.q, [1, 1, 8, 4]).unwrap();
    assert_eq!(
        backward(&of.ln_evidence[1..], &gradient),
        "ln evidence: expected 8 numbers for the shape [1, 1, 8], got 7"
    );
}

/// `[batch, rows, heads, dim]`, as projections leave it, with room after every row.
fn interleaved(values: &[f32], [batch, heads, rows, dim]: [usize; 4]) -> (Vec<f32>, [usize; 3]) {
    let room = dim + 3;
    let strides = [rows * heads * room, room, heads * room];
    let mut out = vec![f32::NAN; batch * strides[0]];
    for (index, row) in values.chunks_exact(dim).enumerate() {
        let at = [index / rows / heads, index / rows % heads, index % rows];
        let first: usize = at.iter().zip(strides).map(|(i, stride)| i * stride).sum();
        out[first..][..dim].copy_from_slice(row);
    }
    (out, strides)
}

#[test]
fn any_layout_gives_the_same_bits() {
    for sizes in [
        [2, 4, 2, 100, 130, 16],
        [2, 4, 2, 100, 130, 17],
        [1, 3, 1, 2, 300, 32],
    ] {
        let case = Case::random(&sizes.into(), 6).with_temperature(true);
        let plain = operands(&case);
        let shapes = plain.shapes();
        let plan = Plan::new(case.call().unwrap(), shapes).unwrap();
        let [q, k, v] = [
            (&case.q, shapes.q),
            (&case.k, shapes.k),
            (&case.v, shapes.v),
        ]
        .map(|(values, shape)| interleaved(values, shape));
        let strided = Operands {
            q: Rows::strided(&q.0, shapes.q, q.1).unwrap(),
            k: Rows::strided(&k.0, shapes.k, k.1).unwrap(),
            v: Rows::strided(&v.0, shapes.v, v.1).unwrap(),
            ..plain
        };
        let weights = case.loss_weights();
        let weights = Rows::new(&weights, shapes.q).unwrap();
        let both = |operands: &Operands<'_>| {
            let of = plan.forward(operands).unwrap();
            let back = plan.backward(operands, &of.out, &of.ln_evidence, &weights);
            (of, back.unwrap())
        };
        assert_eq!(both(&plain), both(&strided), "{sizes:?}");
        // Ranges that were found before change nothing.
        let ranges = PriorRanges::new(&case.ln_weights, case.lags);
        let known = Operands {
            ln_weights: plain.ln_weights.with_ranges(&ranges).unwrap(),
            ..plain
        };
        assert_eq!(both(&plain), both(&known));
    }
}

/// A stride of 0 repeats: the keys of one batch row for all.
#[test]
fn a_stride_of_zero_repeats() {
    let mut case = Case::random(&[3, 2, 1, 20, 20, 8].into(), 2);
    let of_row = 20 * 8;
    let first = case.k[..of_row].to_vec();
    case.k
        .chunks_exact_mut(of_row)
        .for_each(|k| k.copy_from_slice(&first));
    let plain = operands(&case);
    let repeated = Operands {
        k: Rows::strided(&first, [3, 1, 20, 8], [0, 0, 8]).unwrap(),
        ..plain
    };
    let plan = Plan::new(case.call().unwrap(), plain.shapes()).unwrap();
    assert_eq!(
        plan.forward(&plain).unwrap(),
        plan.forward(&repeated).unwrap()
    );
}
