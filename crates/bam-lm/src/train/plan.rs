//! A run before it is begun: its numbers, its memory, its arithmetic.

use super::gradients::batch_gradients;
use super::optimizer::RAdam;
use super::recipe::{AttentionChoice, OptimizerState, Recipe};
use super::reduction::BUCKET;
use super::shares::Shares;
use super::trainer::first_model;
use super::workers::parts_at_once;
use crate::Error;
use crate::device;
use crate::model::encoding::RowTemperature;
use crate::model::{Activation, ModelConfig, NormKind, ParameterKind, Products, Transformer};
use bam_data::Batch;
use burn::tensor::Device;
use serde::Serialize;

/// A run's size, from its recipe alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Parameters of the model.
    pub parameters: u64,
    /// Those that the run changes.
    pub learned: u64,
    /// Tokens of a step.
    pub step_tokens: u64,
    /// Steps.
    pub steps: u64,
    /// Processes that share a step's parts.
    pub ranks: usize,
    /// Bytes that the rank with the largest share sends in a step, and others at most: of each of its parts' gradients all but its own share, and of its share a
    /// copy to every other rank.
    pub sent: u64,
    /// Tokens of the run.
    pub tokens: u64,
    /// Floating-point operations of a step: `6·N` for every token, `N` the parameters that multiply (no
    /// look-up in embeddings), and `12·dim` for every layer, row and key that it sees: two products forward
    /// and four back, each a multiplication and an addition. Keys of other documents and skipped ones count.
    pub step_flops: f64,
    /// Memory as the recipe has it.
    pub memory: Memory,
    /// Memory by `train.parts`, all that divide the rows.
    pub by_parts: Vec<Memory>,
}

/// Bytes of a rank's tensors on its first device: a driver's own and what its allocator leaves unused are not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Parts of a step.
    pub parts: usize,
    /// Those that are computed at once.
    pub parts_at_once: usize,
    /// Parameters, and their matrices in `bf16` where products are.
    pub weights: u64,
    /// Gradients of the parts at once and the sum of those before. The optimizer has the new parameters
    /// there.
    pub gradients: u64,
    /// Both moments, or the largest share of them.
    pub optimizer: u64,
    /// Between ranks: a part on its way, the sum's share, and the pieces of an exchange. Beside a GPU it is in the processor's
    /// memory.
    pub exchange: u64,
    /// The activations of the parts at once, and their gradients.
    pub activations: u64,
    /// Logits of the validation, which runs between steps.
    pub validation: u64,
    /// All of it that is there at once.
    pub total: u64,
}

/// The time that a step took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Parts that were computed, of those of a step.
    pub parts: usize,
    /// Seconds of a whole step: its parts, and the optimizer.
    pub step_seconds: f64,
}

impl Plan {
    /// The plan of a recipe for a tokenizer's vocabulary, on a device that computes so many parts at once as
    /// [`batch_gradients`] does with these threads; on a GPU that is not here if there is none. Its memory is that of one of so
    /// many ranks.
    ///
    /// # Errors
    /// If the recipe's numbers don't fit each other or the device, as in a run; attention by the reference,
    /// whose memory is not counted.
    pub fn new(
        recipe: &Recipe,
        vocabulary: usize,
        device: Option<&Device>,
        threads: usize,
        ranks: usize,
    ) -> Result<Self, Error> {
        let train = &recipe.train;
        if train.attention == AttentionChoice::Reference {
            return Err(Error::Value {
                what: "train.attention",
                expected: "fused, whose memory a plan counts".into(),
                got: "reference".into(),
            });
        }
        if let Some(device) = device {
            recipe.check_device(device)?;
        }
        let model = match &recipe.model.start {
            Some(_) => first_model(recipe, vocabulary, &device::cpu())?,
            // Nothing is drawn.
            None => recipe.model_config(vocabulary)?.init(&device::cpu()),
        };
        let at_once = |parts: usize| match device {
            Some(device) => {
                parts_at_once(std::slice::from_ref(device), parts.div_ceil(ranks), threads)
            }
            None => 1,
        };
        let model = train.prepared(model)?;
        let here = device.is_some_and(device::is_cpu);
        let size = Size::of(&model, recipe, here, ranks);
        let step_tokens = (train.rows * train.length) as u64;
        let tokens = step_tokens
            .checked_mul(train.steps)
            .ok_or_else(|| Error::Value {
                what: "train.steps",
                expected: format!("steps of {step_tokens} tokens, fewer than 2⁶⁴ in all"),
                got: train.steps.to_string(),
            })?;
        let memory = |parts| size.memory(parts, at_once(parts));
        let config = model.config();
        let length = train.length as f64;
        let seen = train.rows as f64 * length * (length + 1.0) / 2.0;
        Ok(Self {
            parameters: size.parameters,
            learned: size.learned,
            step_tokens,
            steps: train.steps,
            ranks,
            sent: size.sent(train.parts),
            tokens,
            step_flops: 6.0 * size.multiplying as f64 * step_tokens as f64
                + 12.0 * (config.dim * config.layers) as f64 * seen,
            memory: memory(train.parts),
            by_parts: (1..=train.rows)
                .filter(|parts| train.rows.is_multiple_of(*parts))
                .map(memory)
                .collect(),
        })
    }

