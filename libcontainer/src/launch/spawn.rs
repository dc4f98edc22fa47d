//! The clone of create and exec, on the runtime's side: what must be joined before it, and the guard over what it made.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use masu_host::sys::clone::{Side, clone3};
use masu_host::sys::namespace::setns;
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Signal, WaitId, WaitIdOptions};

use super::channel::{Channel, Message};
use super::{init, stage};
use crate::error::{Doing, Error, Kind, Result};
use crate::namespaces::{KINDS, Namespaces};
use crate::plan::Plan;

/// Makes the container's first process, in the cgroup `into`.
pub(super) fn spawn(plan: &Plan, inherited: &init::Inherited<'_>, into: Option<BorrowedFd<'_>>) -> Result<Child> {
    if plan.namespaces.staged() {
        return unseen(None::<fn() -> Result<()>>, || by_stage(plan, inherited, into));
    }
    let pids = inherited.namespaces.iter().find(|n| n.flag == libc::CLONE_NEWPID);
    let join = pids.map(|namespace| || namespace.join());
    unseen(join, || match clone3(plan.namespaces.clone_flags(), into) {
        Ok(Side::Child) => init::run(plan, inherited),
        cloned => Child::of(cloned.doing(|| words_of_clone(&plan.namespaces))?),
    })
}

/// Makes a child by `clone`. No process of a namespace that the child joins may trace it, nor read from it what is the
/// runtime's (CVE-2016-9962). `join_pids` joins a pid namespace before the clone, for children only; the caller leaves it after
/// the clone. What `clone` returns must end its child when it is dropped: a step after it may fail.
pub(super) fn unseen<T>(join_pids: Option<impl FnOnce() -> Result<()>>, clone: impl FnOnce() -> Result<T>) -> Result<T> {
    let dumpable = rustix::process::dumpable_behavior()?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).doing(|| "become non-dumpable")?;
    let made = in_pid_namespace(join_pids, clone);
    if dumpable == DumpableBehavior::Dumpable {
        // what was made is dropped, and so ended, if this fails
        rustix::process::set_dumpable_behavior(dumpable).doing(|| "become dumpable again")?;
    }
    made
}

fn in_pid_namespace<T>(join: Option<impl FnOnce() -> Result<()>>, clone: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(join) = join else { return clone() };
    let own =
        rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).doing(|| "open the own pid namespace")?;
    join()?;
    let made = clone();
    setns(own.as_fd(), libc::CLONE_NEWPID).doing(|| "return to the own pid namespace")?;
    made
}

/// By way of a process that joins namespaces first: see `stage.rs`.
fn by_stage(plan: &Plan, inherited: &init::Inherited<'_>, into: Option<BorrowedFd<'_>>) -> Result<Child> {
    let (ours, theirs) = Channel::pair()?;
    let mut stage = match clone3(0, None) {
        Ok(Side::Child) => stage::run(plan, inherited, &theirs, into),
        cloned => Child::of(cloned.doing(|| "clone")?)?,
    };
    // else its death would not be the end of the stream
    drop(theirs);
    let child = match ours.receive()? {
        Some(Message::Cloned { pid, pidfd }) => Ok(Child::new(pid, pidfd)),
        Some(Message::Failed(error)) => Err(error),
        Some(_) => Err(Error::new(Kind::Internal, "the stage sent what is not its to say")),
        None => Err(stage.explain(died())),
    };
    stage.wait();
    child
}

/// What was tried, for an error of the clone.
pub(super) fn words_of_clone(namespaces: &Namespaces) -> String {
    let names: Vec<_> = KINDS.iter().filter(|k| namespaces.is_fresh(k.flag)).map(|k| k.name).collect();
    format!("clone with new namespaces [{}]", names.join(" "))
}

pub(crate) fn died() -> Error {
    Error::new(Kind::Internal, DIED)
}

const DIED: &str = "the container's init died before it was ready";

/// A child that is killed and reaped unless it is kept.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: i32,
    pidfd: Option<OwnedFd>,
}

impl Child {
    fn new(pid: i32, pidfd: OwnedFd) -> Child {
        Child { pid, pidfd: Some(pidfd) }
    }

    /// The parent's side of a clone.
    pub(super) fn of(side: Side) -> Result<Child> {
        match side {
            Side::Parent { pid, pidfd } => Ok(Child::new(pid, pidfd)),
            Side::Child => Err(Error::new(Kind::Internal, "the story of a child returned")),
        }
    }

    pub(super) fn pidfd(&self) -> Result<&OwnedFd> {
        self.pidfd.as_ref().ok_or_else(taken)
    }

    pub(super) fn keep(mut self) -> Result<(i32, OwnedFd)> {
        Ok((self.pid, self.pidfd.take().ok_or_else(taken)?))
    }

    /// Whether it has ended, reaped or not.
    pub(super) fn has_ended(&self) -> bool {
        let Some(pidfd) = &self.pidfd else { return true };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        !matches!(rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options), Ok(None))
    }

    /// Waits for a child that exits on its own, and reaps it.
    fn wait(&mut self) {
        if let Some(pidfd) = self.pidfd.take() {
            let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    }

    /// Kills and reaps it.
    pub(super) fn kill(&mut self) {
        if let Some(pidfd) = self.pidfd.take() {
            // both fail only when it is gone already
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            let _ = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED));
        }
    }

    /// Says how it died, if that is all that is known.
    pub(super) fn explain(&self, error: Error) -> Error {
        let Some(pidfd) = self.pidfd.as_ref().filter(|_| error.text() == DIED) else { return error };
        match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (_, Some(9)) => {
                    Error::new(Kind::Os, format!("{DIED}: it was killed (by hand, or for want of memory: the memory limit may be too low)"))
                }
                (_, Some(signal)) => Error::new(Kind::Os, format!("{DIED}: signal {signal}")),
                (Some(code), _) => Error::new(Kind::Internal, format!("{DIED}: exit status {code}")),
                _ => error,
            },
            _ => error,
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

fn taken() -> Error {
    Error::new(Kind::Internal, "a guard was used after it was given away")
}
