//! What a worker does: the verbs of a runtime, by libcontainer, or by another runtime's program that the options name.

mod foreign;
pub(crate) mod stats;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use libcontainer::container::{self, Container, CreateOptions, ExecOptions, Listed};
use libcontainer::error::{Error, Kind};
use libcontainer::spec::{self, Resources};

use crate::bundle::{PID_FILE, group_in};
use crate::io::stdio::{self, Inner};
use crate::rootfs::mount;
use crate::rootfs::plan::Plan;
use crate::rpc::frame::{code, status};
use crate::rpc::messages::{Answer, CreateRequest, Options, Status};
use crate::worker::Done;
use foreign::Foreign;

/// The runtime of one container.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    /// Executed instead of calling libcontainer.
    pub(crate) foreign: Option<Foreign>,
    root: PathBuf,
    no_pivot: bool,
    no_new_keyring: bool,
    systemd_cgroup: bool,
    /// Gets the pipes.
    pub(crate) owner: (u32, u32),
}

/// How containerd's shim words it.
pub(crate) const MOUNT_FAILED: &str = "failed to mount rootfs component";
/// Where libcontainer's own records are, for the containers of one namespace of containerd's.
const ROOT: &str = "/run/containerd/masu";
/// The root that containerd's own shim gives to other runtimes.
const FOREIGN_ROOT: &str = "/run/containerd/runc";

impl Runtime {
    pub(crate) fn new(options: &Options, namespace: &str) -> Runtime {
        let name = options.binary_name.rsplit('/').next().unwrap_or_default();
        let is_own = matches!(name, "" | "masu");
        let root = if options.root.is_empty() { if is_own { ROOT } else { FOREIGN_ROOT } } else { &options.root };
        let root = Path::new(root).join(namespace);
        let foreign = (!is_own).then(|| Foreign {
            program: options.binary_name.clone(),
            root: root.clone(),
            systemd_cgroup: options.systemd_cgroup,
            no_pivot: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
        });
        Runtime {
            foreign,
            root,
            no_pivot: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            systemd_cgroup: options.systemd_cgroup,
            owner: (options.io_uid, options.io_gid),
        }
    }

    /// The container of libcontainer's, for what the daemon watches itself.
    pub(crate) fn open(&self, id: &str) -> libcontainer::error::Result<Container> {
        container::Runtime::new(&self.root).open(id)
    }

    pub(crate) fn create(&self, request: &CreateRequest, plans: &[Plan], streams: Inner, namespace: &str) -> Result<Done, Status> {
        let rootfs = Path::new(&request.bundle).join("rootfs");
        mount::mount_all(plans, &rootfs).map_err(|e| failed(MOUNT_FAILED, &e))?;
        let id = &request.id;
        let result = with_streams(streams, id, namespace, || match &self.foreign {
            Some(foreign) => foreign.create(id, Path::new(&request.bundle), request.terminal),
            None => {
                let mut options = CreateOptions::new(&request.bundle);
                // `delete` tells it, however often it is called
                options.pid_file = Some(Path::new(&request.bundle).join(PID_FILE));
                options.no_pivot = self.no_pivot;
                options.no_new_keyring = self.no_new_keyring;
                options.systemd_cgroup = self.systemd_cgroup;
                options.detach = true;
                options.keeps_terminal = true;
                let (container, process) = container::Runtime::new(&self.root).create(id, &options)?;
                let answer =
                    Answer { pid: process.pid as u32, payload: vec![u8::from(container.record().shares_pids())], ..Answer::default() };
                Ok((answer, process.terminal))
            }
        });
        result.map_err(|e| {
            if !plans.is_empty() {
                mount::undo(&rootfs);
            }
            failed("OCI runtime create failed", &e)
        })
    }

    pub(crate) fn start(&self, id: &str, bundle: &str) -> Result<Done, Status> {
        let done = match &self.foreign {
            Some(foreign) => foreign.run(Path::new(bundle), &["start", id]).map(drop),
            None => self.open(id).and_then(|mut container| container.start()),
        };
        done.map(nothing).map_err(|e| failed("OCI runtime start failed", &e))
    }

    pub(crate) fn exec(
        &self,
        names: (&str, &str),
        bundle: &str,
        document: &[u8],
        terminal: bool,
        streams: Inner,
        namespace: &str,
    ) -> Result<Done, Status> {
        let (id, exec_id) = names;
        let result = with_streams(streams, id, namespace, || {
            if let Some(foreign) = &self.foreign {
                return foreign.exec(names, Path::new(bundle), document, terminal);
            }
            let mut process = spec::Process::from_slice(document).map_err(|e| e.context("process"))?;
            process.terminal = terminal;
            let mut options = ExecOptions::default();
            options.process = Some(process);
            options.detach = true;
            options.keeps_terminal = true;
            let process = self.open(id)?.exec(&options)?;
            Ok((Answer { pid: process.pid as u32, ..Answer::default() }, process.terminal))
        });
        result.map_err(|e| {
            log::debug!("exec {exec_id}: {e}");
            failed("OCI runtime exec failed: exec failed", &e)
        })
    }

    pub(crate) fn kill(&self, id: &str, bundle: &str, signal: u32, all: bool) -> Result<Done, Status> {
        let done = match &self.foreign {
            Some(foreign) => {
                let number = signal.to_string();
                let words: &[&str] = if all { &["kill", "--all", id, &number] } else { &["kill", id, &number] };
                foreign.run(Path::new(bundle), words).map(drop)
            }
            None => self.open(id).and_then(|container| container.kill(signal as i32, all)),
        };
        done.map(nothing).map_err(|e| kill_failed(&e))
    }

