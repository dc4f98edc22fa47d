//! Hooks: programs of the host or of the container that run at points of the lifecycle (config.md, "POSIX-platform Hooks").

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::error::{Doing, Error, Kind, Result};
use crate::findings::Findings;
use crate::outline::Outline;
use crate::spec;
use masu_host::pidfd::wait_for_end;
use masu_host::sys::signal::{end_with_us, unblock_in};

/// How much of a hook's output goes into the text of its error, in bytes of each stream.
const MAX_OUTPUT: usize = 1024;

/// One hook, checked.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Hook {
    path: String,
    args: Vec<String>,
    /// `None`: the environment of the process that runs it.
    env: Option<Vec<String>>,
    timeout: Option<u64>,
}

/// Files for the output of hooks. Without them, the output goes into the text of a failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Output {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
}

/// The open files of [`Output`].
#[derive(Debug, Default)]
pub(crate) struct Opened {
    stdout: Option<File>,
    stderr: Option<File>,
}

impl Output {
    /// Whether no file is named.
    pub(crate) fn is_default(&self) -> bool {
        *self == Output::default()
    }

    /// Opens the files to append, and makes missing ones.
    pub(crate) fn open(&self) -> Result<Opened> {
        let open = |path: &Option<String>| {
            let file = |path: &String| {
                File::options().append(true).create(true).mode(0o600).open(path).doing(|| format!("open {path} for the output of hooks"))
            };
            path.as_ref().map(file).transpose()
        };
        Ok(Opened { stdout: open(&self.stdout)?, stderr: open(&self.stderr)? })
    }
}

impl Opened {
    /// The numbers of the descriptors, for the list of descriptors that a child keeps.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.stdout.iter().chain(&self.stderr).map(|file| file.as_raw_fd() as u32)
    }
}

/// The hooks of all six kinds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Hooks {
    pub prestart: Vec<Hook>,
    pub create_runtime: Vec<Hook>,
    pub create_container: Vec<Hook>,
    pub start_container: Vec<Hook>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
}

impl Hooks {
    /// Checks paths, strings and timeouts.
    pub(crate) fn plan(hooks: &spec::Hooks, found: &mut Findings) -> Hooks {
        let mut list = |kind: &str, list: &[spec::Hook]| {
            let each = list.iter().enumerate();
            each.filter_map(|(i, hook)| found.at(format_args!("hooks.{kind}[{i}]"), Hook::plan(kind, hook))).collect()
        };
        Hooks {
            prestart: list("prestart", &hooks.prestart),
            create_runtime: list("createRuntime", &hooks.create_runtime),
            create_container: list("createContainer", &hooks.create_container),
            start_container: list("startContainer", &hooks.start_container),
            poststart: list("poststart", &hooks.poststart),
            poststop: list("poststop", &hooks.poststop),
        }
    }

    /// Whether there is no hook.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Hooks::default()
    }

    /// Whether init and the runtime must wait for each other before the pivot: one of them runs hooks, or needs the pid of
    /// init.
    pub(crate) fn meet(&self) -> bool {
        !(self.prestart.is_empty() && self.create_runtime.is_empty() && self.create_container.is_empty() && self.start_container.is_empty())
    }
}

impl Hook {
    fn plan(kind: &str, hook: &spec::Hook) -> Result<Hook> {
        let invalid = |why: &str| Err(Error::invalid(format!("hooks.{kind}: {:?}: {why}", hook.path)));
        if !hook.path.starts_with('/') {
            return invalid("the path of a hook must be absolute");
        }
        let env = hook.env.as_deref().unwrap_or_default();
        if [&hook.path].into_iter().chain(&hook.args).chain(env).any(|s| s.contains('\0')) {
            return invalid("a string of it holds a NUL byte");
        }
        let timeout = match hook.timeout {
            None => None,
            Some(seconds @ 1..) => Some(seconds as u64),
            Some(_) => return invalid("timeout must be greater than zero seconds"),
        };
        Ok(Hook { path: hook.path.clone(), args: hook.args.clone(), env: hook.env.clone(), timeout })
    }

    pub(crate) fn describe(&self) -> Outline {
        let Hook { path, args, env, timeout } = self;
        let env = env.as_ref().map_or(&[][..], Vec::as_slice);
        Outline::Map(vec![
            ("program", Outline::Text(path.clone())),
            ("arguments", Outline::Words(args.clone())),
            ("environment", Outline::Words(env.to_vec())),
            ("seconds", timeout.map_or(Outline::Nothing, Outline::Number)),
        ])
    }

