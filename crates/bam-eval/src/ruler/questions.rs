//! Questions about paragraphs among other paragraphs: `qa_1` and `qa_2`.

use super::fit::{Draft, Frame, Made};
use super::sources::{ParagraphQuestion, Paragraphs};
use bam_lm::Error;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::collections::HashSet;

/// The first questions of the file whose own paragraphs fit, each among as many others as fit.
pub(super) fn samples(frame: &Frame, paragraphs: &Paragraphs, count: usize) -> Result<Made, Error> {
    let mut needed = usize::MAX;
    let mut samples = Vec::new();
    let mut from = 0;
    while samples.len() < count && from < paragraphs.questions.len() {
        // As many as are wanted still; where some don't fit, another round.
        let to = (from + count - samples.len()).min(paragraphs.questions.len());
        let made = (from..to).into_par_iter().map(|number| {
            let question = &paragraphs.questions[number];
            let draft = |size| paragraphs.draft(question, size, &mut frame.random(number));
            let (smallest, tokens) = (question.own.len(), |size| frame.tokens(&draft(size)));
            match frame.largest(smallest, frame.length, tokens)? {
                Ok((size, length)) => Ok(Ok(frame.sample(number, draft(size), length)?)),
                Err(needed) => Ok(Err(needed)),
            }
        });
        for made in made.collect::<Result<Vec<_>, Error>>()? {
            match made {
                Ok(sample) => samples.push(sample),
                Err(tokens) => needed = needed.min(tokens),
            }
        }
        from = to;
    }
    for (index, sample) in samples.iter_mut().enumerate() {
        sample.index = index;
    }
    Ok(match samples.is_empty() {
        true => Err(frame.too_short(needed)),
        false => Ok(samples),
    })
}

impl Paragraphs {
    /// A prompt with `size` paragraphs: the question's own, others of their article, any others. Where
    /// there are not so many, all of them, again and again.
    fn draft(&self, question: &ParagraphQuestion, size: usize, random: &mut ChaCha8Rng) -> Draft {
        let mut chosen = question.own.clone();
        if size >= self.texts.len() {
            chosen = (0..size).map(|place| place % self.texts.len()).collect();
        } else {
            // In an order that does not depend on the size: more paragraphs are these and others.
            let mut near = question.near.clone();
            near.shuffle(random);
            chosen.extend(near);
            if chosen.len() < size {
                let taken: HashSet<usize> = chosen.iter().copied().collect();
                let all = 0..self.texts.len();
                let mut left: Vec<usize> = all.filter(|place| !taken.contains(place)).collect();
                left.shuffle(random);
                chosen.extend(left);
            }
            chosen.truncate(size.max(question.own.len()));
        }
        chosen.shuffle(random);
        let documents = chosen
            .iter()
            .enumerate()
            .map(|(index, place)| format!("Document {}:\n{}", index + 1, self.texts[*place]));
        let documents = documents.collect::<Vec<_>>().join("\n\n");
        const TASK: &str = "Answer the question based on the given documents. Only give me the answer and do \
                            not output any other words.";
        Draft {
            input: format!(
                "{TASK}\n\nThe following are given documents.\n\n{documents}\n\n{TASK}\n\nQuestion: {}",
                question.text
            ),
            answer_prefix: " Answer:".into(),
            outputs: question.answers.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn paragraphs() -> Paragraphs {
        let texts = (0..30)
            .map(|n| format!("Paragraph number {n:02}."))
            .collect();
        let question = |number: usize| ParagraphQuestion {
            text: format!("Which comes after {number:02}?"),
            answers: vec![format!("number {:02}", number + 1)],
            own: vec![number + 1],
            near: vec![number, number + 2, number + 3],
        };
        Paragraphs {
            texts,
            questions: (0..9).map(question).collect(),
        }
    }

    #[test]
    fn own_paragraphs_are_there_whatever_fits() {
        let paragraphs = paragraphs();
        for size in [1, 2, 4, 5, 6, 29, 30, 31, 75] {
            let question = &paragraphs.questions[size % 9];
            let draft = paragraphs.draft(question, size, &mut ChaCha8Rng::seed_from_u64(7));
            assert_eq!(draft.input.matches("Document ").count(), size);
            assert!(draft.input.contains(&draft.outputs[0]), "{size}");
            assert!(
                draft
                    .input
                    .contains(&format!("Document {size}:\nParagraph"))
            );
            assert!(draft.input.ends_with(&question.text));
            // Paragraphs of the article come before any others.
            let near = question.near.iter();
            let near = near.filter(|at| draft.input.contains(&format!("number {at:02}")));
            assert_eq!(near.count(), (size - 1).min(3), "{size}");
            if size < 30 {
                let lines = draft
                    .input
                    .lines()
                    .filter(|line| line.starts_with("Paragraph"));
                assert_eq!(lines.collect::<HashSet<_>>().len(), size);
            }
        }
    }
}
