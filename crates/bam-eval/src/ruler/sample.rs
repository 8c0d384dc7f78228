//! One prompt with its references, and the files that other programs keep them in.

use super::task::Task;
use bam_data::json_values;
use bam_lm::Error;
use serde_json::{Value, json};
use std::path::Path;

/// A prompt and what is right.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its number among the task's.
    pub index: usize,
    /// The prompt without its last words.
    pub input: String,
    /// The last words, which begin the answer: ` Answer:`.
    pub answer_prefix: String,
    /// The texts to find in the answer.
    pub outputs: Vec<String>,
    /// Tokens of the prompt and of the longest answer.
    pub length: usize,
    /// Tokens before the first reference in the input, of needle tasks.
    pub answer_position: Option<usize>,
}

impl Sample {
    /// The text that the model reads.
    #[must_use]
    pub fn prompt(&self) -> String {
        format!("{}{}", self.input, self.answer_prefix)
    }

    /// The sample as a line of RULER's `validation.jsonl`, made for `max_length` tokens.
    #[must_use]
    pub fn to_json(&self, max_length: usize) -> Value {
        let mut line = json!({
            "index": self.index,
            "input": self.input,
            "outputs": self.outputs,
            "length": self.length,
            "length_w_model_temp": self.length,
            "answer_prefix": self.answer_prefix,
            "max_length": max_length,
        });
        if let Some(position) = self.answer_position {
            line["token_position_answer"] = position.into();
        }
        line
    }
}

/// The samples of one task and length.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleSet {
    pub task: Task,
    /// The length that they were made for.
    pub length: usize,
    /// None where the length is too short for the task.
    pub samples: Vec<Sample>,
    /// Why there are none.
    pub not_made: Option<String>,
}

/// Reads samples that were written down: lines of RULER's `validation.jsonl`, or of the log that lm-eval
/// writes with `--log_samples`, in one set for each length.
///
/// The task is `task` or what the file's name or folder says, the length what the lines say
/// (`max_length`), or else the folder, or else the longest sample.
///
/// # Errors
/// If the file can't be read, a line is no sample, or the task is not known.
pub fn read_samples(path: &Path, task: Option<Task>) -> Result<Vec<SampleSet>, Error> {
    let wrong = |expected: &str, got: String| Error::File {
        path: path.to_owned(),
        expected: expected.to_owned(),
        got,
    };
    let task = task.or_else(|| task_of(path)).ok_or_else(|| {
        wrong(
            "the name of a task in the file's name or folder, or one task that it is of",
            "neither".into(),
        )
    })?;
    let mut sets: Vec<SampleSet> = Vec::new();
    let mut unsaid = Vec::new();
    for (number, line) in json_values(path)?.enumerate() {
        let line = line?;
        let (mut sample, length) = of_line(&line).ok_or_else(|| {
            let line: String = line.to_string().chars().take(120).collect();
            wrong(
                "an input and outputs on each line",
                format!("line {}: {line}", number + 1),
            )
        })?;
        let into = match length.or_else(|| length_of(path)) {
            None => &mut unsaid,
            Some(length) => {
                let place = sets.iter().position(|set| set.length == length);
                let place = place.unwrap_or_else(|| {
                    sets.push(SampleSet {
                        task,
                        length,
                        samples: Vec::new(),
                        not_made: None,
                    });
                    sets.len() - 1
                });
                &mut sets[place].samples
            }
        };
        sample.index = into.len();
        into.push(sample);
    }
    if !unsaid.is_empty() {
        sets.push(SampleSet {
            task,
            length: unsaid
                .iter()
                .map(|sample: &Sample| sample.length)
                .max()
                .unwrap_or(0),
            samples: unsaid,
            not_made: None,
        });
    }
    if sets.is_empty() {
        return Err(wrong("at least one sample", "none".into()));
    }
    sets.sort_by_key(|set| set.length);
    Ok(sets)
}

/// A sample, and the length that it was made for.
fn of_line(line: &Value) -> Option<(Sample, Option<usize>)> {
    let doc = line.get("doc").unwrap_or(line);
    let text = |value: &Value, name: &str| value.get(name)?.as_str().map(str::to_owned);
    let number = |name: &str| doc.get(name)?.as_u64().map(|number| number as usize);
    let outputs = doc.get("outputs")?.as_array()?;
    let outputs = outputs
        .iter()
        .map(|output| output.as_str().map(str::to_owned));
    let (input, prefix) = (text(doc, "input")?, text(doc, "gen_prefix"));
    let (input, answer_prefix) = match (asked(line), text(doc, "answer_prefix"), prefix) {
        // What was asked, to the letter.
        (Some(asked), _, prefix) => {
            let prefix = prefix.unwrap_or_default();
            let kept = asked.strip_suffix(&prefix).map(str::to_owned);
            match kept {
                Some(kept) => (kept, prefix),
                None => (asked, String::new()),
            }
        }
        (None, Some(prefix), _) => (input, prefix),
        // lm-eval puts a space where there is none.
        (None, None, Some(prefix)) => match input.ends_with(char::is_whitespace) {
            true => (input, prefix),
            false => (input, format!(" {prefix}")),
        },
        (None, None, None) => (input, String::new()),
    };
    let sample = Sample {
        index: 0,
        input,
        answer_prefix,
        outputs: outputs.collect::<Option<_>>()?,
        length: number("length").unwrap_or(0),
        answer_position: number("token_position_answer"),
    };
    (!sample.outputs.is_empty()).then(|| (sample, number("max_length")))
}

