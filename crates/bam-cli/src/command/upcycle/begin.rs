//! Everything that a run of `bam upcycle` begins with, in a folder that is there whole or not at all.

use super::measure::Measuring;
use super::plan::{HELD_OUT, PLAN, Plan, START, TOKENS};
use crate::args::{Length, UpcycleArgs};
use crate::console::{self, UsageError};
use crate::runs;
use anyhow::{Context, bail};
use bam_data::{Corpus, Document, ShardOptions, ShardWriter, Source, TokenStore, Tokenizer};
use bam_lm::analysis::upcycle::{SsmaxStart, Upcycling, upcycled};
use bam_lm::device::cpu;
use bam_lm::model::checkpoint::weights_sha256;
use bam_lm::model::{ModelConfig, Transformer};
use bam_lm::train::recipe::{DataRecipe, Mix, ModelRecipe, TrainRecipe};
use bam_lm::train::{Learn, LearningRates, Part, RAdamConfig, Recipe, RunFolder};
use bam_record::history::Event;
use clap::ValueEnum;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub fn begin(args: &UpcycleArgs) -> anyhow::Result<()> {
    let (Some(dir), Some(data)) = (&args.model, &args.data) else {
        bail!("expected a model and --data");
    };
    if !args.rows.is_multiple_of(args.parts) {
        let message = format!(
            "--rows: expected a multiple of the {} of --parts, got {}",
            args.parts, args.rows
        );
        return Err(UsageError(message).into());
    }
    runs::ensure_new(&args.out)?;
    let model = runs::load_model(dir, &cpu())?;
    let tokenizer = runs::load_tokenizer(dir, &model)?;
    let start = upcycled(&model, &upcycling(args, model.config()))?.with_event(Event {
        what: "upcycle".into(),
        date: runs::now(),
        arguments: arguments(args, data),
        from: Some(weights_sha256(dir)?),
        heads: Vec::new(),
    });
    let texts = Texts::read(data, args.held_out.as_deref())?;
    let recipe = recipe(args, &start, data, &texts)?;
    let train_length = model.config().train_length;
    let mut lengths: Vec<usize> = (args.lengths.iter())
        .map(|length| length.tokens(train_length))
        .collect();
    lengths.sort_unstable();
    lengths.dedup();
    let plan = Plan {
        model: dir.clone(),
        document: texts.document.clone(),
        lengths,
        samples: args.samples as usize,
        pieces: args.pieces as usize,
        seed: args.seed,
    };
    Measuring::of_text(&texts.held_out, &plan, &tokenizer)?;
    runs::new_folder(&args.out, |dir| {
        write(dir, &plan, &recipe, &start, &tokenizer, texts)
    })
}

/// Arguments of the run for the history; its recipe says the rest.
fn arguments(args: &UpcycleArgs, data: &Path) -> BTreeMap<String, String> {
    let ssmax = args.ssmax.map(|scope| ("ssmax", scope.to_possible_value()));
    let named = std::iter::once(("family", args.family().to_possible_value())).chain(ssmax);
    let named = named.filter_map(|(name, value)| Some((name, value?.get_name().to_owned())));
    let data = [("data", file_name(data)), ("steps", args.steps.to_string())];
    let dropped = args.drop_rotary.then(|| ("drop-rotary", String::new()));
    let all = named.chain(data).chain(dropped);
    all.map(|(name, value)| (name.to_owned(), value)).collect()
}

fn upcycling(args: &UpcycleArgs, config: &ModelConfig) -> Upcycling {
    let ssmax = args.ssmax.map(|scope| SsmaxStart {
        scope: scope.into(),
        from_layer: args.ssmax_from.unwrap_or(usize::from(config.layers > 1)),
        scale: args
            .ssmax_scale
            .unwrap_or_else(|| SsmaxStart::level(config.train_length)),
    });
    Upcycling {
        target: args.family().into(),
        ssmax,
        drop_rotary: args.drop_rotary,
    }
}

/// The texts of a run.
struct Texts {
    /// The text that is learned from; `None` where tokens are there already.
    text: Option<Text>,
    held_out: String,
    /// The name of what is held out.
    document: String,
}

enum Text {
    /// One text without its last tenth.
    Begin(Document),
    Corpus(Corpus),
}

