//! A recipe: everything that decides a training run, as a TOML file.
//!
//! Unknown keys are errors. Values can be overridden one by one: `train.steps=100`.

use super::learn::Learn;
use super::optimizer::{LearningRates, RAdamConfig};
use crate::Error;
use crate::model::encoding::Encoding;
use crate::model::{Design, ModelConfig, PriorScope, PriorStart, Products, Transformer};
use crate::settings::{self, is_default, is_finite_f32, is_positive_f32};
use bam_attention::AttentionError;
use bam_attention::Implementation;
use bam_attention::device::{DeviceName, check_float_type, check_head_dim};
use bam_data::{PasskeyRowsConfig, SyntheticRowsConfig};
use burn::tensor::{Device, FloatDType};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The model.
    pub model: ModelRecipe,
    /// The data that it reads.
    pub data: DataRecipe,
    /// The training.
    pub train: TrainRecipe,
}

/// A model's shape. The vocabulary is the tokenizer's, the training length the rows'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecipe {
    /// The way that position enters.
    pub encoding: Encoding,
    /// Width.
    pub dim: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key heads; as many as query heads if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_heads: Option<usize>,
    /// Width inside the feed-forward layers; twice the width if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<usize>,
    /// One prior, or one per layer.
    #[serde(default = "default_scope")]
    pub prior_scope: PriorScope,
    /// The start of priors.
    #[serde(default)]
    pub prior_start: PriorStart,
    /// The first layer whose rows have a temperature, where the encoding has one.
    #[serde(default)]
    pub ssmax_from: usize,
    /// The make of blocks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub design: Design,
    /// The folder of a model of this shape whose parameters the run begins with, instead of random
    /// ones. What a recipe does not say, such as norms' epsilon, is that model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
}

fn default_scope() -> PriorScope {
    PriorScope::Layer
}

/// The data of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// A folder that `bam prepare` wrote.
    pub tokens: PathBuf,
    /// Another one, for the validation loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<PathBuf>,
    /// Shares of the rows.
    #[serde(default)]
    pub mix: Mix,
    /// The make-up of passkey documents.
    #[serde(default)]
    pub passkey: PasskeyRowsConfig,
    /// The make-up of synthetic tasks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub synthetic: SyntheticRowsConfig,
}

/// Shares of rows by kind; they need not sum to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mix {
    /// Packed text.
    pub text: f64,
    /// Passkey documents.
    pub passkey: f64,
    /// Random copies.
    pub copy: f64,
    /// Tasks of exact difficulty.
    #[serde(skip_serializing_if = "is_default")]
    pub synthetic: f64,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            text: 1.0,
            passkey: 0.0,
            copy: 0.0,
            synthetic: 0.0,
        }
    }
}

/// The training of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainRecipe {
    /// Tokens of a row.
    pub length: usize,
    /// Rows of a step.
    pub rows: usize,
    /// Equal parts that a step's rows are read in: gradient accumulation. Parts run beside each
    /// other where there are threads; the result depends on the parts, not on the threads.
    #[serde(default = "one")]
    pub parts: usize,
    /// Steps.
    pub steps: u64,
    /// The largest learning rate.
    pub learning_rate: f64,
    /// The smallest, as a fraction of the largest.
    #[serde(default = "tenth")]
    pub final_fraction: f64,
    /// Largest norm of a step's gradient.
    #[serde(default = "unit")]
    pub clip: f64,
    /// The optimizer's constants.
    #[serde(default)]
    pub optimizer: RAdamConfig,
    /// Multiples of the learning rate for priors and temperatures of rows.
    #[serde(default)]
    pub rates: LearningRates,
    /// The parameters that learn; the others keep every bit.
    #[serde(default, skip_serializing_if = "Learn::is_all")]
    pub learn: Learn,
    /// Decides the initial weights and the order of the rows.
    #[serde(default)]
    pub seed: u64,
    /// The implementation of attention.
    #[serde(default)]
    pub attention: AttentionChoice,
    /// The float type of matrix products. Parameters, their gradients and the optimizer are `f32`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub products: Products,
    /// The device that computes. A run may go on with another one: checkpoints name none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub device: DeviceName,
    /// Devices beside it in the same process: part `p` of the process is computed on device `p mod n`, gradients are added on the
    /// first. The result does not depend on their number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further_devices: Vec<DeviceName>,
    /// The place of the optimizer's moments where several ranks train. The result does not depend on it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub optimizer_state: OptimizerState,
    /// Steps between two measurements of the validation loss.
    #[serde(default = "hundred")]
    pub validate_every: u64,
    /// Rows of a validation.
    #[serde(default = "validation_rows")]
    pub validation_rows: usize,
    /// Steps between two checkpoints.
    #[serde(default = "hundred")]
    pub checkpoint_every: u64,
}

