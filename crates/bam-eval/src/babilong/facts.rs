//! bAbI's files: facts and questions in numbered lines.

use bam_lm::Error;
use std::path::Path;

/// One of bAbI's twenty tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BabiTask(u8);

/// The names of the tasks' files.
const NAMES: [&str; 20] = [
    "single-supporting-fact",
    "two-supporting-facts",
    "three-supporting-facts",
    "two-arg-relations",
    "three-arg-relations",
    "yes-no-questions",
    "counting",
    "lists-sets",
    "simple-negation",
    "indefinite-knowledge",
    "basic-coreference",
    "conjunction",
    "compound-coreference",
    "time-reasoning",
    "basic-deduction",
    "basic-induction",
    "positional-reasoning",
    "size-reasoning",
    "path-finding",
    "agents-motivations",
];

impl BabiTask {
    /// All of them, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=NAMES.len() as u8).map(Self)
    }

    /// From 1 to 20.
    #[must_use]
    pub fn number(self) -> usize {
        self.0.into()
    }

    /// The file of its questions, `qa1_single-supporting-fact_test.txt`.
    #[must_use]
    pub fn file(self) -> String {
        format!("{self}_{}_test.txt", NAMES[self.number() - 1])
    }
}

impl std::fmt::Display for BabiTask {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(&format!("qa{}", self.0))
    }
}

impl std::str::FromStr for BabiTask {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::all();
        let named = all.find(|task| task.to_string() == text);
        named.ok_or_else(|| format!("expected one of qa1 to qa20, got {text}"))
    }
}

/// A question and the facts before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Story {
    pub facts: Vec<String>,
    pub question: String,
    pub answer: String,
}

/// Reads the questions of a task from its file in `dir`.
///
/// # Errors
/// If the file can't be read, or is not bAbI's.
pub fn read_stories(dir: &Path, task: BabiTask) -> Result<Vec<Story>, Error> {
    let path = dir.join(task.file());
    let text = bam_data::read_text(&path).map_err(Error::io(&path, "read it"))?;
    let mut stories = Vec::new();
    let mut facts: Vec<String> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = || Error::File {
            path: path.clone(),
            expected:
                "lines such as `1 Mary went to the kitchen.` and `2 Where is Mary? \tkitchen\t1`"
                    .into(),
            got: format!("line {}: {line}", index + 1),
        };
        let (number, rest) = line.split_once(' ').ok_or_else(wrong)?;
        let number: usize = number.parse().map_err(|_| wrong())?;
        if number == 1 {
            facts.clear();
        }
        match rest.split_once('\t') {
            None => facts.push(rest.trim().to_owned()),
            Some((question, rest)) => {
                let answer = rest.split('\t').next().unwrap_or_default().trim();
                if answer.is_empty() || facts.is_empty() {
                    return Err(wrong());
                }
                stories.push(Story {
                    facts: facts.clone(),
                    question: question.trim().to_owned(),
                    answer: answer.to_owned(),
                });
            }
        }
    }
    match stories.is_empty() {
        false => Ok(stories),
        true => Err(Error::File {
            path,
            expected: "at least one question".into(),
            got: "none".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_hold_the_facts_before_their_question() {
        let dir = tempfile::tempdir().unwrap();
        let task: BabiTask = "qa1".parse().unwrap();
        let text = "1 John travelled to the hallway.\n2 Mary sat.\n3 Where is John? \thallway\t1\n\
                    4 John left.\n5 Where is Mary? \tkitchen,hall\t2 4\n1 Sandra ran.\n2 Who? \tSandra\t1\n";
        std::fs::write(dir.path().join(task.file()), text).unwrap();
        let stories = read_stories(dir.path(), task).unwrap();
        let short = |story: &Story| {
            (
                story.facts.len(),
                story.question.clone(),
                story.answer.clone(),
            )
        };
        let stories: Vec<_> = stories.iter().map(short).collect();
        assert_eq!(
            stories,
            [
                (2, "Where is John?".into(), "hallway".into()),
                (3, "Where is Mary?".into(), "kitchen,hall".into()),
                (1, "Who?".into(), "Sandra".into()),
            ]
        );
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let task: BabiTask = "qa20".parse().unwrap();
        let error = read_stories(dir.path(), task).unwrap_err().to_string();
        assert!(
            error.contains("qa20_agents-motivations_test.txt"),
            "{error}"
        );
        for (text, named) in [
            ("", "at least one question"),
            ("1 Fact.\n", "at least one question"),
            ("Fact.\n", "line 1"),
            ("1 Fact.\n2 Who?\t\t1\n", "line 2"),
            ("1 Who?\tJohn\t1\n", "line 1"),
        ] {
            std::fs::write(dir.path().join(task.file()), text).unwrap();
            let error = read_stories(dir.path(), task).unwrap_err().to_string();
            assert!(error.contains(named), "{text:?}: {error}");
        }
        for text in ["qa0", "qa21", "qa01", "1", "QA1"] {
            assert!(text.parse::<BabiTask>().is_err(), "{text}");
        }
    }
}
