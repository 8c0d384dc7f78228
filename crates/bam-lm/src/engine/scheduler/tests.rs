use super::*;
use crate::analysis::posterior;
use crate::engine::generate::{Generator, Sampling};
use crate::testing::small;
use bam_record::RowPosterior;
use burn::tensor::Device;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::sync::{Arc, Mutex};

/// All that a listener heard.
#[derive(Debug, Default)]
struct Heard {
    tokens: Vec<i32>,
    scores: Vec<TokenScore>,
    row_posteriors: Vec<RowPosterior>,
    reused: usize,
    finish: Option<String>,
    gone: bool,
}

#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Heard>>);

impl Listener for Ear {
    fn hear(&mut self, event: SequenceEvent) {
        let mut heard = self.0.lock().unwrap();
        match event {
            SequenceEvent::Prompt {
                reused,
                scores,
                row_posteriors,
            } => {
                (heard.reused, heard.scores, heard.row_posteriors) =
                    (reused, scores, row_posteriors)
            }
            SequenceEvent::Token { id, .. } => heard.tokens.push(id),
            SequenceEvent::End(finish) => {
                assert!(heard.finish.is_none(), "two ends");
                heard.finish = Some(format!("{finish:?}"));
            }
        }
    }

    fn is_gone(&self) -> bool {
        self.0.lock().unwrap().gone
    }
}

fn model(encoding: &str) -> Transformer {
    let device = Device::flex();
    device.seed(11);
    small(encoding).init(&device)
}

fn limits(rows_of_100: usize) -> Limits {
    Limits {
        active: 8,
        cache_bytes: rows_of_100 * 100 * 2 * small("nope").cached_keys(1, None) * 4 * 4,
        skipping: Skipping::Exact,
        horizons: None,
    }
}

fn request(seed: u64, length: usize, max_tokens: usize) -> Generate {
    let sampling = Sampling {
        seed,
        ..Sampling::default()
    };
    Generate {
        prompt: (0..length as i32)
            .map(|i| (i * 7 + seed as i32) % 31)
            .collect(),
        max_tokens,
        sampling,
        ..Generate::default()
    }
}

/// Adds a sequence; what is heard of it.
fn add(scheduler: &mut Scheduler<'_>, request: Generate) -> Ear {
    add_any(scheduler, Request::Generate(request))
}

fn add_any(scheduler: &mut Scheduler<'_>, request: Request) -> Ear {
    let ear = Ear::default();
    scheduler.add(request, Box::new(ear.clone()));
    ear
}

/// The tokens of a sequence alone.
fn alone(model: &Transformer, request: &Generate) -> Vec<i32> {
    let (prompt, sampling) = (&request.prompt, request.sampling);
    let alone = Generator::new(model, prompt, request.max_tokens, sampling, Skipping::Exact);
    alone.unwrap().map(Result::unwrap).collect()
}

fn run(scheduler: &mut Scheduler<'_>) {
    let mut steps = 0;
    while !scheduler.is_idle() {
        scheduler.step();
        steps += 1;
        assert!(steps < 1000, "the sequences do not end");
    }
}

/// Every sequence gets what it would have got alone.
#[test]
fn rows_do_not_disturb_each_other() {
    for encoding in ["bam+ssmax", "rotary", "sinusoidal", "alibi:2,bam:4"] {
        let model = model(encoding);
        let requests: Vec<Generate> = [(1, 30, 20), (2, 1, 40), (3, 50, 1), (4, 9, 33), (5, 20, 0)]
            .into_iter()
            .map(|(seed, length, tokens)| request(seed, length, tokens))
            .collect();
        let mut scheduler = Scheduler::new(&model, limits(20));
        let ears = requests
            .iter()
            .map(|request| add(&mut scheduler, request.clone()));
        let ears: Vec<Ear> = ears.collect();
        run(&mut scheduler);
        for (request, ear) in requests.iter().zip(&ears) {
            let alone = alone(&model, request);
            let heard = ear.0.lock().unwrap();
            assert_eq!(heard.tokens, alone, "{encoding}, {request:?}");
            assert_eq!(heard.finish.as_deref(), Some("Length"));
        }
        // Null control: other seeds give other tokens.
        assert_ne!(
            ears[0].0.lock().unwrap().tokens[..10],
            ears[3].0.lock().unwrap().tokens[..10]
        );
    }
}

