//! `cargo xtask bench`: our side and PyTorch's in one run, as a table and as records.
//!
//! Each side prints one JSON object a measurement and checks its answers itself. PyTorch is wanted
//! here only; where it is missing, the run says so and goes on without.

mod scale;
mod table;

use crate::cargo::{cargo, cargo_on};
use crate::git;
use crate::wheel;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;
use table::Row;

/// The options of the command line.
#[derive(Debug, PartialEq)]
pub struct Options {
    threads: usize,
    json: Option<String>,
    python: String,
    max_length: usize,
    sections: Vec<String>,
    dtypes: Vec<String>,
    device: Option<String>,
    corpora: Vec<String>,
    tokenizers: Vec<String>,
}

impl Options {
    /// # Errors
    /// A message that says which word is wrong.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            json: None,
            python: "python3".into(),
            max_length: 1 << 18,
            sections: [
                "ceiling", "passes", "decode", "skipping", "growth", "pytorch",
            ]
            .map(String::from)
            .into(),
            dtypes: ["f32", "bf16"].map(String::from).into(),
            device: None,
            corpora: Vec::new(),
            tokenizers: Vec::new(),
        };
        let list = |value: &str| value.split(',').map(String::from).collect();
        for pair in words.chunks(2) {
            let [name, value] = *pair else {
                return Err(format!("{}: expected a value after it", pair[0]));
            };
            let number = || match value.parse() {
                Ok(number) if number > 0 => Ok(number),
                _ => Err(format!("{name}: expected a number from 1 up, got {value}")),
            };
            match name {
                "--threads" => options.threads = number()?,
                "--json" => options.json = Some(value.into()),
                "--python" => options.python = value.into(),
                "--max-length" => options.max_length = number()?,
                "--sections" => options.sections = list(value),
                "--dtypes" => options.dtypes = list(value),
                "--device" => options.device = Some(value.into()),
                "--corpora" => options.corpora = list(value),
                "--tokenizers" => options.tokenizers = list(value),
                _ => return Err(format!("no such option: {name}")),
            }
        }
        Ok(options)
    }
}

/// Runs the benchmark of that name.
///
/// # Errors
/// If there is none, or a side fails: a wrong answer has no time.
pub fn run(root: &Path, name: &str, options: &Options) -> Result<(), String> {
    let rows = match name {
        "attention" => match &options.device {
            None => attention(root, options)?,
            Some(device) => attention_on(root, options, device)?,
        },
        "training" => training(root, options)?,
        "prepare" => prepare(root, options)?,
        "scale" => scale(root)?,
        _ => {
            return Err(format!(
                "no such benchmark: {name}; expected attention, training, prepare or scale"
            ));
        }
    };
    let tables = match name {
        "attention" => table::attention(&rows),
        "prepare" => table::prepare(&rows),
        "scale" => scale::table(&rows),
        _ => table::training(&rows),
    };
    println!("{tables}");
    match &options.json {
        None => Ok(()),
        Some(file) => write(root, file, &rows, options),
    }
}

fn attention(root: &Path, options: &Options) -> Result<Vec<Row>, String> {
    let (pytorch, ours): (Vec<&str>, Vec<&str>) = options
        .sections
        .iter()
        .map(String::as_str)
        .partition(|section| *section == "pytorch");
    let (grids, ours): (Vec<&str>, Vec<&str>) =
        ours.into_iter().partition(|section| *section == "grid");
    let mut rows = match grids.is_empty() {
        true => Vec::new(),
        false => grid(root, options)?,
    };
    let [threads, max_length] = [options.threads, options.max_length].map(|n| n.to_string());
    // Side by side: what is compared with PyTorch comes right before it.
    let (beside, after): (Vec<&str>, Vec<&str>) = ours
        .into_iter()
        .partition(|section| ["ceiling", "passes"].contains(section));
    let run = |sections: Vec<&str>| match sections.is_empty() {
        true => Ok(Vec::new()),
        false => cargo_bench(
            root,
            "attention",
            &[
                "--threads",
                &threads,
                "--max-length",
                &max_length,
                "--sections",
                &sections.join(","),
            ],
        ),
    };
    rows.extend(run(beside)?);
    let lengths = [1024, 4096].into_iter();
    let lengths = lengths.filter(|length| *length <= options.max_length);
    let lengths: Vec<String> = lengths.map(|length| length.to_string()).collect();
    for dtype in options.dtypes.iter().filter(|_| !pytorch.is_empty()) {
        let mut arguments = vec!["--threads", &threads, "--dtypes", dtype, "--lengths"];
        arguments.extend(lengths.iter().map(String::as_str));
        // What is not the fused operation takes minutes a call where bf16 has no instructions.
        if dtype == "bf16" {
            arguments.extend(["--only", "pytorch-sdpa"]);
        }
        rows.extend(python(root, options, "attention_pytorch.py", &arguments)?);
    }
    rows.extend(run(after)?);
    Ok(rows)
}