impl TrainRecipe {
    /// The model as this training computes it: what it leaves alone out of the gradient, products in their type.
    ///
    /// # Errors
    /// Those of [`Learn::only`].
    pub(crate) fn prepared(&self, model: Transformer) -> Result<Transformer, Error> {
        Ok(self.learn.only(model)?.with_products(self.products))
    }
}

fn one() -> usize {
    1
}
fn unit() -> f64 {
    1.0
}
fn tenth() -> f64 {
    0.1
}
fn hundred() -> u64 {
    100
}
fn validation_rows() -> usize {
    64
}

/// The place of the optimizer's moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerState {
    /// All of them on every rank: a rank steps all parameters.
    #[default]
    Replicated,
    /// A share on each rank, which steps its share of the parameters and gives them to the others (ZeRO-1).
    Sharded,
}

/// [`Implementation`], as recipes name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionChoice {
    /// Streamed, with its own backward pass.
    #[default]
    Fused,
    /// Every score in memory.
    Reference,
}

impl From<AttentionChoice> for Implementation {
    fn from(choice: AttentionChoice) -> Self {
        match choice {
            AttentionChoice::Fused => Self::Fused,
            AttentionChoice::Reference => Self::Reference,
        }
    }
}

impl Recipe {
    /// Reads a recipe from TOML text with `key=value` overrides; `path` is for messages.
    ///
    /// # Errors
    /// Unknown keys, wrong types, numbers that make no run.
    pub fn from_toml(text: &str, overrides: &[String], path: &Path) -> Result<Self, Error> {
        let wrong = |got: String| Error::File {
            path: path.to_owned(),
            expected: "a training recipe".into(),
            got: got.trim_end().to_owned(),
        };
        let mut table: toml::Table =
            toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        for given in overrides {
            set(&mut table, given)?;
        }
        let recipe: Self = table
            .try_into()
            .map_err(|error: toml::de::Error| wrong(error.to_string().replace('\n', " ")))?;
        recipe.checked()
    }

