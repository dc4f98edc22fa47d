//! Commands that run in the background of a test, and a barrier that blocks hooks and programs.

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Pid, Signal, kill_process};

use crate::runtime::{DEADLINE, Output, ended_within};

/// A running command. Dropping it kills the command.
#[derive(Debug)]
pub struct Background {
    child: Child,
    stem: PathBuf,
}

impl Background {
    pub(crate) fn start(mut command: Command, stem: PathBuf) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("run {command:?}"))?;
        Ok(Self { child, stem })
    }

    /// The process id.
    ///
    /// # Errors
    /// The number is not a valid process id.
    pub fn pid(&self) -> Result<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("pid of a child")
    }

    /// Whether the command still runs after `limit`.
    ///
    /// # Errors
    /// The kernel refuses a pidfd.
    pub fn goes_on_after(&self, limit: Duration) -> Result<bool> {
        Ok(!ended_within(self.pid()?, limit)?)
    }

    /// Sends the command a signal.
    ///
    /// # Errors
    /// The command has exited and was reaped.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid()?, signal).context("signal a command")
    }

    /// Waits for the command to exit, at most for `limit`.
    ///
    /// # Errors
    /// The command still runs after `limit`.
    pub fn end_within(mut self, limit: Duration) -> Result<Output> {
        ensure!(!self.goes_on_after(limit)?, "still running after {limit:?}");
        let status = self.child.wait()?;
        let read = |end: &str| fs::read(self.stem.with_extension(end)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Output { status, stdout: read("out").unwrap_or_default(), stderr: read("err").unwrap_or_default() })
    }

    /// Waits for the command to exit.
    ///
    /// # Errors
    /// The command still runs at the deadline.
    pub fn end(self) -> Result<Output> {
        self.end_within(DEADLINE)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // both calls fail only for a command that was already reaped
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fifo that nobody writes to: a process that reads it waits until the test drops the barrier.
#[derive(Debug)]
pub struct Barrier {
    path: PathBuf,
    end: Option<OwnedFd>,
}

impl Barrier {
    /// Makes the fifo `path`.
    ///
    /// # Errors
    /// The fifo cannot be made.
    pub fn at(path: &Path) -> Result<Self> {
        mkfifoat(CWD, path, Mode::from_raw_mode(0o666)).with_context(|| format!("make {}", path.display()))?;
        // open for reading and writing: a reader's open then does not block, but its read does
        let end: File = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { path: path.to_owned(), end: Some(end.into()) })
    }

    /// The path of the fifo.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets every reader continue: it reads the end of the file.
    ///
    /// # Errors
    /// The fifo cannot be replaced.
    pub fn lift(&mut self) -> Result<()> {
        // later readers find an empty file, because opening a fifo without a writer would block
        let empty = self.path.with_extension("lifted");
        fs::write(&empty, "").and_then(|()| fs::rename(&empty, &self.path)).context("replace a fifo")?;
        // time for a reader that is just opening the fifo, because it still needs a writer
        std::thread::sleep(Duration::from_millis(50));
        self.end = None;
        Ok(())
    }
}

/// Waits until `done` returns true.
///
/// # Errors
/// `done` fails, or is still false at the deadline.
pub fn until(doing: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !done()? {
        ensure!(begin.elapsed() < DEADLINE, "still waiting after {DEADLINE:?}: {doing}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
