//! Ends of sentences. Only the space between two sentences depends on it, never a word.

/// Words before a full stop that ends no sentence.
const ABBREVIATIONS: [&str; 22] = [
    "Mr", "Mrs", "Ms", "Dr", "St", "Prof", "Rev", "Hon", "Sr", "Jr", "Capt", "Col", "Gen", "Lieut",
    "Messrs", "Mme", "Mlle", "vs", "etc", "e.g", "i.e", "No",
];

/// Whether a sentence ends with `word` where `next` follows it.
pub(super) fn ends_sentence(word: &str, next: &str) -> bool {
    let closed = word.trim_end_matches(['"', '\'', '”', '’', ')', ']', '_', '*']);
    let Some(body) = closed.strip_suffix(['.', '!', '?']) else {
        return false;
    };
    if closed.ends_with('.') {
        let body = body.trim_start_matches(['"', '\'', '“', '‘', '(', '[', '_', '*']);
        let mut letters = body.chars();
        let initial =
            matches!((letters.next(), letters.next()), (Some(c), None) if c.is_uppercase());
        if (initial && body != "I") || ABBREVIATIONS.contains(&body) {
            return false;
        }
    }
    let opened = next.trim_start_matches(['"', '\'', '“', '‘', '(', '[', '_', '*', '—', '-']);
    let first = opened.chars().next();
    first.is_none_or(|first| first.is_uppercase() || first.is_numeric())
}

/// The sentences of a text, with single spaces between words.
pub(super) fn sentences(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut found = Vec::new();
    let mut sentence = String::new();
    for (index, word) in words.iter().enumerate() {
        if !sentence.is_empty() {
            sentence.push(' ');
        }
        sentence += word;
        let next = words.get(index + 1);
        if next.is_none_or(|next| ends_sentence(word, next)) {
            found.push(std::mem::take(&mut sentence));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_where_a_reader_would_say() {
        let text = "Mr. Smith saw J. Doe at 3 p.m. and left.\n\n\"Why?\" he asked. \"So did I.\" It cost \
                    2.50 in all! then nothing";
        assert_eq!(
            sentences(text),
            [
                "Mr. Smith saw J. Doe at 3 p.m. and left.",
                "\"Why?\" he asked.",
                "\"So did I.\"",
                "It cost 2.50 in all! then nothing",
            ]
        );
        assert!(sentences(" \n").is_empty());
    }

    #[test]
    fn no_word_is_lost() {
        let text = "A b. C d? E (f.) G \u{2014} h! \u{201c}I.\u{201d} J";
        assert_eq!(sentences(text).join(" "), text);
    }
}