    /// The recipe as TOML.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a recipe is plain data")
    }

    /// Checks that the numbers make a run.
    ///
    /// # Errors
    /// Names the first one that does not.
    pub fn checked(self) -> Result<Self, Error> {
        let train = &self.train;
        let wrong = |what, expected: &str, got: String| {
            Err(Error::Value {
                what,
                expected: expected.to_owned(),
                got,
            })
        };
        if train.length == 0
            || train.rows == 0
            || train.parts == 0
            || !train.rows.is_multiple_of(train.parts)
        {
            let got = format!(
                "length {}, {} rows in {} parts",
                train.length, train.rows, train.parts
            );
            return wrong(
                "train.rows",
                "at least one, in equal parts, of at least one token",
                got,
            );
        }
        let model = &self.model;
        let has_temperature = |layer| model.encoding.of_layer(layer).temperature.is_some();
        if model.ssmax_from > 0
            && model.encoding.has_temperature()
            && !(model.ssmax_from..model.layers).any(has_temperature)
        {
            return wrong(
                "model.ssmax_from",
                "a layer from which on one has the encoding's temperature",
                format!(
                    "{} of {} layers of {}",
                    model.ssmax_from, model.layers, model.encoding
                ),
            );
        }
        if train.validate_every == 0 || train.checkpoint_every == 0 || train.validation_rows == 0 {
            return wrong("train intervals", "at least 1", "0".into());
        }
        if !(train.clip > 0.0) {
            return wrong("train.clip", "a number above 0", train.clip.to_string());
        }
        if train.products != Products::F32 && train.attention == AttentionChoice::Reference {
            return wrong(
                "train.products",
                "f32 where train.attention is reference",
                "bf16".into(),
            );
        }
        let rates = [
            train.rates.location,
            train.rates.scale,
            train.rates.shape,
            train.rates.ssmax,
        ];
        if !rates
            .iter()
            .all(|rate| *rate >= 0.0 && is_finite_f32(*rate))
        {
            return wrong(
                "train.rates",
                "numbers from 0 up that f32 holds",
                format!("{rates:?}"),
            );
        }
        let RAdamConfig {
            betas,
            epsilon,
            weight_decay,
        } = train.optimizer;
        let fits = betas.iter().all(|beta| (0.0..1.0).contains(beta))
            && is_positive_f32(epsilon)
            && weight_decay >= 0.0
            && is_finite_f32(weight_decay);
        if !fits {
            return wrong(
                "train.optimizer",
                "betas in [0, 1), epsilon > 0, decay ≥ 0, all that f32 holds",
                format!("{betas:?}, {epsilon:?} and {weight_decay:?}"),
            );
        }
        super::CosineSchedule::new(
            train.learning_rate,
            train.learning_rate * train.final_fraction,
            train.steps,
        )?;
        let mix = &self.data.mix;
        let shares = [mix.text, mix.passkey, mix.copy, mix.synthetic];
        if !shares
            .iter()
            .all(|share| *share >= 0.0 && share.is_finite())
            || shares.iter().sum::<f64>() <= 0.0
        {
            return wrong(
                "data.mix",
                "shares from 0 up, not all 0",
                format!("{shares:?}"),
            );
        }
        Ok(self)
    }

    /// The same run on other devices, if any are given.
    #[must_use]
    pub fn on(mut self, devices: &[DeviceName]) -> Self {
        if let [first, further @ ..] = devices {
            self.train.device = *first;
            self.train.further_devices = further.to_vec();
        }
        self
    }

    /// All its devices, the first first.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceName> {
        [&[self.train.device], &*self.train.further_devices].concat()
    }

    /// Refuses a device without the float type of the products or a kernel for heads so wide.
    ///
    /// # Errors
    /// Names the setting.
    pub(crate) fn check_device(&self, device: &Device) -> Result<(), Error> {
        let (model, train) = (&self.model, &self.train);
        let refused = |what, error: AttentionError| Error::Setting {
            what,
            device: train.device.resolved().to_string(),
            reason: error.to_string(),
        };
        if train.products == Products::Bf16 {
            check_float_type(device, FloatDType::BF16)
                .map_err(|error| refused("train.products", error))?;
        }
        match train.attention {
            // Heads that are none are the model's to refuse.
            AttentionChoice::Fused => check_head_dim(device, model.dim / model.heads.max(1))
                .map_err(|error| refused("model.dim over model.heads", error)),
            AttentionChoice::Reference => Ok(()),
        }
    }

    /// The settings for which a run that was begun with this recipe can't go on with another, as they are in each:
    /// `["train.steps = 3", "train.steps = 4"]`. `None` where it can: they differ at most in where things are.
    #[must_use]
    pub fn unlike(&self, other: &Self) -> Option<[String; 2]> {
        let mut moved = self.clone().on(&other.devices());
        moved.train.optimizer_state = other.train.optimizer_state;
        (moved != *other).then(|| settings::in_words(&moved, other))
    }

    /// The model's configuration for a tokenizer's vocabulary.
    ///
    /// # Errors
    /// If the numbers don't fit each other.
    pub fn model_config(&self, vocabulary: usize) -> Result<ModelConfig, Error> {
        let model = &self.model;
        ModelConfig {
            encoding: model.encoding.clone(),
            dim: model.dim,
            layers: model.layers,
            heads: model.heads,
            key_heads: model.key_heads.unwrap_or(model.heads),
            hidden: model.hidden.unwrap_or(2 * model.dim),
            vocabulary,
            train_length: self.train.length,
            norm_epsilon: 1e-5,
            rotary_theta: 10_000.0,
            prior_scope: model.prior_scope,
            prior_start: model.prior_start,
            ssmax_from: model.ssmax_from,
            design: model.design,
        }
        .checked()
    }
}