/// The wheel beside PyTorch's attention in one process, shape by shape.
fn grid(root: &Path, options: &Options) -> Result<Vec<Row>, String> {
    let mut command = wheel::installed(root, &options.python)?;
    command
        .arg(root.join("benchmarks/wheel_pytorch.py"))
        .args(["--no-flex", "--t5", "0", "--threads"])
        .arg(options.threads.to_string())
        .arg("--max-tokens")
        .arg(options.max_length.to_string())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    match rows_of(command)? {
        (rows, 0) => Ok(rows),
        (_, code) => Err(format!("wheel_pytorch.py ended with {code}")),
    }
}

/// Ours on a device, and PyTorch's on the same where that is a CUDA device.
fn attention_on(root: &Path, options: &Options, device: &str) -> Result<Vec<Row>, String> {
    let feature = device.split(':').next().unwrap_or(device);
    let max_length = options.max_length.min(1 << 16).to_string();
    let mut command = cargo(root, "bench");
    command
        .args([
            "-p",
            "bam-attention",
            "--features",
            feature,
            "--bench",
            "attention",
            "--",
        ])
        .args(["--device", device, "--max-length", &max_length]);
    let mut rows = match rows_of(command)? {
        (rows, 0) => rows,
        (_, code) => return Err(format!("the benchmark attention ended with {code}")),
    };
    if feature == "cuda" {
        let lengths = [1024, 4096, 16384, 65536].into_iter();
        let lengths = lengths.filter(|length| *length <= options.max_length);
        let lengths: Vec<String> = lengths.map(|length: usize| length.to_string()).collect();
        for dim in ["64", "128"] {
            let mut arguments = vec!["--device", "cuda", "--heads", "16", "--head-dim", dim];
            arguments.extend(["--dtypes", "bf16", "--lengths"]);
            arguments.extend(lengths.iter().map(String::as_str));
            rows.extend(python(root, options, "attention_pytorch.py", &arguments)?);
        }
    }
    Ok(rows)
}

fn training(root: &Path, options: &Options) -> Result<Vec<Row>, String> {
    let threads = options.threads.to_string();
    let mut rows = Vec::new();
    for model in ["quickstart", "l6"] {
        let ours = ["--threads", &threads, "--model", model];
        rows.extend(cargo_bench(root, "training", &ours)?);
        for dtype in &options.dtypes {
            let theirs = ["--threads", &threads, "--model", model, "--dtype", dtype];
            rows.extend(python(root, options, "training_pytorch.py", &theirs)?);
        }
    }
    Ok(rows)
}

/// Corpora with tokenizers, beside the packages for Python that make the same ids.
fn prepare(root: &Path, options: &Options) -> Result<Vec<Row>, String> {
    if options.corpora.is_empty() || options.tokenizers.is_empty() {
        return Err("bench prepare: expected --corpora FILE,… and --tokenizers FILE,…".into());
    }
    let mut rows = Vec::new();
    let threads = options.threads.to_string();
    for corpus in &options.corpora {
        for tokenizer in &options.tokenizers {
            let arguments = [
                "--threads",
                &threads,
                "--corpus",
                corpus,
                "--tokenizer",
                tokenizer,
            ];
            let mut both = cargo_bench(root, "prepare", &arguments)?;
            both.extend(python(root, options, "prepare_python.py", &arguments)?);
            let ids = |row: &Row| row.get("ids").cloned();
            if both.iter().any(|row| ids(row) != ids(&both[0])) {
                return Err(format!(
                    "{corpus} with {tokenizer}: the ids differ, so there are no times"
                ));
            }
            rows.extend(both);
        }
    }
    Ok(rows)
}

/// Rows of all runs, if their losses have the same bits.
fn scale(root: &Path) -> Result<Vec<Row>, String> {
    let mut rows = on_ranks(root, 2, &["--measure", "exchange"])?;
    for round in 0..scale::ROUNDS {
        for (ranks, threads, state) in scale::RUNS {
            let threads = threads.to_string();
            let words = ["--threads", &threads, "--state", state];
            let of_run = on_ranks(root, ranks, &words)?.into_iter();
            rows.extend(of_run.map(|mut row| {
                row.insert("round".into(), round.into());
                row
            }));
        }
    }
    scale::same_losses(&rows)?;
    Ok(rows)
}

