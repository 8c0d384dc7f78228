//! `bam quickstart` and `bam report`.

use super::DeviceArgs;
use bam_lm::model::encoding::Encoding;
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub struct QuickstartArgs {
    /// Folder for models, records and report.html
    #[arg(long, default_value = "runs/quickstart")]
    pub out: PathBuf,
    /// Encodings to compare, for example bam+ssmax,nope,kerple_log+ssmax; with ; between them each may be a pattern of layers, rotary_local*1,nope;bam
    #[arg(long, value_parser = encodings, default_value = "bam+ssmax,alibi,rotary")]
    pub encodings: Vec<EncodingList>,
    /// All twelve encodings of the paper
    #[arg(long, conflicts_with = "encodings")]
    pub all: bool,
    /// Training steps per model
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// Longest context evaluated, in multiples of the training length
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub longest: u64,
    /// Seed of weights, rows and keys
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Continue a quickstart that was interrupted
    #[arg(long)]
    pub resume: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// A list with `;` between encodings, or with commas, where groups of heads such as alibi:2,bam:2 stay together.
#[derive(Clone, Debug)]
pub struct EncodingList(pub Vec<Encoding>);

impl std::fmt::Display for EncodingList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> = self.0.iter().map(Encoding::to_string).collect();
        // A comma alone would part the layers of a pattern.
        let end = if names.len() == 1 && names[0].contains(',') {
            ";"
        } else {
            ""
        };
        write!(f, "{}{end}", names.join(";"))
    }
}

fn encodings(text: &str) -> Result<EncodingList, String> {
    let parsed: Result<Vec<Encoding>, _> = match text.contains([';', '*', '(']) {
        true => (text.trim_end_matches(';').split(';'))
            .map(|name| name.parse())
            .collect(),
        false => between_commas(text)
            .iter()
            .map(|name| name.parse())
            .collect(),
    };
    parsed.map(EncodingList).map_err(|error| error.to_string())
}

fn between_commas(text: &str) -> Vec<String> {
    // "a:1,b:3" is one encoding, "a,b" are two: parts with a colon belong to their neighbours.
    let mut names: Vec<String> = Vec::new();
    for part in text.split(',') {
        match names.last_mut() {
            Some(last) if part.contains(':') && last.contains(':') && !last.contains('+') => {
                *last += ",";
                *last += part;
            }
            _ => names.push(part.to_owned()),
        }
    }
    names
}

#[derive(Args, Debug)]
pub struct ReportArgs {
    /// Folders of runs
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// The page
    #[arg(long, default_value = "report.html")]
    pub out: PathBuf,
    /// Its title
    #[arg(
        long,
        default_value = "Positional priors, read far beyond their training length"
    )]
    pub title: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let list = encodings(text).unwrap();
        let again = encodings(&list.to_string()).unwrap();
        let of = |list: EncodingList| -> Vec<String> {
            list.0.iter().map(Encoding::to_string).collect()
        };
        let names = of(list);
        assert_eq!(of(again), names, "{text}: as a command line says it");
        names
    }

    #[test]
    fn a_comma_is_between_encodings_and_between_layers_where_that_is_said() {
        for (text, expected) in [
            (
                "bam+ssmax,alibi,rotary",
                &["bam+ssmax", "alibi", "rotary"][..],
            ),
            ("alibi:2,bam:2,nope", &["alibi:2,bam:2", "nope"]),
            ("rotary_local:64,nope", &["rotary_local:64", "nope"]),
            ("alibi,bam;", &["alibi,bam"]),
            ("alibi,bam;nope", &["alibi,bam", "nope"]),
            ("rotary_local*3,nope+ssmax", &["rotary_local*3,nope+ssmax"]),
            ("(alibi:2,bam:2),nope", &["(alibi:2,bam:2),nope"]),
            ("bam*1,nope;rotary", &["bam,nope", "rotary"]),
        ] {
            assert_eq!(names(text), expected, "{text}");
        }
        for text in ["", ";", "bam;;nope", "bam,nonsense", "bam*0,nope"] {
            let error = encodings(text).unwrap_err();
            assert!(error.starts_with("encoding: expected"), "{text}: {error}");
        }
    }
}
