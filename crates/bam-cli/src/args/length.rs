//! Lengths, as people write them.

/// A length in tokens or in multiples of the training length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    Tokens(usize),
    Times(f64),
}

impl Length {
    /// In tokens, for a model of that training length.
    pub fn tokens(self, train_length: usize) -> usize {
        match self {
            Self::Tokens(tokens) => tokens,
            Self::Times(times) => (times * train_length as f64).round() as usize,
        }
    }
}

impl std::str::FromStr for Length {
    type Err = String;

    /// `4096`, `64k` and `1M` (of 1024), `16x`.
    fn from_str(text: &str) -> Result<Self, String> {
        let positive = |number: &str| -> Option<f64> {
            let number = number.parse().ok()?;
            (number > 0.0 && f64::is_finite(number)).then_some(number)
        };
        let whole = |number: &str, unit: usize| -> Option<usize> {
            let tokens = positive(number)? * unit as f64;
            (tokens.fract() == 0.0 && tokens < 1e18).then_some(tokens as usize)
        };
        let parsed = if let Some(times) = text.strip_suffix('x') {
            positive(times).map(Self::Times)
        } else if let Some(number) = text.strip_suffix('k') {
            whole(number, 1 << 10).map(Self::Tokens)
        } else if let Some(number) = text.strip_suffix('M') {
            whole(number, 1 << 20).map(Self::Tokens)
        } else {
            text.parse().ok().filter(|n| *n > 0).map(Self::Tokens)
        };
        parsed.ok_or_else(|| {
            format!(
                "expected tokens such as 4096, 64k or 1M, or multiples of the training length such \
                 as 16x, got {text}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_written() {
        for (text, tokens) in [
            ("1", 1),
            ("4096", 4096),
            ("1k", 1024),
            ("512k", 524_288),
            ("1.5k", 1536),
            ("2M", 2_097_152),
            ("16x", 2048),
            ("0.5x", 64),
        ] {
            let length: Length = text.parse().unwrap();
            assert_eq!(length.tokens(128), tokens, "{text}");
        }
        for text in [
            "", "0", "k", "x", "-1k", "0x", "1K", "1.0001k", "1e300M", "nanx", "infk", "4 k", "1.5",
        ] {
            let error = text.parse::<Length>().unwrap_err();
            assert!(error.ends_with(&format!("got {text}")), "{error}");
        }
    }
}
