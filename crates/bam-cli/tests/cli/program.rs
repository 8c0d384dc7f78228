//! The binary and what it answers.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// Words of a command line, between spaces; each `{}` is the next of the texts and paths that follow, whole.
macro_rules! args {
    ($line:expr $(, $word:expr)* $(,)?) => {
        $crate::program::filled($line, vec![$(std::ffi::OsString::from(&$word)),*])
    };
}
pub(crate) use args;

pub fn filled(line: &str, given: Vec<OsString>) -> Vec<OsString> {
    let mut given = given.into_iter();
    let word = |word: &str| match word {
        "{}" => given.next().expect("a word for every place"),
        word => word.into(),
    };
    let words = line.split(' ').map(word).collect();
    assert!(given.next().is_none(), "{line}: more words than places");
    words
}

/// Words as they are.
pub fn words(of: &[&str]) -> Vec<OsString> {
    of.iter().map(OsString::from).collect()
}

/// Exit code of commands that could not do what was asked.
pub const FAILED: i32 = 1;
/// Exit code of command lines that make no sense.
pub const MISUSED: i32 = 2;
/// Exit code after Ctrl-C.
pub const INTERRUPTED: i32 = 130;

/// Longer than anything here takes, so that a hang fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// The binary.
pub fn program() -> &'static str {
    env!("CARGO_BIN_EXE_bam")
}

pub fn command(words: &[OsString]) -> Command {
    let mut command = Command::new(program());
    command.args(words).stdin(Stdio::null());
    command
}

/// Runs to the end; a panic is never an answer.
pub fn run(words: &[OsString]) -> Output {
    let output = command(words).output().expect("the binary runs");
    assert_no_panic(&output, words);
    output
}

pub fn assert_no_panic(output: &Output, words: &[OsString]) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output
            .status
            .code()
            .is_some_and(|code| code < 100 || code == INTERRUPTED)
            && !errors.contains("internal:"),
        "{words:?}: {:?}\n{errors}",
        output.status
    );
}

/// Runs what must succeed; gives back standard output.
pub fn succeed(words: &[OsString]) -> String {
    let output = run(words);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{words:?}: {}\n{errors}",
        output.status
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The same, as JSON.
pub fn succeed_json(words: &[OsString]) -> serde_json::Value {
    let text = succeed(words);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}\n{text}"))
}

/// Runs what must end with this code; gives back standard error.
pub fn fail(code: i32, words: &[OsString]) -> String {
    let output = run(words);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{words:?}\n{errors}");
    errors
}

/// Fails, says all of `named`, and leaves the folder as it was.
pub fn refuses(dir: &Path, words: &[OsString], named: &[&str]) {
    let before = tree(dir);
    let message = fail(FAILED, words);
    for part in named {
        assert!(
            message.contains(part),
            "{words:?}: expected {part:?} in: {message}"
        );
    }
    // Lines of progress may come before.
    let said = message.lines().any(|line| line.starts_with("error: "));
    assert!(said, "{message}");
    assert_eq!(tree(dir), before, "{words:?} left something behind");
}

/// A run that is watched while it goes on.
pub struct Running {
    child: Child,
    words: Vec<OsString>,
}

impl Running {
    pub fn start(words: Vec<OsString>) -> Self {
        Self::of(command(&words), words)
    }

    /// The same under a launcher.
    pub fn of(mut command: Command, words: Vec<OsString>) -> Self {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().expect("the binary starts");
        Self { child, words }
    }

    /// Waits until the file has more lines than this. The run must still be going on then.
    pub fn until_lines(&mut self, file: &Path, lines: usize) {
        let there = self.comes_to_lines(file, lines);
        assert!(there, "{:?} ended early", self.words);
    }

    /// The same; `false` where it ended before.
    pub fn comes_to_lines(&mut self, file: &Path, lines: usize) -> bool {
        self.comes_to(|| line_count(file) > lines)
    }

    /// Waits until something is there; `false` where it ended before.
    pub fn comes_to(&mut self, there: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        while !there() {
            if self.child.try_wait().expect("the run is ours").is_some() {
                return false;
            }
            assert!(start.elapsed() < PATIENCE, "{:?} hangs", self.words);
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Bytes of memory that it had at most.
    #[cfg(target_os = "linux")]
    pub fn peak_memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it is running");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|text| text.trim().strip_suffix(" kB"));
        kib.expect("a peak in kB").parse::<f64>().expect("a number") * 1024.0
    }

    /// Ends it at once, as `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("the run is ours");
        let status = self.wait();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(status.signal(), Some(9), "{:?} ended before", self.words);
    }

    /// The same where it may have ended.
    pub fn send_kill(&mut self) {
        self.child.kill().expect("the run is ours");
    }

    /// The number of its process.
    #[cfg(feature = "mpi")]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until standard error says this.
    pub fn until_says(&mut self, text: &str) {
        let errors = self.child.stderr.as_mut().expect("it is ours");
        let lines = BufReader::new(errors).lines().map_while(Result::ok);
        let found = lines.into_iter().any(|line| line.contains(text));
        assert!(found, "{:?} never said {text}", self.words);
    }

    /// Ctrl-C.
    pub fn interrupt(mut self) -> Option<i32> {
        self.press_interrupt();
        self.wait().code()
    }

    /// Ctrl-C, and then what it says until it ends.
    pub fn interrupt_and_listen(mut self) -> (Option<i32>, String) {
        self.press_interrupt();
        self.listen()
    }

    /// Its words until it ends.
    pub fn listen(mut self) -> (Option<i32>, String) {
        let code = self.wait().code();
        let mut said = String::new();
        let errors = self.child.stderr.as_mut().expect("it is ours");
        errors.read_to_string(&mut said).expect("UTF-8");
        (code, said)
    }

    /// Ctrl-C, whatever comes of it.
    pub fn press_interrupt(&mut self) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &id]).status();
        assert!(sent.expect("there is a kill").success());
    }

    fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the run is ours") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "{:?} hangs", self.words);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Where an assertion failed; else it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line_count(file: &Path) -> usize {
    std::fs::read_to_string(file).map_or(0, |text| text.matches('\n').count())
}

/// Every file and folder below, sorted.
pub fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(tree(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}
