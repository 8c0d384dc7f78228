//! `--export`: results as other programs write them.

use bam_eval::exchange::export::{ExportFolder, Format};

pub fn to_lm_eval(text: &str) -> Result<ExportFolder, String> {
    read(text, &[("lm-eval", Format::LmEval)])
}

pub fn to_lm_eval_or_ruler(text: &str) -> Result<ExportFolder, String> {
    read(
        text,
        &[("lm-eval", Format::LmEval), ("ruler", Format::Ruler)],
    )
}

pub fn to_lm_eval_or_babilong(text: &str) -> Result<ExportFolder, String> {
    read(
        text,
        &[("lm-eval", Format::LmEval), ("babilong", Format::Babilong)],
    )
}

/// `lm-eval:DIR`.
fn read(text: &str, formats: &[(&str, Format)]) -> Result<ExportFolder, String> {
    let (name, dir) = text.split_once(':').unwrap_or((text, ""));
    let format = formats.iter().find(|(known, _)| *known == name);
    match format {
        Some((_, format)) if !dir.is_empty() => Ok(ExportFolder {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_read_as_written() {
        let export = to_lm_eval_or_ruler("ruler:a:b/c").unwrap();
        assert_eq!((export.format, export.dir), (Format::Ruler, "a:b/c".into()));
        for text in ["", "ruler", "ruler:", ":x", "babilong:x", "Ruler:x"] {
            let error = to_lm_eval_or_ruler(text).unwrap_err();
            let expected = format!("expected lm-eval:DIR or ruler:DIR, got {text}");
            assert_eq!(error, expected);
        }
        assert!(to_lm_eval("ruler:x").is_err());
        assert!(to_lm_eval_or_babilong("babilong:x").is_ok());
    }
}
