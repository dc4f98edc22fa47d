//! THE STORY of exec, in the new process: from the clone to execve of its program.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::channel::{Channel, Message};
use crate::error::{Doing, Result};
use crate::namespaces::user_namespace;
use crate::process::keyring;
use crate::process::terminal;
use crate::process::{ProcessPlan, Stdio};
use masu_host::procfs::Procfs;
use masu_host::sys::close_range::close_all_but;
use masu_host::sys::exec::exit;
use masu_host::sys::namespace::setns;
use masu_host::sys::{scheduling, signal};

/// What the runtime gives an exec'd process.
#[derive(Debug)]
pub(crate) struct Inherited<'a> {
    pub(crate) stdio: &'a Stdio,
    pub(crate) channel: Channel,
    /// The container's init.
    pub(crate) init: OwnedFd,
    /// CLONE_NEW* flags of the namespaces to join, without the pid namespace: the clone happened in that.
    pub(crate) namespaces: i32,
    pub(crate) keyring: Option<CString>,
    pub(crate) proc: Option<Procfs>,
    pub(crate) ignored: u64,
    /// Whether to wait until the runtime has put us into the container's cgroups and has written our OOM score.
    pub(crate) waits: bool,
}

/// Runs in the child of the clone; never returns.
pub(crate) fn run(plan: &ProcessPlan, inherited: &Inherited<'_>) -> ! {
    match steps(plan, inherited) {
        Ok(never) => match never {},
        Err(error) => {
            let _ = inherited.channel.send(&Message::Failed(error));
            exit(255)
        }
    }
}

fn steps(plan: &ProcessPlan, inherited: &Inherited<'_>) -> Result<Infallible> {
    let channel = &inherited.channel;
    let mut keep: Vec<u32> = (3..3 + plan.preserved_fds).collect();
    keep.extend([channel.number(), inherited.init.as_raw_fd() as u32]);
    keep.extend(inherited.proc.iter().map(|p| p.as_fd().as_raw_fd() as u32));
    keep.sort_unstable();
    inherited.stdio.take()?;
    close_all_but(&keep).doing(|| "close descriptors")?;
    signal::reset(inherited.ignored).doing(|| "reset signals")?;
    rustix::process::setsid().doing(|| "start a session")?;

    // in the container's cgroups before anything of the container can be met, and with the score before the program runs:
    // nothing else makes us wait for the runtime
    if inherited.waits {
        channel.expect_released()?;
    }
    if plan.in_user_namespace && !plan.keep_groups {
        // whether they can be dropped inside is for the owner of the user namespace to say
        rustix::thread::set_thread_groups(&[]).doing(|| "drop the caller's groups")?;
    }
    channel.stage(|| "nsexec container setup: the namespaces of the container".into());
    channel.stage(|| format!("nsexec: affinity: {}", scheduling::affinity().map_or_else(|e| e.to_string(), |cpus| mask(&cpus))));
    // by the pidfd of init: all at once, and of that process or of none
    setns(inherited.init.as_fd(), inherited.namespaces).doing(|| "join the container's namespaces")?;
    if plan.in_user_namespace {
        user_namespace::become_root(plan.keep_groups)?;
    }
    channel.stage(|| "child process in init(): in the container's namespaces".into());
    if let Some(name) = &inherited.keyring {
        keyring::join(name)?;
    }
    if let Some(umask) = plan.umask {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
    }
    if let Some(size) = plan.terminal {
        let (ours, theirs) = terminal::make(size, plan.uid)?;
        terminal::take(&theirs)?;
        channel.send(&Message::Terminal(ours))?;
    }
    plan.ask_for_labels(inherited.proc.as_ref())?;
    // init's too, and not only by execve: while that closes what is close-on-exec, root of the container's user namespace may
    // look at this process already. A filter may forbid it later
    keep.retain(|&fd| fd < 3 + plan.preserved_fds || fd == channel.number());
    close_all_but(&keep).doing(|| "close descriptors")?;
    let program = plan.become_user(channel)?;
    channel.stage(|| "setns_init: about to exec".into());
    channel.send(&Message::Ready)?;
    // the channel stays open until execve closes it, so its end tells the runtime that the program runs
    Err(plan.execute(&program, channel, || Ok(())))
}

/// A set of CPUs as one number.
fn mask(cpus: &[u64]) -> String {
    let mut text = String::new();
    for word in cpus.iter().rev().skip_while(|word| **word == 0) {
        text.push_str(&if text.is_empty() { format!("{word:x}") } else { format!("{word:016x}") });
    }
    format!("0x{text}")
}
