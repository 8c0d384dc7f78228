//! A sequential test: no more samples are asked once a cell's accuracy is known well enough.

use bam_lm::Error;
use bam_record::confidence_sequence;
use std::ops::Range;

/// Ends the samples of a cell once the [confidence sequence](confidence_sequence) of its accuracy holds none of the marks.
///
/// With marks of 0.5 and 0.9 a cell ends when it is certain, at 95 % and whenever one looks, that its accuracy is below a
/// half, between a half and nine tenths, or above. Of models that are always wrong 8 samples decide that, of those that are
/// always right 69.
#[derive(Clone, Debug, PartialEq)]
pub struct Stopping {
    marks: Vec<f64>,
    batch: usize,
}

impl Stopping {
    /// The usual samples between two looks: each of ten depths once.
    pub const BATCH: usize = 10;

    /// Looks after every `batch` samples.
    ///
    /// # Errors
    /// If there is no mark, one is not between 0 and 1, or a batch has no sample.
    pub fn new(marks: &[f64], batch: usize) -> Result<Self, Error> {
        let within = |mark: &f64| *mark > 0.0 && *mark < 1.0;
        if batch == 0 || marks.is_empty() || !marks.iter().all(within) {
            return Err(Error::Value {
                what: "sequential test",
                expected: "at least one share between 0 and 1, and batches of at least one sample"
                    .into(),
                got: format!("{marks:?} and batches of {batch}"),
            });
        }
        Ok(Self {
            marks: marks.into(),
            batch,
        })
    }

    /// The same; no test without a mark.
    ///
    /// # Errors
    /// Those of [`Stopping::new`].
    pub fn unless_empty(marks: &[f64], batch: usize) -> Result<Option<Self>, Error> {
        let marks = Some(marks).filter(|marks| !marks.is_empty());
        marks.map(|marks| Self::new(marks, batch)).transpose()
    }

    /// The samples between two looks; all at once without a test.
    pub(crate) fn batches(test: Option<&Self>, samples: usize) -> Vec<Range<usize>> {
        let batch = test.map_or(samples, |test| test.batch).max(1);
        let starts = (0..samples).step_by(batch);
        starts
            .map(|start| start..(start + batch).min(samples))
            .collect()
    }

    /// Whether a cell goes on after so many right ones of so many samples; not where there is none so far, as where it is not
    /// run at all.
    pub(crate) fn goes_on(test: Option<&Self>, so_far: Option<(usize, usize)>) -> bool {
        let decided = |(right, samples)| test.is_some_and(|test| test.is_decided(right, samples));
        so_far.is_some_and(|so_far| !decided(so_far))
    }

    /// Whether so many right ones decide on which side of every mark the accuracy lies.
    #[must_use]
    pub fn is_decided(&self, correct: usize, samples: usize) -> bool {
        let (low, high) = confidence_sequence(correct, samples);
        !self.marks.iter().any(|mark| (low..=high).contains(mark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_decide() {
        let test = Stopping::new(&[0.5, 0.9], 10).unwrap();
        let first = |right: fn(usize) -> usize| (1..500).find(|n| test.is_decided(right(*n), *n));
        assert_eq!(first(|_| 0), Some(8));
        assert_eq!(first(|n| n), Some(69));
        // A proportion on a mark is never told from it.
        assert_eq!(first(|n| n / 2), None);
        for (marks, batch) in [
            (&[][..], 1),
            (&[0.5][..], 0),
            (&[1.0][..], 1),
            (&[f64::NAN][..], 1),
        ] {
            let error = Stopping::new(marks, batch).unwrap_err().to_string();
            assert!(error.contains("sequential test"), "{error}");
        }
    }

    #[test]
    fn batches_are_all_samples() {
        let test = Stopping::new(&[0.5], 10).unwrap();
        assert_eq!(Stopping::batches(Some(&test), 25), [0..10, 10..20, 20..25]);
        assert_eq!(Stopping::batches(None, 25), vec![0..25; 1]);
        assert!(Stopping::batches(None, 0).is_empty());
    }
}
