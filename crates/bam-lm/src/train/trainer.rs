//! The training loop, one step at a time.

use super::gradients::batch_gradients;
use super::optimizer::RAdam;
use super::recipe::Recipe;
use super::schedule::CosineSchedule;
use crate::Error;
use crate::device;
use crate::model::{EachParameter, ModelConfig, TokenRows, Transformer, Visiting, host_values};
use bam_attention::Documents;
use bam_data::{
    Batch, CopyRows, DataError, Mixture, PackedRows, PasskeyRows, RowSource, SyntheticRows,
    TokenStore, Tokenizer,
};
use bam_record::TrainingStep;
use burn::module::{Module, ParamId};
use burn::tensor::{Device, Tensor};
use std::sync::Arc;

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
    threads: usize,
}

struct Validation {
    rows: PackedRows,
    bytes_per_token: f64,
}

impl Trainer {
    /// A run at its start. `device` is a plain one; the trainer turns autodiff on.
    ///
    /// # Errors
    /// If the recipe's numbers don't fit the tokenizer or the data, or the device has not the float type of
    /// its products.
    pub fn new(
        recipe: Recipe,
        tokenizer: Arc<Tokenizer>,
        text: Arc<TokenStore>,
        validation: Option<Arc<TokenStore>>,
        device: &Device,
        threads: usize,
    ) -> Result<Self, Error> {
        let train = &recipe.train;
        let device = device.clone().autodiff();
        recipe.check_device(&device)?;
        let model = train.prepared(first_model(&recipe, tokenizer.vocabulary_size(), &device)?)?;
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
            threads,
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
        let mut gradients = batch_gradients(
            &self.model,
            &batch,
            train.attention.into(),
            train.parts,
            self.threads,
        )?;
        // The device is at work until its numbers are read.
        let next = self.step + 1;
        self.ahead = (next < train.steps).then(|| (next, self.read(next)));
        let (loss, norm) = gradients.loss_and_norm(&self.model);
        for (what, got) in [("loss", loss), ("gradient norm", norm)] {
            if !got.is_finite() {
                return Err(Error::NotFinite {
                    step: self.step,
                    what,
                    got,
                });
            }
        }
        gradients.clip(norm, train.clip);
        let rate = self.schedule.rate(self.step);
        let model = self.model.clone();
        self.model = self.optimizer.step(model, gradients, rate);
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

    /// The rows of a step.
    fn read(&self, step: u64) -> Result<Batch, DataError> {
        let rows = self.recipe.train.rows;
        Batch::read(&*self.rows, step * rows as u64, rows)
    }

    /// Mean cross-entropy over the validation rows, where there are any.
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
        let (mut losses, mut weights) = (Vec::new(), Vec::new());
        let mut first = 0;
        while first < count {
            let rows = train.rows.min(count - first);
            let batch = Batch::read(&validation.rows, first as u64, rows)?;
            let tokens = TokenRows::new(rows, batch.tokens, vocabulary)?;
            let targets = TokenRows::new(rows, batch.targets, vocabulary)?;
            let documents = Some(Arc::new(Documents::new(rows, batch.document_ids)?));
            losses.push(model.loss(
                &tokens,
                &targets,
                &batch.weights,
                documents,
                implementation,
            )?);
            weights.push(rows as f64);
            first += rows;
        }
        let losses = host_values(Tensor::cat(losses, 0));
        let weighed = losses.iter().zip(&weights);
        let sum: f64 = weighed
            .map(|(loss, weight)| f64::from(*loss) * weight)
            .sum();
        Ok(Some(sum / weights.iter().sum::<f64>()))
    }
}

/// Looks at every parameter.
struct Draw;

impl EachParameter for Draw {
    fn visit<const D: usize>(&mut self, _id: ParamId, _tensor: Tensor<D>) {}
}

/// The model before the first step.
pub(super) fn first_model(
    recipe: &Recipe,
    tokens: usize,
    device: &Device,
) -> Result<Transformer, Error> {
    let Some(start) = &recipe.model.start else {
        // Drawn where every device draws the same.
        let host = device::cpu().autodiff();
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
    if said != *config || tokens > config.vocabulary {
        return Err(Error::File {
            path: start.clone(),
            expected: format!("the recipe's model, {said:?}, of at least {tokens} tokens"),
            got: format!("{config:?}"),
        });
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
