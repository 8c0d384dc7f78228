//! `cargo xtask clients`: other people's programs, unmodified, against `bam serve` and exported models.
//!
//! Each wants something that this project does not: Python packages, Chromium, llama.cpp for Node. Where it is missing the
//! run says so and goes on; where it fails, so does the run.

mod load;

use crate::cargo::cargo;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The options of the command line.
#[derive(Debug, PartialEq)]
pub struct Options {
    model: PathBuf,
    python: String,
    only: Vec<String>,
    /// Requests for lm_eval.
    requests: Option<PathBuf>,
    /// Requests, and samples of each length of RULER's task.
    count: u32,
    /// Lengths of RULER's task, as lm_eval names its figures.
    lengths: String,
    /// Requests of schemathesis for each path, at most.
    examples: u32,
    seconds: u64,
    out: PathBuf,
}

const CLIENTS: [&str; 9] = [
    "curl",
    "openai",
    "lm_eval",
    "ruler",
    "schemathesis",
    "chromium",
    "load",
    "transformers",
    "llama_cpp",
];

impl Options {
    /// # Errors
    /// A message that says which word is wrong.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self {
            model: PathBuf::from("runs/quickstart/bam+ssmax"),
            python: "python3".into(),
            // The last one takes few models.
            only: CLIENTS[..CLIENTS.len() - 1]
                .iter()
                .map(|name| (*name).into())
                .collect(),
            requests: None,
            count: 200,
            lengths: "4096,8192".into(),
            examples: 400,
            seconds: 300,
            out: PathBuf::from("runs/clients"),
        };
        for pair in words.chunks(2) {
            let [name, value] = *pair else {
                return Err(format!("{}: expected a value after it", pair[0]));
            };
            let wrong = |_| format!("{name}: expected a number, got {value}");
            match name {
                "--model" => options.model = value.into(),
                "--python" => options.python = value.into(),
                "--requests" => options.requests = Some(value.into()),
                "--count" => options.count = value.parse().map_err(wrong)?,
                "--lengths" => options.lengths = value.into(),
                "--examples" => options.examples = value.parse().map_err(wrong)?,
                "--seconds" => options.seconds = value.parse().map_err(wrong)?,
                "--out" => options.out = value.into(),
                "--only" => options.only = value.split(',').map(String::from).collect(),
                _ => return Err(format!("no such option: {name}")),
            }
        }
        match options
            .only
            .iter()
            .find(|name| !CLIENTS.contains(&name.as_str()))
        {
            Some(name) => Err(format!("--only: expected some of {CLIENTS:?}, got {name}")),
            None => Ok(options),
        }
    }
}

/// Runs the clients.
///
/// # Errors
/// If one finds something wrong.
pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    let built = cargo(root, "build")
        .args(["--release", "--bin", "bam"])
        .status();
    if !built
        .map_err(|error| format!("cargo did not start: {error}"))?
        .success()
    {
        return Err("bam could not be built".into());
    }
    let bam = root.join("target/release/bam");
    let scripts = root.join("crates/bam-cli/tests/clients");
    for client in &options.only {
        println!("── {client}");
        if exports(client, &bam, &scripts, options)? {
            continue;
        }
        // A fresh server each, so that none depends on what another one did.
        let words: &[&str] = match client.as_str() {
            // Rows that a random request can make are short, so that it ends soon.
            "schemathesis" => &["--cache-memory", "2M"],
            _ => &[],
        };
        let server = Server::start(&bam, &options.model, words)?;
        let python = |script: &str| {
            let mut command = Command::new(&options.python);
            command
                .arg(scripts.join(script))
                .env("PYTHONDONTWRITEBYTECODE", "1");
            command
        };
        match client.as_str() {
            "curl" if Command::new("curl").arg("--version").output().is_ok() => {
                let mut command = Command::new("sh");
                command.arg(scripts.join("curl_client.sh"));
                succeed(command.args([&server.address, &server.name]))?;
            }
            "openai" if options.has("openai") => {
                let mut command = python("openai_client.py");
                succeed(command.args([&server.address, &server.name]))?;
            }
            "lm_eval" if options.has("lm_eval") => match &options.requests {
                None => println!("skipped: --requests names no file"),
                Some(requests) => {
                    let mut command = python("lm_eval_client.py");
                    command.args([&server.address, &server.name]).arg(&bam);
                    command.arg(&options.model).arg(requests);
                    succeed(command.arg(options.count.to_string()))?;
                }
            },
            "ruler" if options.has("lm_eval") && options.has("nltk, wonderwords") => {
                let mut command = python("ruler_client.py");
                command.args([&server.address, &server.name]).arg(&bam);
                command.arg(&options.model).arg(options.count.to_string());
                succeed(command.arg(&options.lengths))?;
            }
            "schemathesis" if options.has("schemathesis") => schemathesis(&server, options)?,
            "chromium" if options.has("selenium") => {
                let mut command = python("page_client.py");
                succeed(command.arg(&server.address).arg(&options.out))?;
            }
            "load" => load::run(&server.address, options.seconds, &options.out)?,
            missing => println!("skipped: what {missing} needs is not here"),
        }
        if !server.answers() {
            return Err(format!("after {client} the server does not answer"));
        }
    }
    Ok(())
}

