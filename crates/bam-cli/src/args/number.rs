//! Numbers with a range, as people write them: what is outside is a wrong command line.

/// A count from 1.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| format!("expected a whole number of at least 1, got {text}"))
}

/// A finite number above 0.
pub fn above_zero(text: &str) -> Result<f64, String> {
    number(text, "a finite number above 0", |x| x > 0.0)
}

/// A finite number from 0 up.
pub fn from_zero(text: &str) -> Result<f64, String> {
    number(text, "a finite number from 0 up", |x| x >= 0.0)
}

/// A share that may be nothing or all.
pub fn any_share(text: &str) -> Result<f64, String> {
    number(text, "a share from 0 to 1", |x| (0.0..=1.0).contains(&x))
}

/// A share of something, perhaps all of it.
pub fn some_share(text: &str) -> Result<f64, String> {
    let within = |x| x > 0.0 && x <= 1.0;
    number(text, "a number above 0 and at most 1", within)
}

/// A share of a posterior that may be given away.
pub fn share(text: &str) -> Result<f64, String> {
    let within = |x| x > 0.0 && x < 1.0;
    number(text, "a number above 0 and below 1", within)
}

fn number(text: &str, expected: &str, within: impl Fn(f64) -> bool) -> Result<f64, String> {
    let number = text.parse().ok().filter(|x: &f64| x.is_finite());
    number
        .filter(|x| within(*x))
        .ok_or_else(|| format!("expected {expected}, got {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_as_they_say() {
        type Parser = fn(&str) -> Result<f64, String>;
        let parsers: [(Parser, &[&str], &[&str]); 5] = [
            (above_zero, &["1e-3", "2"], &["0", "-1"]),
            (from_zero, &["0", "2"], &["-1e-9"]),
            (any_share, &["0", "0.5", "1"], &["-0.1", "1.5"]),
            (some_share, &["0.5", "1"], &["0", "1.5"]),
            (share, &["1e-6"], &["0", "1"]),
        ];
        for (parser, right, wrong) in parsers {
            for text in right {
                assert_eq!(parser(text), Ok(text.parse().unwrap()));
            }
            for text in wrong.iter().chain(&["nan", "inf", "", "one"]) {
                let error = parser(text).unwrap_err();
                assert!(error.ends_with(&format!("got {text}")), "{error}");
            }
        }
        assert_eq!(at_least_one("7"), Ok(7));
        for text in ["0", "-1", "1.5", ""] {
            assert!(at_least_one(text).is_err(), "{text}");
        }
    }
}
