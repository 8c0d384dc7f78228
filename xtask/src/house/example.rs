//! The README's example and the documentation's are one: the latter runs as a test.

use std::path::Path;

const README: &str = "README.md";
const DOCUMENTATION: &str = "crates/bam-attention/src/lib.rs";

/// A breach if the README's Rust is not, line by line, in the crate's documentation.
pub fn breach(root: &Path) -> Result<Option<String>, String> {
    let read = |name: &str| {
        std::fs::read_to_string(root.join(name)).map_err(|error| format!("{name}: {error}"))
    };
    let (readme, documentation) = (read(README)?, read(DOCUMENTATION)?);
    let Some(example) = example(&readme) else {
        return Ok(Some(format!("{README}:1: no example in Rust")));
    };
    if documents(&documentation, &example) {
        return Ok(None);
    }
    let line = 1 + readme.lines().take_while(|line| *line != FENCE).count();
    Ok(Some(format!(
        "{README}:{line}: not the example of {DOCUMENTATION}, which is tested"
    )))
}

const FENCE: &str = "```rust";

/// The lines of the first block of Rust.
fn example(readme: &str) -> Option<Vec<&str>> {
    let mut lines = readme.lines().skip_while(|line| *line != FENCE);
    lines.next()?;
    let lines: Vec<&str> = lines.take_while(|line| *line != "```").collect();
    (!lines.is_empty()).then_some(lines)
}

/// Whether the crate's documentation has these lines, one after the other.
fn documents(source: &str, example: &[&str]) -> bool {
    let documentation: Vec<&str> = source
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    documentation
        .windows(example.len())
        .any(|lines| lines == example)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str =
        "//! A crate.\n//!\n//! ```\n//! let x = 1;\n//!\n//! f(x);\n//! # Ok\n//! ```\n";

    #[test]
    fn the_documented_example_passes() {
        let readme = "# Name\n\n```sh\nls\n```\n\n```rust\nlet x = 1;\n\nf(x);\n```\n";
        let example = example(readme).unwrap();
        assert_eq!(example, ["let x = 1;", "", "f(x);"]);
        assert!(documents(DOCUMENTED, &example));
    }

    /// Null control: another example, or none, is caught.
    #[test]
    fn another_example_is_caught() {
        assert!(!documents(DOCUMENTED, &["let x = 2;", "", "f(x);"]));
        assert!(!documents(DOCUMENTED, &["let x = 1;", "f(x);"]));
        assert_eq!(example("```rust\n```\n"), None);
        assert_eq!(example("no code"), None);
    }
}
