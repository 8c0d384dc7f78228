//! A model's shape, as `config.json` holds it.

use super::Design;
use crate::Error;
use crate::model::encoding::{Encoding, Position, RowTemperature};
use crate::settings::{is_default, is_finite_f32, is_positive_f32};
use bam_attention::TemperatureScope;
use serde::{Deserialize, Serialize};

/// Everything that decides which tensors a model has and what they mean.
///
/// The JSON form follows the Hugging Face layout; `position_embedding_type` is the [`Encoding`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawConfig", into = "RawConfig")]
pub struct ModelConfig {
    /// The way that position enters.
    pub encoding: Encoding,
    /// Width of the residual stream.
    pub dim: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; a divisor of `heads`.
    pub key_heads: usize,
    /// Width inside the feed-forward layer.
    pub hidden: usize,
    /// Tokens.
    pub vocabulary: usize,
    /// Context the model was trained at. Longer ones are never refused.
    pub train_length: usize,
    /// Added to the mean square, or the variance, in norms.
    pub norm_epsilon: f64,
    /// Base of the rotary frequencies.
    pub rotary_theta: f64,
    /// One prior for all layers, or one per layer.
    pub prior_scope: PriorScope,
    /// The start of learned priors.
    pub prior_start: PriorStart,
    /// The first layer whose rows have a temperature, where the encoding has one; those below have none.
    pub ssmax_from: usize,
    /// The make of blocks.
    pub design: Design,
}

/// Whether layers share their prior.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriorScope {
    /// One prior, shared by all layers.
    Global,
    /// One per layer.
    Layer,
}

/// The start of what learns of priors: of generalised Gaussians, and of forget gates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriorStart {
    /// Shape.
    pub shape: HeadStart,
    /// Whether the location is learned, or stays at 0.
    pub learn_location: bool,
    /// Bias of the forget gates: 0 is half open.
    #[serde(skip_serializing_if = "is_default")]
    pub forget_bias: HeadStart,
}

impl Default for PriorStart {
    fn default() -> Self {
        Self {
            shape: HeadStart::Same(1.0),
            learn_location: true,
            forget_bias: HeadStart::default(),
        }
    }
}

/// The number that each head starts with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number, or the first head's and the last's: [2.0, 11.0]"
)]
pub enum HeadStart {
    /// The same for all. A shape of 1 is ALiBi, of 0 flat.
    Same(f64),
    /// Evenly from the first number at the first head to the second at the last.
    Linear([f64; 2]),
}

impl Default for HeadStart {
    fn default() -> Self {
        Self::Same(0.0)
    }
}

impl HeadStart {
    pub(crate) fn of_heads(self, heads: usize) -> Vec<f64> {
        match self {
            Self::Same(number) => vec![number; heads],
            Self::Linear([first, last]) => (0..heads)
                .map(|h| first + (last - first) * h as f64 / (heads - 1).max(1) as f64)
                .collect(),
        }
    }
}

impl ModelConfig {
    /// Width of a head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

    /// Numbers in the matrices that every design has.
    pub(crate) fn least_numbers(&self) -> u128 {
        let [dim, layers, hidden, vocabulary] =
            [self.dim, self.layers, self.hidden, self.vocabulary].map(|size| size as u128);
        // Each is at most 2²⁴, so this does not overflow.
        vocabulary * dim + layers * (dim * dim + 2 * dim * hidden)
    }

    /// Checks that the numbers fit each other.
    ///
    /// # Errors
    /// Names all that do not. Whether sizes fit each other is asked where each of them is one.
    pub fn checked(self) -> Result<Self, Error> {
        Error::all(self.problems()).map(|()| self)
    }

