//! The texts that prompts are made of.

use super::task::Task;
use crate::sentences::ends_sentence;
use bam_data::json_values;
use bam_lm::Error;
use bam_lm::model::checkpoint::read_json;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// All that the tasks draw on besides the lists of words.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The text to hide needles in.
    pub essays: Essays,
    /// For `qa_1`.
    pub squad: Option<Paragraphs>,
    /// For `qa_2`.
    pub hotpotqa: Option<Paragraphs>,
}

impl Sources {
    /// The questions of a task, where it asks for some.
    ///
    /// # Errors
    /// If the file of the task is missing.
    pub(super) fn paragraphs(&self, task: Task) -> Result<&Paragraphs, Error> {
        let (file, expected) = match task {
            Task::Qa1 => (&self.squad, "SQuAD's dev-v2.0.json"),
            _ => (&self.hotpotqa, "HotpotQA's hotpot_dev_distractor_v1.json"),
        };
        file.as_ref().ok_or_else(|| Error::Value {
            what: task.name(),
            expected: expected.into(),
            got: "no file".into(),
        })
    }
}

/// A long text as words, and where its sentences end.
#[derive(Clone, Debug)]
pub struct Essays {
    name: String,
    words: Vec<String>,
    ends: Vec<bool>,
}

impl Essays {
    /// # Errors
    /// If the text has no word.
    pub fn new(name: &str, text: &str) -> Result<Self, Error> {
        let words: Vec<String> = text.split_whitespace().map(String::from).collect();
        if words.is_empty() {
            return Err(Error::Value {
                what: "essays",
                expected: "at least one word".into(),
                got: format!("none in {name}"),
            });
        }
        let next = words.iter().cycle().skip(1);
        let ends = words.iter().zip(next);
        let ends = ends.map(|(word, next)| ends_sentence(word, next)).collect();
        Ok(Self {
            name: name.to_owned(),
            words,
            ends,
        })
    }

    /// Reads a text file, or RULER's `PaulGrahamEssays.json`: `{"text": …}`.
    ///
    /// # Errors
    /// If the file can't be read, or holds no text.
    pub fn read(path: &Path) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct File {
            text: String,
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let text = match path.extension().is_some_and(|ending| ending == "json") {
            true => read_json::<File>(path, "essays as {\"text\": …}")?.text,
            false => bam_data::read_text(path).map_err(Error::io(path, "read it"))?,
        };
        Self::new(&name, &text)
    }

    /// Their name in records.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sentences of the first `count` words; a text that is shorter begins again.
    pub(super) fn sentences(&self, count: usize) -> Vec<String> {
        let mut found = Vec::new();
        let mut sentence = String::new();
        for place in 0..count {
            let index = place % self.words.len();
            if !sentence.is_empty() {
                sentence.push(' ');
            }
            sentence += &self.words[index];
            if self.ends[index] || place + 1 == count {
                found.push(std::mem::take(&mut sentence));
            }
        }
        found
    }
}

/// Questions, and paragraphs that hold their answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Paragraphs {
    /// Each once, in alphabetical order.
    pub(super) texts: Vec<String>,
    pub(super) questions: Vec<ParagraphQuestion>,
}

/// A question about some of the paragraphs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ParagraphQuestion {
    pub text: String,
    pub answers: Vec<String>,
    /// Indices of the paragraphs that it can't be answered without.
    pub own: Vec<usize>,
    /// Of those that are closest to them.
    pub near: Vec<usize>,
}

