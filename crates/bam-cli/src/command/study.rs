//! `bam study`: models by seeds by measures, in pieces, by as many processes as there are; a page and tables at the end.

mod agreement;
mod definition;
mod jobs;
mod page;
mod plan;
mod side_by_side;

use crate::args::StudyArgs;
use crate::command::eval::models::Session;
use crate::command::prior::edited;
use crate::console::{self, UsageError};
use crate::corpus;
use crate::error_text::text_of;
use crate::experiment::{Materials, Measured, trained};
use anyhow::{Context, ensure};
use bam_attention::Skipping;
use bam_eval::evaluation::Subject;
use bam_eval::greedy::GreedyGenerator;
use bam_eval::passkey::{PasskeyEvaluation, PasskeyPlan};
use bam_eval::perplexity::{PerplexityEvaluation, PerplexityPlan};
use bam_eval::ruler::{RulerEvaluation, RulerSamples, Sources};
use bam_eval::synthetic::{SyntheticEvaluation, SyntheticPlan};
use burn::tensor::Device;
use definition::{Group, Study};
use jobs::{Job, Run, Stage};
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub fn run(args: &StudyArgs) -> anyhow::Result<ExitCode> {
    let study = Study::read(&args.study)?;
    for name in &args.group {
        let known = || study.groups.iter().map(|group| &group.name);
        if !known().any(|of| of == name) {
            let known: Vec<_> = known().collect();
            return Err(
                UsageError(format!("--group: expected one of {known:?}, got {name:?}")).into(),
            );
        }
    }
    let all = jobs::runs(&study, &args.study, &args.out)?;
    let wanted = |run: &Run| {
        let name = &study.groups[run.group].name;
        args.group.is_empty() || args.group.contains(name)
    };
    let runs: Vec<Run> = all.iter().filter(|run| wanted(run)).cloned().collect();
    let jobs = jobs::jobs(&runs);
    if args.plan {
        return plan::show(&study, &runs, &jobs);
    }
    console::catch_interrupts();
    if args.worker {
        side_by_side::stop_with_the_first();
    }
    if let Some(minutes) = args.minutes {
        let time = Duration::try_from_secs_f64(60.0 * minutes);
        console::stop_after(time.unwrap_or(Duration::MAX));
    }
    let failed = match args.jobs {
        1 => Worker::open(&study, args)?.work(&jobs)?,
        several => side_by_side::work(args, several)?,
    };
    if !args.worker {
        page::write(&study, &all, &args.out)?;
    }
    let left = jobs.iter().filter(|job| !job.is_done()).count();
    let page = args.out.join("study.html");
    console::note(&format!(
        "{} of {} jobs done; {}",
        jobs.len() - left,
        jobs.len(),
        page.display()
    ));
    // What one process failed at another may have done.
    ensure!(
        !failed || left == 0,
        "jobs failed, {left} are left; the same command tries them again"
    );
    if left > 0 {
        console::note("stopped; the same command goes on from there");
        return Ok(ExitCode::from(console::INTERRUPTED));
    }
    Ok(ExitCode::SUCCESS)
}

/// Keys that no row can tell apart from absent ones are not read.
const SKIPPING: Skipping = Skipping::Exact;

/// One process at work.
struct Worker<'a> {
    study: &'a Study,
    materials: Materials,
    device: Device,
}

impl<'a> Worker<'a> {
    fn open(study: &'a Study, args: &StudyArgs) -> anyhow::Result<Self> {
        let out = &args.out;
        std::fs::create_dir_all(out)
            .with_context(|| format!("{}: could not create it", out.display()))?;
        // One process makes the tokenizer; it is the same whoever does.
        let path = out.join("tokenizer.lock");
        let lock = File::create(&path).and_then(|file| file.lock().map(|()| file));
        let lock = lock.with_context(|| format!("{}: could not lock it", path.display()))?;
        let materials = Materials::open(out)?;
        drop(lock);
        Ok(Self {
            study,
            materials,
            device: args.device.open()?,
        })
    }

    /// Before hours of training: that prompts of the lengths asked can be made, and the book is long enough.
    fn check(&self, jobs: &[Job]) -> anyhow::Result<()> {
        let tokenizer = &self.materials.tokenizer;
        for Job { run, stage } in jobs {
            let group = &self.study.groups[run.group];
            let trained = run.recipe.train.length;
            if *stage == Stage::Passkey {
                let plan = self.passkeys(group, trained, run.seed)?;
                let checked = plan.check(tokenizer);
                checked.with_context(|| format!("{}, {}", group.name, run.name))?;
            }
        }
        // All models of a group read the same.
        let title = self.materials.held_out.name();
        for of_group in jobs.chunk_by(|a, b| a.run.group == b.run.group) {
            let group = &self.study.groups[of_group[0].run.group];
            if group.perplexity.is_some() {
                let trained = of_group[0].run.recipe.train.length;
                let plan = self.reading(group, trained, &title)?;
                let checked = plan.check(tokenizer);
                checked.with_context(|| group.name.clone())?;
            }
        }
        Ok(())
    }

