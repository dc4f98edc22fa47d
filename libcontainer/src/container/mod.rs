//! The lifecycle, one file per verb of the runtime spec (runtime.md).

mod create;
mod delete;
mod exec;
mod json;
mod kill;
mod list;
mod live;
mod made;
mod pause;
mod record;
mod runtime;
mod start;
mod state_dir;
mod update;
mod wait;

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

pub use create::CreateOptions;
pub use exec::ExecOptions;
pub use list::Listed;
pub use record::Record;
pub use runtime::Runtime;
pub use wait::Exit;

pub use crate::process::Stdio;
pub use crate::process::user::{Id, UserSpec};

use crate::cgroup::Cgroup;
use crate::error::{Doing, Error, Kind, Result};
use crate::launch::gate;
use crate::spec::{self, State};
use masu_host::procfs::Procfs;
use state_dir::StateDir;

/// The longest id: it is the name of a directory.
const MAX_ID: usize = 255;

/// Where a container is in its life (runtime.md, "State"; `paused` is runc's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Being made by a runtime that lives.
    Creating,
    /// Made; its process waits for start.
    Created,
    /// Its program runs.
    Running,
    /// Frozen: its program, or its init that waits for start.
    Paused,
    /// Its program has ended, or its making was cut short.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// A container that exists.
#[derive(Debug)]
pub struct Container {
    dir: StateDir,
    record: Record,
    /// One handle for all containers of a list.
    proc: Arc<Procfs>,
}

/// A process that was started in a container.
#[derive(Debug)]
pub struct Process {
    /// On the host.
    pub pid: i32,
    /// Readable when it ends.
    pub pidfd: OwnedFd,
    /// The master end of its terminal, when it has one that was not sent over a console socket.
    pub terminal: Option<OwnedFd>,
}

/// Checks an id: letters, digits and `_+-.`, at most 255 bytes, neither `.` nor `..`.
pub fn check_id(id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(Error::invalid("container id cannot be empty"));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_+-.".contains(&b);
    if id == "." || id == ".." || !id.bytes().all(allowed) {
        return Err(Error::invalid(format!("invalid container ID format: {id:?}")));
    }
    if id.len() > MAX_ID {
        return Err(Error::invalid(format!("invalid container ID format: {} bytes are more than {MAX_ID}: file name too long", id.len())));
    }
    Ok(())
}

impl Container {
    /// Opens container `id` of the state root `root`. [`Kind::NotFound`] when there is none.
    pub(crate) fn open(root: &Path, id: &str) -> Result<Container> {
        check_id(id)?;
        let dir = StateDir::open(root, id)?;
        let record = dir.record()?;
        Ok(Container { dir, record, proc: Arc::new(Procfs::open()?) })
    }

    /// What was recorded at create.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The status, found out now: nothing of it is stored.
    pub fn status(&self) -> Result<Status> {
        status(&self.record, &self.proc, || gate::is_closed(self.dir.fd()))
    }

    /// The status of a container that was created, by whether its init is there.
    fn status_of(&self, alive: bool) -> Result<Status> {
        match alive {
            false => Ok(Status::Stopped),
            true => status_of_living(&self.record, gate::is_closed(self.dir.fd())),
        }
    }

    /// The state as the spec has it.
    pub fn state(&self) -> Result<State> {
        let status = self.status()?;
        self.state_with(status)
    }

    /// The annotations of its config.
    pub fn annotations(&self) -> Result<BTreeMap<String, String>> {
        if self.record.annotated { self.dir.annotations() } else { Ok(BTreeMap::new()) }
    }

    /// The same as a file: a JSON object, laid out as within a pretty-printed state (two blanks of indentation, one level
    /// deep). `None` when there are none.
    pub fn annotations_file(&self) -> Result<Option<OwnedFd>> {
        if self.record.annotated { self.dir.open_annotations() } else { Ok(None) }
    }

    fn state_with(&self, status: Status) -> Result<State> {
        Ok(State {
            oci_version: spec::VERSION.to_owned(),
            id: self.record.id.clone(),
            pid: if status == Status::Stopped { 0 } else { self.record.pid },
            status: status.to_string(),
            bundle: self.record.bundle.clone(),
            annotations: self.annotations()?,
        })
    }

    fn state_json(&self, status: Status) -> Result<Vec<u8>> {
        serde_json::to_vec(&self.state_with(status)?).map_err(|e| Error::new(Kind::Internal, e.to_string()))
    }

    /// All processes of the container, sub-cgroups included; sorted.
    pub fn processes(&self) -> Result<Vec<i32>> {
        self.check_cgroup()?;
        self.cgroup()?.processes()
    }

    /// A snapshot of what it uses.
    pub fn stats(&self) -> Result<crate::cgroup::Stats> {
        if self.status()? == Status::Stopped {
            return Err(Error::wrong_status(format!("container {} is not running", self.record.id)));
        }
        self.check_cgroup()?;
        let mut stats = self.cgroup()?.stats()?;
        if let Some(group) = &self.record.intel_rdt {
            stats.intel_rdt = group.stats()?;
        }
        Ok(stats)
    }