/// The prompt in a line of lm-eval's log: `{"gen_args_0": {"arg_0": …}}`, or a list of lists.
fn asked(line: &Value) -> Option<String> {
    let arguments = line.get("arguments")?;
    let first = arguments.get("gen_args_0").or_else(|| arguments.get(0))?;
    let prompt = first.get("arg_0").or_else(|| first.get(0))?;
    prompt.as_str().map(str::to_owned)
}

fn task_of(path: &Path) -> Option<Task> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_prefix("samples_").unwrap_or(name);
    let folder = path
        .parent()
        .and_then(Path::file_name)
        .and_then(|folder| folder.to_str());
    // Longer names first, so that a task whose name begins another's does not pass for it.
    let mut all: Vec<(&str, Task)> = Task::ALL
        .into_iter()
        .flat_map(|task| [(task.name(), task), (task.lm_eval_name(), task)])
        .collect();
    all.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    let named = |(task, _): &&(&str, Task)| {
        let rest = name.strip_prefix(task);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
            || folder == Some(task)
    };
    all.iter().find(named).map(|(_, task)| *task)
}

/// The folder above the task's, where its name is a number: `4096/niah_single_1/validation.jsonl`.
fn length_of(path: &Path) -> Option<usize> {
    let mut folders = path.ancestors().skip(1).filter_map(Path::file_name);
    let folders = folders.by_ref().take(3);
    let mut numbers = folders.filter_map(|name| name.to_str()?.parse().ok());
    numbers.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sample {
        Sample {
            index: 0,
            input: "A special magic number: 7654321.".into(),
            answer_prefix: " The number is".into(),
            outputs: vec!["7654321".into()],
            length: 150,
            answer_position: Some(6),
        }
    }

    #[test]
    fn lines_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples_niah_single_1_2026.jsonl");
        let second = Sample {
            index: 1,
            answer_position: None,
            ..sample()
        };
        let lines = [
            sample().to_json(512),
            second.to_json(512),
            sample().to_json(256),
        ];
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, text).unwrap();
        let sets = read_samples(&path, None).unwrap();
        assert_eq!(sets[0].length, 256);
        assert_eq!(sets[1].samples, [sample(), second]);
        assert!(sets.iter().all(|set| set.task == Task::NiahSingle1));
    }

    #[test]
    fn prompts_are_what_the_other_program_asked() {
        let prompt = |line: Value| of_line(&line).unwrap().0.prompt();
        let doc =
            json!({"input": "in", "gen_prefix": "Answer:", "outputs": ["x"], "max_length": 512});
        assert_eq!(prompt(doc.clone()), "in Answer:");
        let arguments = json!({"gen_args_0": {"arg_0": "in\n\nAnswer:", "arg_1": {"until": []}}});
        let logged = json!({"doc": doc, "arguments": arguments, "filtered_resps": ["x"]});
        assert_eq!(prompt(logged.clone()), "in\n\nAnswer:");
        let (sample, length) = of_line(&logged).unwrap();
        assert_eq!(
            (&*sample.input, &*sample.answer_prefix),
            ("in\n\n", "Answer:")
        );
        assert_eq!(length, Some(512));
        let listed = json!({"doc": doc, "arguments": [["in, as it was", {}]]});
        assert_eq!(prompt(listed), "in, as it was");
        // RULER before answers had a prefix of their own.
        assert_eq!(prompt(json!({"input": "all", "outputs": ["x"]})), "all");
        for wrong in [
            json!({}),
            json!({"input": "x", "outputs": []}),
            json!({"input": 1, "outputs": ["x"]}),
        ] {
            assert_eq!(of_line(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn paths_say_the_task_and_the_length() {
        for (path, task, length) in [
            (
                "8192/data/vt/validation.jsonl",
                Some(Task::VariableTracking),
                Some(8192),
            ),
            (
                "x/samples_ruler_cwe_2026-01-01T00.jsonl",
                Some(Task::CommonWords),
                None,
            ),
            ("niah_multikey_2.jsonl.gz", Some(Task::NiahMultikey2), None),
            ("512/qa_2-0.jsonl", Some(Task::Qa2), Some(512)),
            ("qa_22.jsonl", None, None),
            ("a/b.jsonl", None, None),
        ] {
            let path = Path::new(path);
            assert_eq!((task_of(path), length_of(path)), (task, length), "{path:?}");
        }
    }

    #[test]
    fn what_is_no_sample_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vt.jsonl");
        for (text, named) in [
            ("", "at least one sample"),
            ("{\"input\": \"x\"}\n", "line 1"),
            ("{\"input\"", "vt.jsonl"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = read_samples(&path, None).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        let other = dir.path().join("other.jsonl");
        std::fs::write(
            &other,
            "{\"input\": \"x\", \"outputs\": [\"y\"], \"length\": 9}\n",
        )
        .unwrap();
        assert!(
            read_samples(&other, None)
                .unwrap_err()
                .to_string()
                .contains("name of a task")
        );
        let sets = read_samples(&other, Some(Task::Qa1)).unwrap();
        assert_eq!((sets[0].task, sets[0].length), (Task::Qa1, 9));
    }
}
