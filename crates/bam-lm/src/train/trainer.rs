//! The training loop, one step at a time.

use super::gradients::{Gradients, added, clipping};
use super::optimizer::RAdam;
use super::recipe::{OptimizerState, Recipe};
use super::reduction::{Reduced, reduced};
use super::schedule::CosineSchedule;
use super::shares::Shares;
use super::workers::Workers;
use crate::Error;
use crate::device;
use crate::model::checkpoint::NamedTensors;
use crate::model::{EachParameter, ModelConfig, TokenRows, Transformer, Visiting, host_values};
use crate::settings;
use bam_attention::Documents;
use bam_data::{
    Batch, CopyRows, DataError, Mixture, PackedRows, PasskeyRows, RowSource, SyntheticRows,
    TokenStore, Tokenizer,
};
use bam_record::TrainingStep;
use burn::module::{Module, ParamId};
use burn::tensor::{Device, Tensor};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// A run between two steps.
pub struct Trainer {
    pub(super) recipe: Recipe,
    pub(super) model: Transformer,
    pub(super) optimizer: RAdam,
    pub(super) step: u64,
    schedule: CosineSchedule,
    rows: Arc<dyn RowSource>,
    /// The rows of a step to come.
    ahead: Option<(u64, Result<Batch, DataError>)>,
    validation: Option<Validation>,
    pub(super) workers: Workers,
}

struct Validation {
    rows: PackedRows,
    bytes_per_token: f64,
}

impl Trainer {
    /// A run at its start. The workers' devices are plain ones; the trainer turns autodiff on. Of several ranks all make the same
    /// trainer, and all of them make every call that computes.
    ///
    /// # Errors
    /// If the recipe's numbers don't fit the tokenizer or the data, or the device has not the float type of
    /// its products.
    pub fn new(
        recipe: Recipe,
        tokenizer: Arc<Tokenizer>,
        text: Arc<TokenStore>,
        validation: Option<Arc<TokenStore>>,
        workers: &Workers,
    ) -> Result<Self, Error> {
        let train = &recipe.train;
        let workers = workers.learning();
        let devices = workers.devices.iter();
        devices
            .clone()
            .try_for_each(|device| recipe.check_device(device))?;
        let vocabulary = tokenizer.vocabulary_size();
        let model = train.prepared(first_model(&recipe, vocabulary, &workers.devices[0])?)?;
        let minimum = train.learning_rate * train.final_fraction;
        let schedule = CosineSchedule::new(train.learning_rate, minimum, train.steps)?;
        let rows = rows(&recipe, &tokenizer, &text)?;
        let validation = match validation {
            None => None,
            Some(store) => Some(Validation {
                bytes_per_token: store.bytes() as f64 / store.tokens().max(1) as f64,
                rows: PackedRows::in_order(store, train.length)?,
            }),
        };
        let optimizer = RAdam::new(train.optimizer, train.rates);
        Ok(Self {
            model,
            optimizer,
            step: 0,
            schedule,
            rows,
            ahead: None,
            validation,
            workers,
            recipe,
        })
    }

