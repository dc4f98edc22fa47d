//! The runtime under test as a program: its kind and version, and its commands, each with a deadline. Output goes to files,
//! because a pipe would stay open as long as a container that inherited it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The time limit of one command, far above what any of them needs.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A runtime's program, kind and version.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// The absolute path of the program.
    pub path: PathBuf,
    /// `runc`, `crun`, `youki`, or `masu` for any other.
    pub kind: &'static str,
    /// The version as numbers: `1.3.6+ds1` is `[1, 3, 6]`.
    pub version: Vec<u32>,
}

/// The result of a finished command.
#[derive(Debug)]
pub struct Output {
    /// The wait status.
    pub status: ExitStatus,
    /// The standard output.
    pub stdout: String,
    /// The standard error.
    pub stderr: String,
}

impl Runtime {
    /// Finds out by `--version` which runtime the program at `path` is.
    ///
    /// # Errors
    /// The program does not run, or `--version` fails.
    pub fn at(path: PathBuf) -> Result<Self> {
        let output = Command::new(&path).arg("--version").stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("run {} --version", path.display()))?;
        if !output.status.success() {
            bail!("{} --version: {}", path.display(), output.status);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let kind = ["crun", "runc", "youki"].into_iter().find(|kind| name.starts_with(kind)).unwrap_or("masu");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().next().and_then(|line| line.split_whitespace().last()).unwrap_or_default();
        let version = version.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok()).collect();
        Ok(Self { path, kind, version })
    }

    /// Whether `which` names this runtime. `runc` names every runc, `runc<1.4` only older ones.
    pub fn is(&self, which: &str) -> bool {
        let (kind, before) = which.split_once('<').unwrap_or((which, ""));
        let before: Vec<u32> = before.split('.').map_while(|part| part.parse().ok()).collect();
        self.kind == kind && (before.is_empty() || self.version < before)
    }
}

impl Output {
    /// Fails unless the command exited with 0.
    ///
    /// # Errors
    /// The standard error of the command.
    pub fn ok(self) -> Result<Self> {
        self.exits(0)
    }

    /// Fails unless the command exited with `code`.
    ///
    /// # Errors
    /// The wait status and the output of the command.
    pub fn exits(self, code: i32) -> Result<Self> {
        if self.status.code() == Some(code) {
            return Ok(self);
        }
        bail!("{} instead of exit code {code}\nstdout: {}\nstderr: {}", self.status, self.stdout.trim_end(), self.stderr.trim_end())
    }

    /// Fails unless the command exited with a code other than 0 and its standard error contains `text`.
    ///
    /// # Errors
    /// The wait status and the output of the command.
    pub fn fails_with(self, text: &str) -> Result<Self> {
        if self.status.code().is_some_and(|code| code != 0) && self.stderr.to_lowercase().contains(&text.to_lowercase()) {
            return Ok(self);
        }
        bail!("{} instead of a failure with {text:?}\nstdout: {}\nstderr: {}", self.status, self.stdout.trim_end(), self.stderr.trim_end())
    }

    /// Standard output as JSON.
    ///
    /// # Errors
    /// The output is not JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("parse {:?} as JSON (stderr: {:?})", self.stdout, self.stderr))
    }
}

/// Runs `command` to its end. Standard output and error are files named after `stem`. Standard input is `/dev/null`, unless the
/// caller of [`redirect`] changed it afterwards.
///
/// # Errors
/// The command does not start, or still runs after [`DEADLINE`] and is killed.
pub fn finish(command: &mut Command, stem: &Path) -> Result<Output> {
    let name = format!("{command:?}");
    let mut child = command.spawn().with_context(|| format!("run {name}"))?;
    let status = wait(&mut child).with_context(|| name.clone())?;
    let read = |end: &str| fs::read(stem.with_extension(end)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    Ok(Output { status, stdout: read("out"), stderr: read("err") })
}

/// Points the standard streams of `command` at `/dev/null` and at the files `STEM.out` and `STEM.err`.
///
/// # Errors
/// The files cannot be made.
pub fn redirect(command: &mut Command, stem: &Path) -> Result<()> {
    let file = |end: &str| File::create(stem.with_extension(end)).with_context(|| format!("create {}.{end}", stem.display()));
    command.stdin(Stdio::null()).stdout(file("out")?).stderr(file("err")?);
    Ok(())
}

/// Waits for `child`, at most until the deadline.
///
/// # Errors
/// The child still ran after [`DEADLINE`] and was killed.
pub fn wait(child: &mut Child) -> Result<ExitStatus> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("pid of a child")?;
    if !ended_within(pid, DEADLINE)? {
        child.kill()?;
        child.wait()?;
        bail!("still running after {DEADLINE:?}: a hang");
    }
    Ok(child.wait()?)
}

/// Waits until `pid` has exited, without reaping it. False if `limit` passed before. A missing process counts as exited.
///
/// # Errors
/// The kernel refuses a pidfd.
pub fn ended_within(pid: Pid, limit: Duration) -> Result<bool> {
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        Err(error) => return Err(error).context("pidfd_open"),
    };
    readable_within(&pidfd, limit)
}

/// Waits until `fd` is readable or its peer is gone. False if `limit` passed before.
///
/// # Errors
/// poll(2) failed.
pub fn readable_within(fd: &impl std::os::fd::AsFd, limit: Duration) -> Result<bool> {
    let limit = Timespec { tv_sec: i64::try_from(limit.as_secs())?, tv_nsec: i64::from(limit.subsec_nanos()) };
    loop {
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&limit)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_what_it_is_called_and_older_than_newer_ones() {
        let runtime = Runtime { path: PathBuf::new(), kind: "runc", version: vec![1, 3, 6] };
        for (which, expected) in
            [("runc", true), ("crun", false), ("runc<1.4", true), ("runc<1.3", false), ("runc<1.3.7", true), ("crun<2", false)]
        {
            assert_eq!(runtime.is(which), expected, "{which}");
        }
    }
}