impl Texts {
    fn read(data: &Path, held_out: Option<&Path>) -> anyhow::Result<Self> {
        // What is not there is said before it is asked what it is.
        std::fs::metadata(data)
            .with_context(|| format!("--data {}: could not read it", data.display()))?;
        let is_store = data.join("index.json").exists();
        let one_text = data.is_file()
            && data
                .extension()
                .is_some_and(|extension| extension == "txt" || extension == "md");
        let corpus = || Text::Corpus(Corpus::new(Source::Local(data.to_owned())));
        match held_out {
            Some(path) => Ok(Self {
                text: (!is_store).then(corpus),
                held_out: runs::read_text(path)?,
                document: file_name(path),
            }),
            None if one_text => {
                let mut text = runs::read_text(data)?;
                // At the end of a line, where there is one.
                let cut = text.floor_char_boundary(text.len() / 10 * 9);
                let cut = text[..cut].rfind('\n').map_or(cut, |at| at + 1);
                let held_out = text.split_off(cut);
                let origin = data.display().to_string();
                Ok(Self {
                    text: Some(Text::Begin(Document { text, origin })),
                    held_out,
                    document: format!("the last tenth of {}", file_name(data)),
                })
            }
            None => bail!(
                "--held-out: expected a text to measure perplexity on, since {} is not one text file",
                data.display()
            ),
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The parts that learn, and how fast, on rows of which length.
struct Pace {
    learn: Learn,
    rate: f64,
    rates: LearningRates,
    length: Length,
}

impl Pace {
    fn of(args: &UpcycleArgs, config: &ModelConfig) -> anyhow::Result<Self> {
        if args.drop_rotary {
            // Weights that were trained go on at a rate that they are trained at; priors at the usual one.
            let priors = 10.0;
            return Ok(Self {
                learn: Learn::default(),
                rate: args.rate.unwrap_or(1e-3),
                rates: LearningRates {
                    location: priors,
                    scale: priors,
                    shape: priors,
                    ..LearningRates::default()
                },
                length: args.length.unwrap_or(Length::Times(1.0)),
            });
        }
        let encoding = &config.encoding;
        let prior = encoding.learns_prior().then_some(Part::Prior);
        let ssmax = encoding.has_temperature().then_some(Part::Ssmax);
        let parts: Vec<Part> = prior.into_iter().chain(ssmax).collect();
        Ok(Self {
            learn: parts.try_into()?,
            rate: args.rate.unwrap_or(1e-2),
            rates: LearningRates::default(),
            length: args.length.unwrap_or(Length::Times(4.0)),
        })
    }
}

fn recipe(
    args: &UpcycleArgs,
    start: &Transformer,
    data: &Path,
    texts: &Texts,
) -> anyhow::Result<Recipe> {
    let config = start.config();
    let pace = Pace::of(args, config)?;
    let recipe = Recipe {
        model: ModelRecipe {
            encoding: config.encoding.clone(),
            dim: config.dim,
            layers: config.layers,
            heads: config.heads,
            key_heads: Some(config.key_heads),
            hidden: Some(config.hidden),
            prior_scope: config.prior_scope,
            prior_start: config.prior_start,
            ssmax_from: config.ssmax_from,
            design: config.design,
            start: Some(args.out.join(START)),
        },
        data: DataRecipe {
            tokens: match texts.text {
                Some(_) => args.out.join(TOKENS),
                None => data.to_owned(),
            },
            validation: None,
            mix: Mix {
                text: 1.0 - args.passkey_rows,
                passkey: args.passkey_rows,
                ..Mix::default()
            },
            passkey: Default::default(),
            synthetic: Default::default(),
        },
        train: TrainRecipe {
            length: pace.length.tokens(config.train_length),
            rows: args.rows,
            parts: args.parts,
            steps: args.steps,
            learning_rate: pace.rate,
            final_fraction: 0.1,
            clip: 1.0,
            optimizer: RAdamConfig::default(),
            rates: pace.rates,
            learn: pace.learn,
            seed: args.seed,
            attention: Default::default(),
            products: Default::default(),
            device: args.device.unwrap_or_default(),
            further_devices: Vec::new(),
            optimizer_state: Default::default(),
            validate_every: args.steps,
            validation_rows: 1,
            checkpoint_every: args.checkpoint_every,
        },
    };
    Ok(recipe.checked()?)
}

fn write(
    dir: &Path,
    plan: &Plan,
    recipe: &Recipe,
    start: &Transformer,
    tokenizer: &Tokenizer,
    texts: Texts,
) -> anyhow::Result<()> {
    let at = |name: &str| -> PathBuf { dir.join(name) };
    RunFolder::create(dir, recipe, tokenizer)?;
    std::fs::create_dir(at(START))
        .with_context(|| format!("{}: could not create it", dir.display()))?;
    start.save(&at(START))?;
    for dir in [dir, &at(START)] {
        runs::copy_companions(&plan.model, dir)?;
        // Of a tokenizer's roles the model's config.json may say a part, which is another one there.
        tokenizer.save_into(dir)?;
    }
    let held_out = at(HELD_OUT);
    bam_data::atomic_file::write_atomically(&held_out, texts.held_out.as_bytes())?;
    if let Some(text) = texts.text {
        let store = tokens(&at(TOKENS), text, tokenizer)?;
        console::note(&format!("{} tokens to learn from", store.tokens()));
    }
    runs::write_json(&at(PLAN), plan)
}

fn tokens(dir: &Path, text: Text, tokenizer: &Tokenizer) -> anyhow::Result<TokenStore> {
    let mut writer = ShardWriter::create(dir, tokenizer.identity(), &ShardOptions::default())?;
    match text {
        Text::Begin(document) => {
            let documents = std::iter::once(Ok(document));
            bam_data::prepare(documents, tokenizer, &mut writer, |_| {})?;
        }
        Text::Corpus(corpus) => {
            let documents = corpus.documents(|_| {})?;
            bam_data::prepare(documents, tokenizer, &mut writer, |_| {})?;
        }
    }
    Ok(writer.finish()?)
}
