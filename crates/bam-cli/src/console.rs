//! The person at the terminal: progress, interruption, errors. Of several ranks only the first one talks, and whoever fails.

use crate::error_text::text_of;
use crate::ranks;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Exit code of a program that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;

static ASKED_TO_STOP: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C asks the work to stop at a safe place; a second one ends the program at once.
pub fn catch_interrupts() {
    static CAUGHT: OnceLock<()> = OnceLock::new();
    CAUGHT.get_or_init(|| {
        // Without a handler Ctrl-C just ends the program; checkpoints are safe all the same.
        let _ = ctrlc::set_handler(|| {
            if ASKED_TO_STOP.swap(true, Ordering::SeqCst) {
                std::process::exit(INTERRUPTED.into());
            }
        });
    });
}

/// Asks the work to stop after a while, as Ctrl-C does.
pub fn stop_after(time: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(time);
        ask_to_stop();
    });
}

/// Asks the work to stop, as Ctrl-C does.
pub fn ask_to_stop() {
    ASKED_TO_STOP.store(true, Ordering::SeqCst);
}

/// Whether the person asked to stop.
pub fn interrupted() -> bool {
    ASKED_TO_STOP.load(Ordering::SeqCst)
}

/// The same for work that is told whether to go on.
pub fn unless_interrupted() -> ControlFlow<()> {
    match interrupted() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

/// Seconds since the program first asked.
pub fn seconds() -> f64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// The progress of some work: a bar with a rate and the time left on a terminal, a line now and then
/// where standard error is no terminal.
pub struct Progress {
    bar: ProgressBar,
    what: String,
    total: u64,
    plain: Option<Mutex<Instant>>,
}

/// Time between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(20);

impl Progress {
    pub fn new(total: u64, what: &str) -> Self {
        let bar = match ranks::leads() {
            true => ProgressBar::new(total),
            false => ProgressBar::hidden(),
        };
        let style = ProgressStyle::with_template(
            "{prefix:>24} {bar:30} {pos}/{len} {msg} [{elapsed} < {eta}]",
        );
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(what.to_owned());
        let plain = (ranks::leads() && !io::stderr().is_terminal()).then(|| {
            note(&format!("{what}: 0 of {total}"));
            Mutex::new(Instant::now())
        });
        Self {
            bar,
            what: what.to_owned(),
            total,
            plain,
        }
    }

    /// The position that the work begins at, if not 0; rates count from here.
    pub fn start_at(&self, position: u64) {
        self.bar.set_position(position);
        self.bar.reset_eta();
    }

    /// Shows a new position.
    pub fn at(&self, position: u64, message: &str) {
        self.bar.set_message(message.to_owned());
        self.bar.set_position(position);
        if let Some(Ok(mut last)) = self.plain.as_ref().map(Mutex::lock) {
            let done = position >= self.total;
            if done || last.elapsed() >= LINE_INTERVAL {
                *last = Instant::now();
                let left = self.bar.eta().as_secs();
                note(&format!(
                    "{}: {position} of {} {message}, {left} s left",
                    self.what, self.total
                ));
            }
        }
    }

    /// Leaves the bar as it is and goes to the next line.
    pub fn finish(&self) {
        self.bar.abandon();
    }
}

/// A line on standard error, between bars.
pub fn note(text: &str) {
    if ranks::leads() {
        say(text);
    }
}

/// The same from any rank.
pub fn say(text: &str) {
    // Standard error may be closed; that is no reason to stop.
    let _ = io::Write::write_all(&mut io::stderr(), format!("{text}\n").as_bytes());
}

/// The answer of a command, on standard output: the value as JSON if that was asked for, else as text.
pub fn answer<T: Serialize>(
    json: bool,
    value: &T,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    if !ranks::leads() {
        return Ok(());
    }
    let text = match json {
        true => serde_json::to_string_pretty(value)? + "\n",
        false => text(),
    };
    Ok(io::Write::write_all(&mut io::stdout(), text.as_bytes())?)
}

/// Whether the reader of our output went away, as `head` does.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// A command line that makes no sense, where only its words together show it.
#[derive(Debug)]
pub struct UsageError(pub String);

/// Exit code of such a command line.
pub const USAGE: u8 = 2;

impl std::fmt::Display for UsageError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// `error: `, the rank if there are several, and what went wrong.
pub fn print_error(rank: &str, error: &anyhow::Error) {
    say(&format!("error: {rank}{}", text_of(error)));
}

/// Whether the person asked for no colours anywhere (<https://no-color.org>).
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
