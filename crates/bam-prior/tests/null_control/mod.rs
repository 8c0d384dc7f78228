//! Property checks that can also be asked to fail: an assertion that an impostor passes tests
//! nothing, so every law is run a second time against one and must be refuted.

use proptest::strategy::Strategy;
use proptest::test_runner::{
    Config, RngAlgorithm, TestCaseError, TestCaseResult, TestError, TestRng, TestRunner,
};

fn runner(max_shrink_iters: u32) -> TestRunner {
    let config = Config {
        cases: 256,
        failure_persistence: None,
        max_shrink_iters,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// The law holds in every case.
#[track_caller]
pub fn holds<S: Strategy>(cases: &S, law: impl Fn(S::Value) -> TestCaseResult) {
    if let Err(failure) = runner(1000).run(cases, law) {
        panic!("{failure}");
    }
}

/// The law, asserted of an impostor, fails in some case.
#[track_caller]
pub fn refuted<S: Strategy>(cases: &S, law: impl Fn(S::Value) -> TestCaseResult) {
    match runner(0).run(cases, law) {
        Err(TestError::Fail(..)) => {}
        Err(TestError::Abort(reason)) => panic!("no verdict on the impostor: {reason}"),
        Ok(()) => panic!("the impostor passes: the law tests nothing"),
    }
}

/// `got` lies within `tolerance` of `expected`.
pub fn near(got: f64, expected: f64, tolerance: f64) -> TestCaseResult {
    if (got - expected).abs() <= tolerance {
        Ok(())
    } else {
        let message = format!("got {got:e}, expected {expected:e} within {tolerance:e}");
        Err(TestCaseError::fail(message))
    }
}
