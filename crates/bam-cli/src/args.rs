//! What can be typed.

use bam_attention::Skipping;
use bam_lm::encoding::Encoding;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Train language models at a short context under different positional priors, and read far beyond it.
#[derive(Debug, Parser)]
#[command(name = "bam", version, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train three small models on books, measure them to 500 × their context, write a report
    Quickstart(QuickstartArgs),
    /// Tokenizers
    #[command(subcommand)]
    Tokenizer(TokenizerCommand),
    /// Turn a corpus into token shards
    Prepare(PrepareArgs),
    /// Train a model from a recipe
    Train(TrainArgs),
    /// Evaluate a model
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Generate text
    Generate(GenerateArgs),
    /// What each head believes about distance
    Inspect(InspectArgs),
    /// Turn the records of runs into one HTML page
    Report(ReportArgs),
    /// Bring models from elsewhere
    #[command(subcommand)]
    Import(ImportCommand),
    /// Write a model's logits for given tokens
    Logits(LogitsArgs),
    /// Compare with a case of the reference program; exit code 1 beyond its tolerances
    Parity(ParityArgs),
    /// Print a shell's completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args, Debug)]
pub struct QuickstartArgs {
    /// Folder for models, records and report.html
    #[arg(long, default_value = "runs/quickstart")]
    pub out: PathBuf,
    /// Encodings to compare, for example bam+ssmax,nope,kerple_log+ssmax
    #[arg(long, value_delimiter = ';', value_parser = encodings, default_value = "bam+ssmax,alibi,rotary")]
    pub encodings: Vec<EncodingList>,
    /// All twelve encodings of the paper
    #[arg(long, conflicts_with = "encodings")]
    pub all: bool,
    /// Training steps per model
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// Longest context evaluated, in multiples of the training length
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub longest: u64,
    /// Seed of weights, rows and keys
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Continue a quickstart that was interrupted
    #[arg(long)]
    pub resume: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

/// One comma-separated list; groups of heads such as alibi:2,bam:2 stay together.
#[derive(Clone, Debug)]
pub struct EncodingList(pub Vec<Encoding>);

fn encodings(text: &str) -> Result<EncodingList, String> {
    // "a:1,b:3" is one encoding, "a,b" are two: parts with a colon belong to their neighbours.
    let mut names: Vec<String> = Vec::new();
    for part in text.split(',') {
        match names.last_mut() {
            Some(last) if part.contains(':') && last.contains(':') && !last.contains('+') => {
                *last += ",";
                *last += part;
            }
            _ => names.push(part.to_owned()),
        }
    }
    let parsed: Result<Vec<Encoding>, _> = names.iter().map(|name| name.parse()).collect();
    parsed.map(EncodingList).map_err(|error| error.to_string())
}

#[derive(Debug, Subcommand)]
pub enum TokenizerCommand {
    /// Train a byte-level BPE
    Train(TokenizerTrainArgs),
}

#[derive(Args, Debug)]
pub struct CorpusArgs {
    /// A file or folder of .txt, .md, .jsonl(.gz/.zst) or .parquet, or hf://datasets/OWNER/NAME/PATH
    pub corpus: String,
    /// The field or column that holds the text
    #[arg(long, default_value = "text")]
    pub field: String,
    /// Folder for files from the Hugging Face hub
    #[arg(long, default_value = "runs/hub")]
    pub cache: PathBuf,
}

#[derive(Args, Debug)]
pub struct TokenizerTrainArgs {
    #[command(flatten)]
    pub corpus: CorpusArgs,
    /// Where to write it
    #[arg(long)]
    pub out: PathBuf,
    /// Tokens
    #[arg(long, default_value_t = 32_768)]
    pub vocabulary: usize,
    /// Let runs of digits become tokens
    #[arg(long)]
    pub merge_digits: bool,
}

#[derive(Args, Debug)]
pub struct PrepareArgs {
    #[command(flatten)]
    pub corpus: CorpusArgs,
    /// tokenizer.json
    #[arg(long)]
    pub tokenizer: PathBuf,
    /// Folder for the shards
    #[arg(long)]
    pub out: PathBuf,
    /// Replace the folder's shards
    #[arg(long)]
    pub replace: bool,
}

#[derive(Args, Debug)]
pub struct TrainArgs {
    /// The recipe (TOML); not needed with --resume, and the run's own if given
    #[arg(required_unless_present = "resume")]
    pub recipe: Option<PathBuf>,
    /// Folder of the run
    #[arg(long)]
    pub out: PathBuf,
    /// tokenizer.json that prepared the tokens; not needed with --resume, and the run's own if given
    #[arg(long, required_unless_present = "resume")]
    pub tokenizer: Option<PathBuf>,
    /// Override a value of the recipe, for example --set train.steps=100
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "recipe")]
    pub overrides: Vec<String>,
    /// Continue the run in the folder from its last checkpoint
    #[arg(long)]
    pub resume: bool,
    /// Parts of a step that run at once; all cores if not given
    #[arg(long)]
    pub threads: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// Passkey retrieval over lengths and depths
    Passkey(PasskeyArgs),
    /// Perplexity by position on one long document
    Perplexity(PerplexityArgs),
}

