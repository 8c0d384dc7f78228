//! Results in memory of the caller, in the caller's layout.

use bam_kernel::testing::Case;
use bam_kernel::{GradientsMut, KeyPriorScope, Plan, Rows, RowsMut, Values};

/// Results in the layout of `[batch, row, head, dim]`, and of every other order of axes, are those that are contiguous, and
/// nothing beside them is written.
#[test]
fn results_lie_where_the_caller_wants_them() {
    const BESIDE: f32 = 12345.0;
    let random = |sizes: [usize; 6]| Case::random(&sizes.into(), 7);
    for case in [
        random([2, 4, 2, 70, 70, 5])
            .with_temperature(true)
            .with_documents(3),
        random([1, 2, 1, 130, 260, 16])
            .full()
            .with_key_prior(true, KeyPriorScope::Added),
        // Keys are split among tasks.
        random([2, 2, 2, 3, 4100, 8]).with_temperature(false),
        // Rows are split among tasks.
        random([1, 1, 1, 1200, 1200, 33]).with_documents(2),
    ] {
        let operands = case
            .operands([&case.q, &case.k, &case.v].map(Values::from))
            .unwrap();
        let plan = Plan::new(case.call().unwrap(), operands.shapes()).unwrap();
        let of = plan.forward(&operands).unwrap();
        let weights = case.loss_weights();
        let gradient = Rows::new(&weights, plan.shapes().q).unwrap();
        let back = plan
            .backward(&operands, &of.out, &of.ln_evidence, &gradient)
            .unwrap();
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let layout = |shape: [usize; 4]| {
                // Two numbers lie between rows.
                let mut strides = [0; 3];
                let mut reach = shape[3] + 2;
                for axis in order.into_iter().rev() {
                    strides[axis] = reach;
                    reach *= shape[axis];
                }
                (shape, strides, vec![BESIDE; reach])
            };
            let [mut out, mut q, mut k, mut v] = [
                plan.shapes().q,
                plan.shapes().q,
                plan.shapes().k,
                plan.shapes().v,
            ]
            .map(layout);
            let mut ln_evidence = vec![BESIDE; of.ln_evidence.len()];
            let mut ln_weights = vec![BESIDE; back.ln_weights.len()];
            let mut temperature = vec![BESIDE; back.temperature.len()];
            let mut key_prior = vec![BESIDE; back.key_prior.len()];
            fn rows<'a>(of: &'a mut ([usize; 4], [usize; 3], Vec<f32>)) -> RowsMut<'a> {
                RowsMut::strided(&mut of.2, of.0, of.1).unwrap()
            }
            plan.forward_into(&operands, &mut rows(&mut out), &mut ln_evidence)
                .unwrap();
            let mut into = GradientsMut {
                q: rows(&mut q),
                k: rows(&mut k),
                v: rows(&mut v),
                ln_weights: &mut ln_weights,
                temperature: &mut temperature,
                key_prior: &mut key_prior,
            };
            let given = Rows::strided(&out.2, out.0, out.1).unwrap();
            plan.backward_into(&operands, &given, &ln_evidence, &gradient, &mut into)
                .unwrap();
            assert_eq!(ln_evidence, of.ln_evidence);
            assert_eq!(ln_weights, back.ln_weights);
            assert_eq!(temperature, back.temperature);
            assert_eq!(key_prior, back.key_prior);
            for ((shape, strides, got), expected) in
                [(&out, &of.out), (&q, &back.q), (&k, &back.k), (&v, &back.v)]
            {
                let (mut written, mut expected) = (0, expected.chunks(shape[3]));
                for b in 0..shape[0] {
                    for h in 0..shape[1] {
                        for i in 0..shape[2] {
                            let first = b * strides[0] + h * strides[1] + i * strides[2];
                            assert_eq!(Some(&got[first..][..shape[3]]), expected.next());
                            written += shape[3];
                        }
                    }
                }
                assert_eq!(got.iter().filter(|x| **x != BESIDE).count(), written);
            }
        }
    }
}

#[test]
fn rows_to_write_to_share_nothing() {
    let mut numbers = [0.0; 24];
    for (shape, strides, expected) in [
        ([2, 1, 3, 4], [12, 0, 4], None),
        ([2, 1, 3, 4], [4, 99, 8], None),
        ([1, 1, 1, 4], [0, 0, 0], None),
        ([2, 1, 0, 4], [0, 0, 0], None),
        (
            [2, 1, 3, 4],
            [0, 0, 4],
            Some("a stride of at least 4 numbers for the shape [2, 1, 3, 4], got 0"),
        ),
        ([2, 1, 3, 4], [12, 12, 3], Some("a stride of at least 4")),
        ([2, 1, 3, 4], [8, 12, 4], Some("a stride of at least 12")),
        ([2, 1, 3, 4], [13, 12, 4], Some("at least 25 numbers")),
    ] {
        let got = RowsMut::strided(&mut numbers, shape, strides);
        match (got, expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => {
                let error = error.to_string();
                assert!(error.contains(expected), "{error}");
            }
            (got, expected) => panic!("{shape:?} {strides:?}: {got:?}, expected {expected:?}"),
        }
    }
}