    /// The fewest parts that leave a run within so many bytes.
    #[must_use]
    pub fn fewest_parts(&self, bytes: u64) -> Option<usize> {
        let fits = |memory: &&Memory| memory.total <= bytes;
        self.by_parts.iter().find(fits).map(|memory| memory.parts)
    }
}

/// The numbers that memory and arithmetic are counted from.
struct Size {
    parameters: u64,
    learned: u64,
    multiplying: u64,
    products: Products,
    rows: usize,
    row_activations: u64,
    validation: u64,
    ranks: usize,
    /// Numbers of the largest rank's share.
    share: u64,
    sharded: bool,
}

impl Size {
    fn of(model: &Transformer, recipe: &Recipe, here: bool, ranks: usize) -> Self {
        let (config, train) = (model.config(), &recipe.train);
        let validation_rows = match recipe.data.validation {
            Some(_) => train.validation_rows.min(train.rows),
            None => 0,
        };
        let mut size = Self {
            parameters: 0,
            learned: 0,
            multiplying: 0,
            products: train.products,
            rows: train.rows,
            row_activations: (train.length * token_activations(config, train.products, here))
                as u64,
            // Logits as they are; elsewhere than here also less the largest of their row, and the exponentials.
            validation: (if here { 1 } else { 3 }
                * 4
                * validation_rows
                * train.length
                * config.vocabulary) as u64,
            ranks,
            share: Shares::new(model, &train.learn, ranks, !here).largest() as u64,
            sharded: train.optimizer_state == OptimizerState::Sharded,
        };
        for info in model.parameters() {
            let count = info.stored_shape.iter().product::<usize>() as u64;
            size.parameters += count;
            if train.learn.includes(&info) {
                size.learned += count;
            }
            let looked_up = info.name == "tok_embeddings.weight" && !config.design.tied_head;
            if info.kind == ParameterKind::Matrix && !looked_up {
                size.multiplying += count;
            }
        }
        size
    }

    fn sent(&self, parts: usize) -> u64 {
        let others = self.ranks as u64 - 1;
        let away = self
            .learned
            .saturating_sub(self.learned / self.ranks as u64);
        4 * (parts.div_ceil(self.ranks) as u64 * away + others * self.share)
    }

    fn memory(&self, parts: usize, parts_at_once: usize) -> Memory {
        let at_once = parts_at_once as u64;
        let rounded = match self.products {
            Products::F32 => 0,
            Products::Bf16 => 2 * self.multiplying * at_once,
        };
        let weights = 4 * self.parameters + rounded;
        let several = self.ranks > 1;
        let sums = at_once + u64::from(!several && parts > parts_at_once);
        let gradients = 4 * self.learned * sums.max(2);
        let optimizer = 8 * if self.sharded {
            self.share
        } else {
            self.learned
        };
        let pieces = 2 * self.learned.min(BUCKET as u64);
        let exchange = 4 * (self.learned + self.share + pieces) * u64::from(several);
        let activations = (self.rows / parts) as u64 * self.row_activations * at_once;
        Memory {
            parts,
            parts_at_once,
            weights,
            gradients,
            optimizer,
            exchange,
            activations,
            validation: self.validation,
            total: weights + optimizer + (gradients + exchange + activations).max(self.validation),
        }
    }
}