/// Runs a client of exported models, if it is one of them.
fn exports(client: &str, bam: &Path, scripts: &Path, options: &Options) -> Result<bool, String> {
    let mut command = match client {
        "transformers" if !options.has("torch, transformers, safetensors") => {
            println!("skipped: {} has no torch and transformers", options.python);
            return Ok(true);
        }
        "transformers" => {
            let mut command = Command::new(&options.python);
            command.arg(scripts.join("transformers_client.py"));
            command.env("PYTHONDONTWRITEBYTECODE", "1");
            command
        }
        "llama_cpp" if !has_llama_cpp() => {
            println!("skipped: NODE_PATH names no folder with node-llama-cpp");
            return Ok(true);
        }
        "llama_cpp" => {
            let mut command = Command::new("node");
            command.arg(scripts.join("llama_cpp_client.mjs"));
            command
        }
        _ => return Ok(false),
    };
    succeed(command.arg(bam).arg(&options.model))?;
    if client == "transformers" {
        let mut command = Command::new(&options.python);
        command.arg(scripts.join("transformers_citizen.py"));
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("HF_HUB_OFFLINE", "1");
        succeed(command.arg(bam).arg(&options.model))?;
    }
    Ok(true)
}

fn has_llama_cpp() -> bool {
    let asked = Command::new("node")
        .args(["-e", "require.resolve('node-llama-cpp')"])
        .output();
    asked.is_ok_and(|output| output.status.success())
}

/// Requests as the server's own description allows them, and as it does not.
fn schemathesis(server: &Server, options: &Options) -> Result<(), String> {
    let mut command = Command::new(&options.python);
    command.args(["-m", "schemathesis.cli", "run"]);
    command.arg(format!("http://{}/openapi.json", server.address));
    // What a description can't say is refused too: a prompt and its answer longer than memory.
    command.args(["--exclude-checks", "positive_data_acceptance"]);
    command.args([
        "--max-examples",
        &options.examples.to_string(),
        "--seed",
        "1",
        "--request-timeout",
        "120",
    ]);
    command.args([
        "--generation-database",
        "none",
        "--phases",
        "examples,coverage,fuzzing",
    ]);
    succeed(&mut command)
}

impl Options {
    fn has(&self, package: &str) -> bool {
        let import = format!("import {package}");
        let found = Command::new(&self.python).args(["-c", &import]).output();
        found.is_ok_and(|output| output.status.success())
    }
}

pub fn succeed(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().display().to_string();
    let status = command
        .status()
        .map_err(|error| format!("{name}: {error}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{name} ended with {status}")),
    }
}

/// A server, stopped when dropped.
struct Server {
    child: Child,
    address: String,
    name: String,
}

impl Server {
    fn start(bam: &Path, model: &Path, words: &[&str]) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("bam serve: {error}");
        let mut child = Command::new(bam)
            .arg("serve")
            .arg(model)
            .args(["--listen", "127.0.0.1:0"])
            .args(words)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut line = String::new();
        let out = child.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut line).map_err(failed)?;
        let parts = line.split_once(" on http://");
        let parts = parts.and_then(|(name, rest)| Some((name, rest.split_once(',')?.0)));
        let (name, address) = parts.ok_or_else(|| format!("bam serve said {line:?}"))?;
        Ok(Self {
            child,
            address: address.to_owned(),
            name: name.to_owned(),
        })
    }

    fn answers(&self) -> bool {
        let answer = load::ask(
            &self.address,
            "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        );
        answer.is_ok_and(|text| text.starts_with("HTTP/1.1 200"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let options = Options::parse(&["--only", "load,openai", "--seconds", "5"]).unwrap();
        assert_eq!((options.only.len(), options.seconds), (2, 5));
        for (words, expected) in [
            (
                &["--seconds", "x"][..],
                "--seconds: expected a number, got x",
            ),
            (&["--only", "wget"], "--only: expected some of"),
            (&["--model"], "--model: expected a value"),
            (&["--speed", "1"], "no such option: --speed"),
        ] {
            assert!(Options::parse(words).unwrap_err().contains(expected));
        }
    }
}