/// Applies one `a.b=value`; the value is TOML, or else text.
fn set(table: &mut toml::Table, given: &str) -> Result<(), Error> {
    let wrong = |expected: &str| Error::Value {
        what: "set",
        expected: expected.to_owned(),
        got: given.to_owned(),
    };
    let (key, value) = given.split_once('=').ok_or_else(|| wrong("key=value"))?;
    let value = toml::from_str::<toml::Table>(&format!("x = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("x"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut path: Vec<&str> = key.trim().split('.').collect();
    let last = path
        .pop()
        .filter(|last| !last.is_empty())
        .ok_or_else(|| wrong("key=value"))?;
    let mut table = table;
    for part in path {
        table = table
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| wrong("a key inside a table"))?;
    }
    table.insert(last.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [model]
        encoding = "bam+ssmax"
        dim = 16
        layers = 1
        heads = 2
        [data]
        tokens = "tokens"
        [train]
        length = 8
        rows = 4
        steps = 10
        learning_rate = 1e-3
    "#;

    fn parse(overrides: &[&str]) -> Result<Recipe, Error> {
        let overrides: Vec<String> = overrides.iter().map(|&o| o.to_owned()).collect();
        Recipe::from_toml(TEXT, &overrides, Path::new("recipe.toml"))
    }

    #[test]
    fn overrides_override() {
        let recipe = parse(&[
            "train.steps=99",
            "model.encoding=rotary",
            "train.rates.shape=20",
        ])
        .unwrap();
        assert_eq!(recipe.train.steps, 99);
        assert_eq!(recipe.model.encoding.to_string(), "rotary");
        assert_eq!(recipe.train.rates.shape, 20.0);
        assert!(
            !recipe.to_toml().contains("device") && !recipe.to_toml().contains("products"),
            "the usual ones are not said"
        );
        let rounded = parse(&["train.products=bf16"]).unwrap();
        assert!(rounded.to_toml().contains("products = \"bf16\""));
        let named = rounded.unlike(&parse(&[]).unwrap());
        let expected = ["train.products = \"bf16\"", "train.products as by default"];
        assert_eq!(named, Some(expected.map(str::to_owned)));
        let elsewhere = parse(&["train.device=wgpu"]).unwrap();
        assert!(elsewhere.to_toml().contains("device = \"wgpu:0\""));
        let again = Recipe::from_toml(&recipe.to_toml(), &[], Path::new("again.toml")).unwrap();
        assert_eq!(again, recipe);
    }

    /// The recipes of this repository make runs.
    #[test]
    fn recipes_are_read() {
        let fineweb = include_str!("../../../../recipes/fineweb-120m.toml");
        let fineweb = Recipe::from_toml(fineweb, &[], Path::new("fineweb")).unwrap();
        fineweb.model_config(32_768).unwrap();
        let frozen = include_str!("../../../../recipes/frozen-location.toml");
        let frozen = Recipe::from_toml(frozen, &[], Path::new("frozen")).unwrap();
        let quick = include_str!("../../../../recipes/quickstart.toml");
        let quick = Recipe::from_toml(quick, &[], Path::new("quick")).unwrap();
        assert!(!frozen.train.learn.is_all());
        // They differ in what learns alone; the rate of locations moves nothing.
        let mut thawed = frozen.clone();
        thawed.train.learn = Learn::default();
        thawed.train.rates.location = quick.train.rates.location;
        assert_eq!(thawed, quick);
    }

    #[test]
    fn mistakes_are_named() {
        let both = ["train.products=bf16", "train.attention=reference"];
        let error = parse(&both).unwrap_err().to_string();
        assert!(
            error.contains("train.products: expected f32 where"),
            "{error}"
        );
        for (given, named) in [
            ("train.stepz=1", "stepz"),
            ("train.steps=-1", "steps"),
            ("train.steps=0", "training steps"),
            ("model.encoding=bamm", "encoding"),
            ("train.parts=3", "equal parts"),
            ("data.mix.text=-1", "data.mix"),
            ("train", "key=value"),
            ("train.steps.x=1", "a key inside a table"),
            ("train.clip=nan", "train.clip"),
            // What f32 can't hold would be infinite or nothing in a model.
            ("train.learning_rate=1e39", "learning rate"),
            ("train.rates.shape=1e39", "train.rates"),
            ("train.optimizer.weight_decay=1e39", "0.95], 1e-8 and 1e39"),
            ("train.optimizer.epsilon=1e-60", "0.95], 1e-60 and 0.1"),
            ("train.device=gpu", "device: expected cpu"),
            ("train.products=f16", "bf16"),
            ("model.ssmax_from=1", "model.ssmax_from: expected a layer"),
        ] {
            let error = parse(&[given]).unwrap_err().to_string();
            assert!(error.contains(named), "{given}: {error}");
        }
    }
}