#[derive(Args, Debug)]
pub struct PasskeyArgs {
    /// Folder of a model
    pub model: PathBuf,
    /// Context lengths in tokens; multiples of the training length if they end in x
    #[arg(long, value_delimiter = ',', default_value = "1x,2x,4x,8x,16x")]
    pub lengths: Vec<Length>,
    /// Samples per length
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,
    /// Where keys stand
    #[arg(long, value_enum, default_value_t = DepthChoice::Equidistant)]
    pub depths: DepthChoice,
    /// Number of equidistant depths
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub depth_count: u32,
    /// Digits of the key that the prompt gives away
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1))]
    pub given: u32,
    /// Continue greedily instead of teacher forcing
    #[arg(long)]
    pub greedy: bool,
    /// Which keys may be left unread: off, exact (no bit changes), or the share of a row's posterior
    /// that may be dropped, for example 1e-6
    #[arg(long, default_value = "exact")]
    pub skip: Skipping,
    /// Stop after this many lengths in a row without a right sample
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub patience: Option<u32>,
    /// Seed of keys and random depths
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where to write the record; passkey.json in the model's folder if not given
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Print the record as JSON
    #[arg(long)]
    pub json: bool,
}

/// A length in tokens or in multiples of the training length.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    Tokens(usize),
    Times(f64),
}

impl std::str::FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected tokens such as 4096 or multiples such as 16x, got {text}");
        match text.strip_suffix('x') {
            Some(times) => times
                .parse()
                .ok()
                .filter(|times: &f64| *times > 0.0 && times.is_finite())
                .map(Self::Times)
                .ok_or_else(wrong),
            None => text
                .parse()
                .ok()
                .filter(|&n: &usize| n > 0)
                .map(Self::Tokens)
                .ok_or_else(wrong),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DepthChoice {
    Equidistant,
    Beginning,
    End,
    Random,
}

#[derive(Args, Debug)]
pub struct PerplexityArgs {
    /// Folder of a model
    pub model: PathBuf,
    /// The document: a text file
    pub document: PathBuf,
    /// Tokens to read; the whole document if not given
    #[arg(long)]
    pub length: Option<usize>,
    /// Positions per window
    #[arg(long, default_value_t = 1024)]
    pub window: usize,
    /// Where to write the record; perplexity.json in the model's folder if not given
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Print the record as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// Folder of a model with its tokenizer
    pub model: PathBuf,
    /// The prompt; standard input if not given
    #[arg(long)]
    pub prompt: Option<String>,
    /// Tokens to generate
    #[arg(long, default_value_t = 200)]
    pub tokens: usize,
    /// Divides the logits; 0 takes the most probable token
    #[arg(long, default_value_t = 0.8)]
    pub temperature: f64,
    /// Only the k most probable tokens
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Only the most probable tokens that hold this mass together
    #[arg(long, default_value_t = 0.95)]
    pub top_p: f64,
    /// Same seed, same text
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Which keys may be left unread: off, exact (no bit changes), or the share of a row's posterior
    /// that may be dropped, for example 1e-6
    #[arg(long, default_value = "exact")]
    pub skip: Skipping,
}

#[derive(Args, Debug)]
pub struct InspectArgs {
    /// Folder of a model
    pub model: PathBuf,
    /// Keys of the row that masses are taken over; 500 × the training length if not given
    #[arg(long)]
    pub keys: Option<usize>,
    /// Also print each head's prior curve
    #[arg(long)]
    pub curves: bool,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Debug)]
pub struct ReportArgs {
    /// Folders of runs
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// The page
    #[arg(long, default_value = "report.html")]
    pub out: PathBuf,
    /// Its title
    #[arg(
        long,
        default_value = "Positional priors, read far beyond their training length"
    )]
    pub title: String,
}

#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// A case of the reference program
    Reference(ImportReferenceArgs),
}

#[derive(Args, Debug)]
pub struct ImportReferenceArgs {
    /// Folder with config.json and model.safetensors (or model_init.safetensors)
    pub case: PathBuf,
    /// Folder for the model; must not exist or be empty
    pub out: PathBuf,
}

#[derive(Args, Debug)]
pub struct LogitsArgs {
    /// Folder of a model
    pub model: PathBuf,
    /// Safetensors file with `tokens` [rows, length] and optional `document_ids`
    #[arg(long)]
    pub tokens: PathBuf,
    /// Where to write `logits` [rows, length, vocabulary]
    #[arg(long)]
    pub out: PathBuf,
    /// How attention is computed
    #[arg(long, value_enum, default_value_t = AttentionArg::Fused)]
    pub attention: AttentionArg,
}

#[derive(Args, Debug)]
pub struct ParityArgs {
    /// Folder of a case
    pub case: PathBuf,
    /// How attention is computed
    #[arg(long, value_enum, default_value_t = AttentionArg::Fused)]
    pub attention: AttentionArg,
    /// Print every comparison as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum AttentionArg {
    Fused,
    Reference,
}