    /// Steps taken.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Whether all steps were taken.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.step >= self.recipe.train.steps
    }

    /// The model as it is now, on the autodiff device.
    #[must_use]
    pub fn model(&self) -> &Transformer {
        &self.model
    }

    /// The run's recipe.
    #[must_use]
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Takes one step. `clock` tells seconds; it is asked before and after.
    ///
    /// # Errors
    /// If the rows can't be read, or the loss stops being a number; the model is as before then.
    pub fn advance(&mut self, clock: impl Fn() -> f64) -> Result<TrainingStep, Error> {
        let train = &self.recipe.train;
        let start = clock();
        let ahead = self.ahead.take().filter(|(step, _)| *step == self.step);
        let batch = ahead.map_or_else(|| self.read(self.step), |(_, batch)| batch)?;
        let sum = self.sum(&batch)?;
        // The device is at work until its numbers are read.
        let next = self.step + 1;
        self.ahead = (next < train.steps).then(|| (next, self.read(next)));
        let (loss, norm) = match &sum {
            Sum::Whole(gradients) => gradients.loss_and_norm(&self.model),
            Sum::Share(_, of) => (of.loss, of.norm),
        };
        for (what, got) in [("loss", loss), ("gradient norm", norm)] {
            if !got.is_finite() {
                return Err(Error::NotFinite {
                    step: self.step,
                    what,
                    got,
                });
            }
        }
        let rate = self.schedule.rate(self.step);
        let clip = clipping(norm, train.clip);
        self.model = self.stepped(sum, clip, rate);
        let train = &self.recipe.train;
        self.step += 1;
        let tokens_of_step = (train.rows * train.length) as u64;
        let seconds = (clock() - start).max(1e-9);
        let validates = self.step.is_multiple_of(train.validate_every) || self.finished();
        let validation_loss = if validates {
            self.validation_loss()?
        } else {
            None
        };
        let bytes_per_token = self.validation.as_ref().map_or(1.0, |v| v.bytes_per_token);
        Ok(TrainingStep {
            step: self.step,
            tokens: self.step * tokens_of_step,
            loss,
            learning_rate: rate,
            gradient_norm: norm,
            tokens_per_second: tokens_of_step as f64 / seconds,
            validation_loss,
            validation_bits_per_byte: validation_loss
                .map(|nats| nats / std::f64::consts::LN_2 / bytes_per_token),
        })
    }

    /// The gradients of a batch, added in the order of its parts.
    fn sum(&self, batch: &Batch) -> Result<Sum, Error> {
        let train = &self.recipe.train;
        let (model, workers) = (&self.model, &self.workers);
        let (implementation, parts) = (train.attention.into(), train.parts);
        if workers.ranks.are_several() {
            let shares = self.shares();
            let of = reduced(model, batch, implementation, parts, workers, &shares)?;
            return Ok(Sum::Share(shares, of));
        }
        added(model, batch, implementation, parts, workers).map(Sum::Whole)
    }

    /// The model after a step, which is the same on all ranks.
    fn stepped(&mut self, sum: Sum, clip: f64, rate: f64) -> Transformer {
        let (model, ranks) = (self.model.clone(), &*self.workers.ranks);
        let gradients = match sum {
            Sum::Whole(gradients) => gradients,
            Sum::Share(shares, of) => match self.recipe.train.optimizer_state {
                OptimizerState::Replicated => {
                    let all = shares.gathered(ranks, &of.own);
                    Gradients::whole(&all, &shares, &model.device())
                }
                OptimizerState::Sharded => {
                    let own = (&*of.own, clip);
                    let own =
                        (self.optimizer).step_share(&model, (&shares, ranks.rank()), own, rate);
                    let all = shares.gathered(ranks, &own);
                    return model.with_values(shares.by_parameter(&all));
                }
            },
        };
        self.optimizer.step(model, gradients.times(clip), rate)
    }

    /// The share of every rank in the numbers that learn.
    fn shares(&self) -> Shares {
        let (model, learn) = (&self.model, &self.recipe.train.learn);
        let whole = !device::is_cpu(&model.device());
        Shares::new(model, learn, self.workers.ranks.size(), whole)
    }

    /// The same where the optimizer's state is cut by it.
    fn shares_of_state(&self) -> Option<Shares> {
        let sharded = self.recipe.train.optimizer_state == OptimizerState::Sharded;
        (sharded && self.workers.ranks.are_several()).then(|| self.shares())
    }

    /// Made by all ranks: the optimizer's state for a checkpoint, on rank 0.
    pub(super) fn optimizer_tensors(&self) -> NamedTensors {
        let ranks = &*self.workers.ranks;
        match self.shares_of_state() {
            Some(shares) => self.optimizer.gathered_tensors(ranks, &shares),
            None if ranks.leads() => self.optimizer.to_tensors(&self.model),
            None => NamedTensors::new(),
        }
    }

    /// Puts it where a checkpoint's model and optimizer were.
    ///
    /// # Errors
    /// If they don't fit the run.
    pub(super) fn restore(
        &mut self,
        step: u64,
        model: Transformer,
        (tensors, path): (NamedTensors, &Path),
    ) -> Result<(), Error> {
        self.model = self.recipe.train.prepared(model)?;
        let parts = self.shares_of_state();
        let parts = parts.map(|shares| shares.parts_of(self.workers.ranks.rank()));
        let part = |id, size| match &parts {
            None => 0..size,
            Some(parts) => parts.get(&id).map_or(0..0, |(part, _)| part.clone()),
        };
        (self.optimizer).restore(&self.model, step, tensors, path, part)?;
        self.step = step;
        Ok(())
    }

    /// The rows of a step.
    fn read(&self, step: u64) -> Result<Batch, DataError> {
        let rows = self.recipe.train.rows;
        Batch::read(&*self.rows, step * rows as u64, rows)
    }

    /// Mean cross-entropy over the validation rows, where there are any. Ranks take turns at its batches.
    fn validation_loss(&self) -> Result<Option<f64>, Error> {
        let Some(validation) = &self.validation else {
            return Ok(None);
        };
        let train = &self.recipe.train;
        let model = self.model.valid();
        let vocabulary = model.config().vocabulary;
        let available = usize::try_from(validation.rows.rows_per_epoch()).unwrap_or(usize::MAX);
        let count = train.validation_rows.min(available);
        let implementation = train.attention.into();
        let ranks = &*self.workers.ranks;
        let firsts: Vec<usize> = (0..count).step_by(train.rows).collect();
        let rows_from = |first: usize| train.rows.min(count - first);
        let mine = firsts.iter().skip(ranks.rank()).step_by(ranks.size());
        let losses = mine.map(|&first| {
            let rows = rows_from(first);
            let batch = Batch::read(&validation.rows, first as u64, rows)?;
            let tokens = TokenRows::new(rows, batch.tokens, vocabulary)?;
            let targets = TokenRows::new(rows, batch.targets, vocabulary)?;
            let documents = Some(Arc::new(Documents::new(rows, batch.document_ids)?));
            let weights = &batch.weights;
            model.loss(&tokens, &targets, weights, documents, implementation)
        });
        let losses: Vec<Tensor<1>> = losses.collect::<Result<_, Error>>()?;
        let losses = match losses.is_empty() {
            true => Vec::new(),
            false => host_values(Tensor::cat(losses, 0)),
        };
        let bits: Vec<u32> = losses.iter().map(|loss| loss.to_bits()).collect();
        let of_ranks = ranks.gather_values(&bits);
        let loss =
            |batch: usize| f32::from_bits(of_ranks[batch % ranks.size()][batch / ranks.size()]);
        let weighed = firsts.iter().enumerate();
        let sum: f64 = weighed
            .map(|(batch, &first)| f64::from(loss(batch)) * rows_from(first) as f64)
            .sum();
        Ok(Some(sum / count as f64))
    }
}