#[test]
fn a_beginning_that_was_read_is_not_read_again() {
    let model = model("bam+ssmax");
    let mut scheduler = Scheduler::new(&model, limits(20));
    let first = request(1, 60, 5);
    let mut second = request(1, 60, 5);
    second.prompt[50..].fill(3);
    let mut heard = Vec::new();
    for request in [&first, &second, &first] {
        let ear = add(&mut scheduler, request.clone());
        run(&mut scheduler);
        let alone = alone(&model, request);
        assert_eq!(ear.0.lock().unwrap().tokens, alone);
        heard.push(ear.0.lock().unwrap().reused);
    }
    assert_eq!(heard, [0, 50, 59]);
    assert_eq!(scheduler.load().reused, 109);
    assert_eq!(scheduler.load().read, 60 + 10 + 1);
}

#[test]
fn scores_are_those_of_the_whole_prompt_however_it_was_read() {
    let model = model("bam+ssmax");
    let mut cache = model.cache(1, 60).unwrap();
    let mut request = request(1, 60, 1);
    let (expected, _) = model
        .score(&request.prompt, &mut cache, 0, PROMPT_TOP)
        .unwrap();
    let mut scheduler = Scheduler::new(&model, limits(20));
    // The first one is not scored, so that its beginning is of no use to the others.
    for (score, reused) in [(false, 0), (true, 0), (true, 59), (true, 59)] {
        request.score_prompt = score;
        let ear = add(&mut scheduler, request.clone());
        run(&mut scheduler);
        let heard = ear.0.lock().unwrap();
        assert_eq!(heard.reused, reused);
        assert_eq!(heard.scores.len(), if score { 59 } else { 0 });
        for (got, expected) in heard.scores.iter().zip(&expected) {
            assert!((got.ln_probability - expected.ln_probability).abs() < 1e-4);
            assert_eq!(got.top.len(), PROMPT_TOP);
        }
    }
}

/// Continuations of one context, as multiple choice has them: what follows the common beginning is scored
/// for each, also its first token, which is predicted by the last common one.
#[test]
fn scores_after_a_common_beginning_are_the_rows_own() {
    let model = model("bam+ssmax");
    let mut scheduler = Scheduler::new(&model, limits(20));
    let sequences = [3, 5, 7].map(|other| {
        let mut request = request(1, 60, 1);
        request.score_prompt = true;
        request.prompt[40..].fill(other);
        request
    });
    let mut first_own = Vec::new();
    for (request, reused) in sequences.iter().zip([0, 39, 39]) {
        let mut cache = model.cache(1, 60).unwrap();
        let expected = model.score(&request.prompt, &mut cache, 0, PROMPT_TOP);
        let (expected, _) = expected.unwrap();
        let ear = add(&mut scheduler, request.clone());
        run(&mut scheduler);
        let heard = ear.0.lock().unwrap();
        assert_eq!((heard.reused, heard.scores.len()), (reused, 59));
        for (got, expected) in heard.scores.iter().zip(&expected) {
            assert!((got.ln_probability - expected.ln_probability).abs() < 1e-4);
        }
        first_own.push(heard.scores[39].ln_probability);
    }
    // Null control: the other sequences' would not do.
    assert!((first_own[0] - first_own[1]).abs() > 1e-3, "{first_own:?}");
    assert!((first_own[0] - first_own[2]).abs() > 1e-3, "{first_own:?}");
}