    /// Runs the hook. With `ends_with_us`, the hook is killed when the runtime is killed.
    fn run(
        &self,
        state: &[u8],
        cwd: Option<&str>,
        default_env: Option<&[(String, String)]>,
        output: &Opened,
        ends_with_us: bool,
    ) -> Result<()> {
        // files in memory in place of pipes: so a hook that reads nothing, or prints much, does not block
        let stdin = memory("hook-stdin")?;
        let mut input = File::from(stdin);
        input.write_all(state)?;
        input.rewind()?;
        let (mut out, mut err) = (File::from(memory("hook-stdout")?), File::from(memory("hook-stderr")?));
        let mut command = Command::new(&self.path);
        if let Some((name, args)) = self.args.split_first() {
            command.arg0(name).args(args);
        }
        match (&self.env, default_env) {
            (Some(env), _) => {
                command.env_clear().envs(env.iter().filter_map(|e| e.split_once('=')));
            }
            (None, Some(env)) => {
                command.env_clear().envs(env.iter().map(|(k, v)| (k, v)));
            }
            (None, None) => {}
        }
        if let Some(cwd) = cwd {
            command.current_dir(cwd);
        }
        let (stdout, stderr) = (output.stdout.as_ref().unwrap_or(&out), output.stderr.as_ref().unwrap_or(&err));
        command.stdin(input).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?).process_group(0);
        unblock_in(&mut command);
        if ends_with_us {
            end_with_us(&mut command);
        }
        let mut child = command.spawn().map_err(Error::from).doing(|| format!("fork/exec {}", self.path))?;
        let status = match self.timeout {
            None => child.wait()?,
            Some(seconds) => {
                let pid = Pid::from_raw(child.id() as i32).ok_or(rustix::io::Errno::SRCH)?;
                let ended = wait_for_end(&rustix::process::pidfd_open(pid, PidfdFlags::empty())?, Duration::from_secs(seconds))?;
                if !ended {
                    // kills its children, too, because it leads a process group
                    rustix::process::kill_process_group(pid, Signal::KILL)?;
                    child.wait()?;
                    return Err(Error::new(Kind::Hook, format!("hook ran past specified timeout of {seconds}.0s")));
                }
                child.wait()?
            }
        };
        if status.success() {
            return Ok(());
        }
        Err(Error::new(Kind::Hook, format!("{}, stdout: {}, stderr: {}", words(status), head(&mut out), head(&mut err))))
    }
}

/// Runs the hooks of one kind in order; each gets `state` on its stdin. The first failure ends this.
pub(crate) fn run(
    kind: &str,
    hooks: &[Hook],
    state: &[u8],
    cwd: Option<&str>,
    default_env: Option<&[(String, String)]>,
    output: &Opened,
) -> Result<()> {
    // a `delete --force` that kills a create must not leave its hook running
    let ends_with_us = matches!(kind, "prestart" | "createRuntime");
    for (i, hook) in hooks.iter().enumerate() {
        hook.run(state, cwd, default_env, output, ends_with_us).doing(|| format!("error running {kind} hook #{i}"))?;
    }
    Ok(())
}

/// Runs all hooks of one kind in order, even after a failure. A failure is a warning (runtime.md, "Lifecycle", 13).
pub(crate) fn run_each(kind: &str, hooks: &[Hook], state: &[u8], cwd: &str, output: &Opened) {
    for (i, hook) in hooks.iter().enumerate() {
        if let Err(e) = hook.run(state, Some(cwd), None, output, false).doing(|| format!("error running {kind} hook #{i}")) {
            log::warn!("{e}");
        }
    }
}

fn memory(name: &str) -> Result<OwnedFd> {
    rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).doing(|| format!("make {name}"))
}

/// The text of an exit status as in Go's os/exec, because tests of callers read it.
fn words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(number)) => {
            let core = if status.core_dumped() { " (core dumped)" } else { "" };
            match SIGNALS.iter().find(|(signal, _)| *signal == number) {
                Some((_, name)) => format!("signal: {name}{core}"),
                None => format!("signal: signal {number}{core}"),
            }
        }
        (None, None) => "it ended".to_owned(),
    }
}