impl Paragraphs {
    /// Reads SQuAD 2.0, leaving out what can't be answered.
    ///
    /// # Errors
    /// If the file can't be read or is no SQuAD.
    pub fn read_squad(path: &Path) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Squad {
            data: Vec<Article>,
        }
        #[derive(Deserialize)]
        struct Article {
            paragraphs: Vec<Paragraph>,
        }
        #[derive(Deserialize)]
        struct Paragraph {
            context: String,
            qas: Vec<SquadQuestion>,
        }
        #[derive(Deserialize)]
        struct SquadQuestion {
            question: String,
            #[serde(default)]
            is_impossible: bool,
            answers: Vec<SquadAnswer>,
        }
        #[derive(Deserialize)]
        struct SquadAnswer {
            text: String,
        }
        let file: Squad = read_json(path, "SQuAD as {\"data\": [{\"paragraphs\": …}]}")?;
        let paragraphs = file.data.iter().flat_map(|article| &article.paragraphs);
        let (texts, place) = distinct(paragraphs.map(|paragraph| paragraph.context.clone()));
        let mut questions = Vec::new();
        for article in &file.data {
            let all = article.paragraphs.iter().map(|of| place[&of.context]);
            let all: Vec<usize> = all.collect();
            for paragraph in &article.paragraphs {
                let own = place[&paragraph.context];
                for asked in paragraph.qas.iter().filter(|asked| !asked.is_impossible) {
                    questions.push(ParagraphQuestion {
                        text: asked.question.clone(),
                        answers: asked.answers.iter().map(|of| of.text.clone()).collect(),
                        own: vec![own],
                        near: all.iter().copied().filter(|near| *near != own).collect(),
                    });
                }
            }
        }
        Self { texts, questions }.checked(path)
    }

    /// Reads HotpotQA's distractor setting: one array, or an object a line.
    ///
    /// # Errors
    /// If the file can't be read or is no HotpotQA.
    pub fn read_hotpotqa(path: &Path) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct HotpotQuestion {
            question: String,
            answer: String,
            context: Vec<(String, Vec<String>)>,
        }
        const EXPECTED: &str = "HotpotQA as objects with question, answer and context";
        let all: Vec<HotpotQuestion> = match path.extension().is_some_and(|ending| ending == "json")
        {
            true => read_json(path, EXPECTED)?,
            false => {
                let read = |(number, value): (usize, Result<Value, _>)| {
                    serde_json::from_value(value?).map_err(|error| Error::File {
                        path: path.to_owned(),
                        expected: EXPECTED.into(),
                        got: format!("line {}: {error}", number + 1),
                    })
                };
                json_values(path)?
                    .enumerate()
                    .map(read)
                    .collect::<Result<_, _>>()?
            }
        };
        let text =
            |(title, sentences): &(String, Vec<String>)| format!("{title}\n{}", sentences.concat());
        let (texts, place) = distinct(all.iter().flat_map(|asked| asked.context.iter().map(text)));
        let questions = all.iter().map(|asked| ParagraphQuestion {
            text: asked.question.clone(),
            answers: vec![asked.answer.clone()],
            own: asked.context.iter().map(|of| place[&text(of)]).collect(),
            near: Vec::new(),
        });
        Self {
            questions: questions.collect(),
            texts,
        }
        .checked(path)
    }

    fn checked(self, path: &Path) -> Result<Self, Error> {
        match self.questions.is_empty() {
            false => Ok(self),
            true => Err(Error::File {
                path: path.to_owned(),
                expected: "at least one question with an answer".into(),
                got: "none".into(),
            }),
        }
    }
}

/// Texts once each, sorted, and where each is.
fn distinct(texts: impl Iterator<Item = String>) -> (Vec<String>, BTreeMap<String, usize>) {
    let mut texts: Vec<String> = texts.collect();
    texts.sort_unstable();
    texts.dedup();
    let place = texts.iter().cloned().enumerate();
    let place = place.map(|(index, text)| (text, index)).collect();
    (texts, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn essays_begin_again() {
        let essays = Essays::new("x", "One two.  Three\nfour!").unwrap();
        assert_eq!(essays.sentences(3), ["One two.", "Three"]);
        assert_eq!(essays.sentences(6), ["One two.", "Three four!", "One two."]);
        assert!(Essays::new("x", " \n").is_err());
    }

    #[test]
    fn files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("essays.json"), r#"{"text": "One. Two."}"#).unwrap();
        let essays = Essays::read(&path("essays.json")).unwrap();
        assert_eq!(
            (essays.name(), essays.sentences(2).len()),
            ("essays.json", 2)
        );
        let squad = r#"{"version": "v2.0", "data": [{"title": "t", "paragraphs": [
            {"context": "B is in A.", "qas": [
                {"question": "Where?", "id": "1", "is_impossible": false,
                 "answers": [{"text": "A", "answer_start": 8}, {"text": "in A", "answer_start": 5}]},
                {"question": "Why?", "id": "2", "is_impossible": true, "answers": []}]},
            {"context": "A is large.", "qas": []}]}]}"#;
        std::fs::write(path("squad.json"), squad).unwrap();
        let squad = Paragraphs::read_squad(&path("squad.json")).unwrap();
        assert_eq!(squad.texts, ["A is large.", "B is in A."]);
        let question = ParagraphQuestion {
            text: "Where?".into(),
            answers: vec!["A".into(), "in A".into()],
            own: vec![1],
            near: vec![0],
        };
        assert_eq!(squad.questions, [question]);
        let line = r#"{"question": "Q?", "answer": "yes", "context": [["T", ["a.", " b."]], ["S", ["c."]]]}"#;
        std::fs::write(path("hotpot.jsonl"), format!("{line}\n{line}\n")).unwrap();
        std::fs::write(path("hotpot.json"), format!("[{line}, {line}]")).unwrap();
        let lines = Paragraphs::read_hotpotqa(&path("hotpot.jsonl")).unwrap();
        assert_eq!(lines.texts, ["S\nc.", "T\na. b."]);
        assert_eq!(lines.questions[1].own, [1, 0]);
        assert_eq!(
            Paragraphs::read_hotpotqa(&path("hotpot.json")).unwrap(),
            lines
        );
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        for (text, named) in [
            ("{}", "data"),
            ("[1]", "invalid type"),
            (r#"{"data": []}"#, "at least one question"),
            ("{\"data\": [", "EOF"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Paragraphs::read_squad(&path).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("x.json"), "{error}");
            assert!(Paragraphs::read_hotpotqa(&path).is_err());
            assert!(Essays::read(&path).is_err());
        }
    }
}
