//! `--export`: results as other programs write them.

use std::path::PathBuf;

/// Whose files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `results_<time>.json` and `samples_<task>_<time>.jsonl`.
    LmEval,
    /// `<task>.jsonl` and `summary.csv`.
    Ruler,
    /// `<task>_<length>_….csv`.
    Babilong,
}

/// `lm-eval:DIR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    pub format: Format,
    pub dir: PathBuf,
}

impl Export {
    pub fn to_lm_eval(text: &str) -> Result<Self, String> {
        Self::read(text, &[("lm-eval", Format::LmEval)])
    }

    pub fn to_lm_eval_or_ruler(text: &str) -> Result<Self, String> {
        Self::read(
            text,
            &[("lm-eval", Format::LmEval), ("ruler", Format::Ruler)],
        )
    }

    pub fn to_lm_eval_or_babilong(text: &str) -> Result<Self, String> {
        Self::read(
            text,
            &[("lm-eval", Format::LmEval), ("babilong", Format::Babilong)],
        )
    }

    fn read(text: &str, formats: &[(&str, Format)]) -> Result<Self, String> {
        let (name, dir) = text.split_once(':').unwrap_or((text, ""));
        let format = formats.iter().find(|(known, _)| *known == name);
        match format {
            Some((_, format)) if !dir.is_empty() => Ok(Self {
                format: *format,
                dir: dir.into(),
            }),
            _ => {
                let known = formats.iter().map(|(name, _)| format!("{name}:DIR"));
                let known = known.collect::<Vec<_>>().join(" or ");
                Err(format!("expected {known}, got {text}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_read_as_written() {
        let export = Export::to_lm_eval_or_ruler("ruler:a:b/c").unwrap();
        assert_eq!((export.format, export.dir), (Format::Ruler, "a:b/c".into()));
        for text in ["", "ruler", "ruler:", ":x", "babilong:x", "Ruler:x"] {
            let error = Export::to_lm_eval_or_ruler(text).unwrap_err();
            let expected = format!("expected lm-eval:DIR or ruler:DIR, got {text}");
            assert_eq!(error, expected);
        }
        assert!(Export::to_lm_eval("ruler:x").is_err());
        assert!(Export::to_lm_eval_or_babilong("babilong:x").is_ok());
    }
}
