//! The one clone of create, on the runtime's side: what must be joined before it, and the guard over what it made.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Signal, WaitId, WaitIdOptions};

use super::channel::{Channel, Message};
use super::{init, stage};
use crate::error::{Doing, Error, Kind, Result};
use crate::namespaces::{KINDS, Namespaces, Opened};
use crate::plan::Plan;
use masu_host::sys::clone::{Side, clone3};
use masu_host::sys::namespace::setns;

/// Makes the container's first process, in the cgroup `into`. A pid namespace that is joined is joined by us before the
/// clone, for our children only, and left after it.
pub(crate) fn spawn(plan: &Plan, inherited: &init::Inherited, into: Option<BorrowedFd<'_>>) -> Result<Child> {
    // nobody in a namespace that init joins may trace it, or read from it what is not theirs (CVE-2016-9962)
    let dumpable = rustix::process::dumpable_behavior()?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).doing(|| "become non-dumpable")?;
    let spawned = if plan.namespaces.staged() { by_stage(plan, inherited, into) } else { directly(plan, inherited, into) };
    if dumpable == DumpableBehavior::Dumpable {
        rustix::process::set_dumpable_behavior(dumpable).doing(|| "become dumpable again")?;
    }
    spawned
}

fn directly(plan: &Plan, inherited: &init::Inherited, into: Option<BorrowedFd<'_>>) -> Result<Child> {
    let joined = inherited.namespaces.iter().find(|n| n.flag == libc::CLONE_NEWPID);
    let back = joined.map(join_pid_namespace).transpose()?;
    let cloned = clone3(plan.namespaces.clone_flags(), into);
    if let Ok(Side::Child) = cloned {
        init::run(plan, inherited);
    }
    if let Some(own) = back {
        setns(own.as_fd(), libc::CLONE_NEWPID).doing(|| "return to the own pid namespace")?;
    }
    match cloned.doing(|| words_of_clone(&plan.namespaces))? {
        Side::Parent { pid, pidfd } => Ok(Child::new(pid, pidfd)),
        Side::Child => Err(Error::new(Kind::Internal, "init returned")),
    }
}

/// By way of a process that joins namespaces first: see `stage.rs`.
fn by_stage(plan: &Plan, inherited: &init::Inherited, into: Option<BorrowedFd<'_>>) -> Result<Child> {
    let (ours, theirs) = Channel::pair()?;
    let mut stage = match clone3(0, None) {
        Ok(Side::Child) => stage::run(plan, inherited, &theirs, into),
        cloned => match cloned.doing(|| "clone")? {
            Side::Parent { pid, pidfd } => Child::new(pid, pidfd),
            Side::Child => return Err(Error::new(Kind::Internal, "the stage returned")),
        },
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

/// Joins it for children; what leads back.
fn join_pid_namespace(namespace: &Opened) -> Result<OwnedFd> {
    let own = own_pid_namespace()?;
    namespace.join()?;
    Ok(own)
}

/// The caller's own pid namespace.
pub(crate) fn own_pid_namespace() -> Result<OwnedFd> {
    rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).doing(|| "open the own pid namespace")
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
    pub(crate) fn new(pid: i32, pidfd: OwnedFd) -> Child {
        Child { pid, pidfd: Some(pidfd) }
    }

    pub(crate) fn pidfd(&self) -> Result<&OwnedFd> {
        self.pidfd.as_ref().ok_or_else(taken)
    }

    pub(crate) fn keep(mut self) -> Result<(i32, OwnedFd)> {
        Ok((self.pid, self.pidfd.take().ok_or_else(taken)?))
    }

    /// Whether it has ended, reaped or not.
    pub(crate) fn has_ended(&self) -> bool {
        let Some(pidfd) = &self.pidfd else { return true };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        !matches!(rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options), Ok(None))
    }

    /// Reaps it, who ends by itself.
    fn wait(&mut self) {
        if let Some(pidfd) = self.pidfd.take() {
            let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    }

    /// Kills and reaps it.
    pub(crate) fn kill(&mut self) {
        if let Some(pidfd) = self.pidfd.take() {
            // both fail only when it is gone already
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    }

    /// Says how it died, if that is all that is known.
    pub(crate) fn explain(&self, error: Error) -> Error {
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
