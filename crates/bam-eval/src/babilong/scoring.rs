//! Whether an answer is right: its first sentence names the target and no other label of the task.

use super::facts::BabiTask;

/// Possible answers to a task's questions.
enum Labels {
    /// One of these.
    One(&'static [&'static str]),
    /// Some of these, in any order: `apple,milk`.
    Some(&'static [&'static str]),
    /// Directions in order: `n,w`.
    Path,
}

const PLACES: &[&str] = &[
    "bathroom", "bedroom", "garden", "hallway", "kitchen", "office",
];

impl Labels {
    /// BABILong lists the labels of tasks 1 to 7, 9 and 10; the others' are the answers in bAbI's files.
    fn of(task: BabiTask) -> Self {
        match task.number() {
            5 => Self::One(&["bill", "fred", "jeff", "mary", "apple", "football", "milk"]),
            6 | 9 | 17 | 18 => Self::One(&["no", "yes"]),
            7 => Self::One(&["none", "one", "two", "three"]),
            8 => Self::Some(&["nothing", "apple", "football", "milk"]),
            10 => Self::One(&["maybe", "no", "yes"]),
            14 => Self::One(&["bedroom", "cinema", "kitchen", "office", "park", "school"]),
            15 => Self::One(&["cat", "mouse", "sheep", "wolf"]),
            16 => Self::One(&["gray", "green", "white", "yellow"]),
            19 => Self::Path,
            20 => Self::One(&[
                "bedroom", "garden", "kitchen", "bored", "hungry", "thirsty", "tired",
            ]),
            _ => Self::One(PLACES),
        }
    }
}

/// Whether `answer` is right.
///
/// Of the answer counts what comes before the first full stop, `<context>`, `<example>` or `Question`. It
/// has to name the target, and no other label of the task but those in the question, which never are
/// targets.
#[must_use]
pub fn is_right(task: BabiTask, target: &str, answer: &str, question: &str) -> bool {
    let (target, question) = (target.to_lowercase(), question.to_lowercase());
    let answer = answer.trim().to_lowercase();
    let ends = [".", "<context>", "<example>", "question"];
    let end = ends.iter().filter_map(|end| answer.find(end)).min();
    let answer = &answer[..end.unwrap_or(answer.len())];
    match Labels::of(task) {
        Labels::One(labels) => others(labels, answer, &question) == [target.as_str()],
        Labels::Some(labels) => {
            let mut wanted: Vec<&str> = target.split(',').map(str::trim).collect();
            wanted.sort_unstable();
            let mut named = others(labels, answer, &question);
            named.sort_unstable();
            named == wanted
        }
        Labels::Path => directions(answer) == directions(&target),
    }
}

/// The labels that an answer names and the question does not.
fn others<'a>(labels: &[&'a str], answer: &str, question: &str) -> Vec<&'a str> {
    let mut named = named(labels, answer);
    named.retain(|label| !question.contains(label));
    named
}

/// Labels in a text. One inside another, as `one` in `none`, is not there for that.
fn named<'a>(labels: &[&'a str], text: &str) -> Vec<&'a str> {
    let mut labels = labels.to_vec();
    labels.sort_by_key(|label| std::cmp::Reverse(label.len()));
    let mut text = text.to_owned();
    labels.retain(|label| {
        let there = text.contains(label);
        text = text.replace(label, "\n");
        there
    });
    labels
}

/// Words that are directions, by their first letters.
fn directions(text: &str) -> Vec<char> {
    let words = text.split(|c: char| !c.is_alphabetic());
    let letter = |word: &str| match word {
        "n" | "north" => Some('n'),
        "s" | "south" => Some('s'),
        "e" | "east" => Some('e'),
        "w" | "west" => Some('w'),
        _ => None,
    };
    words.filter_map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_examples() {
        for (task, target, answer, question, right) in [
            (
                1,
                "garden",
                " The most recent location of Mary is garden.",
                "Where is Mary?",
                true,
            ),
            (1, "garden", "Answer: GARDEN\n", "Where is Mary?", true),
            (1, "garden", "kitchen", "Where is Mary?", false),
            (1, "garden", "", "Where is Mary?", false),
            // An impostor that names every place.
            (
                1,
                "garden",
                "garden, kitchen, office, hallway",
                "Where is Mary?",
                false,
            ),
            // What comes after the first sentence does not count, for or against.
            (
                1,
                "garden",
                "garden. Or the kitchen.",
                "Where is Mary?",
                true,
            ),
            (
                1,
                "garden",
                "Somewhere. The garden",
                "Where is Mary?",
                false,
            ),
            (
                1,
                "garden",
                "garden\n</context>\n\nQuestion: Where is the kitchen?",
                "Where is Mary?",
                true,
            ),
            (
                1,
                "garden",
                "garden <example> kitchen",
                "Where is Mary?",
                true,
            ),
            // Places in the question are no answers, right or wrong.
            (
                3,
                "garden",
                "Before the kitchen it was in the garden",
                "Where was it before the kitchen?",
                true,
            ),
            (
                3,
                "kitchen",
                "kitchen",
                "Where was it before the kitchen?",
                false,
            ),
            (5, "Bill", "bill", "Who gave the milk to Mary?", true),
            (
                5,
                "Bill",
                "Bill gave the milk to Mary",
                "Who gave the milk to Mary?",
                true,
            ),
            (
                5,
                "Bill",
                "Bill and Fred",
                "Who gave the milk to Mary?",
                false,
            ),
            (
                7,
                "none",
                "none",
                "How many objects is Mary carrying?",
                true,
            ),
            (
                7,
                "one",
                "none",
                "How many objects is Mary carrying?",
                false,
            ),
            (7, "one", "one", "How many objects is Mary carrying?", true),
            (
                7,
                "three",
                "three",
                "How many objects is Mary carrying?",
                true,
            ),
            (
                8,
                "apple,milk",
                "milk, apple",
                "What is Mary carrying?",
                true,
            ),
            (8, "apple,milk", "milk", "What is Mary carrying?", false),
            (8, "milk", "milk, apple", "What is Mary carrying?", false),
            (8, "nothing", "nothing", "What is Mary carrying?", true),
            (10, "maybe", "maybe", "Is Mary in the school?", true),
            (10, "yes", "yes or no", "Is Mary in the school?", false),
            (
                19,
                "n,w",
                "n,w",
                "How do you go from the hall to the office?",
                true,
            ),
            (
                19,
                "n,w",
                "North, then west",
                "How do you go from the hall to the office?",
                true,
            ),
            (
                19,
                "n,w",
                "w,n",
                "How do you go from the hall to the office?",
                false,
            ),
            (
                19,
                "n,w",
                "n,w,n",
                "How do you go from the hall to the office?",
                false,
            ),
            (
                20,
                "bored",
                "bored",
                "Why did antoine go to the garden?",
                true,
            ),
        ] {
            let task = format!("qa{task}").parse().unwrap();
            assert_eq!(
                is_right(task, target, answer, question),
                right,
                "{task}: {answer}"
            );
        }
    }
}