#[test]
fn memory_is_bounded_and_rows_wait_for_it() {
    let model = model("bam+ssmax");
    let limits = limits(3);
    let mut scheduler = Scheduler::new(&model, limits.clone());
    let ears: Vec<Ear> = (0..9)
        .map(|seed| add(&mut scheduler, request(seed, 70, 30)))
        .collect();
    while !scheduler.is_idle() {
        scheduler.step();
        let load = scheduler.load();
        assert!(load.cache_bytes <= limits.cache_bytes, "{load:?}");
        assert!(load.active <= 3);
    }
    for ear in ears {
        assert_eq!(ear.0.lock().unwrap().tokens.len(), 30);
    }
    let ear = add(&mut scheduler, request(1, 290, 11));
    let finish = ear.0.lock().unwrap().finish.clone().unwrap();
    assert!(finish.contains("at most 300 tokens"), "{finish}");
    let check = |request| Scheduler::check(model.config(), &limits, &Request::Generate(request));
    let too_long = |request| matches!(check(request), Err(Error::TooLong { longest: 300, .. }));
    assert!(too_long(request(1, 290, 11)) && check(request(1, 290, 10)).is_ok());
    // Null control: other failures are not of this kind.
    assert!(check(request(1, 0, 1)).is_err() && !too_long(request(1, 0, 1)));
}

#[test]
fn who_leaves_is_not_worked_for() {
    let model = model("bam+ssmax");
    let mut scheduler = Scheduler::new(&model, limits(20));
    let ear = add(&mut scheduler, request(1, 10, 80));
    for _ in 0..5 {
        scheduler.step();
    }
    ear.0.lock().unwrap().gone = true;
    scheduler.step();
    assert!(scheduler.is_idle());
    assert!(ear.0.lock().unwrap().tokens.len() < 10);
    assert_eq!(ear.0.lock().unwrap().finish, None);
}

#[test]
fn the_first_of_several_end_tokens_ends_a_row() {
    let model = model("bam+ssmax");
    let mut wanted = request(4, 9, 33);
    let alone = alone(&model, &wanted);
    wanted.ends = [alone[30], alone[7]].into();
    let until = alone
        .iter()
        .position(|id| wanted.ends.contains(id))
        .unwrap();
    assert!(until <= 7);
    let mut scheduler = Scheduler::new(&model, limits(20));
    let ear = add(&mut scheduler, wanted);
    run(&mut scheduler);
    let heard = ear.0.lock().unwrap();
    assert_eq!(heard.tokens, alone[..=until]);
    assert_eq!(heard.finish.as_deref(), Some("End"));
}

/// With horizons a sequence is what it would be in such a cache alone, and takes less room.
#[test]
fn caches_can_do_without_what_is_beyond_the_horizon() {
    let model = model("alibi");
    let horizons = Arc::new(model.horizons(2000, 0.01).unwrap());
    let mut bounded = limits(20);
    bounded.horizons = Some(Arc::clone(&horizons));
    let whole = Scheduler::longest_sequence(model.config(), &limits(2));
    let longest = Scheduler::longest_sequence(
        model.config(),
        &Limits {
            cache_bytes: limits(2).cache_bytes,
            ..bounded.clone()
        },
    );
    assert_eq!(whole, 200);
    assert!(longest > whole, "{longest}");
    let mut scheduler = Scheduler::new(&model, bounded);
    let mut first = request(3, 80, 20);
    let mut reused = Vec::new();
    for _ in 0..2 {
        let ear = add(&mut scheduler, first.clone());
        run(&mut scheduler);
        let capacity = first.prompt.len() + first.max_tokens;
        let mut cache = model.certified_cache(1, capacity, &horizons).unwrap();
        let mut logits = model.prefill_to_logits(&first.prompt, &mut cache).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(first.sampling.seed);
        let mut alone = Vec::new();
        while alone.len() < first.max_tokens {
            let token = first.sampling.draw(&logits, &mut random);
            alone.push(token);
            if alone.len() < first.max_tokens {
                logits = model.prefill_to_logits(&[token], &mut cache).unwrap();
            }
        }
        let heard = ear.0.lock().unwrap();
        assert_eq!(heard.tokens, alone);
        reused.push(heard.reused);
        // The next one goes on where this one ended.
        first.prompt.extend(&heard.tokens);
    }
    assert_eq!(reused, [0, 99]);
}

