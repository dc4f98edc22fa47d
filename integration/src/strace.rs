//! Runs the runtime under strace(1), which makes chosen system calls fail, or stops the runtime after them. So a test chooses the
//! order of two commands that would else race.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::background::{Background, until};
use crate::runtime::{DEADLINE, ended_within};
use crate::{Output, Test};

/// Whether strace is installed and allowed to trace.
pub fn works() -> bool {
    let mut command = Command::new("strace");
    command.args(["-o", "/dev/null", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The command of [`Test::command`] under strace with `options`. The trace goes to the file `trace`. Children are not traced, so
/// a container runs without strace.
///
/// # Errors
/// The files for the output cannot be made.
pub fn under<S: AsRef<OsStr>>(t: &Test, trace: &Path, options: &[&str], words: impl IntoIterator<Item = S>) -> Result<Command> {
    let trace = trace.to_string_lossy();
    t.under(&[&["strace", "-o", &trace][..], options, &["--"]].concat(), words)
}

/// A command, stopped after one of its system calls.
#[derive(Debug)]
pub struct Stopped {
    command: Background,
    tracer: Pid,
}

/// The result of [`stop_after`].
#[derive(Debug)]
pub enum Step {
    /// The command is stopped, and waits.
    Stopped(Stopped),
    /// The command made fewer such system calls, and has exited.
    Ended(Output),
}

/// Runs a command of the runtime until its `nth` system call that names one of the files `paths`, or a descriptor of one.
///
/// # Errors
/// strace does not run, or the command hangs without being stopped.
pub fn stop_after<S: AsRef<OsStr>>(t: &Test, paths: &[&Path], nth: usize, words: impl IntoIterator<Item = S>) -> Result<Step> {
    let trace: PathBuf = t.path().join("trace");
    let _ = fs::remove_file(&trace);
    let paths: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
    // -D: strace is not the command's parent; -I2: a signal ends strace; so the command can continue without strace
    let mut options = vec!["-D", "-I2"];
    options.extend(paths.iter().flat_map(|path| ["-P", path]));
    options.extend(["-e", "inject=%file,%desc:signal=STOP"]);
    let command = t.begin(under(t, &trace, &options, words)?)?;
    let mut woken = 0;
    loop {
        let mut stops = 0;
        until("the command is stopped or ends", || {
            // strace writes the line when the command has really stopped
            stops = fs::read_to_string(&trace).unwrap_or_default().matches("--- stopped by SIGSTOP ---").count();
            Ok(stops > woken || !command.goes_on_after(Duration::ZERO)?)
        })?;
        if stops <= woken {
            return Ok(Step::Ended(command.end()?));
        }
        if stops == nth {
            let status = fs::read_to_string(format!("/proc/{}/status", command.pid()?.as_raw_nonzero()))?;
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok()).and_then(Pid::from_raw);
            return Ok(Step::Stopped(Stopped { command, tracer: tracer.context("a tracer")? }));
        }
        woken = stops;
        command.signal(Signal::CONT)?;
    }
}

impl Stopped {
    /// Detaches strace, so that the command continues while the test does something else.
    ///
    /// # Errors
    /// strace does not detach.
    pub fn wake(&self) -> Result<()> {
        // a command that was killed meanwhile has no tracer any more
        let _ = kill_process(self.tracer, Signal::TERM);
        ensure!(ended_within(self.tracer, DEADLINE)?, "strace does not end");
        self.command.signal(Signal::CONT)
    }

    /// Lets the command continue, if [`Stopped::wake`] did not, and waits for its exit.
    ///
    /// # Errors
    /// The command does not exit.
    pub fn go_on(self) -> Result<Output> {
        self.wake()?;
        self.command.end()
    }
}