/// The sum of a batch's gradients.
enum Sum {
    /// All of it, on the device.
    Whole(Gradients),
    /// A rank's share of it.
    Share(Shares, Reduced),
}

/// Looks at every parameter.
struct Draw;

impl EachParameter for Draw {
    fn visit<const D: usize>(&mut self, _id: ParamId, _tensor: Tensor<D>) {}
}

/// Held from seed to last draw: threads share a device's random numbers, and another run would take some of this one's.
static DRAWING: Mutex<()> = Mutex::new(());

/// The model before the first step.
pub(super) fn first_model(
    recipe: &Recipe,
    tokens: usize,
    device: &Device,
) -> Result<Transformer, Error> {
    let Some(start) = &recipe.model.start else {
        // Drawn where every device draws the same.
        let host = device::cpu().autodiff();
        let _alone = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
        host.seed(recipe.train.seed);
        let model = recipe.model_config(tokens)?.init(&host);
        // Weights are drawn when they are first looked at: this fixes their order.
        model.visit(&mut Visiting(&mut Draw));
        return Ok(model.fork(device));
    };
    let mut model = Transformer::load(start, device)?;
    let config = &model.config;
    // What the recipe says has to be so; what it does not say is the model's.
    let said = ModelConfig {
        norm_epsilon: config.norm_epsilon,
        rotary_theta: config.rotary_theta,
        vocabulary: config.vocabulary,
        train_length: config.train_length,
        ..recipe.model_config(tokens)?
    };
    let unlike = |expected, got| Error::File {
        path: start.clone(),
        expected,
        got,
    };
    if said != *config {
        let [expected, got] = settings::in_words(&said, config);
        return Err(unlike(format!("the recipe's model, {expected}"), got));
    }
    if tokens > config.vocabulary {
        let expected = format!("a model of at least the tokenizer's {tokens} tokens");
        return Err(unlike(expected, config.vocabulary.to_string()));
    }
    model.config.train_length = config.train_length.max(recipe.train.length);
    Ok(model)
}

/// The rows that a recipe mixes.
fn rows(
    recipe: &Recipe,
    tokenizer: &Arc<Tokenizer>,
    text: &Arc<TokenStore>,
) -> Result<Arc<dyn RowSource>, Error> {
    let (train, mix) = (&recipe.train, &recipe.data.mix);
    let (length, seed) = (train.length, train.seed);
    let mut sources: Vec<(Arc<dyn RowSource>, f64)> = Vec::new();
    if mix.text > 0.0 {
        let rows = PackedRows::new(Arc::clone(text), length, seed)?;
        sources.push((Arc::new(rows), mix.text));
    }
    if mix.passkey > 0.0 {
        let config = recipe.data.passkey;
        let rows = PasskeyRows::new(
            Arc::clone(tokenizer),
            Arc::clone(text),
            config,
            length,
            seed,
        )?;
        sources.push((Arc::new(rows), mix.passkey));
    }
    if mix.copy > 0.0 {
        sources.push((Arc::new(CopyRows::new(tokenizer, length, seed)), mix.copy));
    }
    if mix.synthetic > 0.0 {
        let config = recipe.data.synthetic.clone();
        let rows = SyntheticRows::new(tokenizer, config, length, seed)?;
        sources.push((Arc::new(rows), mix.synthetic));
    }
    Ok(Arc::new(Mixture::new(sources, seed)?))
}
