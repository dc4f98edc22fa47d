//! A container of a test, which runs it through the runtime's commands. Dropping it deletes the container by force. As the test
//! is a subreaper, init becomes the test's child, as it would become a shim's.

use std::ffi::OsStr;
use std::io::{PipeReader, Read, pipe};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde_json::Value;

use crate::bundle::Bundle;
use crate::runtime::{DEADLINE, Output, ended_within, readable_within};
use crate::test::Test;

/// A container of one test.
#[derive(Debug)]
pub struct Container<'t> {
    test: &'t Test,
    /// The container's id.
    pub id: String,
    /// The pid of init.
    pub pid: Pid,
    output: PipeReader,
    exit: Option<i32>,
    deleted: bool,
}

impl<'t> Container<'t> {
    /// Creates a container of `bundle`. Its standard output is a pipe to the test, and its standard error is a file.
    ///
    /// # Errors
    /// The runtime failed, or wrote no pid file.
    pub fn create(test: &'t Test, bundle: &Bundle) -> Result<Self> {
        Self::make(test, bundle, "create", |_| {})
    }

    /// Creates and starts a container of `bundle`.
    ///
    /// # Errors
    /// As [`Container::create`] and [`Container::start`].
    pub fn start_of(test: &'t Test, bundle: &Bundle) -> Result<Self> {
        let container = Self::create(test, bundle)?;
        container.start()?.ok()?;
        Ok(container)
    }

    /// Creates a container of `bundle` whose cgroup systemd makes.
    ///
    /// # Errors
    /// As [`Container::create`].
    pub fn systemd(test: &'t Test, bundle: &Bundle) -> Result<Self> {
        Self::of(test, bundle, &["--systemd-cgroup", "create"], |_| {})
    }

    /// Creates (`verb` is `create`) or runs detached (`run`) a container of `bundle`. `change` adds flags and environment.
    ///
    /// # Errors
    /// The runtime failed, or wrote no pid file.
    pub fn make(test: &'t Test, bundle: &Bundle, verb: &str, change: impl FnOnce(&mut Command)) -> Result<Self> {
        Self::of(test, bundle, &[verb], change)
    }

    fn of(test: &'t Test, bundle: &Bundle, verb: &[&str], change: impl FnOnce(&mut Command)) -> Result<Self> {
        bundle.write()?;
        let id = test.new_id();
        let pid_file = test.path().join(format!("{id}.pid"));
        let mut command = test.command(verb)?;
        let (output, writer) = pipe()?;
        command.arg("--bundle").arg(bundle.path()).arg("--pid-file").arg(&pid_file);
        if verb.contains(&"run") {
            command.arg("--detach");
        }
        command.stdout(writer);
        change(&mut command);
        command.arg(&id);
        let ended = test.finish(command);
        let pid = match ended.and_then(Output::ok).and_then(|_| read_pid(&pid_file)) {
            Ok(pid) => pid,
            Err(error) => {
                test.runtime(["delete", "--force", &id])?;
                return Err(error);
            }
        };
        Ok(Self { test, id, pid, output, exit: None, deleted: false })
    }

    /// `start`.
    ///
    /// # Errors
    /// The runtime does not run, or hangs. A failure of the command is in the output.
    pub fn start(&self) -> Result<Output> {
        self.test.runtime(["start", &self.id])
    }

    /// The output of `state`.
    ///
    /// # Errors
    /// The command failed.
    pub fn state(&self) -> Result<Value> {
        self.test.runtime(["state", &self.id])?.ok()?.json()
    }

    /// The status in [`Container::state`].
    ///
    /// # Errors
    /// The command failed.
    pub fn status(&self) -> Result<String> {
        Ok(self.state()?["status"].as_str().context("a status in the state")?.to_owned())
    }

    /// `kill ID SIGNAL`.
    ///
    /// # Errors
    /// The runtime does not run, or hangs. A failure of the command is in the output.
    pub fn kill(&self, signal: &str) -> Result<Output> {
        self.test.runtime(["kill", &self.id, signal])
    }