    /// Notices of processes that were killed for want of memory.
    pub fn oom_events(&self) -> Result<crate::cgroup::OomEvents> {
        self.cgroup()?.oom_events()
    }

    /// The same, and who they were, as far as the kernel's log tells.
    pub fn oom_events_with_victims(&self) -> Result<crate::cgroup::OomEvents> {
        self.cgroup()?.oom_events_with_victims()
    }

    /// An alarm for when its processes wait too long for a resource.
    pub fn pressure_alarm(&self, threshold: crate::cgroup::Threshold) -> Result<crate::cgroup::PressureAlarm> {
        self.check_cgroup()?;
        self.cgroup()?.pressure_alarm(threshold)
    }

    /// Refuses what only a cgroup can tell, for a container that was made without one.
    fn check_cgroup(&self) -> Result<()> {
        if self.record.cgroup.is_empty() && self.record.pid != 0 {
            return Err(Error::unsupported(format!("container {} has no cgroup", self.record.id)));
        }
        Ok(())
    }

    fn cgroup(&self) -> Result<Cgroup> {
        Ok(Cgroup::open(&self.record.cgroup)?.of_unit(self.record.unit.as_ref()))
    }

    /// The root directory that `init`, a pidfd of [`Container::init`], has: whatever is looked for below it is the
    /// container's, and is resolved from here.
    fn root(&self, init: &OwnedFd) -> Result<OwnedFd> {
        let doing = || format!("open the root directory of container {}", self.record.id);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(self.proc.as_fd(), format!("{}/root", self.record.pid), flags, Mode::empty()).doing(doing)?;
        // while it lives its number is no other's
        masu_host::sys::signal::send(init.as_fd(), 0).doing(doing)?;
        Ok(root)
    }

    /// A pidfd of init, or `None` when it is gone.
    fn init(&self) -> Result<Option<OwnedFd>> {
        process_of(&self.record, self.record.pid, self.record.start_time, &self.proc)
    }

    /// The cgroup of this container, for a verb without the lock; `None` when the container was deleted, because its path may be
    /// that of a later container.
    fn own_cgroup(&self) -> Result<Option<Cgroup>> {
        let cgroup = self.cgroup()?;
        // in this order: while the directory is still there, no later container can have made the cgroup that was opened
        Ok(self.dir.is_current()?.then_some(cgroup))
    }

    /// Kills all processes of this container.
    fn kill_all(&self) -> Result<()> {
        self.own_cgroup()?.map_or(Ok(()), |cgroup| cgroup.kill())
    }
}

fn status(record: &Record, proc: &Procfs, gate_is_closed: impl FnOnce() -> bool) -> Result<Status> {
    if record.pid == 0 {
        let making = is_process(record, record.maker, record.maker_start_time, proc)?;
        return Ok(if making { Status::Creating } else { Status::Stopped });
    }
    // the process that holds the gate lives: /proc need not be asked
    let waits = gate_is_closed();
    if !waits && !is_process(record, record.pid, record.start_time, proc)? {
        return Ok(Status::Stopped);
    }
    status_of_living(record, waits)
}

/// The status of one whose init lives, and waits at the gate or not.
fn status_of_living(record: &Record, waits: bool) -> Result<Status> {
    Ok(match Cgroup::is_frozen_at(&record.cgroup)? {
        true => Status::Paused,
        false if waits => Status::Created,
        false => Status::Running,
    })
}

/// A pidfd of that process of `record`, if it still is the same one and runs. Opened before the check, so that the number cannot be
/// another's.
fn process_of(record: &Record, pid: i32, start_time: u64, proc: &Procfs) -> Result<Option<OwnedFd>> {
    let Some(number) = Pid::from_raw(pid).filter(|_| pid > 0) else { return Ok(None) };
    let pidfd = match rustix::process::pidfd_open(number, PidfdFlags::empty()) {
        Ok(fd) => fd,
        // EINVAL: older kernels (6.1) say so of a number that is nobody's any more, but still that of a session or a group
        Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
        Err(e) => return Err(e).doing(|| format!("open a pidfd of process {pid} of container {}", record.id)),
    };
    Ok(is_process(record, pid, start_time, proc)?.then_some(pidfd))
}

fn given_away() -> Error {
    Error::new(Kind::Internal, "a guard was used after it was given away")
}

/// Whether that process of `record` is still the same one, and runs.
fn is_process(record: &Record, pid: i32, start_time: u64, proc: &Procfs) -> Result<bool> {
    if pid <= 0 {
        return Ok(false);
    }
    let same = proc.process(pid)?.is_some_and(|p| p.start_time == start_time && p.is_alive());
    // after a reboot the same numbers may be anybody's
    Ok(same && proc.boot_id()? == record.boot_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for good in ["a", ".hidden", "a..b", "+x", "_x", "a.", "-x", "0", &"x".repeat(255)] {
            check_id(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "../x", "a b", "a\n", "ä", "A:b", "x@y", "a\0", &"x".repeat(256)] {
            check_id(bad).unwrap_err();
        }
    }
}
