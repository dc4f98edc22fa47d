//! The frame of one test: a folder of its own, the runtime, the guard over the host, and the record of what was skipped.

use std::cell::Cell;
use std::env;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::background::Background;
use crate::bundle::Bundle;
use crate::host::Host;
use crate::runtime::{Output, Runtime, finish, redirect};
use crate::{artifacts, cgroups, host, namespaces};

/// What a test gets: see [`check`].
#[derive(Debug)]
pub struct Test {
    /// The runtime under test.
    pub runtime: Runtime,
    /// The static payload on the host.
    pub payload: PathBuf,
    name: String,
    folder: TempDir,
    commands: Cell<u32>,
    names: Cell<u32>,
}

/// Runs `body` as one test: as root, in a folder and in mount and UTS namespaces of its own, with the runtime of `$RUNTIME`,
/// and fails it if it left mounts, cgroups, processes or files behind (see [`host`]). A machine where the test cannot run at
/// all (not root) is a skip, and a skip is recorded, never a silent pass.
#[track_caller]
pub fn check(body: impl FnOnce(&Test) -> Result<()>) {
    let name = test_name(Location::caller());
    if !rustix::process::geteuid().is_root() {
        record("SKIP", &name, "needs root");
        return;
    }
    let run = || {
        namespaces::enter()?;
        let test = Test::new(name.clone())?;
        let before = Host::before(test.token())?;
        let result = body(&test);
        if test.runtime.is("crun") {
            // compiled filters, kept for the next container
            let _ = fs::remove_dir_all(test.root().join(".cache"));
        }
        let leaves = test.runtime.is("runc") || test.runtime.is("crun");
        if leaves && host::remove_empty_cgroups(test.token()) > 0 {
            test.differs(test.runtime.kind, "leaves cgroups when it fails early");
        }
        let left = Host::look(test.token()).and_then(|after| after.same_as(&before));
        let left = left.and_then(|()| host::only_empty_folders(&test.root()));
        // the test's own failure is the cause, what stayed behind its consequence
        result.and(left.context("the host is not as before"))
    };
    if let Err(error) = run() {
        let trace = error.backtrace().to_string();
        let here: Vec<_> = trace.lines().filter(|line| line.contains("/tests/")).map(str::trim).collect();
        panic!("{name}: {error:#}\n{}", here.join("\n"));
    }
}

impl Test {
    fn new(name: String) -> Result<Self> {
        let runtime = Runtime::at(artifacts::runtime()?)?;
        let payload = artifacts::payload()?;
        let folder = tempfile::Builder::new().prefix("it-").tempdir().context("make the test's folder")?;
        // user namespaces and other users must be able to pass through
        fs::set_permissions(folder.path(), Permissions::from_mode(0o711))?;
        fs::create_dir(folder.path().join("state"))?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("become the reaper of containers")?;
        Ok(Self { runtime, payload, name, folder, commands: Cell::new(0), names: Cell::new(0) })
    }

    /// The folder of this test; it goes when the test ends.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A word that no other test has: part of the name of all that this test makes.
    pub fn token(&self) -> &str {
        self.path().file_name().and_then(OsStr::to_str).unwrap_or_default()
    }

    /// The state directory that the runtime is told to use.
    pub fn root(&self) -> PathBuf {
        self.path().join("state")
    }

    /// A name for a container, new with each call.
    pub fn new_id(&self) -> String {
        self.names.set(self.names.get() + 1);
        format!("{}-{}", self.token(), self.names.get())
    }

    /// A new bundle: see [`Bundle`].
    ///
    /// # Errors
    /// Its files cannot be made.
    pub fn bundle(&self) -> Result<Bundle> {
        self.names.set(self.names.get() + 1);
        Bundle::new(&self.path().join(format!("bundle{}", self.names.get())), &self.payload)
    }

    /// `RUNTIME --root DIR` with `words` (and with `--systemd-cgroup`, if that is the driver), to be finished by
    /// [`Test::finish`]; standard streams are `/dev/null` and files.
    ///
    /// # Errors
    /// The files of its output cannot be made.
    pub fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Command> {
        let mut command = Command::new(&self.runtime.path);
        command.arg("--root").arg(self.root());
        if cgroups::by_systemd() {
            command.arg("--systemd-cgroup");
        }
        command.args(words);
        self.commands.set(self.commands.get() + 1);
        redirect(&mut command, &self.stem())?;
        Ok(command)
    }

    /// Runs what [`Test::command`] gave last to its end.
    ///
    /// # Errors
    /// It does not start, or hangs.
    pub fn finish(&self, mut command: Command) -> Result<Output> {
        finish(&mut command, &self.stem())
    }

