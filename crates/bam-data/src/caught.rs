//! Panics of other crates that become errors here.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread becomes an error, of which a hook need say nothing.
#[must_use]
pub fn panics_are_caught() -> bool {
    CATCHING.get()
}

/// `None` where it panics.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    let before = CATCHING.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(before);
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_caught_says_so() {
        assert!(!panics_are_caught());
        assert_eq!(caught(panics_are_caught), Some(true));
        assert_eq!(
            caught(|| caught(|| panic!("said by this test"))),
            Some(None::<()>)
        );
        assert!(!panics_are_caught());
    }
}