    fn problems(&self) -> Vec<Error> {
        let mut problems = Vec::new();
        let mut expect = |fits: bool, what, expected: String, got: &dyn std::fmt::Display| {
            if !fits {
                let got = got.to_string();
                problems.push(Error::Value {
                    what,
                    expected,
                    got,
                });
            }
        };
        let sizes = [
            ("width (hidden_size)", self.dim),
            ("layers (num_hidden_layers)", self.layers),
            ("heads (num_attention_heads)", self.heads),
            ("key heads (num_key_value_heads)", self.key_heads),
            ("feed-forward width (intermediate_size)", self.hidden),
            ("vocabulary (vocab_size)", self.vocabulary),
            ("training length (train_length)", self.train_length),
        ];
        let is_size = |size| (1..=NO_LIMIT).contains(&size);
        for (what, size) in sizes {
            let expected = format!("a number from 1 to {NO_LIMIT}");
            expect(is_size(size), what, expected, &size);
        }
        if sizes.iter().all(|(_, size)| is_size(*size)) {
            let (dim, heads) = (self.dim, self.heads);
            let has_width = dim.is_multiple_of(heads);
            expect(
                has_width,
                "heads (num_attention_heads)",
                format!("a divisor of the width {dim}"),
                &heads,
            );
            expect(
                heads.is_multiple_of(self.key_heads),
                "key heads (num_key_value_heads)",
                format!("a divisor of the {heads} heads"),
                &self.key_heads,
            );
            for (what, expected, got) in self.encoding_problems() {
                expect(false, what, expected, &got);
            }
            let rotates = self.encoding.rotates();
            expect(
                !(rotates && has_width) || self.head_dim().is_multiple_of(2),
                "width / heads",
                "an even head width for rotary pairs".into(),
                &self.head_dim(),
            );
            expect(
                !self.encoding.adds_sinusoids() || dim.is_multiple_of(2),
                "width (hidden_size)",
                "an even width for pairs of sine and cosine".into(),
                &dim,
            );
        }
        for (what, number) in [
            ("rms_norm_eps", self.norm_epsilon),
            ("rope_theta", self.rotary_theta),
        ] {
            expect(
                is_positive_f32(number),
                what,
                "a positive number that f32 holds".into(),
                &number,
            );
        }
        for (what, start) in [
            ("prior shape", self.prior_start.shape),
            ("bias of forget gates", self.prior_start.forget_bias),
        ] {
            let numbers = start.of_heads(2);
            let fits = numbers.iter().all(|number| is_finite_f32(*number));
            let got = format!("{numbers:?}");
            expect(fits, what, "numbers that f32 holds".into(), &got);
        }
        problems.extend(self.design.checked().err());
        problems
    }

    /// Whether layers and heads are those of the encoding: the setting that is wrong, what was expected, what
    /// came.
    fn encoding_problems(&self) -> Vec<(&'static str, String, String)> {
        let (period, mut problems) = (self.encoding.period(), Vec::new());
        if period.len() > self.layers {
            let expected = format!("a pattern of at most {} layers", self.layers);
            let got = format!("{} of {}", self.encoding, period.len());
            problems.push(("encoding", expected, got));
        }
        let given = |position: &Position| match position {
            Position::Prior(groups) => {
                let heads = groups.iter().map(|group| group.heads.unwrap_or(self.heads));
                heads.sum()
            }
            _ => self.heads,
        };
        let mut positions = period.iter().map(|layer| &layer.position);
        if let Some(wrong) = positions.find(|position| given(position) != self.heads) {
            let expected = format!("priors for {} heads", self.heads);
            let got = format!("{wrong} for {}", given(wrong));
            problems.push(("encoding", expected, got));
        }
        let alike = period.iter().all(|of| of.position == period[0].position);
        if self.prior_scope == PriorScope::Global && !alike {
            let expected = "layer, where layers differ in their positions".into();
            let got = format!("global for {}", self.encoding);
            problems.push(("prior_scope", expected, got));
        }
        problems
    }

    /// The distance at which and beyond which a layer hides keys.
    pub(crate) fn window(&self, layer: usize) -> Option<usize> {
        let position = &self.encoding.of_layer(layer).position;
        position.window(self.train_length)
    }

    /// The temperature of a layer's rows.
    pub(crate) fn temperature(&self, layer: usize) -> Option<RowTemperature> {
        let temperature = self.encoding.of_layer(layer).temperature;
        temperature.filter(|_| layer >= self.ssmax_from)
    }
}

/// `config.json` as written.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct RawConfig {
    model_type: String,
    architectures: Vec<String>,
    position_embedding_type: Encoding,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    train_length: usize,
    /// For tools that cut texts at it: [`NO_LIMIT`]. Older files say the training length.
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: f64,
    tie_word_embeddings: bool,
    attn_prior: RawPrior,
    ssmax: RawSsmax,
    #[serde(default, skip_serializing_if = "is_default")]
    design: Design,
    /// Tools that write `dtype` instead leave it out; tensors say what they are.
    #[serde(default)]
    torch_dtype: String,
}

/// The reading of the reference's formula, spelled out for other tools.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct RawPrior {
    scope: PriorScope,
    start: PriorStart,
    param: String,
    eps: f64,
    order: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct RawSsmax {
    enabled: bool,
    scale_prior: bool,
    #[serde(default)]
    from_layer: usize,
}

impl RawSsmax {
    /// The encoding, spelled out; of a pattern, what any layer has: `position_embedding_type` says which.
    fn of(encoding: &Encoding, from_layer: usize) -> Self {
        Self {
            enabled: encoding.has_temperature(),
            scale_prior: (encoding.period().iter())
                .filter_map(|layer| layer.temperature)
                .any(|of| of.scope() == TemperatureScope::LikelihoodAndPrior),
            from_layer,
        }
    }
}