/// Row posteriors are those of the text alone, also where caches keep windows; the sequence before is not
/// read again. Null control: another text's are others.
#[test]
fn heads_are_asked_between_other_rows() {
    let model = model("alibi");
    let mut bounded = limits(20);
    bounded.horizons = Some(Arc::new(model.horizons(2000, 0.01).unwrap()));
    for (limits, expected) in [(limits(20), [59, 0, 39]), (bounded, [0, 0, 39])] {
        let mut scheduler = Scheduler::new(&model, limits);
        add(&mut scheduler, request(1, 60, 5));
        run(&mut scheduler);
        add(&mut scheduler, request(3, 80, 20));
        let asked = [(1, 60), (2, 60), (2, 40)];
        let mut reused = Vec::new();
        for (seed, length) in asked {
            let prompt = request(seed, length, 0).prompt;
            let asked = Request::Inspect {
                prompt: prompt.clone(),
            };
            let ear = add_any(&mut scheduler, asked);
            run(&mut scheduler);
            let heard = ear.0.lock().unwrap();
            assert_eq!(heard.finish.as_deref(), Some("Length"));
            let last = prompt.len() - 1;
            let alone = posterior::row_posteriors(&model, &prompt, &[last]).unwrap();
            let apart = |others: &[RowPosterior]| {
                let both = heard.row_posteriors.iter().zip(others);
                both.map(|(heard, other)| {
                    assert_eq!((heard.layer, heard.head), (other.layer, other.head));
                    assert_eq!((heard.row, heard.first_key), (last, other.first_key));
                    (heard.ln_evidence - other.ln_evidence).abs()
                })
                .fold(0.0, f64::max)
            };
            assert_eq!(heard.row_posteriors.len(), alone.len());
            assert!(apart(&alone) < 1e-4, "{}", apart(&alone));
            let mut other = prompt;
            other[last] += 1;
            let other = posterior::row_posteriors(&model, &other, &[last]).unwrap();
            assert!(apart(&other) > 1e-3);
            reused.push(heard.reused);
        }
        assert_eq!(reused, expected);
    }
}

/// Memory is set aside for what a sequence has come to, not for what it might: a sequence that may become as long as
/// the memory does not keep others out. Where the memory ends, those that came last are preempted, and every
/// sequence still gets what it would have got alone.
#[test]
fn room_grows_with_the_answer_and_the_first_has_the_right_of_way() {
    let model = model("bam+ssmax");
    let limits = limits(20);
    let mut scheduler = Scheduler::new(&model, limits.clone());
    let mut requests = vec![request(1, 10, 1990), request(2, 10, 20)];
    requests.extend((3..9).map(|seed| request(seed, 30 * seed as usize, 700)));
    let ears = requests
        .iter()
        .map(|request| add(&mut scheduler, request.clone()));
    let ears: Vec<Ear> = ears.collect();
    let mut ends = Vec::new();
    let mut steps = 0;
    while !scheduler.is_idle() {
        scheduler.step();
        steps += 1;
        assert!(steps < 20_000, "the sequences do not end");
        assert!(scheduler.load().cache_bytes <= limits.cache_bytes);
        let ended = |ear: &Ear| ear.0.lock().unwrap().finish.is_some();
        for (index, ear) in ears.iter().enumerate() {
            if ended(ear) && !ends.iter().any(|(other, _)| *other == index) {
                ends.push((index, steps));
            }
        }
    }
    // The short sequence did not wait for the long one before it, nor the long one for those behind it.
    assert_eq!(ends[0], (1, 20));
    assert!(scheduler.load().preemptions > 0);
    // One step a token.
    assert!(ends.contains(&(0, 1990)), "{ends:?}");
    for (request, ear) in requests.iter().zip(&ears) {
        let alone = alone(&model, request);
        let heard = ear.0.lock().unwrap();
        assert!(heard.tokens == alone, "{} tokens", request.max_tokens);
        assert_eq!(heard.finish.as_deref(), Some("Length"));
    }
}
