//! Questions, and the files of requests that they are read from.

use bam_data::json_values;
use bam_lm::Error;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// A context and its possible continuations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Question {
    /// The text before; may be empty.
    pub context: String,
    /// The continuations, in the order of their numbers.
    pub continuations: Vec<String>,
    /// The number of the right one.
    pub right: usize,
    /// The number of the document that it is of, where the requests give one.
    pub document: Option<u64>,
    /// That document as the requests hold it.
    pub contents: Option<Value>,
}

/// The questions of some tasks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Questions {
    /// By the task's name.
    pub tasks: BTreeMap<String, Vec<Question>>,
    /// Requests that ask for a continuation without its question, and are not used.
    pub unconditional: usize,
}

impl Questions {
    /// Reads requests from a `.jsonl` file, perhaps compressed.
    ///
    /// A line is `{"task_name", "doc_id", "idx", "request": {"context", "continuation"}, "label"}`; the
    /// label is the number of the right continuation, or not a number where there is one only. Also
    /// `{"context", "continuations" or "continuation", "label", "task"}`, one line a question. Tasks without
    /// a name are called as the file is. A document's lines are those of one `doc_id` whose `idx` differ, so
    /// files with the same numbers can be joined.
    ///
    /// # Errors
    /// If the file can't be read, or a line is no request.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let mut read = Self::default();
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let file = file.split('.').next().unwrap_or_default().to_owned();
        let mut documents: Vec<Vec<Line>> = Vec::new();
        let mut latest: HashMap<(String, String), usize> = HashMap::new();
        for (number, value) in json_values(path)?.enumerate() {
            let value = value?;
            let line = Line::of(&value, &file).ok_or_else(|| Error::File {
                path: path.to_owned(),
                expected: "a context and a continuation on each line".into(),
                got: format!("line {}: {}", number + 1, shortened(&value)),
            })?;
            if line.context.trim() == "Answer:" {
                read.unconditional += 1;
                continue;
            }
            let document = line.document.as_ref().map(Value::to_string);
            let key = document.map(|document| (line.task.clone(), document));
            let known = key.as_ref().and_then(|key| latest.get(key).copied());
            // Numbers of documents are others': files that were joined have them twice.
            match known.filter(|at| documents[*at].iter().all(|other| line.goes_with(other))) {
                Some(at) => documents[at].push(line),
                None => {
                    latest.extend(key.map(|key| (key, documents.len())));
                    documents.push(vec![line]);
                }
            }
        }
        for mut lines in documents {
            lines.sort_by_key(|line| line.index);
            let task = read.tasks.entry(lines[0].task.clone()).or_default();
            task.push(Line::question(lines, path)?);
        }
        Ok(read)
    }

    /// The first `count` questions of every task.
    #[must_use]
    pub fn first(mut self, count: usize) -> Self {
        self.tasks
            .values_mut()
            .for_each(|task| task.truncate(count));
        self
    }

    /// Questions in all.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tasks.values().map(Vec::len).sum()
    }
}

/// One line of a file.
struct Line {
    task: String,
    document: Option<Value>,
    contents: Option<Value>,
    index: Option<usize>,
    context: String,
    continuations: Vec<String>,
    right: Option<usize>,
}

impl Line {
    fn of(value: &Value, file: &str) -> Option<Self> {
        let request = value.get("request").unwrap_or(value);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let continuations = match (request.get("continuation"), request.get("continuations")) {
            (Some(one), None) => vec![text(one)?],
            (None, Some(Value::Array(several))) => {
                several.iter().map(text).collect::<Option<_>>()?
            }
            _ => return None,
        };
        let number = |name: &str| value.get(name)?.as_u64().map(|n| n as usize);
        let task = value.get("task_name").or_else(|| value.get("task"));
        Some(Self {
            task: task.and_then(text).unwrap_or_else(|| file.to_owned()),
            document: value.get("doc_id").cloned(),
            contents: value.get("doc").cloned(),
            index: number("idx"),
            context: text(request.get("context")?)?,
            continuations,
            right: number("label"),
        })
    }

    /// Whether two lines of one number can be of one document: another continuation of it.
    fn goes_with(&self, other: &Self) -> bool {
        let another = match (self.index, other.index) {
            (Some(ours), Some(theirs)) => ours != theirs,
            (None, None) => {
                self.context == other.context && self.continuations != other.continuations
            }
            _ => false,
        };
        another && self.contents == other.contents
    }

    /// The lines of a document as one question.
    fn question(lines: Vec<Self>, path: &Path) -> Result<Question, Error> {
        let mut lines = lines.into_iter();
        let Some(mut first) = lines.next() else {
            return Ok(Question::default());
        };
        for line in lines {
            if first.context != line.context {
                return Err(Error::File {
                    path: path.to_owned(),
                    expected: "one context for the continuations of a document".into(),
                    got: format!("{:?} and {:?}", first.context, line.context),
                });
            }
            if first.right != line.right {
                return Err(Error::File {
                    path: path.to_owned(),
                    expected: "one label for the continuations of a document".into(),
                    got: format!(
                        "{:?} and {:?}, after {:?}",
                        first.right, line.right, line.context
                    ),
                });
            }
            first.continuations.extend(line.continuations);
        }
        let right = match (first.continuations.len(), first.right) {
            (1, _) => 0,
            (count, Some(right)) if right < count => right,
            (count, right) => {
                return Err(Error::File {
                    path: path.to_owned(),
                    expected: format!("a label below the {count} continuations"),
                    got: format!("{right:?} after {:?}", first.context),
                });
            }
        };
        Ok(Question {
            context: first.context,
            continuations: first.continuations,
            right,
            document: first.document.and_then(|document| document.as_u64()),
            contents: first.contents,
        })
    }
}

fn shortened(value: &Value) -> String {
    let text = value.to_string();
    text.chars().take(120).collect()
}
