//! Variable tracking, `vt`: a value that is handed on from variable to variable among noise.

use super::fit::{Draft, Frame, Made};
use super::needle::NOISE;
use bam_lm::Error;
use rand::Rng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;

/// Variables of the chain: one that has the value, and four that get it.
const VARIABLES: usize = 5;
/// Lines of noise in the smallest text.
const SMALLEST: usize = VARIABLES;
/// Tokens of the worked example, at most.
const EXAMPLE: usize = 500;
/// The sample that only the example's size is found with.
const PROBE: usize = 1 << 23;

/// Some samples, each after a worked example.
///
/// The example has up to 500 tokens as in RULER; fewer where the smallest question would not fit beside it.
pub(super) fn samples(frame: &Frame, count: usize) -> Result<Made, Error> {
    let tokens = |lines: usize| {
        let mut random = frame.random(PROBE);
        let example = worked(lines, &mut random);
        Ok(match frame.count(&example)? > EXAMPLE && lines > SMALLEST {
            true => usize::MAX,
            false => frame.tokens(&draft(lines, SMALLEST, &mut random))?,
        })
    };
    match frame.largest(SMALLEST, frame.length, tokens)? {
        Err(needed) => Ok(Err(frame.too_short(needed))),
        Ok((example, _)) => frame.filled(count, SMALLEST, |lines, random| {
            draft(example, lines, random)
        }),
    }
}

fn draft(example: usize, lines: usize, random: &mut ChaCha8Rng) -> Draft {
    let before = worked(example, random);
    let asked = Chain::draw(lines, 5, random);
    Draft {
        input: format!("{before}\n\n{}", asked.input()),
        answer_prefix: asked.answer_prefix(),
        outputs: asked.variables,
    }
}

/// A question with its answer; its names have three letters.
fn worked(lines: usize, random: &mut ChaCha8Rng) -> String {
    let asked = Chain::draw(lines, 3, random);
    let (input, prefix) = (asked.input(), asked.answer_prefix());
    format!("{input}{prefix} {}", asked.variables.join(" "))
}

struct Chain {
    context: String,
    value: u32,
    variables: Vec<String>,
}

impl Chain {
    fn draw(lines: usize, letters: usize, random: &mut ChaCha8Rng) -> Self {
        let mut names = HashSet::new();
        let mut variables = Vec::new();
        while variables.len() < VARIABLES {
            let letter = |_| char::from(random.random_range(b'A'..=b'Z'));
            let name: String = (0..letters).map(letter).collect();
            if names.insert(name.clone()) {
                variables.push(name);
            }
        }
        let value = random.random_range(10_000..99_999);
        let mut chain = vec![format!("VAR {} = {value}", variables[0])];
        let hops = variables.windows(2);
        chain.extend(hops.map(|pair| format!("VAR {} = VAR {} ", pair[1], pair[0])));
        let mut places = index::sample(random, lines.max(VARIABLES), VARIABLES).into_vec();
        places.sort_unstable();
        let mut text = Vec::with_capacity(lines + VARIABLES);
        let mut chain = places.into_iter().zip(chain).peekable();
        for line in 0..lines.max(VARIABLES) {
            while let Some((_, link)) = chain.next_if(|(place, _)| *place == line) {
                text.push(link);
            }
            text.push(NOISE.to_owned());
        }
        Self {
            context: text.join("\n"),
            value,
            variables,
        }
    }

    fn input(&self) -> String {
        let (context, value) = (&self.context, self.value);
        format!(
            "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\n\
             Question: Find all variables that are assigned the value {value} in the text above."
        )
    }

    fn answer_prefix(&self) -> String {
        format!(
            " Answer: According to the chain(s) of variable assignment in the text above, {VARIABLES} \
             variables are assigned the value {}, they are: ",
            self.value
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    /// Follows the assignments of a text from its value.
    fn followed(text: &str, value: &str) -> Vec<String> {
        let mut known: Vec<String> = Vec::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("VAR ")) {
            let (name, of) = line.trim().split_once(" = ").unwrap();
            let given = of == value
                || of
                    .strip_prefix("VAR ")
                    .is_some_and(|of| known.iter().any(|name| name == of));
            if given {
                known.push(name.to_owned());
            }
        }
        known
    }

    #[test]
    fn the_chain_can_be_followed() {
        for seed in 0..20 {
            let draft = draft(7, 13, &mut ChaCha8Rng::seed_from_u64(seed));
            let (example, asked) = draft.input.split_once("\n\nMemorize").unwrap();
            let value = asked.split("assigned the value ").nth(1).unwrap();
            let value = value.split(' ').next().unwrap();
            assert_eq!(followed(asked, value), draft.outputs);
            assert_eq!(asked.matches(NOISE).count(), 13);
            assert!(
                draft
                    .answer_prefix
                    .ends_with(&format!("the value {value}, they are: "))
            );
            // The example is one whose answer is right too, and not this one's.
            let (question, answer) = example.split_once("they are: ").unwrap();
            let value = question.split("assigned the value ").nth(1).unwrap();
            let value = value.split(' ').next().unwrap();
            let answer: Vec<&str> = answer.split_whitespace().collect();
            assert_eq!(followed(question, value), answer);
            assert!(
                answer
                    .iter()
                    .all(|name| !draft.outputs.contains(&(*name).to_owned()))
            );
        }
    }
}
