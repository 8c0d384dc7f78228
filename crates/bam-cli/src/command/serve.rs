//! `bam serve`.

use crate::args::ServeArgs;
use crate::{console, runs};
use anyhow::Context;
use bam_lm::engine::scheduler::Limits;
use bam_serve::{ChatTemplate, Notice, Server, Settings};
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

pub fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let api_key = api_key(args)?;
    let model = runs::load_model(&args.model, &args.device.open()?)?;
    let tokenizer = runs::load_tokenizer(&args.model, &model)?;
    let limits = Limits {
        active: args.parallel as usize,
        cache_bytes: args.cache_memory,
        skipping: args.skip,
        horizons: match args.certified_cache {
            None => None,
            Some(epsilon) => {
                let longest = args.longest.tokens(model.config().train_length);
                Some(Arc::new(model.horizons(longest, epsilon)?))
            }
        },
    };
    let template = ChatTemplate::find(&args.model, &tokenizer);
    if let Some(problem) = template.as_ref().and_then(ChatTemplate::problem) {
        console::note(&format!("chats are refused: {problem}"));
    }
    let name = match &args.name {
        Some(name) => name.clone(),
        None => folder_name(&args.model)?,
    };
    let server = Server {
        model,
        tokenizer,
        template,
        settings: Settings {
            name: name.clone(),
            limits,
            queue: args.queue as usize,
            max_body: args.max_body,
            api_key,
            cors: args.cors.clone(),
            grace: Duration::from_secs(args.grace),
        },
    };
    let longest = server.longest_sequence();
    anyhow::ensure!(
        longest > 0,
        "--cache-memory: expected room for a token, got {}",
        args.cache_memory
    );
    let of_listening = || format!("--listen {}", args.listen);
    let listener = TcpListener::bind(args.listen).with_context(of_listening)?;
    let address = listener.local_addr().context("the address")?;
    console::catch_interrupts();
    let mut out = std::io::stdout().lock();
    // Whoever starts the server by a program waits for this line.
    writeln!(
        out,
        "{name} on http://{address}, contexts up to {longest} tokens"
    )?;
    out.flush()?;
    drop(out);
    if !address.ip().to_canonical().is_loopback() && server.settings.api_key.is_none() {
        console::note("anyone who reaches this address can use the server; see --api-key-file");
    }
    let stop = async {
        while !console::interrupted() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    server.run(listener, stop, |notice| {
        console::note(match notice {
            Notice::Stopping => "stopping: requests may finish; Ctrl-C again stops at once",
            Notice::Unfinished => "some requests did not finish in time",
        });
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The folder's own name, also of `.` and `..`.
fn folder_name(dir: &Path) -> anyhow::Result<String> {
    let whole = dir
        .canonicalize()
        .with_context(|| format!("{}", dir.display()))?;
    let name = whole.file_name().unwrap_or_default();
    Ok(name.to_string_lossy().into_owned())
}

/// The key of a file or of the environment. Where there is one that no client could send, the server does
/// not start: it would be open, or closed to everybody.
fn api_key(args: &ServeArgs) -> anyhow::Result<Option<String>> {
    let (key, origin) = match &args.api_key_file {
        Some(file) => {
            let origin = file.display().to_string();
            (std::fs::read(file).with_context(|| origin.clone())?, origin)
        }
        None => match std::env::var_os("BAM_API_KEY") {
            Some(key) => (key.into_encoded_bytes(), "BAM_API_KEY".to_owned()),
            None => return Ok(None),
        },
    };
    // The key itself is not for messages.
    let Ok(key) = bam_data::text_of(&key) else {
        anyhow::bail!("{origin}: expected a key in UTF-8, got other bytes");
    };
    let key = key.trim();
    anyhow::ensure!(!key.is_empty(), "{origin}: expected a key, got none");
    anyhow::ensure!(
        !key.chars().any(char::is_control),
        "{origin}: expected a key of one line without control characters, got some"
    );
    Ok(Some(key.to_owned()))
}
