//! Exits: everything that ends below the shim is reaped here, and told in order. The exit of a process comes after its start,
//! and init's is the last of its container.

use std::time::SystemTime;

use rustix::process::WaitOptions;

use crate::daemon::Daemon;
use crate::deletion;
use crate::jobs::Then;
use crate::oom;
use crate::rpc::messages::{TaskExit, Timestamp, WaitResponse};
use crate::rpc::wire::Message;
use crate::sandbox;
use crate::state::{Exit, Owner, Phase};

/// Takes all that have ended.
pub(crate) fn reap(daemon: &mut Daemon) {
    while let Ok(Some((pid, how))) = rustix::process::wait(WaitOptions::NOHANG) {
        let status = match (how.exit_status(), how.terminating_signal()) {
            (Some(code), _) => code,
            (_, Some(signal)) => 128 + signal,
            _ => continue,
        };
        ended(daemon, pid.as_raw_nonzero().get(), Exit { status: status as u32, at: SystemTime::now() });
    }
}

fn ended(daemon: &mut Daemon, pid: i32, exit: Exit) {
    daemon.streaming.logger_ended(pid);
    if daemon.state.sandbox.as_ref().is_some_and(|s| s.first == Some(pid)) {
        return sandbox::stop(daemon, exit.status);
    }
    daemon.state.forget_logger(pid);
    match daemon.state.owner_of(pid) {
        Some(owner) => reaped(daemon, &owner, exit),
        None if daemon.jobs.is_launching() => daemon.state.early.keep(pid, exit),
        // a worker, or an orphan of a container without a pid namespace of its own
        None => {}
    }
}

/// A process of a container was reaped. It is told when its turn has come.
pub(crate) fn reaped(daemon: &mut Daemon, owner: &Owner, exit: Exit) {
    let Some(container) = daemon.state.containers.get_mut(&owner.0) else { return };
    let Some(process) = container.process_mut(&owner.1) else { return };
    process.reaped = Some(exit);
    if owner.1.is_empty() && container.shares_pids {
        let (runtime, bundle, id) = (container.runtime.clone(), container.bundle.clone(), owner.0.clone());
        let kill = rustix::process::Signal::KILL.as_raw() as u32;
        if let Err(e) = daemon.work(Then::Nothing, move || runtime.kill(&id, &bundle, kill, true)) {
            log::error!("kill what init has left: {}", e.message);
        }
    }
    tell(daemon, &owner.0);
}

/// Publishes the exits whose turn has come.
pub(crate) fn tell(daemon: &mut Daemon, id: &str) {
    loop {
        let Some(container) = daemon.state.containers.get(id) else { return };
        let Some(exec_id) = container.next_exit().map(str::to_owned) else { return };
        tell_one(daemon, &(id.to_owned(), exec_id));
    }
}

fn tell_one(daemon: &mut Daemon, owner: &Owner) {
    let (id, exec_id) = (&owner.0, &owner.1);
    if exec_id.is_empty() {
        // the kill for want of memory comes before the exit that it caused
        oom::look(daemon, id);
    }
    let Some(container) = daemon.state.containers.get_mut(id) else { return };
    let Some(process) = container.process_mut(exec_id) else { return };
    let Some(exit) = process.reaped else { return };
    process.exit = Some(exit);
    process.phase = Phase::Stopped;
    let waiters = std::mem::take(&mut process.waiters);
    let exited_at = Some(Timestamp::from(exit.at));
    let event = TaskExit {
        container_id: id.clone(),
        id: if exec_id.is_empty() { id.clone() } else { exec_id.clone() },
        pid: process.pid as u32,
        exit_status: exit.status,
        exited_at: exited_at.clone(),
    };
    if exec_id.is_empty() {
        container.is_paused = false;
        if let Some((_, oom)) = container.oom.take() {
            daemon.poll.forget(&oom);
        }
    }
    daemon.publish("exit", "TaskExit", &event);
    daemon.stop_input(owner);
    let answer = WaitResponse { exit_status: exit.status, exited_at }.encode();
    for caller in waiters {
        daemon.answer(caller, Ok(answer.clone()));
    }
    deletion::try_finish(daemon, owner);
}