    /// Does jobs that no other process has until all are done or it is asked to stop; gives back whether one failed.
    fn work(&self, jobs: &[Job]) -> anyhow::Result<bool> {
        /// Between two looks at what others have.
        const PAUSE: Duration = Duration::from_secs(2);
        self.check(jobs)?;
        let mut failed = vec![false; jobs.len()];
        while !console::interrupted() {
            let mut open = 0;
            let mut taken = None;
            for (place, job) in jobs.iter().enumerate() {
                if failed[place] || job.is_done() {
                    continue;
                }
                // A run whose training failed here has nothing to measure.
                open += usize::from(job.is_ready() || !lost(jobs, &failed, job.run));
                if !job.is_ready() {
                    continue;
                }
                if let Some(lock) = job.claim()? {
                    // Another process may have done it just now.
                    if !job.is_done() {
                        taken = Some((place, lock));
                        break;
                    }
                }
            }
            match taken {
                Some((place, _lock)) => {
                    let job = &jobs[place];
                    if let Err(error) = self.job(job) {
                        console::note(&format!("{}: {}", job.title(), text_of(&error)));
                        failed[place] = true;
                    }
                }
                None if open == 0 => break,
                None => std::thread::sleep(PAUSE),
            }
        }
        Ok(failed.contains(&true))
    }

    fn job(&self, job: &Job) -> anyhow::Result<()> {
        let Run {
            name,
            seed,
            recipe,
            dir,
            edit,
            group,
            ..
        } = job.run;
        let group = &self.study.groups[*group];
        let name = format!("{name}, seed {seed}");
        let model = match edit {
            None => trained(dir, &name, recipe.clone(), &self.materials, &self.device)?,
            Some((of, edit)) => Some(edited(of, edit, dir, &self.device)?),
        };
        let Some(model) = model.filter(|_| job.stage != Stage::Train) else {
            return Ok(());
        };
        let measured = Measured {
            dir,
            name: &name,
            subject: Subject {
                model: &model,
                tokenizer: &self.materials.tokenizer,
            },
            seed: *seed,
        };
        let mut session = Session::open(&[])?;
        if self.measure(job.stage, group, &measured, &mut session)? {
            session.finish()?;
        }
        Ok(())
    }

    /// Passkeys for a model that was trained at a length.
    fn passkeys(&self, group: &Group, trained: usize, seed: u64) -> anyhow::Result<PasskeyPlan> {
        Ok(PasskeyPlan {
            lengths: group.passkey_lengths(trained)?,
            given_digits: 1,
            greedy: false,
            patience: self.study.patience,
            stopping: self.study.stopping()?,
            seed,
            skipping: SKIPPING,
            certified_cache: None,
        })
    }

    /// The held-out book, by its name, for a model that was trained at a length.
    fn reading<'b>(
        &'b self,
        group: &Group,
        trained: usize,
        title: &'b str,
    ) -> anyhow::Result<PerplexityPlan<'b>> {
        Ok(PerplexityPlan {
            title,
            text: &self.materials.held_out.text,
            length: group.reading(trained)?.flatten(),
            window: group.perplexity.as_ref().map_or(trained, |of| of.window),
            certified_cache: None,
        })
    }

    /// `false` where it was interrupted.
    fn measure(
        &self,
        stage: Stage,
        group: &Group,
        measured: &Measured,
        session: &mut Session,
    ) -> anyhow::Result<bool> {
        let trained = measured.subject.model.config().train_length;
        let (patience, stopping) = (self.study.patience, self.study.stopping()?);
        let (seed, skipping) = (measured.seed, SKIPPING);
        let of = (stage.record().unwrap_or_default(), stage.name());
        match stage {
            Stage::Train => Ok(true),
            Stage::Heads => {
                let lengths = group.passkey_lengths(trained)?;
                let longest = lengths.last().map_or(trained, |at| at.length);
                measured.heads(longest).map(|()| true)
            }
            Stage::Perplexity => {
                let title = self.materials.held_out.name();
                let plan = self.reading(group, trained, &title)?;
                measured.record(session, of, |subject| {
                    PerplexityEvaluation::new(subject, plan)
                })
            }
            Stage::Passkey => {
                let plan = self.passkeys(group, trained, seed)?;
                measured.record(session, of, |subject| {
                    PasskeyEvaluation::new(subject, &plan)
                })
            }
            Stage::Ruler => {
                let Some((grid, samples)) = group.ruler_grid(trained)? else {
                    return Ok(true);
                };
                // Needles are hidden in the training books.
                let sources = Sources {
                    essays: corpus::essays()?,
                    squad: None,
                    hotpotqa: None,
                };
                let samples = RulerSamples::Made(Box::new(sources), samples, seed);
                measured.record(session, of, |subject| {
                    Ok(RulerEvaluation {
                        generator: GreedyGenerator {
                            subject,
                            begin: true,
                            skipping,
                        },
                        grid,
                        samples: &samples,
                        samples_from: Vec::new(),
                    })
                })
            }
            Stage::Synthetic => {
                let Some((tasks, lengths, samples)) = group.synthetic_tasks(trained)? else {
                    return Ok(true);
                };
                let plan = SyntheticPlan {
                    tasks,
                    lengths,
                    samples,
                    patience,
                    stopping,
                    seed,
                    skipping,
                };
                measured.record(session, of, |subject| {
                    SyntheticEvaluation::new(subject, &plan)
                })
            }
        }
    }
}

/// Whether a run's model, or the one that it is made from, failed to be made in this process.
fn lost(jobs: &[Job], failed: &[bool], run: &Run) -> bool {
    let of = run.edit.as_ref().map(|(of, _)| of);
    let needed = |dir: &PathBuf| *dir == run.dir || of == Some(dir);
    let of = jobs.iter().zip(failed);
    let mut of = of.filter(|(job, _)| job.stage == Stage::Train && needed(&job.run.dir));
    of.any(|(_, failed)| *failed)
}