/// Bytes for one token that wait for the backward pass or are at work in it, with `d` the width, `k` that of
/// all key heads, `f` the feed-forward layers', `h` heads, `V` tokens of the vocabulary, and `p` bytes of a
/// product's factor, 4 or 2:
///
/// ```text
/// norm           2·4d + pd                                    its input, normalised, and as a factor
/// attention      (p + 2 if clamped)(d + 2k) + 4d + 4h + pd    q, k, v, masks; output, ln evidence; as a factor
/// gates          4d if p is 2, + 4·6h                         of keys, of temperatures: input in f32; numbers of heads
/// feed-forward   4f·(a + 2 if gated) + pf                     a: 2 SiLU, 1 GELU, 3 its tanh form
/// head           4V + 4·max(2V, 4f)                           logits; gradients, the head's or a layer's
/// layers · (2 norms + attention + gates + feed-forward) + norms outside the layers + head
/// ```
///
/// On the processor, `here`, RMSNorm keeps its input alone, `4d + pd`, SwiGLU its factors alone, `4f·2 + pf`, and the
/// loss needs no logarithms: `4V + 4·max(V, 4f)`. In `f32` attention's output is the factor.
fn token_activations(config: &ModelConfig, products: Products, here: bool) -> usize {
    let design = config.design;
    let (d, f, p) = (config.dim, config.hidden, products.bytes());
    let heads_width = d + 2 * config.key_heads * config.head_dim();
    let kept = if here && design.norm == NormKind::Rms {
        1
    } else {
        2
    };
    let norm = kept * 4 * d + p * d;
    let masks = if design.clip_qkv.is_some() { 2 } else { 0 };
    // In `f32` on the processor the projection reads the output where attention left it.
    let is_copied = design.output_projection && !(here && products == Products::F32);
    let projected = if is_copied { p * d } else { 0 };
    let attention = (p + masks) * heads_width + 4 * d + 4 * config.heads + projected;
    let input = match products {
        Products::F32 => 0,
        Products::Bf16 => 4 * d,
    };
    let gates_of = |layer| {
        let forgets = config.encoding.of_layer(layer).forgets;
        let adapts = matches!(config.temperature(layer), Some(RowTemperature::Adaptive(_)));
        usize::from(forgets) + usize::from(adapts)
    };
    let gates: usize = (0..config.layers).map(gates_of).sum();
    let activation = match design.activation {
        Activation::Silu => 2,
        Activation::Gelu => 1,
        Activation::GeluTanh => 3,
    };
    let gate = if design.gated { 2 } else { 0 };
    let one = here && design.gated && design.activation == Activation::Silu;
    let feed_forward = 4 * f * if one { 2 } else { activation + gate } + p * f;
    let of_loss = if here { 1 } else { 2 };
    let outside = usize::from(design.embedding_norm) + usize::from(design.final_norm);
    config.layers * (2 * norm + attention + feed_forward)
        + gates * (input + 4 * 6 * config.heads)
        + outside * norm
        + 4 * config.vocabulary
        + 4 * (of_loss * config.vocabulary).max(4 * f)
}

/// Takes a few steps on random tokens, of as many parts as the device computes at once, and says what a whole
/// step takes. `clock` tells seconds.
///
/// # Errors
/// Those of a run's start and of [`batch_gradients`].
pub fn measure(
    recipe: &Recipe,
    vocabulary: usize,
    device: &Device,
    threads: usize,
    clock: impl Fn() -> f64,
) -> Result<Measured, Error> {
    // Enough that the fastest is one with nothing else in it, however small the model is.
    const LEAST_STEPS: usize = 3;
    const LEAST_SECONDS: f64 = 2.0;
    let train = &recipe.train;
    recipe.check_device(device)?;
    let device = device.clone().autodiff();
    let mut model = train.prepared(first_model(recipe, vocabulary, &device)?)?;
    let mut optimizer = RAdam::new(train.optimizer, train.rates);
    let parts = parts_at_once(std::slice::from_ref(&device), train.parts, threads);
    let batch = random_batch(train.rows / train.parts * parts, train.length, vocabulary);
    let implementation = train.attention.into();
    let rounds = train.parts.div_ceil(parts) as f64;
    let mut step_seconds = f64::INFINITY;
    let (begun, mut steps) = (clock(), 0);
    while steps < LEAST_STEPS || clock() - begun < LEAST_SECONDS {
        steps += 1;
        let start = clock();
        let gradients = batch_gradients(&model, &batch, implementation, parts, threads)?;
        // The device is at work until its numbers are read.
        let _ = gradients.loss_and_norm(&model);
        let computed = clock();
        model = optimizer.step(model, gradients, train.learning_rate);
        let _ = device.sync();
        // The first step prepares what later ones reuse.
        step_seconds = step_seconds.min(rounds * (computed - start) + (clock() - computed));
    }
    Ok(Measured {
        parts,
        step_seconds,
    })
}

