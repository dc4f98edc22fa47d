//! A process that joins namespaces, clones init as a child of the runtime's, and ends: only for a user namespace that is
//! joined by path, or a fresh one beside other namespaces that are joined.
//!
//! What is made for a container in a user namespace that exists, its pid and mount namespaces, must be made inside it, for
//! else they belong to the host; and what belongs to the host can only be joined before the user namespace is entered. The
//! runtime itself cannot do so: nobody gets back out of a user namespace.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::channel::{Channel, Message};
use super::init;
use super::spawn::words_of_clone;
use crate::error::{Doing, Result};
use crate::plan::Plan;
use masu_host::sys::clone::{Side, clone3};
use masu_host::sys::exec::exit;

/// Runs in the child of the clone; never returns. It stays in the runtime's cgroup, where it takes nothing of the container's
/// limits (one of a single process leaves room for init alone), and init is born in `into`.
pub(super) fn run(plan: &Plan, inherited: &init::Inherited, channel: &Channel, into: Option<BorrowedFd<'_>>) -> ! {
    let (message, code) = match steps(plan, inherited, into) {
        Ok(cloned) => (cloned, 0),
        Err(error) => (Message::Failed(error), 1),
    };
    let _ = channel.send(&message);
    exit(code)
}

fn steps(plan: &Plan, inherited: &init::Inherited, into: Option<BorrowedFd<'_>>) -> Result<Message> {
    if !plan.process.keep_groups {
        // the caller's: whether they can be dropped inside is for the owner of the user namespace to say
        rustix::thread::set_thread_groups(&[]).doing(|| "drop the caller's groups")?;
    }
    // with all rights of the host; those of the user namespace itself suffice for what only it may join
    let (user, others): (Vec<_>, Vec<_>) = inherited.namespaces.iter().partition(|n| n.flag == libc::CLONE_NEWUSER);
    let mut later = Vec::new();
    for namespace in others {
        match namespace.join() {
            Err(e) if e.errno() == Some(Errno::PERM) => later.push(namespace),
            result => result?,
        }
    }
    for namespace in user.into_iter().chain(later) {
        namespace.join()?;
    }
    match clone3(plan.namespaces.clone_flags() | libc::CLONE_PARENT as u64, into).doing(|| words_of_clone(&plan.namespaces))? {
        Side::Child => init::run(plan, inherited),
        Side::Parent { pid, pidfd } => Ok(Message::Cloned { pid, pidfd }),
    }
}
