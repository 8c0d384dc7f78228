//! Who watches an evaluation: stops it, and remembers what it found for another time.

use bam_data::hexadecimal;
use bam_lm::Error;
use sha2::{Digest, Sha256};

/// Who watches: the work asks now and then whether to stop, tells of everything that it finds, and asks
/// first whether that was found before.
///
/// A finding `F` follows from what was `asked`, the model, its tokenizer and the evaluation's settings, and
/// from nothing else: so it may come from an earlier run, whatever else that run was asked.
pub struct Watch<'a, F> {
    /// Whether to stop.
    pub stop: &'a (dyn Fn() -> bool + Sync),
    /// What was found where the same was asked before.
    pub known: &'a (dyn Fn(&str) -> Option<F> + Sync),
    /// Called with everything that was not known.
    pub found: &'a (dyn Fn(&str, &F) + Sync),
}

impl<F> Clone for Watch<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Watch<'_, F> {}

impl<F> Watch<'_, F> {
    /// Nobody: it goes on to the end and nothing was found before.
    #[must_use]
    pub fn nobody() -> Self {
        Self {
            stop: &|| false,
            known: &|_| None,
            found: &|_, _| (),
        }
    }

    /// What is known of it, or what `find` finds; `None` where it is time to stop, before or while.
    pub(crate) fn finding(
        &self,
        asked: &str,
        find: impl FnOnce() -> Result<Option<F>, Error>,
    ) -> Result<Option<F>, Error> {
        if let Some(known) = (self.known)(asked) {
            return Ok(Some(known));
        }
        if (self.stop)() {
            return Ok(None);
        }
        let found = find()?;
        if let Some(found) = &found {
            (self.found)(asked, found);
        }
        Ok(found)
    }
}

/// What stands for texts that were asked: SHA-256 of them and their lengths, in hexadecimal.
pub(crate) fn digest<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut digest = Sha256::new();
    for text in texts {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    }
    hexadecimal(&digest.finalize())
}

/// Numbers as text, which keeps every bit.
pub(crate) mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::sync::Mutex;

    #[test]
    fn what_is_known_is_not_found_again() {
        let told = Mutex::new(Vec::new());
        let watch = Watch {
            stop: &|| told.lock().unwrap().len() == 2,
            known: &|asked| (asked == "a").then_some(1),
            found: &|asked: &str, found: &i32| {
                told.lock().unwrap().push((asked.to_owned(), *found))
            },
        };
        let worked = RefCell::new(Vec::new());
        let ask = |asked: &'static str, found: Option<i32>| {
            let find = || {
                worked.borrow_mut().push(asked);
                Ok(found)
            };
            watch.finding(asked, find).unwrap()
        };
        assert_eq!(ask("a", Some(7)), Some(1));
        assert_eq!(ask("b", Some(2)), Some(2));
        // Given up while at work: nobody is told.
        assert_eq!(ask("c", None), None);
        assert_eq!(ask("d", Some(4)), Some(4));
        // Time to stop: what is known is known, what is not is not begun.
        assert_eq!((ask("e", Some(5)), ask("a", None)), (None, Some(1)));
        assert_eq!(*worked.borrow(), ["b", "c", "d"]);
        assert_eq!(*told.lock().unwrap(), [("b".into(), 2), ("d".into(), 4)]);
    }

    #[test]
    fn digests_tell_where_texts_end() {
        assert_ne!(digest(["ab", "c"]), digest(["a", "bc"]));
        assert_eq!(digest(["ab", "c"]), digest(["ab", "c"]));
    }

    #[test]
    fn numbers_keep_every_bit() {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Number(#[serde(with = "exact")] f64);
        for number in [
            -17.276_419_584_372_103,
            0.1 + 0.2,
            5e-324,
            0.0,
            f64::NEG_INFINITY,
        ] {
            let text = serde_json::to_string(&Number(number)).unwrap();
            let read: Number = serde_json::from_str(&text).unwrap();
            assert_eq!(read.0.to_bits(), number.to_bits(), "{text}");
        }
    }
}