const MODEL_TYPE: &str = "bam";
/// No length is refused, whatever the training length; this is the largest size that a config may have.
const NO_LIMIT: usize = 1 << 24;
/// Parameters are unconstrained, as the reference names them.
const PRIOR_PARAM: &str = "reference";
/// `q·k/√D`, then the prior is added, then scalable softmax multiplies.
const PRIOR_ORDER: &str = "scale_then_prior_then_ssmax";

impl From<ModelConfig> for RawConfig {
    fn from(config: ModelConfig) -> Self {
        Self {
            model_type: MODEL_TYPE.into(),
            architectures: vec!["BamForCausalLM".into()],
            hidden_size: config.dim,
            num_hidden_layers: config.layers,
            num_attention_heads: config.heads,
            num_key_value_heads: config.key_heads,
            intermediate_size: config.hidden,
            vocab_size: config.vocabulary,
            train_length: config.train_length,
            max_position_embeddings: NO_LIMIT,
            rms_norm_eps: config.norm_epsilon,
            rope_theta: config.rotary_theta,
            tie_word_embeddings: config.design.tied_head,
            attn_prior: RawPrior {
                scope: config.prior_scope,
                start: config.prior_start,
                param: PRIOR_PARAM.into(),
                eps: bam_prior::GeneralizedGaussian::EPSILON,
                order: PRIOR_ORDER.into(),
            },
            ssmax: RawSsmax::of(&config.encoding, config.ssmax_from),
            position_embedding_type: config.encoding,
            design: config.design,
            torch_dtype: "float32".into(),
        }
    }
}

impl TryFrom<RawConfig> for ModelConfig {
    type Error = Error;