    /// Starts what [`Test::command`] gave last, and does not wait for it.
    ///
    /// # Errors
    /// It does not start.
    pub fn begin(&self, command: Command) -> Result<Background> {
        Background::start(command, self.stem())
    }

    /// Runs another program than the runtime to its end, with the same standard streams.
    ///
    /// # Errors
    /// It does not start, or hangs.
    pub fn run_command(&self, mut command: Command) -> Result<Output> {
        self.commands.set(self.commands.get() + 1);
        redirect(&mut command, &self.stem())?;
        self.finish(command)
    }

    /// Runs the runtime with `words` to its end.
    ///
    /// # Errors
    /// It does not start, or hangs. A failure of the command is in the output.
    pub fn runtime<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Output> {
        self.finish(self.command(words)?)
    }

    /// The command of [`Test::command`], started by the payload's `launch` with `options`: in an environment that a caller
    /// left in disorder (see the payload for the options).
    ///
    /// # Errors
    /// The files of its output cannot be made.
    pub fn launched<S: AsRef<OsStr>>(&self, options: &[&str], words: impl IntoIterator<Item = S>) -> Result<Command> {
        let payload = self.payload.to_string_lossy();
        self.under(&[&[&payload, "launch"], options, &["--"]].concat(), words)
    }

    /// The command of [`Test::command`] as the last words of the command `outer`.
    ///
    /// # Errors
    /// The files of its output cannot be made.
    pub fn under<S: AsRef<OsStr>>(&self, outer: &[&str], words: impl IntoIterator<Item = S>) -> Result<Command> {
        let plain = self.command(words)?;
        let mut command = Command::new(outer.first().context("a program")?);
        command.args(outer.iter().skip(1)).arg(plain.get_program()).args(plain.get_args());
        redirect(&mut command, &self.stem())?;
        Ok(command)
    }

    /// Runs `bundle` in the foreground under a new name.
    ///
    /// # Errors
    /// The runtime does not start, or hangs. A failure of the command is in the output.
    pub fn run(&self, bundle: &Bundle) -> Result<Output> {
        bundle.write()?;
        let id = self.new_id();
        let output = self.runtime(["run".as_ref(), "--bundle".as_ref(), bundle.path().as_os_str(), id.as_ref()]);
        if !matches!(&output, Ok(output) if output.status.success()) {
            // what a failed run left behind is looked for by the guard; a container that still runs would hide it
            let state = self.runtime(["state", &id])?;
            if state.status.success() {
                self.runtime(["delete", "--force", &id])?;
                bail!("the failed run left its container: {}; run: {output:?}", state.stdout);
            }
        }
        output
    }

    /// What the payload sees in `bundle`: its arguments are replaced.
    ///
    /// # Errors
    /// The run failed.
    pub fn report(&self, bundle: &mut Bundle) -> Result<serde_json::Value> {
        bundle.args(["/bin/payload", "report"]);
        self.run(bundle)?.ok()?.json()
    }

    /// Ends a test that cannot run here: recorded as `SKIP NAME: REASON`, for the runner to count.
    ///
    /// # Errors
    /// None; it returns what the test's body returns.
    pub fn skip(&self, reason: &str) -> Result<()> {
        record("SKIP", &self.name, reason);
        Ok(())
    }

    /// Is the runtime under test `which` (see [`Runtime::is`]), which is known to differ here for `reason`? Recorded as
    /// `DIFFERS NAME: WHICH: REASON`.
    pub fn differs(&self, which: &str, reason: &str) -> bool {
        let differs = self.runtime.is(which);
        if differs {
            record("DIFFERS", &self.name, &format!("{which}: {reason}"));
        }
        differs
    }

    fn stem(&self) -> PathBuf {
        self.path().join(format!("command{}", self.commands.get()))
    }
}

/// One line on standard error, past the capture of the test runner, and in the file `$TEST_RECORD` for the runner of CI.
fn record(what: &str, name: &str, reason: &str) {
    let line = format!("{what} {name}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(file) = env::var_os("TEST_RECORD")
        && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(file)
    {
        let _ = file.write_all(line.as_bytes());
    }
}

/// The name of the running test: its thread's, or nextest's where it runs on the main thread.
fn test_name(caller: &Location<'_>) -> String {
    let file = Path::new(caller.file()).file_stem().unwrap_or_default().to_string_lossy();
    let thread = std::thread::current();
    let name = thread.name().filter(|name| *name != "main").map(str::to_owned).or_else(|| env::var("NEXTEST_TEST_NAME").ok());
    format!("{file}::{}", name.unwrap_or_else(|| format!("line_{}", caller.line())))
}
