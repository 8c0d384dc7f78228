//! Several processes at one study, begun by a first one, and stopped by it.

use crate::args::StudyArgs;
use crate::console;
use anyhow::Context;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Runs the same command in several processes, and waits for them; gives back whether one failed. Each reads from a pipe that
/// nothing is written to: it stops at a safe place once the pipe is closed, by this process when it is asked to stop, or by the
/// system when it is killed.
pub fn work(args: &StudyArgs, processes: usize) -> anyhow::Result<bool> {
    /// Between two looks at whether all have ended.
    const PAUSE: Duration = Duration::from_millis(50);
    let threads = (rayon::current_num_threads() / processes).max(1);
    let mut pipes = Vec::new();
    let mut running = Vec::new();
    for number in 1..=processes {
        let mut child = begin(args, threads)?;
        pipes.extend(child.stdin.take());
        // Lines of several, one after the other.
        let lines = child.stderr.take().map(|stderr| {
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    console::note(&format!("[{number}] {line}"));
                }
            })
        });
        running.push((number, child, lines));
    }
    let mut failed = false;
    while !running.is_empty() {
        if console::interrupted() {
            pipes.clear();
        }
        let mut still = Vec::new();
        for (number, mut child, lines) in running {
            match child.try_wait().context("could not wait for a process")? {
                None => still.push((number, child, lines)),
                Some(status) => {
                    lines.map(|lines| lines.join());
                    let stopped = status.code() == Some(console::INTERRUPTED.into());
                    failed |= !status.success() && !stopped;
                    if status.code().is_none() {
                        console::note(&format!("[{number}] was ended: {status}"));
                    }
                }
            }
        }
        running = still;
        std::thread::sleep(PAUSE);
    }
    Ok(failed)
}

/// In a process that another one began: asks the work to stop once that one does, or has ended.
pub fn stop_with_the_first() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        console::ask_to_stop();
    });
}

fn begin(args: &StudyArgs, threads: usize) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("could not find the program itself")?;
    let mut command = Command::new(program);
    command
        .args(["study", "--worker"])
        .arg(&args.study)
        .arg("--out")
        .arg(&args.out);
    for group in &args.group {
        command.args(["--group", group]);
    }
    if let Some(device) = args.device.device {
        command.args(["--device", &device.to_string()]);
    }
    command
        .env("RAYON_NUM_THREADS", threads.to_string())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("could not begin another process")
}
