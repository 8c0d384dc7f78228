//! Many streaming clients at once: nothing may be lost, and how long things take is written down.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const CLIENTS: usize = 64;
/// Tokens of an answer.
const TOKENS: usize = 64;

/// One answer: seconds to its first token and to its end.
struct Taken {
    first: f64,
    whole: f64,
}

/// Sends a request and reads the whole answer.
pub fn ask(address: &str, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// `CLIENTS` clients that ask again and again for so many seconds.
///
/// # Errors
/// If an answer is not whole.
pub fn run(address: &str, seconds: u64, out: &Path) -> Result<(), String> {
    let begun = Instant::now();
    let taken = Mutex::new(Vec::new());
    let lost = Mutex::new(Vec::new());
    let most_bytes = Mutex::new(0);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (taken, lost) = (&taken, &lost);
            scope.spawn(move || {
                let mut number = 0;
                while begun.elapsed().as_secs() < seconds {
                    match answer(address, client, number) {
                        Ok(answer) => taken.lock().expect("no panic").push(answer),
                        Err(why) => lost.lock().expect("no panic").push(why),
                    }
                    number += 1;
                }
            });
        }
        scope.spawn(|| {
            while begun.elapsed().as_secs() < seconds {
                let bytes = cache_bytes(address);
                let mut most = most_bytes.lock().expect("no panic");
                *most = bytes.max(*most);
                drop(most);
                std::thread::sleep(Duration::from_millis(500));
            }
        });
    });
    let elapsed = begun.elapsed().as_secs_f64();
    let (taken, lost) = (
        taken.into_inner().expect("no panic"),
        lost.into_inner().expect("no panic"),
    );
    let of = |part: fn(&Taken) -> f64| {
        let mut values: Vec<f64> = taken.iter().map(part).collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values.get((share * values.len() as f64) as usize).copied();
        (at(0.5).unwrap_or(f64::NAN), at(0.99).unwrap_or(f64::NAN))
    };
    let (first, whole) = (of(|taken| taken.first), of(|taken| taken.whole));
    let report = serde_json::json!({
        "clients": CLIENTS,
        "tokens_per_answer": TOKENS,
        "seconds": elapsed,
        "answers": taken.len(),
        "lost": lost.len(),
        "tokens_per_second": (taken.len() * TOKENS) as f64 / elapsed,
        "seconds_to_first_token": {"p50": first.0, "p99": first.1},
        "seconds_to_end": {"p50": whole.0, "p99": whole.1},
        "most_cache_bytes": most_bytes.into_inner().expect("no panic"),
    });
    println!("{report:#}");
    std::fs::create_dir_all(out).map_err(|error| format!("{}: {error}", out.display()))?;
    let file = out.join("load.json");
    std::fs::write(&file, format!("{report:#}\n")).map_err(|error| error.to_string())?;
    match lost.first() {
        None => Ok(()),
        Some(why) => Err(format!(
            "{} answers were lost, the first one: {why}",
            lost.len()
        )),
    }
}

/// Asks for one answer and reads it as it comes. It has to have all its tokens and an end.
fn answer(address: &str, client: usize, number: usize) -> Result<Taken, String> {
    // A third of the prompts are the same, a third begin alike, a third are alone.
    let prompt = match client % 3 {
        0 => "The grass is green. The sky is blue. The sun is yellow.".repeat(4),
        1 => format!("{}{client} {number}", "There and back again. ".repeat(8)),
        _ => format!("{client} {number} {}", "Here we go. ".repeat(10)),
    };
    let body = serde_json::json!({
        "prompt": prompt, "max_tokens": TOKENS, "stream": true, "seed": number, "logprobs": 0,
        "stream_options": {"include_usage": true},
    })
    .to_string();
    let begun = Instant::now();
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream
        .set_read_timeout(Some(Duration::from_secs(120)))
        .map_err(failed)?;
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream
        .write_all((head + &body).as_bytes())
        .map_err(failed)?;
    let (mut first, mut generated, mut done) = (None, None, false);
    for line in BufReader::new(stream).lines() {
        let line = line.map_err(failed)?;
        let Some(data) = line.strip_prefix("data: ") else {
            continue;
        };
        if data == "[DONE]" {
            done = true;
            continue;
        }
        first.get_or_insert_with(|| begun.elapsed().as_secs_f64());
        let value: serde_json::Value = serde_json::from_str(data).map_err(|e| e.to_string())?;
        if let Some(tokens) = value["usage"]["completion_tokens"].as_u64() {
            generated = Some(tokens as usize);
        }
    }
    // Fewer only where the model ended its text.
    match (first, generated, done) {
        (Some(first), Some(1..=TOKENS), true) => Ok(Taken {
            first,
            whole: begun.elapsed().as_secs_f64(),
        }),
        other => Err(format!("{other:?}")),
    }
}

fn cache_bytes(address: &str) -> u64 {
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let text = ask(address, request).unwrap_or_default();
    let line = text
        .lines()
        .find(|line| line.starts_with("bam_cache_bytes "));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or(0)
}