    /// Runs `VERB ID`, for commands without further operands: `pause`, `resume`, `ps`.
    ///
    /// # Errors
    /// The runtime does not run, or hangs. A failure of the command is in the output.
    pub fn command(&self, verb: &str) -> Result<Output> {
        self.test.runtime([verb, &self.id])
    }

    /// Runs `delete ID`. After a success, dropping the container does nothing more.
    ///
    /// # Errors
    /// The runtime does not run, or hangs. A failure of the command is in the output.
    pub fn delete(&mut self) -> Result<Output> {
        let output = self.test.runtime(["delete", &self.id])?;
        self.deleted = output.status.success();
        Ok(output)
    }

    /// `delete --force ID`.
    ///
    /// # Errors
    /// The runtime does not run, or hangs. A failure of the command is in the output.
    pub fn delete_by_force(&mut self) -> Result<Output> {
        let output = self.test.runtime(["delete", "--force", &self.id])?;
        self.deleted = output.status.success();
        Ok(output)
    }

    /// `exec` with `flags`, then the id, then `args`, in the foreground.
    ///
    /// # Errors
    /// The runtime does not run, or hangs. A failure of the command is in the output.
    pub fn exec<S: AsRef<OsStr>>(&self, flags: &[&str], args: impl IntoIterator<Item = S>) -> Result<Output> {
        let mut command = self.test.command(["exec"])?;
        command.args(flags).arg(&self.id).args(args);
        self.test.finish(command)
    }

    /// The payload's report when executed with `flags`.
    ///
    /// # Errors
    /// The command failed.
    pub fn exec_report(&self, flags: &[&str]) -> Result<Value> {
        self.exec(flags, ["/bin/payload", "report"])?.ok()?.json()
    }

    /// Waits for init to exit and reaps it. Returns its exit code, or 128 + n after signal n.
    ///
    /// # Errors
    /// Init still runs at the deadline, or is not a child of the test.
    pub fn wait(&mut self) -> Result<i32> {
        if let Some(code) = self.exit {
            return Ok(code);
        }
        ensure!(ended_within(self.pid, DEADLINE)?, "init of {} still runs after {DEADLINE:?}", self.id);
        let (_, status) = waitpid(Some(self.pid), WaitOptions::empty()).context("wait for init")?.context("init has ended")?;
        let code = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => code,
            (_, Some(signal)) => 128 + signal,
            _ => bail!("init of {} neither exited nor was killed", self.id),
        };
        self.exit = Some(code);
        Ok(code)
    }

    /// The next line of the container's standard output, without the newline.
    ///
    /// # Errors
    /// No line came before the deadline or the end of the output.
    pub fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            ensure!(readable_within(&self.output, DEADLINE)?, "no line from {} after {DEADLINE:?}", self.id);
            ensure!(self.output.read(&mut byte)? == 1, "{} closed its output after {:?}", self.id, String::from_utf8_lossy(&line));
            if byte == *b"\n" {
                return Ok(String::from_utf8(line)?);
            }
            line.extend(byte);
        }
    }

    /// The rest of the container's standard output.
    ///
    /// # Errors
    /// A process keeps the pipe open beyond the deadline.
    pub fn rest(&mut self) -> Result<String> {
        let mut text = Vec::new();
        let mut part = [0; 4096];
        loop {
            ensure!(readable_within(&self.output, DEADLINE)?, "the output of {} stays open", self.id);
            match self.output.read(&mut part)? {
                0 => return Ok(String::from_utf8_lossy(&text).into_owned()),
                length => text.extend(part.iter().take(length)),
            }
        }
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if !self.deleted {
            // the guard reports a container that could not be deleted
            let _ = self.test.runtime(["delete", "--force", &self.id]);
        }
        if self.exit.is_none() {
            let _ = waitpid(Some(self.pid), WaitOptions::NOHANG);
        }
    }
}

fn read_pid(file: &Path) -> Result<Pid> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    // callers parse the pid file with functions that refuse white space
    text.parse().ok().and_then(Pid::from_raw).with_context(|| format!("a pid and nothing else in the pid file: {text:?}"))
}