/// Rows of one document each.
fn random_batch(rows: usize, length: usize, vocabulary: usize) -> Batch {
    let count = rows * length;
    // Knuth's multiplicative hash.
    let token =
        |index: usize| ((index as u64).wrapping_mul(2_654_435_761) % vocabulary as u64) as i32;
    Batch {
        rows,
        length,
        tokens: (0..count).map(token).collect(),
        targets: (1..=count).map(token).collect(),
        document_ids: vec![0; count],
        weights: vec![1.0; count],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu;
    use bam_attention::Implementation::Fused;
    use std::path::Path;

    const VOCABULARY: usize = 31;

    fn recipe(settings: &[&str]) -> Recipe {
        let text = r#"
            model = { encoding = "bam+ssmax", dim = 24, layers = 2, heads = 6, key_heads = 3, ssmax_from = 1 }
            data = { tokens = "tokens", validation = "tokens" }
            train = { length = 8, rows = 12, steps = 10, learning_rate = 1e-3 }
        "#;
        let settings: Vec<String> = settings.iter().map(|&of| of.to_owned()).collect();
        Recipe::from_toml(text, &settings, Path::new("recipe.toml")).unwrap()
    }

    fn plan(settings: &[&str], threads: usize) -> Plan {
        Plan::new(&recipe(settings), VOCABULARY, Some(&cpu()), threads, 1).unwrap()
    }

    #[test]
    fn parameters_are_those_of_the_models_tensors_and_gradients() {
        let bloom = "model.design={norm='layer',gated=false,attention_bias=true,feed_forward_bias=true,\
                     embedding_norm=true,tied_head=true}";
        for settings in [
            &[][..],
            &["model.encoding=rotary", "model.design.final_norm=false"],
            &["model.encoding=alibi:2,bam:4", bloom],
            &["model.prior_start={shape=0.0,learn_location=false}"],
            &["train.learn=['prior']", "model.prior_scope=global"],
            &[
                "model.design.output_projection=false",
                "train.products=bf16",
            ],
        ] {
            let (recipe, plan) = (recipe(settings), plan(settings, 1));
            let model = recipe.model_config(VOCABULARY).unwrap();
            let model = model.init(&cpu().autodiff());
            let tensors = model.to_tensors();
            let count: usize = tensors.values().map(|(_, values)| values.len()).sum();
            assert_eq!(plan.parameters, count as u64, "{settings:?}");
            let model = recipe.train.prepared(model).unwrap();
            let batch = random_batch(2, 8, VOCABULARY);
            let gradients = batch_gradients(&model, &batch, Fused, 1, 1).unwrap();
            let infos = model.parameters().into_iter();
            let learned = infos.filter_map(|info| gradients.values(info.id));
            let learned: usize = learned.map(|values| values.len()).sum();
            assert_eq!(plan.learned, learned as u64, "{settings:?}");
        }
    }

    #[test]
    fn memory_follows_from_parts_and_threads() {
        let one = plan(&[], 1);
        let parts: Vec<usize> = one.by_parts.iter().map(|of| of.parts).collect();
        assert_eq!(parts, [1, 2, 3, 4, 6, 12]);
        assert_eq!(one.memory, one.by_parts[0]);
        for of in &one.by_parts {
            let at_work = (of.gradients + of.exchange + of.activations).max(of.validation);
            assert_eq!(of.total, of.weights + of.optimizer + at_work);
            assert_eq!(of.activations * of.parts as u64, one.memory.activations);
            let fewest = one.fewest_parts(of.total).unwrap();
            assert!(fewest <= of.parts);
        }
        assert_eq!(one.fewest_parts(one.memory.total), Some(1));
        assert_eq!(one.fewest_parts(one.memory.total - 1), Some(2));
        assert_eq!(one.fewest_parts(one.memory.optimizer), None);
        let two = plan(&[], 2);
        assert_eq!(two.by_parts[0], one.by_parts[0]);
        assert_eq!(two.by_parts[2].activations, 2 * one.by_parts[2].activations);
        assert_eq!(two.by_parts[2].parts_at_once, 2);
        let rounded = plan(&["train.products=bf16"], 1);
        assert!(rounded.memory.activations < one.memory.activations);
        assert!(rounded.memory.weights > one.memory.weights);
        assert_eq!(rounded.step_flops, one.step_flops);
        let elsewhere = Plan::new(&recipe(&[]), VOCABULARY, None, 2, 1).unwrap();
        let one_at_a_time = |of: &Memory| of.parts_at_once == 1;
        assert!(elsewhere.by_parts.iter().all(one_at_a_time), "a GPU");
        // Norms, gates and the loss keep more where they are several operations.
        assert!(elsewhere.memory.activations > one.memory.activations);
    }

    #[test]
    fn measuring_takes_time_and_no_data() {
        let seconds = std::cell::Cell::new(0.0);
        let clock = || {
            seconds.set(seconds.get() + 1.0);
            seconds.get()
        };
        let recipe = recipe(&["train.parts=6", "train.products=bf16"]);
        let measured = measure(&recipe, VOCABULARY, &cpu(), 2, clock).unwrap();
        // Three rounds of two parts, and the optimizer, each a tick.
        assert_eq!(measured.parts, 2);
        assert_eq!(measured.step_seconds, 4.0);
    }
}
