//! The reference program's cases: its configuration, tensors and numbers, read as they are.
//!
//! A case is a folder: `config.json` and either `model.safetensors` with `io.safetensors` (logits,
//! loss and every gradient of one batch) or `model_init`, `steps` and `model_final.safetensors`
//! (a training trajectory).

use crate::Error;
use crate::model::checkpoint::{NamedTensors, read_json, read_tensors, read_tensors_and_ids};
use crate::model::encoding::{Encoding, LayerEncoding, RowTemperature};
use crate::model::{Design, ModelConfig, PriorScope, PriorStart, Transformer};
use bam_attention::TemperatureScope;
use burn::tensor::Device;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The reference's `config.json`, with the fields that decide a model.
#[derive(Clone, Debug, Deserialize)]
struct CaseConfig {
    encoding: String,
    ssmax: bool,
    dim: usize,
    n_layers: usize,
    n_heads: usize,
    #[serde(default)]
    n_kv_heads: Option<usize>,
    vocab_size: usize,
    train_length: usize,
    ffn_hidden: usize,
    norm_eps: f64,
    #[serde(default = "default_theta")]
    rope_theta: f64,
    #[serde(default)]
    prior_scope: Option<PriorScope>,
    #[serde(default)]
    ssmax_scales_prior: Option<bool>,
    #[serde(flatten)]
    training: Option<TrainingConfig>,
}

fn default_theta() -> f64 {
    STATED_THETA
}

/// The base of the rotary frequencies that the cases' configurations name.
const STATED_THETA: f64 = 10_000.0;
/// The base that the reference program rotated by when it says so: its numbers agree with this base to
/// 3e-7 and with the stated one only to 0.1.
const ROTATED_THETA: f64 = 500_000.0;

/// The training of a trajectory.
#[derive(Clone, Debug, Deserialize)]
pub struct TrainingConfig {
    /// Decay rates of the moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled, on matrices.
    pub weight_decay: f64,
    /// Largest norm of a step's gradient.
    pub grad_clip: f64,
    /// Number of steps.
    pub steps: usize,
}

/// A case, opened.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its folder.
    pub dir: PathBuf,
    /// Its model.
    pub config: ModelConfig,
    /// Present where the case is a trajectory.
    pub training: Option<TrainingConfig>,
}

impl Case {
    /// Reads a case's configuration.
    ///
    /// # Errors
    /// If there is none, or it makes no model.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let raw: CaseConfig = read_json(&dir.join("config.json"), "a reference configuration")?;
        // Where it is not said, the reference scales a learned prior and adds a fixed one after.
        let scope = match raw.ssmax_scales_prior.unwrap_or(raw.encoding == "bam") {
            true => TemperatureScope::LikelihoodAndPrior,
            false => TemperatureScope::Likelihood,
        };
        let position: Encoding = raw.encoding.parse()?;
        let encoding = position.with_layers(|layer| LayerEncoding {
            temperature: raw.ssmax.then_some(RowTemperature::Scalable(scope)),
            ..layer.clone()
        })?;
        let rotates = raw.encoding.starts_with("rotary");
        let rotary_theta = match raw.rope_theta {
            STATED_THETA if rotates => ROTATED_THETA,
            theta => theta,
        };
        let config = ModelConfig {
            encoding,
            dim: raw.dim,
            layers: raw.n_layers,
            heads: raw.n_heads,
            key_heads: raw.n_kv_heads.unwrap_or(raw.n_heads),
            hidden: raw.ffn_hidden,
            vocabulary: raw.vocab_size,
            train_length: raw.train_length,
            norm_epsilon: raw.norm_eps,
            rotary_theta,
            prior_scope: raw.prior_scope.unwrap_or(PriorScope::Global),
            prior_start: PriorStart::default(),
            ssmax_from: 0,
            design: Design::default(),
        }
        .checked()?;
        let training = raw
            .training
            .filter(|_| dir.join("steps.safetensors").exists());
        Ok(Self {
            dir: dir.to_owned(),
            config,
            training,
        })
    }

    /// The case's model, before training where it is a trajectory.
    ///
    /// # Errors
    /// If the tensors are missing or don't fit.
    pub fn model(&self, device: &Device) -> Result<Transformer, Error> {
        let file = if self.training.is_some() {
            "model_init"
        } else {
            "model"
        };
        let path = self.dir.join(format!("{file}.safetensors"));
        self.config
            .with_tensors(read_tensors(&path)?, &path, device)
    }

    /// One of the case's tensor files.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn tensors(&self, file: &str) -> Result<CaseTensors, Error> {
        CaseTensors::open(&self.dir.join(file))
    }
}

/// Named tensors with the file they came from.
#[derive(Clone, Debug)]
pub struct CaseTensors {
    path: PathBuf,
    tensors: NamedTensors,
}

impl CaseTensors {
    /// Reads a safetensors file.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            tensors: read_tensors_and_ids(path)?,
            path: path.to_owned(),
        })
    }

    /// Shape and values.
    ///
    /// # Errors
    /// If the file has no such tensor.
    pub fn get(&self, name: &str) -> Result<(&[usize], &[f32]), Error> {
        let (shape, values) = self.tensors.get(name).ok_or_else(|| Error::Tensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
            expected: "a tensor".into(),
            got: "none of that name".into(),
        })?;
        Ok((shape, values))
    }

    /// Whether the file has the tensor.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Whole numbers, and the shape. Ids below 2²⁴ are exact in the `f32` they are read as.
    ///
    /// # Errors
    /// If the file has no such tensor, it is not `rank`-dimensional, or holds other than such numbers.
    pub fn ids(&self, name: &str, rank: usize) -> Result<(Vec<usize>, Vec<i32>), Error> {
        let (shape, values) = self.get(name)?;
        if shape.len() != rank || values.is_empty() {
            return Err(Error::Tensor {
                path: self.path.clone(),
                tensor: name.to_owned(),
                expected: format!("{rank} dimensions, none empty"),
                got: format!("shape {shape:?}"),
            });
        }
        const LIMIT: f32 = 16_777_216.0;
        let exact = |id: &&f32| id.fract() == 0.0 && id.abs() < LIMIT;
        if let Some(id) = values.iter().find(|id| !exact(id)) {
            return Err(Error::Tensor {
                path: self.path.clone(),
                tensor: name.to_owned(),
                expected: format!("whole numbers within ±{LIMIT}"),
                got: id.to_string(),
            });
        }
        Ok((shape.to_vec(), values.iter().map(|id| *id as i32).collect()))
    }

    /// Everything.
    #[must_use]
    pub fn into_inner(self) -> NamedTensors {
        self.tensors
    }
}
