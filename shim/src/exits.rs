//! Exits: everything that ends below the shim is reaped here, and told in order. The exit of a process comes after its start,
//! and init's is the last of its container.

use libcontainer::cgroup::OomNotice;
use rustix::process::WaitOptions;

use crate::daemon::Daemon;
use crate::lifecycle::Then;
use crate::rpc::messages::{TaskExit, TaskNotice, WaitResponse};
use crate::rpc::wire::Message;
use crate::state::{Exit, Moment, Phase, timestamp};
use crate::streams::Owner;

/// Exits of processes that are not known yet: a worker that made one has not told its pid. Kept only while such a worker is
/// under way, so that no later process with the same pid is taken for one.
#[derive(Debug, Default)]
pub(crate) struct Early(Vec<(i32, Exit)>);

impl Early {
    pub(crate) fn clear(&mut self) {
        self.0 = Vec::new();
    }

    /// The last one of that pid: earlier ones were others'.
    pub(crate) fn take(&mut self, pid: i32) -> Option<Exit> {
        let index = self.0.iter().rposition(|(other, _)| *other == pid)?;
        Some(self.0.swap_remove(index).1)
    }
}

impl Daemon {
    /// Takes all that have ended.
    pub(crate) fn reap(&mut self) {
        while let Ok(Some((pid, how))) = rustix::process::wait(WaitOptions::NOHANG) {
            let status = match (how.exit_status(), how.terminating_signal()) {
                (Some(code), _) => code,
                (_, Some(signal)) => 128 + signal,
                _ => continue,
            };
            self.ended(pid.as_raw_nonzero().get(), Exit { status: status as u32, at: Moment::now() });
        }
    }

    fn ended(&mut self, pid: i32, exit: Exit) {
        self.streaming.logger_ended(pid);
        if self.sandbox.as_ref().is_some_and(|s| s.first == Some(pid)) {
            return self.stop_sandbox(exit.status);
        }
        let mut owner = None;
        for (id, container) in &mut self.containers {
            for process in std::iter::once(&mut container.init).chain(container.execs.values_mut()) {
                if process.io.logger == pid {
                    process.io.logger = 0;
                }
            }
            let found = container.processes().find(|(_, p)| p.pid == pid && p.exit.is_none() && p.reaped.is_none());
            if let Some((exec_id, _)) = found {
                owner = Some((id.clone(), exec_id.to_owned()));
            }
        }
        match owner {
            Some(owner) => self.reaped(&owner, exit),
            None if self.is_launching() => self.early.0.push((pid, exit)),
            // a worker, or an orphan of a container without a pid namespace of its own
            None => {}
        }
    }

    /// A process of a container was reaped. It is told when its turn has come.
    pub(crate) fn reaped(&mut self, owner: &Owner, exit: Exit) {
        let Some(container) = self.containers.get_mut(&owner.0) else { return };
        let Some(process) = container.process_mut(&owner.1) else { return };
        process.reaped = Some(exit);
        if owner.1.is_empty() && container.shares_pids {
            let (runtime, bundle, id) = (container.runtime.clone(), container.bundle.clone(), owner.0.clone());
            let kill = rustix::process::Signal::KILL.as_raw() as u32;
            if let Err(e) = self.work(Then::Nothing, move || runtime.kill(&id, &bundle, kill, true)) {
                log::error!("kill what init has left: {}", e.message);
            }
        }
        self.tell_exits(&owner.0);
    }

    /// Publishes the exits whose turn has come.
    pub(crate) fn tell_exits(&mut self, id: &str) {
        loop {
            let Some(container) = self.containers.get(id) else { return };
            let others = container.execs.values().any(|p| p.phase == Phase::Starting || p.lives() && p.exit.is_none());
            let due = container.processes().find(|(exec_id, p)| {
                p.reaped.is_some() && p.exit.is_none() && p.phase != Phase::Starting && p.phase != Phase::Creating
                    // execs first
                    && !(exec_id.is_empty() && others)
            });
            let Some(exec_id) = due.map(|(exec_id, _)| exec_id.to_owned()) else { return };
            self.tell_exit(&(id.to_owned(), exec_id));
        }
    }

    fn tell_exit(&mut self, owner: &Owner) {
        let (id, exec_id) = (&owner.0, &owner.1);
        if exec_id.is_empty() {
            // the kill for want of memory comes before the exit that it caused
            self.look_for_oom(id);
        }
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(process) = container.process_mut(exec_id) else { return };
        let Some(exit) = process.reaped else { return };
        process.exit = Some(exit);
        process.phase = Phase::Stopped;
        let waiters = std::mem::take(&mut process.waiters);
        let exited_at = Some(timestamp(exit.at));
        let event = TaskExit {
            container_id: id.clone(),
            id: if exec_id.is_empty() { id.clone() } else { exec_id.clone() },
            pid: process.pid as u32,
            exit_status: exit.status,
            exited_at: exited_at.clone(),
        };
        if exec_id.is_empty()
            && let Some((_, oom)) = container.oom.take()
        {
            self.poll.forget(&oom);
        }
        self.events.publish(&self.poll, "exit", "TaskExit", &event);
        self.stop_input(owner);
        let answer = WaitResponse { exit_status: exit.status, exited_at }.encode();
        for caller in waiters {
            self.answer(caller, Ok(answer.clone()));
        }
        self.try_finish_deletion(id, exec_id);
    }

    /// Begins to watch a container's memory.
    pub(crate) fn watch_oom(&mut self, id: &str) {
        let token = self.new_id();
        let Some(container) = self.containers.get_mut(id) else { return };
        let events = match container.runtime.foreign {
            None => container.runtime.open(id).and_then(|c| c.oom_events()),
            Some(_) => libcontainer::cgroup::Layout::paths_of(container.init.pid)
                .and_then(|paths| libcontainer::cgroup::Cgroup::open(&paths)?.oom_events()),
        };
        match events {
            Ok(events) if self.poll.reads(&events, crate::poll::Token::Oom(token)).is_ok() => container.oom = Some((token, events)),
            Ok(_) => {}
            // without a memory controller there is nothing to watch
            Err(e) => log::debug!("container {id}: {e}"),
        }
    }

    pub(crate) fn check_oom(&mut self, token: u64) {
        let found = self.containers.iter().find(|(_, c)| c.oom.as_ref().is_some_and(|(t, _)| *t == token)).map(|(id, _)| id.clone());
        if let Some(id) = found {
            self.look_for_oom(&id);
        }
    }

    fn look_for_oom(&mut self, id: &str) {
        let Some((_, oom)) = self.containers.get_mut(id).and_then(|c| c.oom.as_mut()) else { return };
        match oom.read() {
            Ok(OomNotice::Oom) => {
                self.events.publish(&self.poll, "oom", "TaskOOM", &TaskNotice { container_id: id.to_owned() });
            }
            Ok(OomNotice::Nothing) => {}
            // it is readable for ever now
            Ok(OomNotice::Ended) | Err(_) => {
                if let Some((_, oom)) = self.containers.get_mut(id).and_then(|c| c.oom.take()) {
                    self.poll.forget(&oom);
                }
            }
        }
    }
}
