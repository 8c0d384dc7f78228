//! The learning rate over the steps.

use crate::Error;
use crate::settings::is_finite_f32;

/// A half cosine from the largest rate to the smallest, no warm-up:
/// `min + ½ (1 + cos(π·step/steps)) (max − min)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CosineSchedule {
    max: f64,
    min: f64,
    steps: u64,
}

impl CosineSchedule {
    /// # Errors
    /// If there is no step, or the rates are not `0 ≤ min ≤ max`.
    pub fn new(max: f64, min: f64, steps: u64) -> Result<Self, Error> {
        if !(is_finite_f32(max) && min >= 0.0 && min <= max) {
            return Err(Error::Value {
                what: "learning rate",
                expected: "0 ≤ smallest ≤ largest, numbers that f32 holds".into(),
                got: format!("{min} and {max}"),
            });
        }
        if steps == 0 {
            return Err(Error::Value {
                what: "training steps",
                expected: "at least 1".into(),
                got: "0".into(),
            });
        }
        Ok(Self { max, min, steps })
    }

    /// The rate of a step, the first being 0.
    #[must_use]
    pub fn rate(&self, step: u64) -> f64 {
        let turn = std::f64::consts::PI * step as f64 / self.steps as f64;
        self.min + 0.5 * (1.0 + turn.cos()) * (self.max - self.min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_largest_to_smallest() {
        let schedule = CosineSchedule::new(1e-3, 1e-4, 40).unwrap();
        assert_eq!(schedule.rate(0), 1e-3);
        assert!((schedule.rate(20) - 5.5e-4).abs() < 1e-12);
        assert!((schedule.rate(40) - 1e-4).abs() < 1e-12);
        assert!(CosineSchedule::new(1e-4, 1e-3, 40).is_err());
        assert!(CosineSchedule::new(f64::NAN, 0.0, 40).is_err());
        assert!(CosineSchedule::new(1.0, 0.0, 0).is_err());
    }
}
