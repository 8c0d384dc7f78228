//! Numbers and names as a reader wants them.

/// `64000` as `64,000`.
pub fn thousands(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of something: `1 key`, `64,000 keys`.
pub fn counted(count: usize, one: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {one}{plural}", thousands(count))
}

/// A number with so many digits after the point, or three significant ones where those before it are many.
pub fn fixed(value: f64, decimals: usize) -> String {
    let text = match value.abs() {
        size if size < 1e6 => format!("{size:.decimals$}"),
        size if size.is_finite() => format!("{size:.2e}"),
        _ => return "not finite".to_string(),
    };
    let zero = !text.bytes().any(|digit| (b'1'..=b'9').contains(&digit));
    match value < 0.0 && !zero {
        true => format!("−{text}"),
        false => text,
    }
}

/// The class of a prior, as people write it.
pub fn class(name: &str) -> String {
    plain(name).replace('_', "-")
}

/// A count in three characters or so: `950`, `64k`, `1.5M`.
pub fn short(count: f64) -> String {
    let (scaled, unit) = match count.abs() {
        size if size < 1e3 => (count, ""),
        size if size < 1e6 => (count / 1e3, "k"),
        size if size < 1e9 => (count / 1e6, "M"),
        _ => (count / 1e9, "G"),
    };
    let text = if scaled.abs() < 9.95 {
        format!("{scaled:.1}")
    } else {
        format!("{scaled:.0}")
    };
    format!("{}{unit}", text.trim_end_matches(".0"))
}

/// A size in memory: `950 B`, `1.5 MB`, of thousands.
pub fn bytes(count: u64) -> String {
    let (scaled, unit) = match count as f64 {
        size if size < 1e3 => return format!("{size} B"),
        size if size < 1e6 => (size / 1e3, "kB"),
        size if size < 1e9 => (size / 1e6, "MB"),
        size => (size / 1e9, "GB"),
    };
    let decimals = if scaled < 99.95 { 1 } else { 0 };
    format!("{scaled:.decimals$} {unit}")
}

/// A proportion in percent without the sign: `100`, `98.3`. Never rounds up to a perfect 100, nor down to a perfect 0.
pub fn percent(proportion: f64) -> String {
    if !proportion.is_finite() {
        return "–".to_string();
    }
    let mut tenths = (proportion * 1000.0).round();
    if proportion < 1.0 {
        tenths = tenths.min(999.0);
    }
    if proportion > 0.0 {
        tenths = tenths.max(1.0);
    }
    let text = format!("{:.1}", tenths / 10.0);
    text.trim_end_matches(".0").to_string()
}

/// A pair of proportions as `57–100`, whole percent.
pub fn interval((low, high): (f64, f64)) -> String {
    format!("{:.0}–{:.0}", low * 100.0, high * 100.0)
}

/// Samples that a sequential test ended.
pub fn decided(planned: usize) -> String {
    format!("decided early, of {}", thousands(planned))
}

/// A length as a multiple of the training length: `500`, `0.5`, `1.6`.
pub fn multiple(length: usize, train_length: usize) -> String {
    let ratio = length as f64 / train_length.max(1) as f64;
    let text = match ratio {
        small if small < 0.095 => format!("{small:.2}"),
        medium if medium < 9.95 => format!("{medium:.1}"),
        large => return thousands(large.round() as usize),
    };
    text.trim_end_matches(".0").to_string()
}

/// Four significant digits, plain where that is short.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "not finite".to_string();
    }
    let size = value.abs();
    if size == 0.0 {
        return "0".to_string();
    }
    if value < 0.0 {
        return format!("−{}", number(size));
    }
    if !(1e-4..1e6).contains(&size) {
        return format!("{value:.2e}");
    }
    let decimals = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        text
    }
}

/// Perplexity from nats per token: three significant digits.
pub fn perplexity(cross_entropy: f64) -> String {
    let value = cross_entropy.exp();
    if !value.is_finite() {
        return "not finite".to_string();
    }
    match value {
        huge if huge >= 1e6 => format!("{huge:.1e}"),
        large if large >= 999.5 => thousands(large.round() as usize),
        medium if medium >= 99.95 => format!("{medium:.0}"),
        small if small >= 9.995 => format!("{small:.1}"),
        tiny => format!("{tiny:.2}"),
    }
}

/// Seconds as `45 s`, `12 min`, `3.4 h`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        "–".to_string()
    } else if seconds < 99.5 {
        format!("{} s", number((seconds * 10.0).round() / 10.0))
    } else if seconds < 5400.0 {
        format!("{:.0} min", seconds / 60.0)
    } else {
        format!("{:.1} h", seconds / 3600.0)
    }
}

/// `a`, `a and b`, `a, b and c`.
pub fn join(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// Without control characters, so that a name cannot steer a terminal or break a line.
pub fn plain(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// A name that fits beside a line.
pub fn shortened(name: &str) -> String {
    const LONGEST: usize = 30;
    let name = plain(name);
    if name.chars().count() <= LONGEST {
        return name;
    }
    name.chars().take(LONGEST - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped() {
        assert_eq!(
            [0, 999, 1000, 64_000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "64,000", "1,234,567"]
        );
        assert_eq!(
            [950.0, 9950.0, 64_000.0, 1.5e6].map(short),
            ["950", "10k", "64k", "1.5M"]
        );
        assert_eq!(
            [950, 131_072_000, 1_500_000_000].map(bytes),
            ["950 B", "131 MB", "1.5 GB"]
        );
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!(counted(1, "key"), "1 key");
        assert_eq!(counted(0, "key"), "0 keys");
        assert_eq!(counted(64_000, "key"), "64,000 keys");
    }

    #[test]
    fn figures_stay_short() {
        assert_eq!(fixed(-0.001, 2), "0.00");
        assert_eq!(fixed(-1.5, 2), "−1.50");
        assert_eq!(fixed(1e300, 4), "1.00e300");
        assert_eq!(fixed(f64::NAN, 4), "not finite");
    }

    #[test]
    fn a_miss_is_never_rounded_away() {
        assert_eq!(percent(1.0), "100");
        assert_eq!(percent(0.9999), "99.9");
        assert_eq!(percent(0.0), "0");
        assert_eq!(percent(0.00001), "0.1");
        assert_eq!(percent(2.0 / 3.0), "66.7");
        assert_eq!(percent(f64::NAN), "–");
    }

    #[test]
    fn multiples_survive_a_missing_training_length() {
        assert_eq!(multiple(64_000, 128), "500");
        assert_eq!(multiple(200, 128), "1.6");
        assert_eq!(multiple(64, 128), "0.5");
        assert_eq!(multiple(64, 0), "64");
    }

    #[test]
    fn numbers_that_are_not_finite_are_named() {
        assert_eq!(number(f64::NAN), "not finite");
        assert_eq!(perplexity(f64::INFINITY), "not finite");
        assert_eq!(perplexity(1e9), "not finite");
        assert_eq!(perplexity(3.0), "20.1");
        assert_eq!(number(0.25), "0.25");
        assert_eq!(number(-1234.56), "−1235");
        assert_eq!(number(100.0), "100");
    }

    #[test]
    fn names_cannot_steer_a_terminal() {
        assert_eq!(plain("a\u{1b}[2J\nb"), "a [2J b");
    }
}
