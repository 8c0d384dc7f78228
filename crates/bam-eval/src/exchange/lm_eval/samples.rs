//! Lines of `samples_<task>_<time>.jsonl`: what was asked, and what came of it.

use crate::babilong::prompt::{BUDGET, Prompt};
use crate::loglikelihood::{Likelihood, Question};
use crate::ruler::sample::{Sample, SampleSet};
use bam_data::hexadecimal;
use bam_record::{BabilongAnswer, RulerAnswer, RulerCell};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// A task's samples as lines of the file, and a digest over all of them.
#[derive(Debug, Default)]
pub struct SampleLines {
    count: usize,
    digests: Sha256,
}

/// One sample, in lm-eval's words.
struct Logged {
    doc: Value,
    /// As Python prints it.
    target: String,
    /// A pair for each request: the prompt, and what is asked of it.
    arguments: Vec<[Value; 2]>,
    /// The answer to each request.
    responses: Vec<Value>,
    metrics: Vec<(String, Value)>,
}

impl SampleLines {
    /// The lines of one length of RULER's.
    pub fn ruler(&mut self, cell: &RulerCell, set: &SampleSet) -> Vec<String> {
        let answered = cell.answers.iter().zip(&set.samples);
        let line = |(answer, sample): (&RulerAnswer, &Sample)| {
            let doc = json!({
                "index": sample.index,
                "input": sample.input,
                "outputs": sample.outputs,
                "length": sample.length,
                "max_length": set.length,
                "gen_prefix": sample.answer_prefix,
            });
            let quoted = sample.outputs.iter().map(|output| quoted(output));
            self.line(Logged {
                doc,
                target: format!("[{}]", quoted.collect::<Vec<_>>().join(", ")),
                arguments: vec![[sample.prompt().into(), arguments(set.task.budget())]],
                responses: vec![answer.answer.as_str().into()],
                metrics: vec![(set.length.to_string(), answer.score.into())],
            })
        };
        answered.map(line).collect()
    }

    /// The lines of BABILong's questions.
    pub fn babilong(&mut self, answers: &[BabilongAnswer], prompts: &[Prompt]) -> Vec<String> {
        let answered = answers.iter().zip(prompts);
        let line = |(answer, prompt): (&BabilongAnswer, &Prompt)| {
            self.line(Logged {
                doc: json!({"question": prompt.question, "target": prompt.target}),
                target: prompt.target.clone(),
                arguments: vec![[prompt.text.as_str().into(), arguments(BUDGET)]],
                responses: vec![answer.answer.as_str().into()],
                metrics: vec![("acc".into(), f64::from(u8::from(answer.correct)).into())],
            })
        };
        answered.map(line).collect()
    }

    /// The lines of questions with given continuations: as lm-eval has them of `multiple_choice`, and of
    /// `loglikelihood` where there is one continuation only.
    pub fn loglikelihood(
        &mut self,
        questions: &[Question],
        answers: &[Vec<Likelihood>],
    ) -> Vec<String> {
        let numbers = numbers(questions, self.count);
        let answered = questions.iter().zip(answers).zip(numbers);
        let line = |((question, likelihoods), number): ((&Question, &Vec<Likelihood>), usize)| {
            let continuations = question.continuations.iter();
            let of = |text: &String| [question.context.as_str().into(), text.as_str().into()];
            let right = question.is_right(likelihoods);
            let (target, metrics) = match question.is_right_per_character(likelihoods) {
                Some(per_character) => {
                    let mark = |right: bool| json!(f64::from(u8::from(right)));
                    let metrics = [("acc", mark(right)), ("acc_norm", mark(per_character))];
                    (question.right.to_string(), metrics)
                }
                None => {
                    let likelihood = likelihoods[0].ln_probability;
                    let metrics = [
                        ("perplexity", likelihood.into()),
                        ("acc", u8::from(right).into()),
                    ];
                    (question.continuations[0].clone(), metrics)
                }
            };
            self.count = number;
            self.line(Logged {
                doc: question.contents.clone().unwrap_or_else(|| {
                    json!({
                        "context": question.context,
                        "continuations": question.continuations,
                        "label": question.right,
                    })
                }),
                target,
                arguments: continuations.map(of).collect(),
                responses: likelihoods.iter().map(printed).collect(),
                metrics: metrics.map(|(name, value)| (name.into(), value)).into(),
            })
        };
        answered.map(line).collect()
    }

    fn line(&mut self, logged: Logged) -> String {
        // Python's indent=2 and this crate's pretty form are the same text.
        let pretty = serde_json::to_string_pretty(&logged.doc).unwrap_or_default();
        let prompt = logged
            .arguments
            .first()
            .and_then(|[prompt, _]| prompt.as_str());
        let hashed = [pretty.as_str(), prompt.unwrap_or_default(), &logged.target];
        let [doc_hash, prompt_hash, target_hash] = hashed.map(digest);
        for hash in [&doc_hash, &prompt_hash, &target_hash] {
            self.digests.update(hash);
        }
        let asked = logged.arguments.into_iter().enumerate();
        let asked = asked.map(|(number, [first, second])| {
            let pair = json!({"arg_0": first, "arg_1": second});
            (format!("gen_args_{number}"), pair)
        });
        let once = logged.responses.iter().map(|response| json!([response]));
        let names = logged.metrics.iter().map(|(name, _)| name.as_str());
        let mut line = json!({
            "doc_id": self.count,
            "doc": logged.doc,
            "target": logged.target,
            "arguments": asked.collect::<Map<String, Value>>(),
            "resps": once.collect::<Vec<_>>(),
            "filtered_resps": logged.responses,
            "filter": "none",
            "metrics": names.collect::<Vec<_>>(),
            "doc_hash": doc_hash,
            "prompt_hash": prompt_hash,
            "target_hash": target_hash,
        });
        for (name, value) in logged.metrics {
            line[name] = value;
        }
        self.count += 1;
        line.to_string()
    }

    /// Their digest in `task_hashes`.
    pub fn digest(&self) -> String {
        hexadecimal(&self.digests.clone().finalize())
    }
}

/// The documents' numbers as the requests have them, and the next one where they have none; the places of
/// questions where one of those would be there twice, since readers take them for keys.
fn numbers(questions: &[Question], first: usize) -> Vec<usize> {
    let mut next = first;
    let given = questions.iter().map(|question| {
        let number = question.document.map_or(next, |number| number as usize);
        next = number.saturating_add(1);
        number
    });
    let given: Vec<usize> = given.collect();
    let different: BTreeSet<&usize> = given.iter().collect();
    match different.len() == given.len() {
        true => given,
        false => (first..).take(questions.len()).collect(),
    }
}

/// The settings of a generation, as lm-eval has them.
pub(super) fn arguments(budget: usize) -> Value {
    json!({"do_sample": false, "temperature": 0.0, "max_gen_toks": budget, "until": []})
}

/// A likelihood as lm-eval logs it: two texts.
fn printed(likelihood: &Likelihood) -> Value {
    let greedy = if likelihood.greedy { "True" } else { "False" };
    // Written out to the last bit, as Python's `str` does.
    let ln_probability = format!("{:?}", likelihood.ln_probability);
    json!([ln_probability, greedy])
}

fn digest(text: &str) -> String {
    hexadecimal(&Sha256::digest(text))
}

/// As Python prints a string in a list.
fn quoted(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('\t', "\\t");
    match escaped.contains('\'') && !escaped.contains('"') {
        true => format!("\"{escaped}\""),
        false => format!("'{}'", escaped.replace('\'', "\\'")),
    }
}
