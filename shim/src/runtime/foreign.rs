//! Another runtime's program (`BinaryName`: runc, crun, …), executed as containerd's own shim does it. Runs in a worker, which
//! waits for it; what it leaves running becomes the daemon's.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libcontainer::error::{Doing, Error, Kind, Result};
use masu_host::fds;

use crate::bundle::PID_FILE;
use crate::rpc::messages::Answer;
use crate::worker::Done;

/// A runtime that is executed.
#[derive(Debug, Clone)]
pub(crate) struct Foreign {
    pub(crate) program: String,
    pub(crate) root: PathBuf,
    pub(crate) systemd_cgroup: bool,
    pub(crate) no_pivot: bool,
    pub(crate) no_new_keyring: bool,
}

impl Foreign {
    fn command(&self, bundle: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root).arg("--log").arg(bundle.join("log.json")).args(["--log-format", "json"]);
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command.current_dir(bundle);
        command
    }

    /// Runs a verb that has no streams; what it printed.
    pub(crate) fn run(&self, bundle: &Path, words: &[&str]) -> Result<Vec<u8>> {
        let mut command = self.command(bundle);
        command.args(words).stdin(Stdio::null());
        let output = command.output().doing(|| format!("run {}", self.program))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(self.failure(bundle, &format!("{}: {}", said.trim(), words_of(output.status))))
    }

    /// Runs a verb whose process gets this worker's streams.
    fn launch(&self, mut command: Command, bundle: &Path, pid_file: &Path, console: Option<Console>) -> Result<Done> {
        let status = command.status().doing(|| format!("run {}", self.program))?;
        if !status.success() {
            return Err(self.failure(bundle, &words_of(status)));
        }
        let terminal = console.map(|c| c.receive()).transpose()?;
        let text = fs::read_to_string(pid_file).doing(|| format!("read {}", pid_file.display()))?;
        let pid = text.trim().parse().map_err(|_| Error::new(Kind::Internal, format!("{} holds no pid: {text:?}", pid_file.display())))?;
        Ok((Answer { pid, ..Answer::default() }, terminal))
    }

    pub(crate) fn create(&self, id: &str, bundle: &Path, terminal: bool) -> Result<Done> {
        let pid_file = bundle.join(PID_FILE);
        let mut command = self.command(bundle);
        command.arg("create").arg("--bundle").arg(bundle).arg("--pid-file").arg(&pid_file);
        if self.no_pivot {
            command.arg("--no-pivot");
        }
        if self.no_new_keyring {
            command.arg("--no-new-keyring");
        }
        let console = Console::maybe(terminal, &mut command)?;
        command.arg(id);
        let (mut answer, terminal) = self.launch(command, bundle, &pid_file, console)?;
        answer.payload = vec![u8::from(shares_pids(bundle))];
        Ok((answer, terminal))
    }

    pub(crate) fn exec(&self, names: (&str, &str), bundle: &Path, document: &[u8], terminal: bool) -> Result<Done> {
        let (id, exec_id) = names;
        let (spec, pid_file) = (bundle.join(format!("{exec_id}.json")), bundle.join(format!("{exec_id}.pid")));
        write(&spec, document)?;
        let mut command = self.command(bundle);
        command.arg("exec").arg("--process").arg(&spec).arg("--pid-file").arg(&pid_file).arg("--detach");
        let result = Console::maybe(terminal, &mut command).and_then(|console| {
            command.arg(id);
            self.launch(command, bundle, &pid_file, console)
        });
        for file in [spec, pid_file] {
            // containerd removes the bundle, should it stay
            let _ = fs::remove_file(file);
        }
        result
    }

    pub(crate) fn update(&self, id: &str, bundle: &Path, document: &[u8]) -> Result<()> {
        let file = bundle.join("resources.json");
        write(&file, document)?;
        let path = file.to_string_lossy().into_owned();
        let result = self.run(bundle, &["update", "--resources", &path, id]);
        let _ = fs::remove_file(file);
        result.map(drop)
    }

    pub(crate) fn pids(&self, id: &str, bundle: &Path) -> Result<Vec<i32>> {
        let text = self.run(bundle, &["ps", "--format", "json", id])?;
        let pids: Option<Vec<i32>> = serde_json::from_slice(&text).map_err(|e| Error::new(Kind::Internal, format!("ps: {e}")))?;
        Ok(pids.unwrap_or_default())
    }

    /// The last error that it logged, else what is known otherwise.
    fn failure(&self, bundle: &Path, otherwise: &str) -> Error {
        let log = fs::read_to_string(bundle.join("log.json")).unwrap_or_default();
        let last = log.lines().rev().find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            (line.get("level")? == "error").then(|| line.get("msg")?.as_str().map(str::to_owned)).flatten()
        });
        Error::new(Kind::Os, last.unwrap_or_else(|| format!("{} failed: {otherwise}", self.program)))
    }
}

fn words_of(status: std::process::ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "no status".into(),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let doing = || format!("write {}", path.display());
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).doing(doing)?;
    file.write_all(bytes).doing(doing)
}

/// Whether the config gives the container no pid namespace of its own.
fn shares_pids(bundle: &Path) -> bool {
    let config: serde_json::Value =
        fs::read(bundle.join("config.json")).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
    let namespaces = config.pointer("/linux/namespaces").and_then(|n| n.as_array());
    let own = |n: &serde_json::Value| n["type"] == "pid" && n["path"].as_str().unwrap_or_default().is_empty();
    !namespaces.is_some_and(|list| list.iter().any(own))
}

/// A socket at which the runtime hands over a terminal.
#[derive(Debug)]
struct Console {
    dir: PathBuf,
    listener: UnixListener,
}

impl Console {
    fn maybe(wanted: bool, command: &mut Command) -> Result<Option<Console>> {
        if !wanted {
            return Ok(None);
        }
        // short, as the address of a socket is
        let dir = PathBuf::from(format!("/tmp/masu-console-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&dir).doing(|| format!("make {}", dir.display()))?;
        let path = dir.join("s");
        let listener = UnixListener::bind(&path).doing(|| format!("listen at {}", path.display()))?;
        command.arg("--console-socket").arg(&path);
        Ok(Some(Console { dir, listener }))
    }

    fn receive(self) -> Result<OwnedFd> {
        let doing = || "receive the terminal";
        let (stream, _) = self.listener.accept().doing(doing)?;
        let (_, fd) = fds::receive(stream.as_fd(), &mut [0; 4096]).doing(doing)?;
        fd.ok_or_else(|| Error::new(Kind::Internal, "the runtime sent no terminal"))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
