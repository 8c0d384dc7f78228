//! The tags of a template. `{% generation %}` marks what an assistant said for those who train, and changes no text.

use super::expressions::with_calls;

/// Statements that stand around what an assistant said, and those that do the same: a scope of its own.
const BLOCKS: [(&str, &str); 2] = [("generation", "with"), ("endgeneration", "endwith")];

/// A template that has scopes in the place of its generation blocks, and calls in the place of operators that
/// the engine has others for. Comments, strings and what is raw are as they were.
pub fn for_the_engine(source: &str) -> String {
    // Jinja's lines end with a line feed, whatever they end with in the file.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    let mut raw = false;
    while let Some(at) = rest.find('{') {
        let (before, tag) = rest.split_at(at);
        out += before;
        let word = word(tag).filter(|word| !raw || *word == "endraw");
        let length = match tag.as_bytes().get(1) {
            Some(b'#') if !raw => tag.find("#}").map(|end| end + 2),
            Some(b'{') if !raw => end_of(tag, "}}"),
            Some(b'%') if !raw || word.is_some() => end_of(tag, "%}"),
            _ => Some(1),
        };
        let (tag, after) = tag.split_at(length.unwrap_or(tag.len()));
        rest = after;
        let block = BLOCKS.iter().find(|(name, _)| word == Some(*name));
        match (word, tag.strip_suffix("%}")) {
            (Some(word @ ("include" | "import" | "from" | "extends")), _) => {
                out +=
                    &format!("{{{{ raise_exception('there are no other templates to {word}') }}}}");
            }
            // Python leaves the line's end after it.
            (Some("raw"), Some(open)) if !open.ends_with(['-', '+']) => {
                out.extend([open, "+%}"]);
            }
            _ => match block {
                Some((name, instead)) => out += &tag.replacen(name, instead, 1),
                None if !raw && (word.is_some() || tag.starts_with("{{")) => {
                    out += &with_calls(tag);
                }
                None => out += tag,
            },
        }
        raw = match word {
            Some("raw") => true,
            Some("endraw") => false,
            _ => raw,
        };
    }
    out + rest
}

/// The length of a tag that ends with `close`, outside of its strings.
fn end_of(tag: &str, close: &str) -> Option<usize> {
    let bytes = tag.as_bytes();
    let (mut quote, mut open) = (None, 0);
    let mut at = 2;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(begun), byte) if byte == begun => quote = None,
            (Some(_), _) => {}
            (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
            (None, b'{') => open += 1,
            (None, b'}') if open > 0 => open -= 1,
            (None, _) if bytes[at..].starts_with(close.as_bytes()) => {
                return Some(at + close.len());
            }
            (None, _) => {}
        }
        at += 1;
    }
    None
}

/// The word that a statement begins with.
fn word(tag: &str) -> Option<&str> {
    let inside = tag.strip_prefix("{%")?;
    let inside = inside
        .strip_prefix(['-', '+'])
        .unwrap_or(inside)
        .trim_start();
    let end = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    Some(&inside[..end.unwrap_or(inside.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_generation_blocks_are_others() {
        for (source, expected) in [
            (
                "a{% generation %}b{% endgeneration %}c",
                "a{% with %}b{% endwith %}c",
            ),
            (
                "{%- generation -%}b{%+endgeneration-%}",
                "{%- with -%}b{%+endwith-%}",
            ),
            (
                "{% generations %}{%generation%}",
                "{% generations %}{%with%}",
            ),
            ("a\r\nb\r{{ '\r\n' }}", "a\nb\n{{ '\n' }}"),
        ] {
            assert_eq!(for_the_engine(source), expected);
        }
        for same in [
            "{# {% generation %} #}é{",
            "{{ '{% generation %}' }}{{ \"\\\"{% generation %}\" }}",
            "{% set a = '%}{% generation %}' %}",
            "{% raw -%}{# {% generation %}{{ '{% endraw %}",
            "{% if generation %}{{ generation }}{% endif %}",
            "{{ 'open",
            "{{ {'a': {'b': {}}}['{% generation %}'] }}",
            "{% raw +%}{% don't %}{% generation %}{% endraw %}",
        ] {
            assert_eq!(for_the_engine(same), same);
        }
    }
}
