//! Commands that go on while the test does other things, and a place at which hooks and programs wait meanwhile.

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Pid, Signal, kill_process};

use crate::runtime::{DEADLINE, Output, ended_within};

/// A command that runs; it is killed when the test drops it.
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

    /// Its number.
    ///
    /// # Errors
    /// The number is not one of a process.
    pub fn pid(&self) -> Result<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("pid of a child")
    }

    /// Whether it still runs after `limit`.
    ///
    /// # Errors
    /// The kernel refuses a pidfd.
    pub fn goes_on_after(&self, limit: Duration) -> Result<bool> {
        Ok(!ended_within(self.pid()?, limit)?)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended and was waited for.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid()?, signal).context("signal a command")
    }

    /// Waits for its end, at most until `limit` has passed.
    ///
    /// # Errors
    /// It still runs then.
    pub fn end_within(mut self, limit: Duration) -> Result<Output> {
        ensure!(!self.goes_on_after(limit)?, "still running after {limit:?}");
        let status = self.child.wait()?;
        let read = |end: &str| fs::read(self.stem.with_extension(end)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Output { status, stdout: read("out").unwrap_or_default(), stderr: read("err").unwrap_or_default() })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs at the deadline.
    pub fn end(self) -> Result<Output> {
        self.end_within(DEADLINE)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // both fail only where it has been waited for
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fifo from which nothing comes: a process that reads it waits until the test drops this.
#[derive(Debug)]
pub struct Barrier {
    path: PathBuf,
    end: Option<OwnedFd>,
}

impl Barrier {
    /// Makes the fifo `path`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn at(path: &Path) -> Result<Self> {
        mkfifoat(CWD, path, Mode::from_raw_mode(0o666)).with_context(|| format!("make {}", path.display()))?;
        // both ends, so that a reader's open does not wait and its read does
        let end: File = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { path: path.to_owned(), end: Some(end.into()) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets every reader go on, with the end of the file.
    ///
    /// # Errors
    /// The fifo cannot be replaced.
    pub fn lift(&mut self) -> Result<()> {
        // who opens it from now on finds an empty file: a fifo without a writer would keep it waiting
        let empty = self.path.with_extension("lifted");
        fs::write(&empty, "").and_then(|()| fs::rename(&empty, &self.path)).context("replace a fifo")?;
        // who is about to open the fifo itself still finds a writer
        std::thread::sleep(Duration::from_millis(50));
        self.end = None;
        Ok(())
    }
}

/// Waits until `done` says so.
///
/// # Errors
/// It does not in time, or fails.
pub fn until(doing: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !done()? {
        ensure!(begin.elapsed() < DEADLINE, "still waiting after {DEADLINE:?}: {doing}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