/// The texts of Go's package syscall for signals that end a program.
const SIGNALS: [(i32, &str); 23] = [
    (libc::SIGHUP, "hangup"),
    (libc::SIGINT, "interrupt"),
    (libc::SIGQUIT, "quit"),
    (libc::SIGILL, "illegal instruction"),
    (libc::SIGTRAP, "trace/breakpoint trap"),
    (libc::SIGABRT, "aborted"),
    (libc::SIGBUS, "bus error"),
    (libc::SIGFPE, "floating point exception"),
    (libc::SIGKILL, "killed"),
    (libc::SIGUSR1, "user defined signal 1"),
    (libc::SIGSEGV, "segmentation fault"),
    (libc::SIGUSR2, "user defined signal 2"),
    (libc::SIGPIPE, "broken pipe"),
    (libc::SIGALRM, "alarm clock"),
    (libc::SIGTERM, "terminated"),
    (libc::SIGSTKFLT, "stack fault"),
    (libc::SIGXCPU, "CPU time limit exceeded"),
    (libc::SIGXFSZ, "file size limit exceeded"),
    (libc::SIGVTALRM, "virtual timer expired"),
    (libc::SIGPROF, "profiling timer expired"),
    (libc::SIGIO, "I/O possible"),
    (libc::SIGPWR, "power failure"),
    (libc::SIGSYS, "bad system call"),
];

fn head(file: &mut File) -> String {
    let mut text = Vec::new();
    let read = file
        .rewind()
        .and_then(|()| file.as_fd().try_clone_to_owned())
        .and_then(|fd| File::from(fd).take(MAX_OUTPUT as u64).read_to_end(&mut text));
    match read {
        Ok(_) => String::from_utf8_lossy(&text).trim_end().replace('\n', "\\n"),
        Err(e) => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(json: &str) -> Result<Hook> {
        Hook::plan("prestart", &serde_json::from_str(json).unwrap())
    }

    #[test]
    fn bad_hooks_are_refused() {
        for (json, text) in [
            (r#"{}"#, "must be absolute"),
            (r#"{"path":"bin/true"}"#, "must be absolute"),
            (r#"{"path":"/x","timeout":0}"#, "greater than zero"),
            (r#"{"path":"/x","timeout":-1}"#, "greater than zero"),
            (r#"{"path":"/x","args":["a\u0000"]}"#, "NUL byte"),
        ] {
            let e = hook(json).unwrap_err();
            assert!(e.to_string().contains(text), "{json}: {e}");
        }
    }

    #[test]
    fn a_hook_gets_the_state_and_its_failure_is_told() {
        let sh = |script: &str| hook(&format!(r#"{{"path":"/bin/sh","args":["sh","-c",{script:?}],"timeout":5}}"#)).unwrap();
        run("x", &[sh("test \"$(cat)\" = state")], b"state", None, None, &Opened::default()).unwrap();
        let e = run("createRuntime", &[sh("true"), sh("echo out; echo err >&2; exit 3")], b"", None, None, &Opened::default()).unwrap_err();
        assert_eq!(e.to_string(), "error running createRuntime hook #1: exit status 3, stdout: out, stderr: err");
        let e = run("x", &[sh("kill -KILL $$")], b"", None, None, &Opened::default()).unwrap_err();
        assert_eq!(e.to_string(), "error running x hook #0: signal: killed, stdout: , stderr: ");
        let e = run("x", &[hook(r#"{"path":"/no/such/hook"}"#).unwrap()], b"", None, None, &Opened::default()).unwrap_err();
        assert_eq!(e.to_string(), "error running x hook #0: fork/exec /no/such/hook: no such file or directory");
    }

    #[test]
    fn output_goes_to_the_files_that_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("out"), "before\n").unwrap();
        let output = Output { stdout: Some(path("out")), stderr: Some(path("err")) };
        let h = hook(r#"{"path":"/bin/sh","args":["sh","-c","echo o; echo e >&2; exit 1"]}"#).unwrap();
        let e = run("x", &[h], b"", None, None, &output.open().unwrap()).unwrap_err();
        assert_eq!(e.to_string(), "error running x hook #0: exit status 1, stdout: , stderr: ");
        let read = |name: &str| std::fs::read_to_string(path(name)).unwrap();
        assert_eq!((read("out").as_str(), read("err").as_str()), ("before\no\n", "e\n"));
        let nowhere = Output { stdout: Some("/no/such/folder/x".into()), ..Output::default() };
        assert!(nowhere.open().unwrap_err().to_string().contains("open /no/such/folder/x for the output of hooks"));
    }

    #[test]
    fn a_hook_that_hangs_is_killed_with_its_children() {
        let h = hook(r#"{"path":"/bin/sh","args":["sh","-c","sleep 30 & sleep 30"],"timeout":1}"#).unwrap();
        let e = run("x", &[h], &vec![b'x'; 1 << 20], None, None, &Opened::default()).unwrap_err();
        assert_eq!(e.to_string(), "error running x hook #0: hook ran past specified timeout of 1.0s");
    }
}