/// Cargo runs the program that it built under `mpirun`.
fn on_ranks(root: &Path, ranks: usize, words: &[&str]) -> Result<Vec<Row>, String> {
    // Of the program's package too, whose features the test programs of several ranks have.
    let packages = ["-p", "bam-mpi", "-p", "bam-cli"];
    let mut command = cargo_on(root, "bench", &packages);
    command
        .args(["--features", "bam-cli/mpi", "--bench", "scale"])
        .arg("--config")
        .arg(format!(
            "target.'cfg(unix)'.runner=['mpirun','-n','{ranks}']"
        ))
        .arg("--")
        .args(words)
        // Open MPI's: root, ranks wherever there is room, and waiting that leaves the processor to who computes.
        .envs([
            ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
            ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
            ("OMPI_MCA_hwloc_base_binding_policy", "none"),
            ("OMPI_MCA_mpi_yield_when_idle", "1"),
        ]);
    match rows_of(command)? {
        (rows, 0) if !rows.is_empty() => Ok(rows),
        (_, code) => Err(format!(
            "the benchmark scale on {ranks} ranks ended with {code}; it wants an MPI, `mpirun` and libclang"
        )),
    }
}

/// Our side.
fn cargo_bench(root: &Path, bench: &str, arguments: &[&str]) -> Result<Vec<Row>, String> {
    let mut command = cargo(root, "bench");
    command.args(["--bench", bench, "--"]).args(arguments);
    match rows_of(command)? {
        (rows, 0) => Ok(rows),
        (_, code) => Err(format!("the benchmark {bench} ended with {code}")),
    }
}

/// Python's side; no rows where its packages are missing.
fn python(
    root: &Path,
    options: &Options,
    script: &str,
    arguments: &[&str],
) -> Result<Vec<Row>, String> {
    let mut command = Command::new(&options.python);
    command
        .arg(root.join("benchmarks").join(script))
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    match rows_of(command) {
        Err(why) => {
            eprintln!("without Python: {why}");
            Ok(Vec::new())
        }
        Ok((_, 3)) => Ok(Vec::new()),
        Ok((rows, 0)) => Ok(rows),
        Ok((_, code)) => Err(format!("{script} ended with {code}")),
    }
}

/// One measurement in short, for progress.
fn in_short(row: &Row) -> String {
    match row.contains_key("ranks") {
        true => scale::line(row),
        false => table::line(row),
    }
}

/// Runs a command, shows its progress, and takes its rows.
fn rows_of(mut command: Command) -> Result<(Vec<Row>, i32), String> {
    let name = command.get_program().display().to_string();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{name} did not start: {error}"))?;
    let mut rows = Vec::new();
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    for line in lines.map_while(Result::ok) {
        // Cargo's own words go past.
        if let Ok(Value::Object(row)) = serde_json::from_str(&line) {
            eprintln!("{}", in_short(&row));
            rows.push(row);
        }
    }
    let status = child.wait().map_err(|error| format!("{name}: {error}"))?;
    Ok((rows, status.code().unwrap_or(-1)))
}

/// One JSON object a line, each with the date, the commit and the machine. Written whole or not at all.
fn write(root: &Path, file: &str, rows: &[Row], options: &Options) -> Result<(), String> {
    let commit = git::describe(root);
    let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let mut text = String::new();
    for row in rows {
        let mut record = Row::new();
        record.insert("date".into(), json!(date));
        record.insert("commit".into(), json!(commit));
        record.insert("machine".into(), json!(machine()));
        record.insert("threads".into(), json!(options.threads));
        record.extend(row.clone());
        text += &Value::Object(record).to_string();
        text.push('\n');
    }
    let failed = |error: std::io::Error| format!("{file}: {error}");
    let path = Path::new(file);
    if let Some(folder) = path.parent().filter(|folder| *folder != Path::new("")) {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let unfinished = path.with_extension("unfinished");
    std::fs::write(&unfinished, text).map_err(failed)?;
    std::fs::rename(&unfinished, path).map_err(failed)?;
    println!("{} rows in {file}", rows.len());
    Ok(())
}

/// The processor and what it can do, where the system tells.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let name = field("model name").unwrap_or_else(|| std::env::consts::ARCH.into());
    let flags = field("flags").unwrap_or_default();
    let has = |flag: &&str| flags.split(' ').any(|known| known == *flag);
    let notable = ["avx2", "avx512f", "avx512_bf16", "amx_bf16"];
    let notable: Vec<&str> = notable.into_iter().filter(has).collect();
    let family = field("cpu family").map_or_else(String::new, |family| {
        format!(
            ", family {family} model {}",
            field("model\t").unwrap_or_default()
        )
    });
    format!("{name}{family}, {cores} cores, {}", notable.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let options = Options::parse(&["--threads", "3", "--sections", "decode,growth"]).unwrap();
        assert_eq!((options.threads, options.sections.len()), (3, 2));
        for (words, expected) in [
            (
                &["--threads", "0"][..],
                "--threads: expected a number from 1 up, got 0",
            ),
            (&["--threads"], "--threads: expected a value after it"),
            (&["--speed", "1"], "no such option: --speed"),
        ] {
            assert_eq!(Options::parse(words).unwrap_err(), expected);
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_no_failure_of_the_benchmark() {
        let mut options = Options::parse(&[]).unwrap();
        options.python = "no-such-python".into();
        assert_eq!(
            python(Path::new("."), &options, "x.py", &[]),
            Ok(Vec::new())
        );
    }
}
