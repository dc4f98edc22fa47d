//! The runtime under strace(1), which makes chosen system calls fail, or stops the runtime after them: what is a race between
//! two commands becomes an order that the test chooses.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::background::{Background, until};
use crate::{Output, Test};

/// Whether strace is installed and may trace.
pub fn works() -> bool {
    let mut command = Command::new("strace");
    command.args(["-o", "/dev/null", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The command of [`Test::command`] under strace with `options`; what was traced is in the file `trace`. Its children are not
/// traced: a container goes on without strace.
///
/// # Errors
/// The files of its output cannot be made.
pub fn under<S: AsRef<OsStr>>(t: &Test, trace: &Path, options: &[&str], words: impl IntoIterator<Item = S>) -> Result<Command> {
    let trace = trace.to_string_lossy();
    t.under(&[&["strace", "-o", &trace][..], options, &["--"]].concat(), words)
}

/// A command that is stopped after one of its system calls.
#[derive(Debug)]
pub struct Stopped {
    strace: Option<Background>,
    tracee: Pid,
}

/// A command that was to be stopped.
#[derive(Debug)]
pub enum Step {
    /// It was, and waits.
    Stopped(Stopped),
    /// It has fewer system calls of that kind, and has ended.
    Ended(Output),
}

/// Runs a command of the runtime until it has made its `nth` system call that names the file `path`, or a descriptor of it.
///
/// # Errors
/// strace does not run, or the command hangs by itself.
pub fn stop_after<S: AsRef<OsStr>>(t: &Test, path: &Path, nth: u32, words: impl IntoIterator<Item = S>) -> Result<Step> {
    let trace: PathBuf = t.path().join(format!("trace{nth}"));
    let _ = fs::remove_file(&trace);
    let fault = format!("inject=%file,%desc:signal=STOP:when={nth}");
    let path = path.to_string_lossy();
    let strace = t.begin(under(t, &trace, &["-P", &path, "-e", &fault], words)?)?;
    let mut stopped = false;
    until("the command is stopped or ends", || {
        // the line comes when it has stopped for good
        stopped = fs::read_to_string(&trace).is_ok_and(|text| text.contains("--- stopped by SIGSTOP ---"));
        Ok(stopped || !strace.goes_on_after(Duration::ZERO)?)
    })?;
    if !stopped {
        return Ok(Step::Ended(strace.end()?));
    }
    let strace_pid = strace.pid()?.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{strace_pid}/task/{strace_pid}/children"))?;
    let tracee = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw).context("a tracee")?;
    Ok(Step::Stopped(Stopped { strace: Some(strace), tracee }))
}

impl Stopped {
    /// Lets it go on, while the test does something else.
    pub fn wake(&self) {
        // it may have been killed meanwhile
        let _ = kill_process(self.tracee, Signal::CONT);
    }

    /// Lets it go on, and waits for its end.
    ///
    /// # Errors
    /// It does not end.
    pub fn go_on(mut self) -> Result<Output> {
        self.wake();
        self.strace.take().context("it was waited for")?.end()
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.strace.is_some() {
            // strace would leave it stopped
            let _ = kill_process(self.tracee, Signal::KILL);
        }
    }
}