    pub(crate) fn pause(&self, id: &str, bundle: &str) -> Result<Done, Status> {
        let done = match &self.foreign {
            Some(foreign) => foreign.run(Path::new(bundle), &["pause", id]).map(drop),
            None => self.open(id).and_then(|container| container.pause()),
        };
        done.map(nothing).map_err(|e| failed("OCI runtime pause failed", &e))
    }

    pub(crate) fn resume(&self, id: &str, bundle: &str) -> Result<Done, Status> {
        let done = match &self.foreign {
            Some(foreign) => foreign.run(Path::new(bundle), &["resume", id]).map(drop),
            None => self.open(id).and_then(|container| container.resume()),
        };
        done.map(nothing).map_err(|e| failed("OCI runtime resume failed", &e))
    }

    pub(crate) fn update(&self, id: &str, bundle: &str, document: &[u8]) -> Result<Done, Status> {
        let done = match &self.foreign {
            Some(foreign) => foreign.update(id, Path::new(bundle), document),
            None => Resources::from_slice(document).and_then(|resources| self.open(id)?.update(&resources)),
        };
        done.map(nothing).map_err(|e| failed("OCI runtime update failed", &e))
    }

    /// Deletes the container and takes its root file system off. One that is gone already is deleted.
    pub(crate) fn delete(&self, id: &str, bundle: &str, force: bool) -> Result<Done, Status> {
        let done = match &self.foreign {
            Some(foreign) => {
                let words: &[&str] = if force { &["delete", "--force", id] } else { &["delete", id] };
                foreign.run(Path::new(bundle), words).map(drop)
            }
            None => container::Runtime::new(&self.root).delete(id, force),
        };
        match done {
            Err(e) if e.kind() != Kind::NotFound && !e.text().contains("does not exist") => {
                return Err(failed("OCI runtime delete failed", &e));
            }
            _ => {}
        }
        let rootfs = Path::new(bundle).join("rootfs");
        mount::unmount(&rootfs).map(nothing).map_err(|e| failed("failed to unmount rootfs", &e))
    }

    /// The containers of a group but the one that it is named after, with their bundles. Of another runtime there is no telling.
    pub(crate) fn members(&self, group: &str) -> Vec<(String, String)> {
        if self.foreign.is_some() {
            return Vec::new();
        }
        let of_group = |container: Listed<'_>| {
            let record = &container.record;
            let is_member = record.id != group && container.annotations().is_ok_and(|a| group_in(&a).is_some_and(|g| g == group));
            is_member.then(|| (record.id.clone(), record.bundle.clone()))
        };
        container::Runtime::new(&self.root).list().map(|all| all.filter_map(Result::ok).filter_map(of_group).collect()).unwrap_or_default()
    }

    pub(crate) fn pids(&self, id: &str, bundle: &str) -> Result<Done, Status> {
        let pids = match &self.foreign {
            Some(foreign) => foreign.pids(id, Path::new(bundle)),
            None => self.open(id).and_then(|container| container.processes()),
        };
        let pids = pids.map_err(|e| failed("OCI runtime ps failed", &e))?;
        Ok((Answer { pids: pids.into_iter().map(|pid| pid as u64).collect(), ..Answer::default() }, None))
    }

    pub(crate) fn stats(&self, id: &str, bundle: &str, pid: i32) -> Result<Done, Status> {
        let stats = match &self.foreign {
            Some(_) => stats::of_process(pid),
            None => self.open(id).and_then(|container| stats::of_container(&container)),
        };
        let payload = stats.map_err(|e| failed(&format!("stats of {bundle}"), &e))?;
        Ok((Answer { payload, ..Answer::default() }, None))
    }
}

/// Starts the logger, if there is one, puts the streams in place, and makes the process.
fn with_streams(
    streams: Inner,
    id: &str,
    namespace: &str,
    make: impl FnOnce() -> libcontainer::error::Result<(Answer, Option<OwnedFd>)>,
) -> libcontainer::error::Result<Done> {
    let logger = match streams.logger {
        Some(logger) => logger.start(id, namespace)?,
        None => 0,
    };
    stdio::put_in_place(&streams.ends)?;
    // the container has them at 0, 1 and 2
    drop(streams.ends);
    match make() {
        Ok((mut answer, terminal)) => {
            answer.logger = logger as u32;
            Ok((answer, terminal))
        }
        Err(e) => {
            if let Some(pid) = rustix::process::Pid::from_raw(logger) {
                // our child until we exit: its number is nobody else's
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            Err(e)
        }
    }
}

fn nothing((): ()) -> Done {
    (Answer::default(), None)
}

/// The text as containerd's shim words it; callers look into it for the runtime's reason.
pub(crate) fn failed(what: &str, error: &Error) -> Status {
    let code = match error.kind() {
        Kind::NotFound => code::NOT_FOUND,
        Kind::Exists => code::ALREADY_EXISTS,
        Kind::WrongStatus => code::FAILED_PRECONDITION,
        Kind::InvalidSpec => code::INVALID_ARGUMENT,
        Kind::Unsupported => code::UNIMPLEMENTED,
        _ => code::UNKNOWN,
    };
    status(code, format!("{what}: {error}"))
}

/// How the answer to a kill begins when the runtime does not know the container.
pub(crate) const NO_RECORD: &str = "no such container";

fn kill_failed(error: &Error) -> Status {
    let text = error.text();
    let is_over = ["container not running", "process already finished", "no such process"].iter().any(|words| text.contains(words));
    if is_over {
        return status(code::NOT_FOUND, "process already finished: not found");
    }
    if error.kind() == Kind::NotFound || text.contains("does not exist") {
        return status(code::NOT_FOUND, format!("{NO_RECORD}: not found"));
    }
    failed("unknown error after kill", error)
}
