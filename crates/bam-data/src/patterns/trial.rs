//! Expressions tried out on texts that are made to be hard for them, where their form does not tell.
//!
//! A text is some character or word of the expression again and again, perhaps after something and with an
//! end that matches nothing. The engine counts its steps, so the outcome is the same on every machine. An
//! expression that is only slow on other texts passes; the engine stops it then, and encoding is an error.

use onig::{MatchParam, Regex, SearchOptions};

/// Steps for a match. One repeat of any number before what can fail takes some for each character.
const STEPS: u32 = 20_000;
/// Characters: few for what doubles with each of them, many for what grows with their square.
const SHORT: usize = 40;
const LONG: usize = 512;

/// Whether an expression, in a form whose steps can be counted, ends in time on such texts; if not, on which.
pub(super) fn ends_in_time(countable: &str, pattern: &str) -> Result<(), String> {
    let expression = Regex::new(countable).map_err(|error| format!("none ({error})"))?;
    let (characters, words) = parts(pattern);
    let pairs = characters
        .iter()
        .flat_map(|a| characters.iter().map(move |b| [*a, *b]));
    let single = characters.iter().map(char::to_string);
    let before: Vec<String> = single.chain(words).collect();
    let pumps: Vec<String> = pairs.map(String::from_iter).chain(before.clone()).collect();
    let nothing = [String::new()];
    for (length, before) in [
        (SHORT, &nothing[..]),
        (LONG, &nothing[..]),
        (SHORT, &before[..]),
    ] {
        for (before, pump) in before
            .iter()
            .flat_map(|one| pumps.iter().map(move |pump| (one, pump)))
        {
            let repeated = pump.repeat(length / pump.chars().count());
            for end in ["", "\u{1}", "!", "a", "\n"] {
                let text = format!("{before}{repeated}{end}");
                let mut limit = MatchParam::default();
                limit.set_retry_limit_in_match(STEPS);
                let none = SearchOptions::SEARCH_OPTION_NONE;
                if let Err(error) = expression.match_with_param(&*text, 0, none, None, limit) {
                    let shown: String = text.chars().take(12).collect();
                    return Err(format!(
                        "one that takes more than {STEPS} steps on {} characters like {shown:?} ({error})",
                        text.chars().count()
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Characters that expressions tell apart, those of this one first, and its words.
fn parts(pattern: &str) -> (Vec<char>, Vec<String>) {
    const MOST: usize = 16;
    const USUAL: [char; 9] = ['a', ' ', '1', 'B', '\n', '!', 'é', '中', '_'];
    let plain: Vec<char> = pattern.chars().collect();
    let own = plain.iter().enumerate().filter(|(at, c)| {
        !c.is_whitespace()
            && (*at == 0 || plain[at - 1] != '\\')
            && !r"\()[]{}*+?|^$.".contains(**c)
    });
    let mut characters: Vec<char> = Vec::new();
    for c in USUAL.into_iter().chain(own.map(|(_, c)| *c)) {
        if characters.len() < MOST && !characters.contains(&c) {
            characters.push(c);
        }
    }
    let words = pattern
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| word.chars().count() > 1);
    (characters, words.map(str::to_owned).take(8).collect())
}