    fn try_from(raw: RawConfig) -> Result<Self, Error> {
        let mut problems = Vec::new();
        let mut expect = |what, expected: &str, got: &str| {
            if got != expected {
                problems.push(Error::Value {
                    what,
                    expected: expected.to_owned(),
                    got: got.to_owned(),
                });
            }
        };
        expect("model_type", MODEL_TYPE, &raw.model_type);
        expect("attn_prior.param", PRIOR_PARAM, &raw.attn_prior.param);
        expect("attn_prior.order", PRIOR_ORDER, &raw.attn_prior.order);
        let epsilon = bam_prior::GeneralizedGaussian::EPSILON.to_string();
        expect("attn_prior.eps", &epsilon, &raw.attn_prior.eps.to_string());
        expect(
            "tie_word_embeddings",
            &raw.design.tied_head.to_string(),
            &raw.tie_word_embeddings.to_string(),
        );
        let ssmax = RawSsmax::of(&raw.position_embedding_type, raw.ssmax.from_layer);
        expect("ssmax", &format!("{ssmax:?}"), &format!("{:?}", raw.ssmax));
        let config = Self {
            encoding: raw.position_embedding_type,
            dim: raw.hidden_size,
            layers: raw.num_hidden_layers,
            heads: raw.num_attention_heads,
            key_heads: raw.num_key_value_heads,
            hidden: raw.intermediate_size,
            vocabulary: raw.vocab_size,
            train_length: raw.train_length,
            norm_epsilon: raw.rms_norm_eps,
            rotary_theta: raw.rope_theta,
            prior_scope: raw.attn_prior.scope,
            prior_start: raw.attn_prior.start,
            ssmax_from: raw.ssmax.from_layer,
            design: raw.design,
        };
        problems.extend(config.problems());
        Error::all(problems).map(|()| config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::small;

    #[test]
    fn a_start_may_name_one_thing_alone() {
        let named: PriorStart = serde_json::from_str(r#"{"forget_bias": [2, 11]}"#).unwrap();
        let expected = PriorStart {
            forget_bias: HeadStart::Linear([2.0, 11.0]),
            ..PriorStart::default()
        };
        assert_eq!(named, expected);
        let frozen: PriorStart = serde_json::from_str(r#"{"learn_location": false}"#).unwrap();
        assert_eq!(
            (frozen.learn_location, frozen.shape),
            (false, expected.shape)
        );
        for wrong in [r#"{"forget_bias": [1]}"#, r#"{"shape": "flat"}"#] {
            let error = serde_json::from_str::<PriorStart>(wrong).unwrap_err();
            assert!(
                error.to_string().starts_with("expected a number"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_f32_can_not_hold_is_refused() {
        type Setting = (&'static str, fn(&mut ModelConfig));
        let wrong: [Setting; 5] = [
            ("prior shape", |config| {
                config.prior_start.shape = HeadStart::Same(1e39)
            }),
            ("bias of forget gates", |config| {
                config.prior_start.forget_bias = HeadStart::Linear([-1e39, 0.0]);
            }),
            ("rms_norm_eps", |config| config.norm_epsilon = 1e-60),
            ("rope_theta", |config| config.rotary_theta = 1e39),
            ("design.clip_qkv", |config| {
                config.design.clip_qkv = Some(1e39)
            }),
        ];
        for (named, set) in wrong {
            let mut config = small("fox+bam");
            set(&mut config);
            let error = config.checked().unwrap_err().to_string();
            assert!(error.contains(named), "{named}: {error}");
        }
    }

    #[test]
    fn json_and_back() {
        let config = small("alibi:2,bam:4+ssmax");
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ModelConfig>(&json).unwrap(), config);
        assert!(!json.contains("design"), "the default is not spelled out");
        // What cuts texts at it cuts none; a file that says the training length is read all the same.
        let limit = format!("\"max_position_embeddings\":{NO_LIMIT}");
        let older = json.replace(&limit, "\"max_position_embeddings\":16");
        assert_ne!(older, json);
        assert_eq!(serde_json::from_str::<ModelConfig>(&older).unwrap(), config);
        let design = Design {
            gated: false,
            tied_head: true,
            ..Design::default()
        };
        let other = ModelConfig { design, ..config };
        let json = serde_json::to_string(&other).unwrap();
        assert_eq!(serde_json::from_str::<ModelConfig>(&json).unwrap(), other);
        for (right, wrong) in [
            ("\"silu\"", "\"relu\""),
            ("\"final_norm\"", "\"last_norm\""),
            (
                "\"tie_word_embeddings\":true",
                "\"tie_word_embeddings\":false",
            ),
        ] {
            let spoiled = json.replace(right, wrong);
            assert_ne!(spoiled, json);
            assert!(
                serde_json::from_str::<ModelConfig>(&spoiled).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn all_that_does_not_fit_is_named_at_once() {
        let json = serde_json::to_string(&small("bam")).unwrap();
        let mut spoiled: serde_json::Value = serde_json::from_str(&json).unwrap();
        spoiled["num_hidden_layers"] = 0.into();
        spoiled["vocab_size"] = 0.into();
        spoiled["rope_theta"] = (-1).into();
        spoiled["attn_prior"]["order"] = "other".into();
        let error = serde_json::from_value::<ModelConfig>(spoiled).unwrap_err();
        assert_eq!(
            error.to_string(),
            "attn_prior.order: expected scale_then_prior_then_ssmax, got other; \
             layers (num_hidden_layers): expected a number from 1 to 16777216, got 0; \
             vocabulary (vocab_size): expected a number from 1 to 16777216, got 0; \
             rope_theta: expected a positive number that f32 holds, got -1"
        );
    }

    #[test]
    fn patterns_that_do_not_fit_are_named() {
        let of = |encoding: &str, layers, prior_scope| ModelConfig {
            layers,
            prior_scope,
            ..small(encoding)
        };
        for (encoding, layers, scope, named) in [
            (
                "rotary_local*3,nope",
                3,
                PriorScope::Layer,
                "at most 3 layers, got rotary_local*3,nope of 4",
            ),
            (
                "bam,nope",
                1,
                PriorScope::Layer,
                "at most 1 layers, got bam,nope of 2",
            ),
            (
                "bam,(alibi:2,bam:3)",
                4,
                PriorScope::Layer,
                "priors for 6 heads, got alibi:2,bam:3 for 5",
            ),
            (
                "bam,nope",
                4,
                PriorScope::Global,
                "prior_scope: expected layer, where layers differ",
            ),
            (
                "rotary,nope",
                4,
                PriorScope::Global,
                "got global for rotary,nope",
            ),
        ] {
            let error = of(encoding, layers, scope)
                .checked()
                .unwrap_err()
                .to_string();
            assert!(error.contains(named), "{encoding}: {error}");
        }
        for (encoding, layers, scope) in [
            ("rotary_local*3,nope", 4, PriorScope::Layer),
            ("rotary_local*3,nope", 9, PriorScope::Layer),
            ("bam,bam+ssmax", 2, PriorScope::Global),
            ("bam*7", 1, PriorScope::Global),
        ] {
            let config = of(encoding, layers, scope).checked().unwrap();
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<ModelConfig>(&json).unwrap(), config);
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_named() {
        let heads = ModelConfig {
            heads: 5,
            ..small("bam")
        };
        assert!(
            heads
                .checked()
                .unwrap_err()
                .to_string()
                .contains("divisor of the width 24")
        );
        let groups = small("alibi:2,bam:3");
        assert!(groups.checked().unwrap_err().to_string().contains("for 5"));
        let rotary = ModelConfig {
            dim: 18,
            ..small("rotary")
        };
        assert!(
            rotary
                .checked()
                .unwrap_err()
                .to_string()
                .contains("even head width")
        );
    }
}
